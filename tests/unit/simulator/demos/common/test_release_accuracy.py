"""A release's accuracy counts its own verdicts only, in one lamp state at a time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import pytest

from agent.records import Judgement, ModelIdentity, Origin, Outcome, Verdict
from agent.sequential_tests import wilson
from simulator.demos.common.release_accuracy import (
    ErrorCounts,
    LampState,
    ReleaseAccuracy,
    lamp_state,
    share_text,
    to_json,
)
from simulator.line import LineConfig
from simulator.line.part_sequence import Lighting as Lamp

if TYPE_CHECKING:
    from simulator.line import PartTruth

OLD = ModelIdentity("parts", "1.0.0", "aa" * 32, 1, trusted=True)
NEW = ModelIdentity("parts", "1.1.0", "bb" * 32, 2, trusted=True)
ORIGIN = Origin("thing-1", "line-1", "surface", "top", 1, "c" * 64, "p" * 64, OLD, ("ok", "scratch"))
FADING = LineConfig(drift_shape="ramp", drift_amplitude=0.14, drift_after_parts=100, drift_period_parts=50)


@dataclass(frozen=True)
class Part:
    is_defective: bool
    light: Lamp


def part(drift: float = 1.0, *, defective: bool = False) -> PartTruth:
    return cast("PartTruth", Part(defective, Lamp(drift, 1.0, drift, 0.0, 0.0)))


def verdict(outcome: Outcome, *, model: ModelIdentity = OLD, challenger: Outcome | None = None) -> Verdict:
    told: dict[str, Any] = {"challenger_outcome": challenger, "challenger_sha256": NEW.sha256} if challenger else {}
    judgement = Judgement(outcome, "scratch", 0.5, (0.5, 0.5))
    return Verdict(replace(ORIGIN, model=model), 1, 1_700_000_000_000_000_000, judgement, 2_000, **told)


def test_mistakes_count_for_the_release_that_made_them() -> None:
    counts = ReleaseAccuracy()
    counts.add(verdict(Outcome.OK), part(defective=True), FADING)
    counts.add(verdict(Outcome.DEFECT), part(), FADING)
    counts.add(verdict(Outcome.DEFECT, model=NEW), part(defective=True), FADING)
    counts.add(verdict(Outcome.UNSURE, model=NEW), part(), FADING)
    rows = counts.rows()
    assert [(row.version, row.errors) for row in rows] == [
        ("1.0.0", ErrorCounts(1, 1, 1, 1)),
        ("1.1.0", ErrorCounts(1, 0, 1, 0)),
    ]


def test_a_part_of_a_trial_counts_for_the_challenger_with_its_own_answer() -> None:
    counts = ReleaseAccuracy()
    counts.add(verdict(Outcome.DEFECT, challenger=Outcome.OK), part(defective=True), FADING)
    (row,) = counts.rows({NEW.sha256: "1.1.0"})
    assert (row.version, row.errors) == ("1.1.0", ErrorCounts(1, 1, 0, 0))


def test_light_levels_are_never_mixed() -> None:
    counts = ReleaseAccuracy()
    for drift in (1.0, 0.93, 0.86):
        counts.add(verdict(Outcome.OK), part(drift), FADING)
    assert [(row.lamp, row.errors.good) for row in counts.rows()] == [
        (LampState.GOOD, 1),
        (LampState.FADING, 1),
        (LampState.FADED, 1),
    ]
    assert lamp_state(part(0.93), LineConfig(drift_shape="sine")) is LampState.GOOD


def test_a_share_is_given_with_its_interval_and_nothing_is_not_a_share() -> None:
    assert share_text(3, 60) == "3 of 60: 5.0% (1.7 to 13.7)"
    assert share_text(30, 1_600, decimals=0) == "30 of 1,600: 2% (1 to 3)"
    assert share_text(0, 0) == "none seen"
    counts = ReleaseAccuracy()
    counts.add(verdict(Outcome.OK), part(), FADING)
    (told,) = to_json(counts.rows())
    assert told["escape_interval"] is None
    assert told["false_reject_interval"] == pytest.approx(wilson(0, 1), abs=1e-4)
