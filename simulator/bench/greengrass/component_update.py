"""Rows `update` and `sizes`: updates the built component on lite, and measures its artifacts.

The artifacts are those of scripts/build-component for this machine, installed by the nucleus into environments of their
own. The gap is that between the last frame that the old version inspected and the first of the new one, as the device
dates them, so that it is a property of the line and not of the network.
"""

from __future__ import annotations

import platform
import statistics
import sys
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from greengrass.packaging import contents, import_closure, size_report
from greengrass.packaging.archive import ArchiveEntry
from greengrass.packaging.build import INSPECTOR as INSPECTOR_KIND
from greengrass.packaging.build import LOCK, BuildPlan, build
from greengrass.packaging.build import MODEL as MODEL_KIND
from greengrass.packaging.lock import BuildTarget, component_pins
from simulator.bench.greengrass.greengrass_testbed import INSPECTION, INSPECTOR_NAME, GreengrassTestbed
from simulator.bench.greengrass.result_row import GreengrassBenchSettings, RequirementRow
from simulator.nucleus import Deployment
from simulator.paths import DEFAULT_RELEASE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from simulator.nucleus.deployments.deployer import ComponentEvent

THIS_TARGET: Final = BuildTarget(platform.machine(), f"{sys.version_info.major}.{sys.version_info.minor}")
_MOST_S: Final = 1.5
_INSTALLED_S: Final = 600.0
_ROLLOUT_S: Final = 180.0
_SETTLED_S: Final = 90.0
_CUT_AHEAD: Final = 60  # frames that wait in the outbox when the version changes
_TAIL_S: Final = 0.5  # a frame comes every 33 ms
_NS_PER_S: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class _UpdateGap:
    """One change of versions, in seconds."""

    whole: float  # from the last frame of the old version to the first of the new one
    tail: float  # from that last frame to SIGTERM: more than a frame's time is a loss that nobody counted
    stopping: float  # from SIGTERM to the end of the old process
    nucleus: float  # from there to the start of the new one: the nucleus's own
    starting: float  # from there to the first frame

    @property
    def component_s(self) -> float:
        """What the component adds."""
        return self.whole - self.nucleus


def measure_update(settings: GreengrassBenchSettings, report: Callable[[str], None]) -> list[RequirementRow]:
    """Deploy the built component, change its model, then its version, the last time without a network."""
    changes: list[tuple[ComponentEvent, ...]] = []
    with GreengrassTestbed("lite", updates=True) as site:
        report("building the component")
        store = site.folder / "store"
        plan = _plan(site)
        for number in range(settings.repeats + 1):
            build(replace(plan, version=_version(number)), store)
        report("installing")
        outcomes = [_deploy(site, _version(0), store)]
        release = site.publish("1.1.0")
        wish = {"inspections": {INSPECTION: {"desired": {"release": release}}}}
        outcomes.append(_deploy(site, _version(0), store, wish))
        listener = site.listener
        is_active = listener.wait(lambda: listener.is_running(release), _ROLLOUT_S)
        waiting = 0
        for number in range(1, settings.repeats + 1):
            listener.wait_for_more(30, 30.0)
            is_last = number == settings.repeats
            if is_last:
                site.network.cut()
                listener.wait_for_more(_CUT_AHEAD, _CUT_AHEAD / 30)  # none arrives; they wait
            report(f"update {number} of {settings.repeats}{' without a network' if is_last else ''}")
            before = len(site.nucleus.events())
            outcomes.append(_deploy(site, _version(number), store))
            if is_last:
                listener.process_arrivals()
                waiting = listener.unique
                site.network.restore()
            listener.wait_for_more(90, _SETTLED_S)
            listener.wait(site.is_drained, _SETTLED_S)
            if is_last:
                waiting = listener.unique - waiting
            changes.append(site.nucleus.events()[before:])
        releases = {s: {j.release for j in stream.inspected.values()} for (_, s), stream in listener.streams.items()}
        site.remove_components()
        listener.wait(lambda: listener.lost == 0, _SETTLED_S)
    gaps = [_gap(site, number, events) for number, events in enumerate(changes, 1)]
    later = sorted(releases)[1:]  # starts after the first
    kept = is_active and all(releases[epoch] == {release} for epoch in later)
    return [_row(site, gaps, kept=kept, waiting=waiting, statuses=[outcome.status for outcome in outcomes])]


