"""The outcome of each release of the scenario, from the agent's own history.

Pure but for reading the lifecycle's status: no clock, no threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text

from agent.lifecycle.state.transitions import LifecycleState
from simulator.demos.common import release_accuracy
from simulator.demos.common.release_accuracy import share_text
from simulator.demos.line.release_scenario import POLICY_TEXT, PublishedRelease

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from agent.lifecycle.lifecycle import Lifecycle
    from agent.release_records import ModelStatus, Refusal
    from simulator.demos.common.release_accuracy import ReleaseAccuracyRow
    from simulator.demos.common.verdict_metrics import VerdictMetrics
    from simulator.demos.line.release_scenario import ReleaseScenario

_AROUND_NS: Final = 1_000_000_000  # "around a switch" is within a second of it
_STEPS: Final = (
    ("fetch", {LifecycleState.FETCHING, LifecycleState.STAGED}),
    ("gates", {LifecycleState.VERIFIED, LifecycleState.SELFTEST}),
    ("shadow", {LifecycleState.SHADOW}),
    ("trial", {LifecycleState.TRIAL}),
    ("commit", {LifecycleState.COMMITTED}),
)


@dataclass(frozen=True, slots=True)
class ModelSwitch:
    """One moment at which other models began to inspect."""

    what: str
    utc_ns: int
    p99_ms: float | None  # exposure to decision, of the parts within a second of it


@dataclass(frozen=True, slots=True)
class ReleaseOutcome:
    """One release's fate."""

    published: PublishedRelease
    result: str  # "committed", "rolled back", "refused" or how far it came
    switches: tuple[ModelSwitch, ...] = ()
    refusal: Refusal | None = None


@dataclass(frozen=True, slots=True)
class ReleaseLog:
    """All of it, at one moment or at the end."""

    status: ModelStatus
    policy: str
    outcomes: tuple[ReleaseOutcome, ...]
    problem: str | None = None
    p99_around_ms: float | None = None
    p99_elsewhere_ms: float | None = None
    accuracy: tuple[ReleaseAccuracyRow, ...] = ()  # of each release on the line, of the inspection that they came to


def build_release_log(story: ReleaseScenario, lifecycle: Lifecycle, tally: VerdictMetrics | None = None) -> ReleaseLog:
    """Return what has happened so far; with `tally` also what it meant for the latency."""
    status, history, bad = lifecycle.status(), lifecycle.history(), lifecycle.deny_list()
    times = np.asarray(tally.times_ns.get(story.inspection, []) if tally else [], np.int64)
    latencies = np.asarray(tally.inspection_us.get(story.inspection, []) if tally else [], np.int64)
    refused = {entry["release_id"] for entry in bad}
    chapters = []
    near = np.zeros(len(times), bool)
    for published in story.published:
        release_id = f"{story.name}/{published.version}"
        own = [line for line in history if line["release_id"] == release_id]
        switches = []
        for what, utc_s in _switches(own):
            utc_ns = round(utc_s * 1e9)
            close = np.abs(times - utc_ns) <= _AROUND_NS
            near |= close
            switches.append(ModelSwitch(what, utc_ns, _p99_ms(latencies[close])))
        refusal = status.refusal if status.refused and status.refused.release_id == release_id else None
        chapters.append(ReleaseOutcome(published, _result(own, release_id in refused), tuple(switches), refusal))
    return ReleaseLog(
        status,
        POLICY_TEXT,
        tuple(chapters),
        story.problem,
        _p99_ms(latencies[near]),
        _p99_ms(latencies[~near]),
        () if tally is None else _accuracy_rows(story, tally),
    )


def _accuracy_rows(story: ReleaseScenario, tally: VerdictMetrics) -> tuple[ReleaseAccuracyRow, ...]:
    return tuple(row for row in tally.by_release.rows(story.versions) if row.inspection == story.inspection)


def _p99_ms(latencies_us: np.ndarray[Any, Any]) -> float | None:
    return round(float(np.quantile(latencies_us, 0.99)) / 1_000.0, 3) if len(latencies_us) else None


def _switches(own: Sequence[dict[str, Any]]) -> list[tuple[str, float]]:
    """When the models that inspect changed: trial, wider trial, commit, rollback."""
    found, step = [], 0
    for line in own:
        if line["after"] == LifecycleState.TRIAL:
            step += 1
            found.append((f"trial, step {step}", line["utc_s"]))
        elif line["after"] == LifecycleState.COMMITTED:
            found.append(("commit", line["utc_s"]))
        elif line["after"] == LifecycleState.ROLLING_BACK and line["state"] == LifecycleState.TRIAL:
            found.append(("rollback", line["utc_s"]))
    return found


def _result(own: Sequence[dict[str, Any]], is_bad: bool) -> str:  # noqa: FBT001
    states = [line["after"] for line in own]
    if LifecycleState.COMMITTED in states:
        return "committed"
    if is_bad:
        return "rolled back" if LifecycleState.TRIAL in states else "refused"
    if states and states[-1] == LifecycleState.IDLE:
        return "given up for a newer one"
    if LifecycleState.TRIAL in states:
        return "still in trial"  # a stop sends it back to begin its trial anew at the next start
    return f"still in {states[-1]}" if states else "published"


# --- for a person -----------------------------------------------------------------------------------------------------


