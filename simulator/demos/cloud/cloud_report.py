"""The closing report, for a person and as one JSON object.

`verify` is the demo's own verdict: it lists what is missing, and an empty list is the only success.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from rich.text import Text

from simulator.demos.cloud.cloud_line import DEFECT_RATE, FADED_LIGHT
from simulator.demos.cloud.cloud_view import STYLES
from simulator.demos.cloud.time_compression import DAY_S
from simulator.demos.common.report_parts import closing_panel, label_text_grid, next_steps

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rich.console import RenderableType

    from simulator.demos.cloud.accuracy import AccuracyShare
    from simulator.demos.cloud.cloud_scenario import ScenarioEvent, ScenarioOutcome
    from simulator.probes.verdict_subscriber import SubscriberCounts

TOLERANCE: Final = 0.01  # accuracy must come back to within so much
SIMPLIFICATIONS: Final = (
    "AWS by moto and the project's own handlers, Greengrass by a hook that tells the agent its wish, labellers by the "
    f"simulator's truth; {DAY_S:g} s of the line are a day of the data lake"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceResult:
    """What became of a device: counts after the drain."""

    thing: str
    shown: int  # parts that passed its camera
    captured: int
    inspected: int
    dropped: int
    model: str
    collected: int  # frames that were uploaded


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudResult:
    """A demo that has ended."""

    seconds: float  # of the story
    prepared_s: float  # before it
    outcome: ScenarioOutcome
    events: tuple[ScenarioEvent, ...]
    devices: tuple[DeviceResult, ...]
    counts: SubscriberCounts
    broker: str
    problem: str | None  # why the story ended early
    steps: tuple[str, ...] = ()  # a line for each step: what it took, what is usual, whether it was reached
    missing: tuple[str, ...] = ()  # a sentence for each verdict that a device gave and that did not arrive
    files: dict[str, Path] = field(default_factory=dict)

    @property
    def lost(self) -> int:
        """Parts that passed a camera and whose verdict did not arrive, whatever the reason."""
        return sum(device.shown for device in self.devices) - self.counts.unique

    @property
    def is_poison_refused(self) -> bool:
        """Whether the wrong labels led to nothing, and the lines stayed."""
        return self.outcome.poisoned.get("result") == "poisoned" and self.outcome.models_untouched

    @property
    def poisoned_text(self) -> str:
        """What came of the wrong labels."""
        if not self.outcome.poisoned_labels:
            return "not reached"
        if not self.outcome.poisoned:
            return "not decided before the end"
        return "refused before anything was trained" if self.is_poison_refused else "NOT refused"

    @property
    def has_recovered(self) -> bool:
        """Whether accuracy is within a point of before."""
        before, after = self.outcome.before, self.outcome.after
        return before is not None and after is not None and after.value >= before.value - TOLERANCE


def verify(result: CloudResult) -> tuple[str, ...]:
    """Return what is missing, a sentence each."""
    return tuple(_problems(result))


def _problems(result: CloudResult) -> Iterator[str]:
    findings = result.outcome
    if result.problem is not None:
        yield f"the story did not come to its end: {result.problem}"
    if not result.has_recovered:
        yield f"accuracy was {_percent(findings.before)} before, and is {_percent(findings.after)} after the cycle"
    if result.lost:
        yield f"{result.lost} parts passed a camera without a verdict at the subscriber"
        yield from result.missing
    if not findings.poisoned:
        yield f"the step with the wrong labels was {result.poisoned_text}"
    elif not result.is_poison_refused:
        yield f"the wrong labels led to: {findings.poisoned.get('result', 'nothing')}; they must be refused"
    if not findings.statuses:
        yield "no execution of the state machine came to its end"
    elif findings.statuses != ["SUCCEEDED", "SUCCEEDED"]:
        yield f"the executions ended as {', '.join(findings.statuses)}; two must succeed"
    if result.counts.refused or result.counts.gaps:
        yield f"{result.counts.refused} messages could not be decoded, {result.counts.gaps} told of a loss"


def to_json(result: CloudResult) -> dict[str, Any]:
    """Return the report as one JSON object."""
    findings = result.outcome
    choice, released = findings.cycle.get("choice", {}), findings.cycle.get("released", {})
    return {
        "complete": not verify(result),
        "problems": list(verify(result)),
        "seconds": round(result.seconds + result.prepared_s, 1),
        "prepared_s": round(result.prepared_s, 1),
        **_accuracy_values(findings),
        "frames_lost": result.lost,
        "poisoned_refused": result.is_poison_refused if findings.poisoned else None,
        "poisoned_result": findings.poisoned.get("result"),
        "poisoned_reasons": findings.poisoned.get("why", []),
        "cycle": findings.cycle.get("result"),
        "executions": findings.statuses,
        "trigger": findings.cycle.get("request", {}).get("trigger"),
        "score_drift_psi": None if findings.psi is None else round(findings.psi, 3),
        "drift_noticed_s": _rounded(findings.drift_noticed_s),
        "recovery_s": _rounded(findings.recovery_s),
        "labels": findings.labels,
        "poisoned_labels": findings.poisoned_labels,
        "candidates": choice.get("candidates"),
        "objective": choice.get("objective"),
        "champion_objective": choice.get("champion_objective"),
        "approval": choice.get("approval"),
        "release": released.get("release_id"),
        "counter": released.get("counter"),
        "devices": {
            device.thing: {
                "shown": device.shown,
                "captured": device.captured,
                "inspected": device.inspected,
                "dropped": device.dropped,
                "collected": device.collected,
                "model": device.model,
            }
            for device in result.devices
        },
        "delivered": result.counts.unique,
        "duplicates": result.counts.duplicates,
        "broker": result.broker,
        "replaced": SIMPLIFICATIONS,
        "steps": list(result.steps),
        "events": [{"s": round(c.at_s, 1), "kind": c.kind, "what": c.text} for c in result.events],
        "files": {name: str(path) for name, path in result.files.items()},
    }


def _accuracy_values(findings: ScenarioOutcome) -> dict[str, Any]:
    return {
        "accuracy_before": _value(findings.before),
        "accuracy_drifted": _value(findings.drifted),
        "accuracy_after": _value(findings.after),
        "parts_before": None if findings.before is None else findings.before.parts,
        "parts_after": None if findings.after is None else findings.after.parts,
    }


def _value(share: AccuracyShare | None) -> float | None:
    return None if share is None else round(share.value, 4)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


def _percent(share: AccuracyShare | None) -> str:
    return "not measured" if share is None else f"{share.value:.1%} of {share.parts} parts"


# --- for a person -----------------------------------------------------------------------------------------------------


def headline(result: CloudResult) -> str:
    """Return the result in one line of plain text."""
    before, drifted, after = (
        "?" if share is None else f"{share.value:.1%}"
        for share in (result.outcome.before, result.outcome.drifted, result.outcome.after)
    )
    return f"Parts judged right: {before} in good light, {drifted} when the lamp had faded, {after} with the new model"


def closing_report(result: CloudResult) -> RenderableType:
    """Return the report for a person."""
    events = label_text_grid((f"{one.at_s:.0f} s", Text(one.text, STYLES[one.kind])) for one in result.events)
    steps = label_text_grid(
        ("" if number else "Steps", Text(line, "yellow" if "too slow" in line else ""))
        for number, line in enumerate(result.steps)
    )
    return closing_panel(
        "The line is as good as before, and no frame was lost",
        [_summary(result), Text(), events, Text(), steps, Text()],
        [next_steps(result.files, [("docs/cloud.md", "the same in your own account")])],
        verify(result),
    )


def _summary(result: CloudResult) -> RenderableType:
    findings = result.outcome
    parts = sum(device.shown for device in result.devices)
    choice, released = findings.cycle.get("choice", {}), findings.cycle.get("released", {})
    objective, champion = choice.get("objective"), choice.get("champion_objective")
    compared = "" if objective is None else f"; {objective:.1%} on the validation data, the model before {champion:.1%}"
    arrived = (
        f"{result.counts.unique:,} verdicts arrived over MQTT ({result.broker}), {result.counts.duplicates} twice, "
        f"{result.lost} lost"
    )
    rows: list[tuple[str, RenderableType]] = [
        ("Accuracy", headline(result).partition(": ")[2]),
        ("Light", f"fades by {FADED_LIGHT:.0%}, and stays so; {DEFECT_RATE:.0%} of the parts are defective"),
        (
            "Noticed",
            "not reached"
            if findings.drift_noticed_s is None
            else f"scores drifted, PSI {findings.psi or 0.0:.2f}, after {findings.drift_noticed_s:.0f} s",
        ),
        (
            "New model",
            f"{released.get('release_id', 'none')} of {choice.get('candidates', 0)} candidates{compared}"
            if findings.cycle
            else "not reached",
        ),
        (
            "Back",
            "not reached"
            if findings.recovery_s is None
            else f"{findings.recovery_s:.0f} s from the alarm until every device ran it",
        ),
        (
            "Wrong labels",
            (f"{findings.poisoned_labels} that say the opposite: " if findings.poisoned_labels else "")
            + result.poisoned_text,
        ),
        ("Parts", f"{parts:,} passed two cameras, {arrived}"),
        ("Time", f"{result.prepared_s:.0f} s to prepare, {result.seconds:.0f} s of the lines"),
        ("Replaced", SIMPLIFICATIONS),
    ]
    return label_text_grid(rows)
