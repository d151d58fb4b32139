"""The statistics of a rollout: sequential tests that may be read after every part, and a few others.

Promise: pure functions of numbers, no state but a test's own, no clock and no randomness. Every result is finite. The
two sequential tests keep their error rates however often they are read, which a repeated fixed-size test does not: one
naive z-test every 100 parts rolls back a third of the models that are no worse.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

_LOG_PI: Final = math.log(math.pi)
_MAX_LOG: Final = 690.0  # exp() of it is still finite


@dataclass(frozen=True, slots=True)
class SprtPlan:
    """Wald's sequential probability ratio test of an event's rate: `good` against `bad`.

    log L grows by log(bad / good) with every event and falls by log((1 - good) / (1 - bad)) without one. At or above
    log((1 - beta) / alpha) the rate is taken to be bad, at or below log(beta / (1 - alpha)) to be good. Rates just good
    are refused with a probability of at most about `alpha`, rates just bad are accepted with at most about `beta`.
    Source: A. Wald, Sequential Tests of Statistical Hypotheses, Ann. Math. Statist. 16 (1945), sections 3.2 and 5.
    """

    good: float  # share of events, in (0, 1)
    bad: float  # likewise, above `good`
    alpha: float = 1e-3  # probability of refusing a good rate
    beta: float = 1e-2  # probability of accepting a bad rate

    def __post_init__(self) -> None:
        """Raises ValueError unless 0 < good < bad < 1, and alpha and beta are in (0, 0.5)."""
        if not 0.0 < self.good < self.bad < 1.0:
            raise ValueError(f"SPRT needs 0 < good < bad < 1, got good {self.good} and bad {self.bad}")
        if not (0.0 < self.alpha < 0.5 and 0.0 < self.beta < 0.5):  # noqa: PLR2004 - error rates of a coin
            raise ValueError(f"SPRT needs alpha and beta in (0, 0.5), got {self.alpha} and {self.beta}")

    @property
    def upper(self) -> float:
        """The bound of log L from which the rate is taken to be bad."""
        return math.log((1.0 - self.beta) / self.alpha)

    @property
    def lower(self) -> float:
        """The bound of log L below which the rate is taken to be good."""
        return math.log(self.beta / (1.0 - self.alpha))

    def log_ratio(self, events: int, trials: int) -> float:
        """Log of the likelihood ratio bad : good of `events` in `trials`. Raises ValueError if events > trials."""
        if not 0 <= events <= trials:
            raise ValueError(f"{events} events cannot happen in {trials} trials")
        hit, miss = math.log(self.bad / self.good), math.log((1.0 - self.bad) / (1.0 - self.good))
        return events * hit + (trials - events) * miss


class Sprt:
    """The running test of a `SprtPlan`, which goes on after it has accepted.

    Until it first accepts it is Wald's test. Afterwards log L is held at the lower bound instead of falling further: so
    a rate that turns bad after any number of good trials is refused almost as fast as at the start (Page's CUSUM, E. S.
    Page, Continuous Inspection Schemes, Biometrika 41 (1954), with upper - lower as its decision interval). A good
    rate must climb the whole interval to be refused then: about alpha * beta for each excursion. Refusing is for good.

    The decision therefore rests on the stretch since log L was last at the lower bound (or since the start), and its
    counts are reported to people: the rate since the start may seem harmless when the last nine parts do not.
    """

    def __init__(self, plan: SprtPlan) -> None:
        """Start without evidence."""
        self._hit = plan.log_ratio(1, 1)
        self._miss = plan.log_ratio(0, 1)
        self._upper, self._lower = plan.upper, plan.lower
        self.log_ratio = 0.0
        self.trials = 0
        self.events = 0
        self.stretch_trials = 0  # since log L was last at the lower bound
        self.stretch_events = 0
        self.accepted = False  # the lower bound was reached
        self.refused = False  # the upper bound was reached

    def add(self, *, event: bool) -> None:
        """Record one trial."""
        self.trials += 1
        self.events += event
        self.stretch_trials += 1
        self.stretch_events += event
        self.log_ratio += self._hit if event else self._miss
        if self.log_ratio >= self._upper:
            self.refused = True
        elif self.log_ratio <= self._lower:
            self.log_ratio = self._lower
            self.stretch_trials = self.stretch_events = 0
            self.accepted = True

    def resume_after_refusal(self) -> None:
        """Continue after a refusal that the caller does not act on: from the upper bound, able to accept again."""
        self.log_ratio = min(self.log_ratio, self._upper)
        self.refused = self.accepted = False

    @property
    def rate(self) -> float:
        """Share of events so far; 0.0 without trials."""
        return self.events / self.trials if self.trials else 0.0


def log_e_value(left: int, right: int) -> float:
    """Natural log of the e-value of `left` and `right` discordant pairs against "both sides are equally likely".

    The likelihood under a Beta(1/2, 1/2) mixture over the share of `left`, divided by that under 1/2:
    E = 2^n B(left + 1/2, right + 1/2) / pi with n = left + right. Under the null E is a martingale that starts at 1, so
    P(it ever reaches 1 / a) <= a, whenever it is read and stopped. It depends on the counts, not on their order.
    Source: J. Ville, Étude critique de la notion de collectif (1939); mixture: R. Krichevsky and V. Trofimov, IEEE
    Trans. Inf. Theory 27 (1981); its use on discordant pairs: Ramdas et al., Game-Theoretic Statistics and Safe
    Anytime-Valid Inference, Statistical Science 38 (2023). Raises ValueError on a negative count.
    """
    if left < 0 or right < 0:
        raise ValueError(f"counts of pairs cannot be negative, got {left} and {right}")
    pairs = left + right
    log_beta = math.lgamma(left + 0.5) + math.lgamma(right + 0.5) - math.lgamma(pairs + 1.0)
    return pairs * math.log(2.0) + log_beta - _LOG_PI


def e_value(left: int, right: int) -> float:
    """`exp(log_e_value(left, right))`, bounded so that it stays finite. Raises ValueError on a negative count."""
    return math.exp(min(log_e_value(left, right), _MAX_LOG))


def mcnemar_p(left: int, right: int) -> float:
    """Two-sided exact p-value of McNemar's test on `left` and `right` discordant pairs, in (0, 1]; 1.0 without any.

    p = min(1, 2 sum_{i <= min(left, right)} C(n, i) / 2^n). Valid for one reading only: for the end of an A/B test, not
    for stopping it. Source: Q. McNemar, Psychometrika 12 (1947); A. Agresti, Categorical Data Analysis, 3rd ed.,
    11.1.4. Raises ValueError on a negative count.
    """
    if left < 0 or right < 0:
        raise ValueError(f"counts of pairs cannot be negative, got {left} and {right}")
    pairs, fewer = left + right, min(left, right)
    log_top = math.lgamma(pairs + 1) - math.lgamma(fewer + 1) - math.lgamma(pairs - fewer + 1) - pairs * math.log(2.0)
    total = term = 1.0  # relative to the largest term, downwards: the rest is negligible after a few hundred
    for i in range(fewer, 0, -1):
        term *= i / (pairs - i + 1)
        total += term
        if term < total * 1e-17:
            break
    return min(1.0, 2.0 * math.exp(max(log_top, -_MAX_LOG)) * total)


def wilson(events: int, trials: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval (low, high) of a rate, in [0, 1]; (0.0, 1.0) without trials.

    (p + z^2/2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n). Source: E. B. Wilson, J. Amer. Statist. Assoc.
    22 (1927); preferred for small counts by Brown, Cai and DasGupta, Statistical Science 16 (2001). Raises ValueError
    if events > trials or `confidence` is not in (0, 1).
    """
    if not 0 <= events <= trials:
        raise ValueError(f"{events} events cannot happen in {trials} trials")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must be in (0, 1), got {confidence}")
    if trials == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2.0)
    rate, shrink = events / trials, 1.0 + z * z / trials
    centre = (rate + z * z / (2 * trials)) / shrink
    half = z * math.sqrt(rate * (1.0 - rate) / trials + z * z / (4 * trials * trials)) / shrink
    low = 0.0 if events == 0 else max(0.0, centre - half)
    return low, 1.0 if events == trials else min(1.0, centre + half)


