"""The closing report, for a person and as one JSON object.

`verify` is the demo's own verdict: it lists what is missing, and an empty list is the only success.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.text import Text

from greengrass.packaging.build import INSPECTOR
from simulator.demos.common.report_parts import (
    closing_panel,
    delivery_values,
    label_text_grid,
    latency_bars,
    metric_values,
    model_values,
    next_steps,
    outcome_values,
    recall_table,
    two_columns,
)
from simulator.demos.common.shell_commands import shell_command
from simulator.demos.greengrass.component_packager import SIMPLIFICATIONS
from simulator.demos.greengrass.greengrass_view import METHOD_TEXT, NUCLEUS_TEXT
from simulator.demos.greengrass.release_catalogue import POLICY_TEXT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rich.console import RenderableType

    from simulator.demos.greengrass.greengrass_snapshot import GreengrassSnapshot
    from simulator.probes.verdict_subscriber import SubscriberCounts


@dataclass(frozen=True, slots=True, kw_only=True)
class GreengrassResult:
    """A demo that has ended: `moment` was taken when the last part was inspected, `counts` after the drain."""

    seconds: float  # that parts came
    install_s: float  # what the first deployment took
    snapshot: GreengrassSnapshot
    counts: SubscriberCounts
    connections: int  # to the camera
    refused_by_nucleus: int  # connections that the nucleus closed because of what came over them
    interrupted: bool
    problems: tuple[str, ...] = ()
    files: dict[str, Path] = field(default_factory=dict)

    @property
    def captured(self) -> int:
        """Frames that the component took."""
        return 0 if self.snapshot.status is None else self.snapshot.status.camera.captured

    @property
    def inspected(self) -> int:
        """Frames that got a verdict."""
        return 0 if self.snapshot.status is None else self.snapshot.status.camera.inspected

    @property
    def dropped(self) -> int:
        """Frames that got none, each counted under a reason."""
        return 0 if self.snapshot.status is None else self.snapshot.status.dropped

    @property
    def lost(self) -> int:
        """Images that the camera took and that nobody accounts for."""
        return self.snapshot.sent - self.dropped - self.counts.unique


def verify(result: GreengrassResult) -> tuple[str, ...]:
    """Return what is missing, a sentence each."""
    moment = result.snapshot
    problems = [*_delivery_problems(result), *_update_problems(result)]
    if moment.pid_changed:
        problems.append(
            f"the component was process {moment.first_pid} and is {moment.component.pid} after "
            f"{moment.component.starts} starts"
        )
    if result.connections != 1:
        problems.append(f"the component connected {result.connections} times to the camera")
    if result.refused_by_nucleus:
        problems.append(f"the nucleus closed {result.refused_by_nucleus} connections because of what came over them")
    return tuple(problems)


def _delivery_problems(result: GreengrassResult) -> Iterator[str]:
    """From the camera to the subscriber: nothing may be missing, or be there twice."""
    moment, counts = result.snapshot, result.counts
    if moment.status is None:
        yield "the component does not answer"
    if result.captured != moment.sent:
        yield f"the camera took {moment.sent} pictures, and the component captured {result.captured}"
    if result.captured != result.inspected + result.dropped:
        yield f"{result.captured} frames captured, but {result.inspected} inspected and {result.dropped} dropped"
    if counts.unique != result.inspected:
        yield f"{result.inspected} verdicts were given, and {counts.unique} arrived"
    if moment.metrics.delivered != counts.unique:
        yield f"the subscriber counted {counts.unique} verdicts, but reported {moment.metrics.delivered}"
    if counts.refused or counts.gaps:
        yield f"{counts.refused} messages could not be decoded, {counts.gaps} told of a loss"


def _update_problems(result: GreengrassResult) -> Iterator[str]:
    """Updates that did not end as they had to; an interrupted demo may leave some out."""
    moment = result.snapshot
    for update in moment.updates:
        if not update.is_as_expected:
            reason = f". {update.reason}" if update.reason else ""
            yield (
                f"{update.release_id} by {METHOD_TEXT[update.offer.method]}: {update.outcome or 'not at its end'}, "
                f"expected {update.offer.expected}{reason}"
            )
    if moment.waiting and not result.interrupted:
        yield f"{len(moment.waiting)} updates were never begun"


def to_json(result: GreengrassResult) -> dict[str, Any]:
    """Return the report as one JSON object; what the demo without Greengrass reports has the same keys."""
    moment, reading = result.snapshot, result.snapshot.status
    model = None if reading is None else reading.heartbeat.inspections[0]
    return {
        **outcome_values(result.problems, result.seconds),
        "greengrass": moment.mode,
        "replaced": SIMPLIFICATIONS,
        "taken": moment.sent,
        "captured": result.captured,
        "inspected": result.inspected,
        "dropped": result.dropped,
        "dropped_by_reason": {} if reading is None else {str(why): n for why, n in reading.camera.dropped.items() if n},
        **delivery_values(result.counts),
        "frames_lost": result.lost,
        "pid": moment.first_pid,
        "pid_changed": moment.pid_changed,
        "updates": [
            {
                "how": update.offer.method,
                "release": update.release_id,
                "outcome": update.outcome,
                "expected": update.offer.expected,
                "seconds": None if update.seconds is None else round(update.seconds, 2),
                "reason": update.reason or None,
            }
            for update in moment.updates
        ],
        "updates_not_begun": len(moment.waiting),
        **metric_values(moment.metrics),
        "install_s": round(result.install_s, 2),
        "publishes": moment.published,
        "publishes_per_s": round(moment.published / result.seconds, 2) if result.seconds else 0.0,
        "frames_per_s": round(result.inspected / result.seconds, 2) if result.seconds else 0.0,
        "cpu_cores": None if reading is None else round(reading.heartbeat.cpu, 3),
        "rss_mb": None if reading is None else round(reading.heartbeat.rss_bytes / 1e6, 1),
        "broker": moment.broker,
        "model": None
        if model is None or model.model is None
        else model_values(model.model, model.version, model.sha256, trusted=bool(model.trusted)),
        "files": {name: str(path) for name, path in result.files.items()},
    }


# --- for a person -----------------------------------------------------------------------------------------------------


def closing_report(result: GreengrassResult) -> RenderableType:
    """Return the report for a person."""
    metrics = result.snapshot.metrics
    other = "classic" if result.snapshot.mode == "lite" else "lite"
    steps = [
        (shell_command("scripts/demo", "--greengrass", other), "the other nucleus"),
        ("docs/deploy.md", "your own devices"),
    ]
    tables = two_columns(recall_table(metrics), latency_bars(metrics, title="Arrival to decision"))
    return closing_panel(
        "One process, no frame lost, every verdict arrived",
        [_summary(result), Text(), _updates(result), Text()],
        [tables, Text(), next_steps(result.files, steps)],
        result.problems,
    )


def _summary(result: GreengrassResult) -> RenderableType:
    moment, tally = result.snapshot, result.snapshot.metrics
    found, defective = tally.detection_counts()
    rate = moment.published / result.seconds if result.seconds else 0.0
    p50, p99 = tally.latency_ms(0.50), tally.latency_ms(0.99)
    speed = "nothing was inspected"
    if p50 is not None and p99 is not None:
        speed = f"half of the decisions within {p50:.1f} ms of the picture's arrival, 99 of 100 within {p99:.1f} ms"
    name = f"{INSPECTOR.name} {moment.component.version} on {NUCLEUS_TEXT[moment.mode]}, simulated"
    process = f"process {moment.first_pid} from start to end"
    if moment.pid_changed:
        process = f"process {moment.first_pid} at first, {moment.component.pid} at the end"
    parts = f"{moment.sent:,} taken by the camera, {result.inspected:,} inspected, {result.dropped} dropped"
    arrived = f"{result.counts.unique:,} verdicts over IPC and MQTT ({moment.broker}), {result.counts.duplicates} twice"
    rows: list[tuple[str, RenderableType]] = [
        ("Component", f"{name}; installed and inspecting after {result.install_s:.0f} s; {process}"),
        ("Replaced", SIMPLIFICATIONS),
        ("Parts", f"{parts}, {result.lost} lost, in {result.seconds:.0f} s"),
        ("Delivery", f"{arrived}, in {moment.published:,} publishes: {rate:.1f} a second"),
        ("Defects", f"{found} of {defective} defective parts found"),
        ("Speed", speed),
    ]
    return label_text_grid(rows)


def _updates(result: GreengrassResult) -> RenderableType:
    table = label_text_grid()
    for update in result.snapshot.updates:
        text = Text(f"{update.offer.what}, by {METHOD_TEXT[update.offer.method]}: ")
        text.append(update.outcome or "not at its end", "green" if update.is_as_expected else "bold red")
        if update.seconds is not None:
            text.append(f" after {update.seconds:.1f} s")
        if update.reason:
            text.append(f". {update.reason}", "grey62")
        table.add_row(f"Release {update.offer.version}", text)
    table.add_row("Policy", Text(POLICY_TEXT, "grey62"))
    return table
