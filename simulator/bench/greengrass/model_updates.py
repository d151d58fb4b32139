"""Rows `models` and `refusals`: releases by configuration, by model component and by shadow.

Each nucleus has one inspector that is never restarted, and the ways come one after the other, so that the one process
must live through all of them while its line goes on.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from simulator.bench.greengrass.greengrass_testbed import (
    INSPECTION,
    INSPECTOR_NAME,
    MODEL_NAME,
    THING,
    GreengrassTestbed,
)
from simulator.bench.greengrass.result_row import GreengrassBenchSettings, RequirementRow

if TYPE_CHECKING:
    from collections.abc import Callable

    from simulator.nucleus import DeploymentResult
    from simulator.nucleus.limits import Mode

_FPS: Final = 60.0
_MODES: Final[tuple[Mode, ...]] = ("lite", "classic")
_ROLLOUT_S: Final = 180.0
_SETTLED_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class _UpdateResult:
    """One update of the model."""

    mode: Mode
    way: str
    status: str  # of the deployment; "" where there was none
    runs: bool  # the line runs the release
    pid_kept: bool


@dataclass(frozen=True, slots=True)
class _RefusalResult:
    """One release that must not run."""

    mode: Mode
    way: str
    status: str
    reason: str  # as the deployment, the report of the device, or the log has it
    unchanged: bool  # process, configuration (classic) and model are as before
    met: bool


def measure_models(_settings: GreengrassBenchSettings, report: Callable[[str], None]) -> list[RequirementRow]:
    """Bring three releases to each nucleus, each in another way."""
    return [_models(mode, report) for mode in _MODES]


def _models(mode: Mode, report: Callable[[str], None]) -> RequirementRow:
    ways: list[_UpdateResult] = []
    with GreengrassTestbed(mode, fps=_FPS, updates=True, shadow=True) as site:
        site.write_inspector()
        site.deploy()
        pid, listener = site.pid, site.listener
        listener.wait_for_more(60, _SETTLED_S)

        def note(way: str, release: str, outcome: DeploymentResult | None) -> None:
            runs = listener.wait(lambda: listener.is_running(release), _ROLLOUT_S)
            listener.wait_for_more(60, _SETTLED_S)
            ways.append(_UpdateResult(mode, way, "" if outcome is None else outcome.status, runs, site.pid == pid))

        report(f"{mode}: a release by configuration")
        release = site.publish("1.1.0")
        note("configuration deployment", release, site.set_desired_release(release))
        report(f"{mode}: a release by the model component")
        release = site.publish("1.2.0")
        site.write_model(release, version="1.2.0")
        note("model component", release, site.deploy(model="1.2.0"))
        report(f"{mode}: a release by the shadow")
        release = site.publish("1.3.0")
        if site.shadows is not None:
            site.shadows.desire(THING, INSPECTION, release)
        note("shadow", release, None)
        starts = site.nucleus.component(INSPECTOR_NAME).starts
        site.remove_components()
        listener.wait(lambda: listener.lost == 0, _SETTLED_S)
    done = sum(way.runs and way.pid_kept and way.status in {"", "SUCCEEDED"} for way in ways)
    figures: dict[str, Any] = {
        "ways": [asdict(way) for way in ways],
        "starts": starts,
        "frames": listener.unique,
        "lost": listener.lost,
        "dropped_by_the_device": listener.dropped,
        "counted_twice": listener.double_counted,
    }
    return RequirementRow(
        f"models on {mode}",
        f"{mode}: model by {', by '.join(way.way for way in ways)}: releases taken with the process id unchanged; "
        f"lost of {listener.unique:,} frames",
        "3 of 3, 0",
        f"{done} of 3, {listener.lost}",
        met=done == len(ways) and starts == 1 and listener.lost == listener.double_counted == 0,
        figures=figures,
    )


def measure_refusals(_settings: GreengrassBenchSettings, report: Callable[[str], None]) -> list[RequirementRow]:
    """Bring a release that scores otherwise here than at its publisher, in each way."""
    refusals: list[_RefusalResult] = []
    for mode in _MODES:
        with GreengrassTestbed(mode, fps=_FPS, updates=True) as site:
            site.write_inspector()
            site.deploy()
            report(f"{mode}: a bad release by configuration")
            refusals.append(_by_configuration(site))
            report(f"{mode}: a bad release by the model component")
            refusals.append(_by_component(site))
    met = sum(refusal.met for refusal in refusals)
    said = "; ".join(f"{refusal.mode}, {refusal.way}: {refusal.status} ({refusal.reason})" for refusal in refusals)
    return [
        RequirementRow(
            "refusals",
            f"a bad model by deployment is refused, model and process unchanged: {said}",
            "4 of 4",
            f"{met} of {len(refusals)}",
            met=met == len(refusals),
            figures={"refusals": [asdict(refusal) for refusal in refusals]},
        )
    ]


def _by_configuration(site: GreengrassTestbed) -> _RefusalResult:
    """Lite takes it and tells why it is not used; classic refuses the deployment, and its configuration stays."""
    release, pid, before = site.publish("1.1.0", bad=True), site.pid, site.nucleus.configuration(INSPECTOR_NAME)
    outcome = site.set_desired_release(release)
    if site.mode == "lite":
        site.listener.wait(lambda: site.listener.refusal_of(release) is not None, _ROLLOUT_S)
        reason = site.listener.refusal_of(release)
        unchanged = _is_unchanged(site, pid)
        met = outcome.succeeded and reason is not None and unchanged
        return _RefusalResult(site.mode, "configuration", outcome.status, reason or "no reason", unchanged, met)
    unchanged = site.nucleus.configuration(INSPECTOR_NAME) == before and _is_unchanged(site, pid)
    names = f"{release} is refused" in outcome.reason
    met = outcome.status == "FAILED_NO_STATE_CHANGE" and names and unchanged
    return _RefusalResult(
        site.mode, "configuration", outcome.status, "names the release" if names else "", unchanged, met
    )


def _by_component(site: GreengrassTestbed) -> _RefusalResult:
    release, pid = site.publish("1.2.0", bad=True), site.pid
    site.write_model(release, version="1.2.0")
    outcome = site.deploy(model="1.2.0")
    names = f"{release} is refused" in site.nucleus.log(MODEL_NAME)
    unchanged = _is_unchanged(site, pid)
    met = outcome.status.startswith("FAILED") and names and unchanged
    return _RefusalResult(
        site.mode, "model component", outcome.status, "names the release" if names else "", unchanged, met
    )


def _is_unchanged(site: GreengrassTestbed, pid: int | None) -> bool:
    """Whether the same process goes on with the factory release."""
    if not site.listener.wait_for_more(30, _SETTLED_S):
        return False
    newest = site.listener.newest
    model = None if newest is None else newest.origin.model
    return site.pid == pid and model is not None and not model.trusted
