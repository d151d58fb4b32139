"""Defines what a candidate must prove to replace the champion: limits and margins.

On each protected slice the candidate must be shown to be no worse than the champion by more than a margin (a
non-inferiority test, one-sided). The margin of a slice follows from its size and from the champion's errors in it,
never from the candidate, and is stated in the result. It is the largest of

1. `margin`, a loss that the plant accepts;
2. what an equally good model would lose by chance with probability 1 - `power`: (z + z_power) sqrt(p (1 - p) / n),
   with p the upper end of Wilson's 90 % interval of the champion's share of errors, because its luck on these parts
   must not set the standard for the candidate. An equal model that errs independently disagrees with it on 2 p (1 - p)
   of the parts; two trainings of one kind on about half of that. It is the sample size formula of the paired
   non-inferiority test, solved for the margin (J. Nam, Biometrics 53 (1997); K.-J. Lui and W. G. Cumberland, Control.
   Clin. Trials 22 (2001)). A candidate must pass some 25 slices: in simulations with 200 to 3,000 images one that errs
   a fifth less passed them all nine times in ten, an equal one (which gains nothing) three times in four, and of those
   that err half as much again 80 % were refused with 200 images, all from 1,000 on;
3. the lower end of the interval when the candidate loses `slack` images: no slice is refused for so few.

Where that exceeds `max_margin` the slice is too small for the test: it passes while no more than `slack` images are
lost, net.

Many slices need no correction: the claim is that the candidate holds on ALL of them, and the test of a union of nulls
by tests each at its level has that level (R. L. Berger, Technometrics 24 (1982)). Several candidates need one, because
a single lucky one suffices: at most `candidates` are compared, the best by the objective, and each at 1 - (1 -
confidence) / candidates (Bonferroni), however many there are.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from agent.release.manifest import Unit  # noqa: TC001 - pydantic reads the annotations
from agent.sequential_tests import wilson
from pipeline.comparison.paired_interval import difference_interval
from pipeline.strict_json import StrictJson, validate

if TYPE_CHECKING:
    from collections.abc import Mapping

Objective = Literal["balanced", "accuracy", "auroc"]


class SelectionPolicy(StrictJson):
    """See the module. Shares are of parts, in [0, 1]."""

    split: Literal["train", "val", "test"] = "val"
    objective: Objective = "balanced"  # mean of the shares of defects found and of good parts passed; others as named
    confidence: float = Field(default=0.95, gt=0.5, lt=1.0)  # one-sided
    candidates: int = Field(default=4, ge=1, le=64)
    margin: float = Field(default=0.01, ge=0.0, le=0.5)
    power: float = Field(default=0.98, ge=0.5, lt=1.0)
    slack: int = Field(default=2, ge=0, le=100)  # images
    max_margin: float = Field(default=0.5, gt=0.0, le=1.0)
    min_gain: float = Field(default=0.0, ge=0.0, lt=1.0)  # of the objective; the candidate must gain more than that
    min_defects_found: Unit = 0.0  # share of all defective parts that any candidate must find, champion or not
    min_good_passed: Unit = 0.0  # share of all good parts that it must pass
    protected: tuple[str, ...] | None = None  # kinds of slices, such as class, line, camera; None: see `slices`

    @property
    def corrected_confidence(self) -> float:
        """One-sided confidence of each interval."""
        return 1.0 - (1.0 - self.confidence) / self.candidates

    @property
    def z(self) -> float:
        """The standard normal's quantile at `corrected_confidence`."""
        return NormalDist().inv_cdf(self.corrected_confidence)

    def slice_margin(self, parts: float, champion_errors: float) -> float:
        """The margin of a slice with so many parts, of which the champion gets `champion_errors` wrong."""
        whole = round(parts)
        share = min(0.5, wilson(min(whole, round(champion_errors)), whole, confidence=0.9)[1])
        chance = (self.z + NormalDist().inv_cdf(self.power)) * math.sqrt(share * (1.0 - share) / parts)
        slack = -difference_interval(0.0, min(float(self.slack), parts), parts, z=self.z)[0]
        return max(self.margin, chance, slack)


def read_policy(tree: Mapping[str, object] | None, source: str = "the policy") -> SelectionPolicy:
    """A policy from JSON or YAML; None is the default one. Raises PlanError."""
    return SelectionPolicy() if tree is None else validate(SelectionPolicy, dict(tree), source)
