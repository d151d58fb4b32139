from __future__ import annotations

import itertools
import string
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.comparison import paired_interval
from pipeline.comparison.selection_policy import SelectionPolicy
from pipeline.comparison.slice_comparison import compare_slice
from pipeline.comparison.slices import Slice
from pipeline.search.search_space import HalvingSettings, SearchSettings, halving_rungs, plan_trainings
from pipeline.selection.candidate_choice import choose_candidate
from pipeline.selection.training_plan import Scalar, TrainingPlan
from tests.kits.cloud.candidates import parts, write_parts, write_spotter

if TYPE_CHECKING:
    from pipeline.comparison.comparison_result import SliceResult

POLICY = SelectionPolicy()
SHARES = st.floats(0.0, 1.0, allow_nan=False)


@st.composite
def tables(draw: st.DrawFn, most: int = 400) -> tuple[int, int, int, int]:
    """(gained, lost, both right, both wrong), at least one picture."""
    counts = [draw(st.integers(0, most)) for _ in range(4)]
    if not any(counts):
        counts[draw(st.integers(0, 3))] = 1
    return counts[0], counts[1], counts[2], counts[3]


def inspected(gained: int, lost: int, both: int, neither: int, policy: SelectionPolicy = POLICY) -> SliceResult:
    pictures = gained + lost + both + neither
    part = Slice("s", "defects", np.arange(pictures))
    return compare_slice("s", part, gained=gained, lost=lost, both=both, parts=float(pictures), policy=policy)


@given(tables(), st.floats(0.1, 5.0))
def test_the_interval_holds_the_difference_and_exchanging_the_models_mirrors_it(
    table: tuple[int, int, int, int], z: float
) -> None:
    gained, lost = table[:2]
    pairs = sum(table)
    low, high = paired_interval.difference_interval(gained, lost, pairs, z=z)
    assert -1.0 <= low <= (gained - lost) / pairs + 1e-9
    assert (gained - lost) / pairs - 1e-9 <= high <= 1.0
    mirrored = paired_interval.difference_interval(lost, gained, pairs, z=z)
    assert mirrored == pytest.approx((-high, -low), abs=1e-12)


@given(tables())
def test_one_more_lost_picture_never_turns_refused_into_passed(table: tuple[int, int, int, int]) -> None:
    gained, lost, both, neither = table
    before = inspected(gained, lost, both, neither)
    if both:  # an image that both judged right
        assert not inspected(gained, lost + 1, both - 1, neither).passed or before.passed
    if gained:  # one that only the candidate judged right
        assert not inspected(gained - 1, lost, both, neither + 1).passed or before.passed


@given(tables(), st.floats(0.0, 0.3), st.floats(0.0, 0.2))
def test_a_wider_margin_never_refuses_what_a_narrower_one_passes(
    table: tuple[int, int, int, int], margin: float, more: float
) -> None:
    narrow, wide = (SelectionPolicy(max_margin=0.9, margin=value) for value in (margin, margin + more))
    assert not inspected(*table, policy=narrow).passed or inspected(*table, policy=wide).passed


@given(tables(), st.integers(1, 30), st.integers(0, 30))
def test_comparing_more_candidates_widens_every_interval(
    table: tuple[int, int, int, int], candidates: int, more: int
) -> None:
    one, many = (inspected(*table, policy=SelectionPolicy(candidates=n)) for n in (candidates, candidates + more))
    assert many.low <= one.low + 1e-9
    assert many.high >= one.high - 1e-9


@given(st.integers(1, 2000), st.integers(0, 2))
def test_an_equal_model_and_one_that_loses_the_slack_pass_at_every_size(pictures: int, lost: int) -> None:
    lost = min(lost, pictures)
    assert inspected(0, lost, pictures - lost, 0).passed


@given(st.lists(st.text("abc", min_size=1, max_size=2), min_size=1, max_size=60))
def test_groups_are_worth_no_more_than_their_pictures_and_no_less_than_one(groups: list[str]) -> None:
    worth = paired_interval.effective_sample_size(groups)
    assert 1.0 - 1e-9 <= worth <= len(groups) + 1e-9
    assert worth <= len(set(groups)) + 1e-9
    assert paired_interval.effective_sample_size([f"{i}" for i in range(len(groups))]) == pytest.approx(len(groups))