def _row(
    site: GreengrassTestbed, gaps: list[_UpdateGap], *, kept: bool, waiting: int, statuses: list[str]
) -> RequirementRow:
    listener = site.listener
    beyond = statistics.median(gap.component_s for gap in gaps)
    figures: dict[str, Any] = {
        "gap_s": [round(gap.whole, 3) for gap in gaps],
        "beyond_s": [round(gap.component_s, 3) for gap in gaps],
        "last_frame_before_sigterm_s": [round(gap.tail, 3) for gap in gaps],
        "stopping_s": [round(gap.stopping, 3) for gap in gaps],
        "nucleus_s": [round(gap.nucleus, 3) for gap in gaps],
        "starting_s": [round(gap.starting, 3) for gap in gaps],
        "beyond_median_s": beyond,
        "deployments": statuses,
        "active_model_kept": kept,
        "delivered_after_a_change_without_a_network": waiting,
        "frames": listener.unique,
        "lost": listener.lost,
        "dropped_by_the_device": listener.dropped,
        "counted_twice": listener.double_counted,
    }
    whole = listener.lost == listener.double_counted == 0 and all(gap.tail < _TAIL_S for gap in gaps)
    clean = kept and whole and waiting > _CUT_AHEAD and set(statuses) == {"SUCCEEDED"}
    return RequirementRow(
        "update",
        f"component update on lite, {len(gaps)} times, as built: gap in verdicts beyond the nucleus's own "
        f"{statistics.median(gap.nucleus for gap in gaps):.1f} s; model and outbox kept, lost, counted twice "
        f"of {listener.unique:,} frames",
        f"<= {_MOST_S:g} s; yes, 0, 0",
        f"{beyond:.2f} s ({', '.join(f'{gap.component_s:.2f}' for gap in gaps)}); "
        f"{'yes' if kept and waiting else 'no'}, {listener.lost}, {listener.double_counted}",
        met=clean and beyond <= _MOST_S,
        figures=figures,
    )


def _version(number: int) -> str:
    return f"1.{number}.0"


def _plan(site: GreengrassTestbed) -> BuildPlan:
    entries = [*contents.factory_release(DEFAULT_RELEASE), contents.trust_anchor(site.trust_anchor)]
    configuration = site.configuration(factory="release", root="1.root.json")
    return BuildPlan(INSPECTOR_KIND, _version(0), tuple(entries), (THIS_TARGET,), configuration=configuration)


def _deploy(site: GreengrassTestbed, version: str, store: Path, merge: dict[str, Any] | None = None) -> Any:
    update = {INSPECTOR_NAME: {"merge": merge}} if merge else {}
    deployment = Deployment(components={INSPECTOR_NAME: version}, configuration_update=update)
    return site.nucleus.deploy(deployment, store, _INSTALLED_S)


def _gap(site: GreengrassTestbed, number: int, events: tuple[ComponentEvent, ...]) -> _UpdateGap:
    """Of the change from start `number` to the next."""

    def at(what: str) -> float:
        return next(event.at_s for event in events if event.what.startswith(what))

    epochs = sorted({epoch for _, epoch in site.listener.streams})  # they grow with each start
    last = max(s.last_utc_ns for (_, epoch), s in site.listener.streams.items() if epoch == epochs[number - 1])
    first = min(s.first_utc_ns for (_, epoch), s in site.listener.streams.items() if epoch == epochs[number])
    whole = (first - last) / _NS_PER_S
    tail = at("SIGTERM") + time.time() - time.monotonic() - last / _NS_PER_S
    stopping, nucleus = at("stopped") - at("SIGTERM"), at("startup") - at("stopped")
    return _UpdateGap(whole, tail, stopping, nucleus, whole - tail - nucleus - stopping)


def measure_sizes(_settings: GreengrassBenchSettings, report: Callable[[str], None]) -> list[RequirementRow]:
    """Build both components for this machine, weigh them, and compare what they carry with what they import."""
    with GreengrassTestbed("lite", updates=True) as site:
        release = site.publish("1.1.0")
        site.write_model(release, version="1.1.0")
        folder = site.folder / "model" / "1.1.0"
        bundle = [
            ArchiveEntry(path.relative_to(folder).as_posix(), path.read_bytes())
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        ]
        rows = []
        for plan in (_plan(site), BuildPlan(MODEL_KIND, "1.1.0", tuple(bundle), (THIS_TARGET,), {"release": release})):
            report(f"building {plan.kind.name}")
            built = build(plan, site.folder / "weighed")
            archive = built.artifacts[1]
            idle = {
                pin.name for pin in component_pins(LOCK, THIS_TARGET, plan.kind.packages)
            } - import_closure.imported_packages(plan.kind)
            weights = size_report.package_sizes(archive)
            mb = archive.stat().st_size / 1e6
            heaviest = ", ".join(f"{name} {size / 1e6:.1f}" for name, size in list(weights.items())[:4])
            rows.append(
                RequirementRow(
                    f"size of {plan.kind.name}",
                    f"{plan.kind.name} {THIS_TARGET.archive}: MB ({heaviest}); packages in it that no device imports",
                    "a table; 0",
                    f"{mb:.1f} MB; {len(idle)}",
                    met=not idle,
                    figures={"mb": mb, "bytes": weights, "not_imported": sorted(idle)},
                )
            )
    return rows