def release_panel(log: ReleaseLog) -> Group:
    """Four lines for the live view."""
    status = log.status
    rows: list[RenderableType] = [Text(log.policy, "grey50", no_wrap=True, overflow="ellipsis")]
    last = log.outcomes[-1:]
    rows += [_progress_line(outcome, status, is_last=outcome in last) for outcome in log.outcomes[-2:]]
    if not log.outcomes:
        rows.append(Text("a new release will arrive soon", "grey62"))
    if status.alarm or log.problem:
        rows.append(Text(f"! {status.alarm or log.problem}", "yellow", no_wrap=True, overflow="ellipsis"))
    elif log.outcomes and (refusal := log.outcomes[-1].refusal) is not None:
        rows.append(Text(refusal.text, "red", no_wrap=True, overflow="ellipsis"))
    return Group(*rows)


def _progress_line(outcome: ReleaseOutcome, status: ModelStatus, *, is_last: bool) -> Text:
    text = Text(f"{outcome.published.version} ", "bold", no_wrap=True, overflow="ellipsis")
    if outcome.result == "committed":
        return text.append("✓ fetched, passed every gate, tried on the line, committed", "green")
    if outcome.result in {"rolled back", "refused"}:
        gate = f" by the gate `{outcome.refusal.gate}`" if outcome.refusal else ""
        return text.append(f"✗ {outcome.result}{gate}", "bold red")
    if not is_last or status.candidate is None:
        return text.append("● " + outcome.result.removeprefix("still in "), "cyan")
    now = next((i for i, (_, states) in enumerate(_STEPS) if status.state in states), 0)
    for index, (name, _) in enumerate(_STEPS):
        if index < now:
            text.append(f"✓ {name}  ", "green")
        elif index == now:
            text.append(f"● {name}{_progress(status)}  ", "bold cyan")
        else:
            text.append(f"○ {name}  ", "grey50")
    return text


def _progress(status: ModelStatus) -> str:
    done, wanted = status.progress.get("phase_pairs"), status.progress.get("phase_pairs_wanted")
    share = f" {status.share:.0%}" if status.state == LifecycleState.TRIAL else ""
    return share if done is None or not wanted else f"{share}, {done:.0f} of {wanted:.0f} parts"


def release_table(log: ReleaseLog) -> Table:
    """What the closing report says."""
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="grey62", no_wrap=True)
    rows.add_column()
    for outcome in log.outcomes:
        good = outcome.result == "committed"
        text = Text(f"{outcome.published.what}: ").append(outcome.result, "green" if good else "bold red")
        if outcome.refusal is not None:
            text.append(f" at the gate `{outcome.refusal.gate}`. {outcome.refusal.text}")
        rows.add_row(f"Release {outcome.published.version}", text)
        if outcome.switches:
            around = ", ".join(f"{s.what} {s.p99_ms:.1f}" for s in outcome.switches if s.p99_ms is not None)
            rows.add_row("", Text(f"p99 in ms within a second of: {around}", "grey62"))
    if log.p99_around_ms is not None and log.p99_elsewhere_ms is not None:
        rows.add_row(
            "Switching",
            f"99 of 100 decisions within {log.p99_around_ms:.1f} ms around the switches, "
            f"{log.p99_elsewhere_ms:.1f} ms the rest of the time",
        )
    if log.problem:
        rows.add_row("", Text(log.problem, "bold red"))
    return rows


def accuracy_table(log: ReleaseLog) -> Table:
    """Escapes and false rejects by release, light by light: releases under different light do not compare."""
    rows = Table.grid(padding=(0, 1))
    for _ in range(3):
        rows.add_column(no_wrap=True)
    rows.add_row(*(Text(head, "bold") for head in ("Release", "Defects that escaped", "Good parts rejected")))
    light = None
    for row in log.accuracy:
        if row.lamp is not light:
            rows.add_row(Text(row.lamp, "grey62"), *([Text("(95 % interval)", "grey62")] * 2 if light is None else []))
            light = row.lamp
        worth = row.errors
        rows.add_row(
            f"  {row.version}",
            share_text(worth.escapes, worth.defective, decimals=0),
            share_text(worth.false_rejects, worth.good),
        )
    return rows


def to_json(log: ReleaseLog) -> dict[str, Any]:
    """The same for machines."""
    return {
        "policy": log.policy,
        "p99_ms_around_switches": log.p99_around_ms,
        "p99_ms_elsewhere": log.p99_elsewhere_ms,
        "active": None if log.status.active is None else log.status.active.release_id,
        "problem": log.problem,
        "accuracy": release_accuracy.to_json(log.accuracy),
        "releases": [
            {
                "version": outcome.published.version,
                "what": outcome.published.what,
                "published_s": round(outcome.published.at_s, 2),
                "result": outcome.result,
                "switches": [{"what": s.what, "p99_ms": s.p99_ms} for s in outcome.switches],
                "refusal": None
                if outcome.refusal is None
                else {
                    "gate": str(outcome.refusal.gate),
                    "reason": outcome.refusal.reason,
                    "text": outcome.refusal.text,
                    "figures": dict(outcome.refusal.figures),
                    "limits": dict(outcome.refusal.limits),
                },
            }
            for outcome in log.outcomes
        ],
    }