def test_the_interval_keeps_its_level_where_models_seldom_differ() -> None:
    """One-sided 97.5 %: the true difference lies below the lower bound in about 2.5 % of the draws."""
    rng = np.random.default_rng(4)
    for gain, loss, pairs in ((0.02, 0.02, 200), (0.1, 0.05, 60), (0.05, 0.15, 100)):
        draws = rng.multinomial(pairs, [gain, loss, 1.0 - gain - loss], size=2000)
        below = [
            paired_interval.difference_interval(g, n, pairs, z=1.96)[0] > gain - loss for g, n, _ in draws.tolist()
        ]
        assert np.mean(below) <= 0.04


def test_the_bounds_are_where_the_score_test_reaches_its_limit() -> None:
    for gained, lost, pairs in ((1, 0, 44), (5, 3, 60), (0, 4, 100)):
        low, high = paired_interval.difference_interval(gained, lost, pairs, z=1.96)
        assert paired_interval._score_statistic(gained, lost, pairs, low) == pytest.approx(1.96, abs=1e-6)
        assert paired_interval._score_statistic(gained, lost, pairs, high) == pytest.approx(-1.96, abs=1e-6)


@pytest.mark.parametrize(("gained", "lost", "pairs", "z"), [(-1, 0, 4, 1.0), (3, 2, 4, 1.0), (1, 1, 4, 0.0)])
def test_impossible_counts_are_refused(gained: int, lost: int, pairs: int, z: float) -> None:
    with pytest.raises(ValueError, match="make no sense"):
        paired_interval.difference_interval(gained, lost, pairs, z=z)


COUNTS = st.integers(0, 30)


@settings(max_examples=8)
@given(base=st.tuples(COUNTS, COUNTS, COUNTS), worse=st.tuples(COUNTS, st.integers(1, 10), COUNTS))
def test_a_further_line_on_which_it_is_worse_never_turns_a_refused_candidate_into_a_proposed_one(
    base: tuple[int, int, int], worse: tuple[int, int, int]
) -> None:
    """Candidate 0.5 finds weak spots that the champion misses, and rejects dusty good parts."""
    first = parts(base[0] + 1, base[1], base[2] + 1, dusty=base[1] // 4, marks={"line": "1"})
    further = parts(worse[0], 0, worse[2], dusty=worse[1], marks={"line": "2"})
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        champion, candidate = write_spotter(root / "champion", 0.8), write_spotter(root / "candidate", 0.5)
        before = choose_candidate([candidate], champion, write_parts(root / "before", first))
        after = choose_candidate([candidate], champion, write_parts(root / "after", [*first, *further]))
    assert after.proposed is None or before.proposed is not None


PARAMETERS = st.fixed_dictionaries(
    {},
    optional={
        "net": st.text(string.printable, max_size=20),
        "epochs": st.integers(1, 10**6),
        "learning_rate": st.floats(1e-9, 1.0),
        "top_fraction": st.none() | SHARES,
        "seed": st.integers(0, 2**31),
    },
)


@given(PARAMETERS, st.none() | SHARES, st.none() | st.just("tiles:64x64x1:r2:o16"))
def test_a_plan_survives_hyperparameters_and_keeps_its_digest(
    parameters: dict[str, Scalar], false_rejects: float | None, geometry: str | None
) -> None:
    made = TrainingPlan(
        name="parts", version="1.2.0", parameters=parameters, false_rejects=false_rejects, geometry=geometry
    )
    again = TrainingPlan.from_hyperparameters(made.hyperparameters())
    assert again == made
    assert again.digest == made.digest


@given(st.integers(1, 256), st.integers(2, 10), st.integers(1, 16))
def test_halving_ends_with_all_epochs_and_enough_finalists(trainings: int, eta: int, finalists: int) -> None:
    rounds = halving_rungs(trainings, HalvingSettings(eta=eta, finalists=finalists))
    assert rounds[0].trainings == trainings
    assert rounds[-1].share == 1.0
    assert rounds[-1].trainings == min(trainings, finalists)
    for earlier, later in itertools.pairwise(rounds):
        assert later.trainings < earlier.trainings
        assert earlier.share < later.share
    whole = TrainingPlan(name="m", version="1.0.0", parameters={"epochs": 40})
    assert rounds[-1].shorten(whole) == whole


@given(st.lists(st.integers(0, 5), min_size=1, max_size=5), st.lists(st.floats(1e-4, 1.0), min_size=1, max_size=4))
def test_a_search_plans_each_combination_once(seeds: list[int], rates: list[float]) -> None:
    plans = plan_trainings(SearchSettings(seeds=tuple(seeds), vary={"learning_rate": tuple(rates)}))
    assert len({made.digest for made in plans}) == len(plans) == len(set(seeds)) * len(set(rates))
