"""Texts of the tests on live parts: the last stretch of parts decided, so they give its counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agent.release_records import Gate, Refusal

if TYPE_CHECKING:
    from agent.evidence.run_tests import RunSprt
    from agent.release.rollout_policy import Rates

HOLD_ADVICE: Final = (
    "One cause may do that, such as glare or a smeared part: it is held, and its answers do not count. Look at the "
    "parts with `kensa model ab report --pictures`; `kensa model continue` lets it go on, `kensa model rollback` "
    "refuses it."
)


def describe_runs(count: int) -> str:
    """Return the number of runs as text."""
    return "one run" if count <= 1 else f"{count} separate runs"


def describe_stretch(test: RunSprt) -> str:
    """Return the counts that decide: the parts since the test last accepted, and separately those before."""
    parts = test.parts
    before, events_before = parts.trials - parts.stretch_trials, parts.events - parts.stretch_events
    if before == 0:
        return f"on {parts.events} of {parts.trials} parts"
    earlier = f"{events_before}" if events_before else "none"
    return f"on {parts.stretch_events} of the last {parts.stretch_trials} parts, on {earlier} of the {before:,} before"


def sequential_test_refusal(gate: Gate, reason: str, text: str, test: RunSprt, rates: Rates) -> Refusal:
    """Return the refusal of a sequential test of `rates`; its figures are those of the stretch that decided."""
    parts = test.parts
    figures = {
        "rate": parts.stretch_events / parts.stretch_trials,
        "events": float(parts.stretch_events),
        "parts": float(parts.stretch_trials),
    }
    if before := parts.trials - parts.stretch_trials:
        figures |= {"events_before": float(parts.events - parts.stretch_events), "parts_before": float(before)}
    return Refusal(
        gate,
        reason,
        f"The candidate {text}: up to {rates.good:.2%} are fine, {rates.bad:.2%} are too many, and the sequential test "
        "has decided. Correct the release and publish it again.",
        figures=figures,
        limits={"rate": rates.bad},
    )
