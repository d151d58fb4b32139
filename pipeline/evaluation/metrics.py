"""Metrics from labels and verdicts: pure functions on arrays, without images or a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    Labels = npt.NDArray[np.int64]
    Values = npt.NDArray[np.float64]
    Flags = npt.NDArray[np.bool_]

RESAMPLES: Final = 400
INTERVAL: Final = (2.5, 97.5)  # percentiles: a 95 % interval


def confusion(truth: Labels, predicted: Labels, classes: int) -> Labels:
    """[classes, classes + 1] counts: rows are the truth, columns the prediction, the last one no verdict (-1)."""
    table = np.zeros((classes, classes + 1), np.int64)
    np.add.at(table, (truth, np.where(predicted < 0, classes, predicted)), 1)
    return table


def accuracy(truth: Labels, predicted: Labels) -> float:
    """Share of correct class names; no verdict counts as wrong."""
    return float((truth == predicted).mean())


def recalls(table: Labels) -> Values:
    """Recall of each class from a confusion table; NaN for a class without samples."""
    counts = table.sum(axis=1)
    with np.errstate(invalid="ignore"):
        return np.where(counts > 0, np.diagonal(table) / counts, np.nan)


def macro_f1(table: Labels) -> float:
    """Mean F1 over the classes that occur in truth or prediction."""
    right = np.diagonal(table)
    total = table.sum(axis=1) + table[:, :-1].sum(axis=0)
    seen = total > 0
    return float((2 * right[seen] / total[seen]).mean())


def auroc(scores: Values, positive: Flags) -> float | None:
    """Area under the ROC curve by ranks (Mann-Whitney U); ties count one half. None without both kinds."""
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if not positives or not negatives:
        return None
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks = ((last - counts + 1 + last) / 2)[inverse]
    return float((ranks[positive].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def precision_recall(scores: Values, positive: Flags) -> tuple[Values, Values]:
    """(recall, precision) at each distinct threshold, from the strictest to the loosest; at least one positive."""
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(positive[order])
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    return hits[ends] / hits[-1], hits[ends] / (ends + 1)


def best_threshold(scores: Values, defect: Flags, *, false_rejects: float | None = None) -> float:
    """Return the score from which a part should be called a defect; needs both kinds.

    Without `false_rejects`: the largest mean of the two recalls; of equals the one farthest from the nearest score.
    With it: the lowest threshold that rejects at most this share of good parts.
    """
    values = np.unique(scores)
    cuts = np.concatenate(([0.0], (values[:-1] + values[1:]) / 2, [1.0]))
    good, bad = np.sort(scores[~defect]), np.sort(scores[defect])
    rejected = 1.0 - np.searchsorted(good, cuts, side="left") / len(good)
    found = 1.0 - np.searchsorted(bad, cuts, side="left") / len(bad)
    if false_rejects is not None:
        allowed = np.flatnonzero(rejected <= false_rejects)
        return float(cuts[allowed[0]])
    merit = found - rejected
    best = np.flatnonzero(merit >= merit.max() - 1e-12)
    gaps = np.concatenate(([values[0]], np.diff(values) / 2, [1.0 - values[-1]]))
    return float(cuts[best[np.argmax(gaps[best])]])


def group_interval(
    statistic: Callable[[Labels], float | None], groups: Sequence[str], *, seed: int = 0
) -> tuple[float, float] | None:
    """95 % bootstrap interval of `statistic(indices)`, drawing whole groups with replacement.

    Images of one group show the same part: drawing them one by one would make the interval too narrow. None when the
    statistic is undefined for every draw.
    """
    rng = np.random.default_rng(seed)
    names, inverse = np.unique(np.asarray(groups), return_inverse=True)
    members = np.split(np.argsort(inverse, kind="stable"), np.cumsum(np.bincount(inverse))[:-1])
    found = []
    for _ in range(RESAMPLES):
        drawn = rng.integers(len(names), size=len(names))
        value = statistic(np.concatenate([members[i] for i in drawn]))
        if value is not None:
            found.append(value)
    if not found:
        return None
    low, high = np.percentile(found, INTERVAL)
    return float(low), float(high)
