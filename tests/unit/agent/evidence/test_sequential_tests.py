"""Sequential tests keep their promised error rates and refuse invalid arguments."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pytest

from agent.sequential_tests import Sprt, SprtPlan, e_value, log_e_value, mcnemar_p, psi, wilson

DISAGREEMENT = SprtPlan(0.01, 0.03)
ERRORS = SprtPlan(0.001, 0.01)


def run(plan: SprtPlan, events: list[bool]) -> Sprt:
    test = Sprt(plan)
    for event in events:
        test.add(event=event)
    return test


def test_the_bounds_of_the_sprt_are_walds() -> None:
    assert DISAGREEMENT.upper == pytest.approx(math.log(990))
    assert DISAGREEMENT.lower == pytest.approx(math.log(0.01 / 0.999))


def test_the_running_ratio_is_the_likelihood_ratio_until_it_accepts() -> None:
    test = run(DISAGREEMENT, [False] * 100 + [True] * 2)

    likelihoods = (0.03**2 * 0.97**100, 0.01**2 * 0.99**100)
    assert test.log_ratio == pytest.approx(math.log(likelihoods[0] / likelihoods[1]))
    assert test.log_ratio == pytest.approx(DISAGREEMENT.log_ratio(2, 102))
    assert (test.accepted, test.refused) == (False, False)
    assert test.rate == pytest.approx(2 / 102)


def test_total_failure_is_refused_in_three_trials() -> None:
    assert run(ERRORS, [True, True]).refused is False
    assert run(ERRORS, [True, True, True]).refused is True


def test_a_failure_after_any_number_of_good_trials_is_refused_in_a_handful() -> None:
    test = run(ERRORS, [False] * 100_000)
    assert test.accepted
    assert test.log_ratio == ERRORS.lower

    for _ in range(5):
        test.add(event=True)

    assert test.refused


@pytest.mark.parametrize(("rate", "most_refused"), [(0.005, 0), (0.01, 8)])
def test_good_rates_are_refused_about_as_rarely_as_alpha_says(rate: float, most_refused: int) -> None:
    """2,000 tests up to the first acceptance: at most alpha = 0.1 % of them, 2, are expected; 8 is improbable."""
    assert sum(decided(rate, seed) for seed in range(2_000)) <= most_refused


def test_a_bad_rate_is_refused_nearly_always() -> None:
    assert sum(decided(0.03, seed) for seed in range(300)) >= 290


def decided(rate: float, seed: int) -> bool:
    """Whether Wald's test, drawn in whole, refuses before it accepts."""
    events = np.random.default_rng(seed).random(20_000) < rate
    path = np.cumsum(np.where(events, DISAGREEMENT.log_ratio(1, 1), DISAGREEMENT.log_ratio(0, 1)))
    refused, accepted = path >= DISAGREEMENT.upper, path <= DISAGREEMENT.lower
    assert refused.any() or accepted.any()
    return bool(refused.any()) and (not accepted.any() or int(refused.argmax()) < int(accepted.argmax()))


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((0.03, 0.01), "0 < good < bad < 1, got good 0.03 and bad 0.01"),
        ((0.0, 0.01), "good 0.0"),
        ((0.01, 1.0), "bad 1.0"),
        ((0.01, 0.03, 0.0, 0.1), "alpha and beta in (0, 0.5), got 0.0"),
        ((0.01, 0.03, 0.1, 0.5), "got 0.1 and 0.5"),
    ],
)
def test_an_impossible_plan_is_refused(arguments: tuple[float, ...], complaint: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is compared below
        SprtPlan(*arguments)

    assert complaint in str(caught.value)


def test_the_e_value_starts_at_one_and_needs_thirteen_one_sided_pairs() -> None:
    assert log_e_value(0, 0) == pytest.approx(0.0)
    assert e_value(12, 0) < 1_000 < e_value(13, 0)
    assert e_value(13, 0) == pytest.approx(e_value(0, 13))
    assert e_value(50, 50) < 1
    assert math.isfinite(e_value(1_000_000, 0))


def test_the_e_value_reaches_a_thousand_no_more_often_than_once_in_a_thousand_under_the_null() -> None:
    """5,000 walks of 200 discordant pairs, looked at after each: Ville allows 5, and the mixture stays below."""
    sides = np.random.default_rng(4).random((5_000, 200)) < 0.5
    left = np.cumsum(sides, axis=1)
    table = np.array([[log_e_value(k, n - k) if k <= n else 0.0 for k in range(201)] for n in range(1, 201)])

    assert int((table[np.arange(200), left].max(axis=1) >= math.log(1_000)).sum()) <= 5


@pytest.mark.parametrize(
    ("left", "right", "p"),
    [(0, 0, 1.0), (5, 5, 1.0), (1, 9, 22 / 1024), (0, 10, 2 / 1024), (10, 0, 2 / 1024), (3, 4, 1.0)],
)
def test_mcnemar_is_the_two_sided_binomial_test(left: int, right: int, p: float) -> None:
    assert mcnemar_p(left, right) == pytest.approx(p)


def test_mcnemar_stays_above_zero_for_any_counts() -> None:
    assert 0.0 < mcnemar_p(0, 1_000_000) < 1e-200
    assert mcnemar_p(500_000, 500_000) == pytest.approx(1.0)


def test_wilson_gives_the_published_interval() -> None:
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)  # R. Newcombe, Statist. Med. 17 (1998), table I
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert wilson(5, 5)[1] == 1.0
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize("edges", ["quantile", "fixed"])
def test_psi_tells_a_shift_from_noise(edges: Literal["quantile", "fixed"]) -> None:
    rng = np.random.default_rng(1)
    earlier, same = rng.beta(2, 5, 1_000), rng.beta(2, 5, 1_000)

    assert psi(earlier, same, edges=edges) < 0.06
    assert psi(earlier, same + 0.15, edges=edges) > 0.25
    assert psi(earlier, earlier, edges=edges) == 0.0


@pytest.mark.parametrize("moved", [-0.1, 0.1])
def test_psi_sees_a_constant_move_either_way(moved: float) -> None:
    constant = np.full(1_000, 0.5)

    assert psi(constant, constant + moved) > 1.0


def test_psi_sees_an_atom_dissolve() -> None:
    rng = np.random.default_rng(2)
    clipped = np.maximum(0.0, rng.normal(0.0, 0.1, 1_000))

    assert psi(clipped, np.abs(rng.normal(0.0, 0.1, 1_000))) > 0.25
    assert psi(clipped, np.maximum(0.0, rng.normal(0.0, 0.1, 1_000))) < 0.06


def test_senseless_arguments_are_refused() -> None:
    data = np.array([0.1, 0.2])
    with pytest.raises(ValueError, match="cannot be negative"):
        log_e_value(-1, 0)
    with pytest.raises(ValueError, match="cannot be negative"):
        mcnemar_p(0, -1)
    with pytest.raises(ValueError, match="3 events cannot happen in 2 trials"):
        wilson(3, 2)
    with pytest.raises(ValueError, match="confidence must be in"):
        wilson(1, 2, confidence=1.0)
    with pytest.raises(ValueError, match="2 events cannot happen in 1 trials"):
        DISAGREEMENT.log_ratio(2, 1)
    with pytest.raises(ValueError, match="finite values"):
        psi(data, np.array([np.nan]))
    with pytest.raises(ValueError, match="finite values"):
        psi(data, np.array([]))
    with pytest.raises(ValueError, match="at least 2 bins"):
        psi(data, data, bins=1)
    with pytest.raises(ValueError, match="at least 2 bins"):
        psi(data, data, smoothing=0.0)
