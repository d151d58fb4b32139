"""Scores become outcomes by the decision rule; a non-finite score never becomes a verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import decision, preprocess
from agent.records import DecisionRule, Geometry, Outcome

if TYPE_CHECKING:
    from agent.records import Floats

WHOLE = Geometry(mode="whole", height=64, width=64, channels=1)
PLAN = preprocess.plan_inputs(WHOLE, height=64, width=64)
RULE = DecisionRule(
    classes=("ok", "scratch", "dent"),
    defects=frozenset({"scratch", "dent"}),
    thresholds={"scratch": 0.5, "dent": 0.8},
    unsure_band=0.1,
)


def floats(*rows: list[float]) -> Floats:
    return np.array(rows, np.float32)


@pytest.mark.parametrize(
    ("scores", "outcome", "name"),
    [
        ([0.9, 0.1, 0.1], Outcome.OK, "ok"),
        ([0.9, 0.5, 0.1], Outcome.DEFECT, "scratch"),  # at the threshold it is a defect
        ([0.9, 0.49, 0.1], Outcome.UNSURE, "scratch"),
        ([0.9, 0.41, 0.1], Outcome.UNSURE, "scratch"),
        ([0.9, 0.39, 0.1], Outcome.OK, "ok"),
        ([0.1, 0.1, 0.79], Outcome.UNSURE, "dent"),  # each class has its own threshold
        ([0.1, 0.55, 0.81], Outcome.DEFECT, "scratch"),  # furthest above its own threshold
        ([0.0, 0.0, 0.0], Outcome.OK, "ok"),
    ],
)
def test_each_class_is_held_against_its_own_threshold(scores: list[float], outcome: Outcome, name: str) -> None:
    judgement = decision.decide(RULE, PLAN, floats(scores), None)

    assert (judgement.outcome, judgement.class_name) == (outcome, name)
    assert judgement.scores == pytest.approx(tuple(scores))
    assert judgement.box is None


def test_without_a_band_there_is_no_unsure() -> None:
    rule = DecisionRule(RULE.classes, RULE.defects, RULE.thresholds)

    assert decision.decide(rule, PLAN, floats([0.9, 0.499, 0.1]), None).outcome is Outcome.OK


def test_a_part_is_as_bad_as_its_worst_tile() -> None:
    judgement = decision.decide(RULE, PLAN, floats([0.9, 0.1, 0.1], [0.2, 0.7, 0.1], [0.9, 0.2, 0.3]), None)

    assert judgement.outcome is Outcome.DEFECT
    assert judgement.scores == pytest.approx((0.9, 0.7, 0.3))


def test_a_model_without_a_good_class_sends_unlikely_parts_to_a_person() -> None:
    rule = DecisionRule(("a", "b"), frozenset({"a", "b"}), {"a": 0.5, "b": 0.5})

    assert decision.decide(rule, PLAN, floats([0.1, 0.2]), None).outcome is Outcome.UNSURE
    assert decision.decide(rule, PLAN, floats([0.1, 0.6]), None).outcome is Outcome.DEFECT


def test_a_model_without_defect_classes_only_names_the_part() -> None:
    rule = DecisionRule(("left", "right"), frozenset(), {})

    judgement = decision.decide(rule, PLAN, floats([0.2, 0.8]), None)

    assert (judgement.outcome, judgement.class_name, judgement.score) == (Outcome.OK, "right", 0.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 7.0])
@pytest.mark.parametrize("position", [0, 1, 2])
def test_scores_that_are_no_probabilities_are_unknown(bad: float, position: int) -> None:
    scores = floats([0.9, 0.1, 0.1])
    scores[0, position] = bad

    judgement = decision.decide(RULE, PLAN, scores, None)

    assert judgement.outcome is Outcome.UNKNOWN
    assert judgement.reason == "scores are not finite"
    assert judgement.score == 0.0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_evidence_that_is_no_number_is_unknown(bad: float) -> None:
    rule = DecisionRule(("ok", "bad"), frozenset({"bad"}), {"bad": 0.5}, score="evidence")
    evidence = np.full((1, 4, 4), bad, np.float32)

    assert decision.decide(rule, PLAN, floats([0.5, 0.5]), evidence).outcome is Outcome.UNKNOWN


# --- evidence ---------------------------------------------------------------------------------------------------------


def test_the_evidence_decides_when_the_rule_says_so_and_the_scores_name_the_class() -> None:
    rule = DecisionRule(RULE.classes, RULE.defects, {"scratch": 0.5, "dent": 0.5}, score="evidence", aggregation="max")
    evidence = np.zeros((1, 4, 4), np.float32)
    evidence[0, 1, 2] = 0.75

    judgement = decision.decide(rule, PLAN, floats([0.9, 0.1, 0.2]), evidence)

    assert (judgement.outcome, judgement.class_name, judgement.score) == (Outcome.DEFECT, "dent", 0.75)


@pytest.mark.parametrize(("fraction", "expected"), [(0.01, 1.0), (0.125, 0.75), (0.25, 0.5), (1.0, 0.125)])
def test_top_mean_averages_the_strongest_cells_of_the_whole_part(fraction: float, expected: float) -> None:
    rule = DecisionRule(RULE.classes, RULE.defects, {}, score="evidence", aggregation="top_mean", top_fraction=fraction)
    evidence = np.zeros((2, 2, 4), np.float32)
    evidence[0, 0, 0], evidence[1, 1, 3], evidence[1, 0, 0] = 1.0, 0.5, 0.5

    assert decision.evidence_score(evidence, rule) == pytest.approx(expected)


@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 6), st.integers(1, 30), st.integers(1, 30)),
    fraction=st.floats(0, 1),
    broken=st.booleans(),
)
def test_the_fast_ways_to_an_evidence_score_give_numpys_own_bits(
    seed: int, shape: tuple[int, int, int], fraction: float, *, broken: bool
) -> None:
    evidence = np.random.default_rng(seed).random(shape, np.float32)
    if broken:
        evidence[-1, -1, -1] = np.nan
    rule = DecisionRule(RULE.classes, RULE.defects, {}, score="evidence", aggregation="top_mean", top_fraction=fraction)
    top = max(1, round(evidence.size * fraction))
    expected = float(np.partition(evidence.ravel(), evidence.size - top)[evidence.size - top :].mean())
    np.testing.assert_equal(decision.evidence_score(evidence, rule), expected)
    largest = DecisionRule(RULE.classes, RULE.defects, {}, score="evidence", aggregation="max")
    np.testing.assert_equal(decision.evidence_score(evidence, largest), float(evidence.max()))


def test_the_box_surrounds_the_connected_strong_cells_only() -> None:
    evidence = np.zeros((1, 8, 8), np.float32)
    evidence[0, 2, 3], evidence[0, 3, 4], evidence[0, 7, 0] = 0.9, 0.5, 0.8  # the last one is elsewhere

    judgement = decision.decide(RULE, PLAN, floats([0.1, 0.9, 0.1]), evidence)

    assert judgement.box == (24, 16, 16, 16)  # cells are 8 px


def test_the_box_lies_on_the_tile_with_the_strongest_cell() -> None:
    geometry = Geometry(mode="tiles", height=32, width=32, channels=1, reduction=2)
    plan = preprocess.plan_inputs(geometry, height=200, width=200, roi=(50, 60, 128, 64))
    assert [(t.x, t.y) for t in plan.tiles] == [(0, 0), (32, 0)]
    evidence = np.zeros((2, 4, 4), np.float32)
    evidence[1, 3, 0] = 0.6
    evidence[0, 0, 0] = 0.5

    assert decision.locate(plan, evidence) == (50 + 64, 60 + 48, 16, 16)


def test_an_ok_part_has_no_box() -> None:
    evidence = np.full((1, 4, 4), 0.2, np.float32)

    assert decision.decide(RULE, PLAN, floats([0.9, 0.1, 0.1]), evidence).box is None


@given(
    st.lists(st.lists(st.floats(0, 1, width=32), min_size=3, max_size=3), min_size=1, max_size=4),
    st.floats(0, 1),
    st.floats(0, 0.5),
    st.integers(1, 6),
)
def test_raising_a_defect_score_never_makes_a_part_better(
    rows: list[list[float]], threshold: float, band: float, cells: int
) -> None:
    rule = DecisionRule(RULE.classes, RULE.defects, {"scratch": threshold, "dent": 0.7}, band)
    plan = preprocess.plan_inputs(
        Geometry(mode="tiles", height=16, width=16, channels=1), height=16, width=16 * len(rows)
    )
    severity = {Outcome.OK: 0, Outcome.UNSURE: 1, Outcome.DEFECT: 2}
    scores = floats(*rows)
    evidence = np.random.default_rng(cells).random((len(rows), cells, cells), np.float32)
    worse = scores.copy()
    worse[:, 1] = np.minimum(1.0, worse[:, 1] + np.float32(0.125))

    before, after = (decision.decide(rule, plan, s, evidence) for s in (scores, worse))

    assert severity[after.outcome] >= severity[before.outcome]
    for judgement in (before, after):
        if judgement.outcome is not Outcome.OK:
            assert judgement.box is not None
            x, y, w, h = judgement.box
            assert 0 <= x < x + w <= 16 * len(rows)
            assert 0 <= y < y + h <= 16
