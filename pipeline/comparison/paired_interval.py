"""Confidence interval of the difference of two models' shares on the same images.

Pure: numbers in, numbers out. Outcomes use the score interval for paired proportions, which holds its level with few
pairs and with none that differ, where a bootstrap gives an interval of width 0. Metrics that are not shares (AUROC) use
the paired bootstrap over groups, `pipeline.evaluation.metrics.group_interval`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

_HALVINGS: Final = 50  # of [-1, 1]: to 2e-15


def difference_interval(gained: float, lost: float, pairs: float, *, z: float) -> tuple[float, float]:
    """(low, high) of the difference (gained - lost) / pairs: where the score test reaches +-z.

    Only the first model is right on `gained` pairs, only the second on `lost`; both may be fractions (see
    `effective_sample_size`).
    Source: T. Tango, Equivalence test and confidence interval for the difference in proportions for the paired-sample
    design, Statistics in Medicine 17 (1998), equations 3 and 5; found by bisection. (-1.0, 1.0) without pairs. Raises
    ValueError on counts that are negative or exceed the pairs, and for z <= 0.
    """
    if min(gained, lost) < 0.0 or gained + lost > pairs * (1.0 + 1e-12) or z <= 0.0:
        raise ValueError(f"{gained} gained and {lost} lost of {pairs} pairs at z {z} make no sense")
    if pairs <= 0.0:
        return -1.0, 1.0
    # The score is antisymmetric: the upper bound is the lower one of the exchanged models.
    return _lower_limit(gained, lost, pairs, z), -_lower_limit(lost, gained, pairs, z)


def _lower_limit(gained: float, lost: float, pairs: float, z: float) -> float:
    low, high = -1.0, (gained - lost) / pairs
    for _ in range(_HALVINGS):
        middle = (low + high) / 2.0
        if _score_statistic(gained, lost, pairs, middle) > z:
            low = middle
        else:
            high = middle
    return low


def _score_statistic(gained: float, lost: float, pairs: float, difference: float) -> float:
    """Tango's statistic of "the difference is `difference`", with the nuisance parameter at its restricted maximum."""
    b = -gained - lost + (2.0 * pairs - gained + lost) * difference
    c = -lost * difference * (1.0 - difference)
    root = math.sqrt(max(0.0, b * b - 8.0 * pairs * c))
    only_second = max((root - b) / (4.0 * pairs), -difference, 0.0)  # its probability
    variance = pairs * (2.0 * only_second + difference * (1.0 - difference))
    distance = gained - lost - pairs * difference
    if variance <= 0.0:
        return math.inf if distance > 0.0 else 0.0
    return distance / math.sqrt(variance)


def effective_sample_size(groups: Sequence[str]) -> float:
    """The number of independent parts that the images of these groups are worth: n^2 / sum of squared group sizes.

    Counts are divided by the design effect n / effective before a test (J. N. K. Rao and A. J. Scott, Biometrics 48
    (1992)), taken at its largest: as if the images of a group always agreed. Groups of one image count in full.
    """
    _, sizes = np.unique(np.asarray(groups, dtype=np.str_), return_counts=True)
    total = float(sizes.sum())
    return total * total / float((sizes.astype(np.float64) ** 2).sum()) if total else 0.0
