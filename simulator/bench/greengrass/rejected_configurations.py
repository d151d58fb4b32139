"""Row `configurations`: deploys bad configurations, each of which must be refused.

The refusal names the path of the key, and the last good configuration stays.

The same cases are the unit tests' of `greengrass.deployment.component_config`; those that a deployment cannot bring,
because merging never takes a key away, are left to them.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from simulator.bench.greengrass.greengrass_testbed import INSPECTION, INSPECTOR_NAME, GreengrassTestbed
from simulator.bench.greengrass.result_row import GreengrassBenchSettings, RequirementRow

if TYPE_CHECKING:
    from collections.abc import Callable

    from simulator.nucleus.limits import Mode

_REFUSAL_TIMEOUT_S: Final = 15.0
_POLL_S: Final = 0.05
_ENOUGH: Final = 30

# Path of the key, what is put there (None: the key is taken away), and the path that the refusal must name.
BAD_CONFIGURATIONS: Final[list[tuple[str, object, str]]] = [
    ("line", "a b", "line"),
    ("line", None, "line"),
    ("thing", "a/b", "thing"),
    ("workers", "two", "workers"),
    ("workers", "0", "workers"),
    ("workers", "1.5", "workers"),
    ("heartbeat_s", "nan", "heartbeat_s"),
    ("heartbeat_s", "0.1", "heartbeat_s"),
    ("heartbeats", "1", "heartbeats"),
    ("transport", {"kind": "mqtt", "host": "x"}, "transport"),
    ("inspections", {}, "inspections"),
    ("inspections", "top", "inspections"),
    ("inspections.top", "x", "inspections.top"),
    ("inspections.top.release", None, "inspections.top.release"),
    ("inspections.top.releases", "x", "inspections.top.releases"),
    ("inspections.top.roi", ["1", "2", "3"], "inspections.top.roi"),
    ("inspections.top.roi", ["1", "2", "3", "-4"], "inspections.top.roi.3"),
    ("inspections.top.thresholds.scratch", "1.5", "inspections.top.thresholds.scratch"),
    ("inspections.top.thresholds.scratch", "high", "inspections.top.thresholds.scratch"),
    ("inspections.top.unsure_band", "-0.1", "inspections.top.unsure_band"),
    ("inspections.top.intake.policy", "oldest", "inspections.top.intake.policy"),
    ("inspections.top.intake.capacity", "many", "inspections.top.intake.capacity"),
    ("inspections.top.cameras.cam.kind", "usb", "inspections.top.cameras.cam"),
    ("inspections.top.cameras.cam.fps", "0", "inspections.top.cameras.cam.fps"),
    ("inspections.top.cameras.cam.loop", "maybe", "inspections.top.cameras.cam.loop"),
    ("inspections.top.cameras.cam.exposure", "3", "inspections.top.cameras.cam.exposure"),
    ("inspections.top.desired", "parts/1.1.0", "inspections.top.desired"),
    ("inspections.top.desired.release", "parts", "inspections.top.desired"),
    ("inspections.top.desired.share", "2", "inspections.top.desired"),
    ("inspections.top.desired.mode", "canary", "inspections.top.desired"),
    ("inspections.top.desired.when", "now", "inspections.top.desired"),
    ("updates.repository", "", "updates.repository"),
    ("updates.limits.max_hours", "0", "updates.limits.max_hours"),
    ("updates", None, "inspections.top.desired"),
    ("greengrass.confirm", "maybe", "greengrass.confirm"),
    ("greengrass.defer_s", "-1", "greengrass.defer_s"),
    ("greengrass.shifts", ["6-14"], "greengrass.shifts"),
    ("greengrass.shift", "06:00-14:00", "greengrass.shift"),
    ("greengrass", "fast", "greengrass"),
]


def measure_configurations(_settings: GreengrassBenchSettings, report: Callable[[str], None]) -> list[RequirementRow]:
    """Deploy each to lite, which asks nobody, and to classic, which asks the component first."""
    return [_configurations("lite", report), _configurations("classic", report)]


def _configurations(mode: Mode, report: Callable[[str], None]) -> RequirementRow:
    cases = [
        (_localise(path), value, _localise(named))
        for path, value, named in BAD_CONFIGURATIONS
        if value not in (None, {})
    ]
    failed: list[str] = []
    with GreengrassTestbed(mode, updates=True) as site:
        site.write_inspector()
        site.deploy()
        site.listener.wait_for_more(30, _REFUSAL_TIMEOUT_S)
        pid, good = site.pid, site.component_status().get("configuration")
        report(f"{mode}: {len(cases)} bad configurations")
        for path, value, named in cases:
            if not _is_refused(site, path, value, named) or site.component_status().get("configuration") != good:
                failed.append(f"{path}={value!r}")
        goes_on = site.listener.wait_for_more(30, _REFUSAL_TIMEOUT_S) and site.pid == pid
    refused = len(cases) - len(failed)
    return RequirementRow(
        f"configurations on {mode}",
        f"{mode}: bad configurations by deployment, refused with the key's path, the last good one kept and the "
        "process unchanged",
        f"all, of at least {_ENOUGH}",
        f"{refused} of {len(cases)}",
        met=not failed and goes_on and len(cases) >= _ENOUGH,
        figures={"cases": len(cases), "refused": refused, "failed": failed, "process_goes_on": goes_on},
    )


def _localise(path: str) -> str:
    """Name the site's inspection and camera instead of the test's."""
    return path.replace("inspections.top", f"inspections.{INSPECTION}").replace("cameras.cam", "cameras.cam1")


def _is_refused(site: GreengrassTestbed, path: str, value: object, named: str) -> bool:
    """Deploy, on top of the recipe's own configuration, and look for the reason where this nucleus tells it."""
    merge: dict[str, Any] = {}
    holder = merge
    *parents, last = path.split(".")
    for parent in parents:
        holder = holder.setdefault(parent, {})
    holder[last] = value
    if last in {"share", "mode", "when"}:
        holder["release"] = "parts/9.9.9"  # else what is missing would be refused, and not what is wrong
    if site.mode == "classic":
        before = site.nucleus.configuration(INSPECTOR_NAME)
        outcome = site.deploy(merge)
        unchanged = site.nucleus.configuration(INSPECTOR_NAME) == before
        return (
            outcome.status == "FAILED_NO_STATE_CHANGE"
            and _names_key(outcome.reason.replace("\\n", "\n"), named)
            and unchanged
        )
    outcome = site.deploy(merge, reset=[""])
    if not outcome.succeeded:  # a text in the place of a map: this nucleus refuses it by itself
        return outcome.reason.replace("/", ".").startswith(named)
    deadline = time.monotonic() + _REFUSAL_TIMEOUT_S
    while not _names_key(site.component_status().get("refused"), named):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True


def _names_key(refusal: object, path: str) -> bool:
    """Whether a line of the refusal begins with the key's path."""
    return any(line.strip().startswith(path) for line in str(refusal or "").splitlines()[1:])