def psi(
    reference: npt.NDArray[np.float64],
    current: npt.NDArray[np.float64],
    *,
    bins: int = 10,
    edges: Literal["quantile", "fixed"] = "quantile",
    smoothing: float = 0.5,
) -> float:
    """Population stability index of `current` [m] against `reference` [n], both finite; >= 0, 0 for equal shares.

    sum over bins of (q - p) ln(q / p), with p and q the shares (count + smoothing) / (total + bins * smoothing), so
    that an empty bin stays finite. `quantile` cuts at the reference's own quantiles (a value that fills whole quantiles
    gets a bin of its own), `fixed` cuts [0, 1] evenly. Between two samples of one distribution about
    (bins - 1) (1/n + 1/m) is expected: windows of 1,000 give 0.02. The customary limits are 0.1 (check) and 0.25
    (changed).
    Source: S. Kullback, Information Theory and Statistics (1959), the symmetric divergence J; N. Siddiqi, Credit Risk
    Scorecards (2006), as PSI. Raises ValueError without data, on values that are not finite, and with fewer than 2 bins
    or a smoothing that is not above 0.
    """
    if bins < 2 or not smoothing > 0.0:  # noqa: PLR2004 - one bin holds everything
        raise ValueError(f"PSI needs at least 2 bins and a smoothing above 0, got {bins} and {smoothing}")
    if not (reference.size and current.size and np.isfinite(reference).all() and np.isfinite(current).all()):
        raise ValueError("PSI needs finite values on both sides")
    if edges == "fixed":
        cuts = np.linspace(0.0, 1.0, bins + 1)[1:-1]
    else:
        quantiles = np.quantile(reference, np.linspace(0.0, 1.0, bins + 1)[1:-1], method="inverted_cdf")
        cuts, repeats = np.unique(quantiles, return_counts=True)
        atoms = cuts[(repeats > 1) | (cuts == reference.min())]
        cuts = np.union1d(cuts, np.nextafter(atoms, np.inf))
    count = len(cuts) + 1
    before = np.bincount(np.searchsorted(cuts, reference, side="right"), minlength=count) + smoothing
    now = np.bincount(np.searchsorted(cuts, current, side="right"), minlength=count) + smoothing
    p, q = before / before.sum(), now / now.sum()
    return max(0.0, float(np.sum((q - p) * np.log(q / p))))
