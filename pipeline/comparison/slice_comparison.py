"""Compares candidate and champion slice by slice: images gained, lost, and whether that passes.

Each slice is decided by itself: a gain on one never makes up for a loss on another. See `selection_policy` for the
test.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.sequential_tests import mcnemar_p
from pipeline.comparison import paired_interval
from pipeline.comparison.comparison_result import MetricComparison, ReleaseComparison, SliceResult, SliceVerdict
from pipeline.comparison.slices import make_slices
from pipeline.evaluation import metrics

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from pipeline.comparison.predictions import EvaluationSplit, ReleasePredictions
    from pipeline.comparison.selection_policy import Objective, SelectionPolicy
    from pipeline.comparison.slices import Slice

_FIGURES: tuple[Objective, ...] = ("balanced", "accuracy", "auroc")


def compare_predictions(
    candidate: ReleasePredictions, champion: ReleasePredictions, pictures: EvaluationSplit, policy: SelectionPolicy
) -> ReleaseComparison:
    """All slices and metrics of one data set."""
    slices = make_slices(pictures.samples, pictures.attributes, policy.protected)
    return ReleaseComparison(
        data=pictures.dataset.root.name,
        dataset_digest=pictures.dataset.digest,
        split=pictures.split,
        champion=champion.title,
        champion_sha256=champion.manifest.files["model.onnx"].sha256,
        candidates=policy.candidates,
        level=policy.corrected_confidence,
        slices=tuple(_compare_rows(s, candidate, champion, pictures, policy) for s in slices),
        figures=tuple(_compare_metric(name, candidate, champion, pictures.groups) for name in _FIGURES),
    )


def _compare_rows(
    slice_: Slice,
    candidate: ReleasePredictions,
    champion: ReleasePredictions,
    pictures: EvaluationSplit,
    policy: SelectionPolicy,
) -> SliceResult:
    new, old = candidate.is_outcome_right[slice_.rows], champion.is_outcome_right[slice_.rows]
    return compare_slice(
        slice_.name,
        slice_,
        gained=int((new & ~old).sum()),
        lost=int((old & ~new).sum()),
        both=int((new & old).sum()),
        parts=paired_interval.effective_sample_size([pictures.samples[i].group for i in slice_.rows]),
        policy=policy,
    )


def compare_slice(
    name: str, slice_: Slice, *, gained: int, lost: int, both: int, parts: float, policy: SelectionPolicy
) -> SliceResult:
    """Decide on one slice from its counts of images; `parts` is their `paired_interval.effective_sample_size`."""
    pictures = len(slice_.rows)
    scale = parts / pictures
    low, high = paired_interval.difference_interval(gained * scale, lost * scale, parts, z=policy.z)
    margin = policy.slice_margin(parts, (pictures - both - lost) * scale)
    few = margin > policy.max_margin
    passed = lost - gained <= policy.slack if few else low >= -margin
    return SliceResult(
        slice=name,
        of=slice_.of,
        parts=round(parts),
        pictures=pictures,
        candidate=(both + gained) / pictures,
        champion=(both + lost) / pictures,
        gained=gained,
        lost=lost,
        difference=(gained - lost) / pictures,
        low=low,
        high=high,
        margin=margin,
        p_value=mcnemar_p(gained, lost),
        verdict=_verdict(low, high, few=few, passed=passed),
        passed=passed,
    )


def _verdict(low: float, high: float, *, few: bool, passed: bool) -> SliceVerdict:
    if high < 0.0:
        return SliceVerdict.WORSE
    if low > 0.0:
        return SliceVerdict.BETTER
    if few:
        return SliceVerdict.TOO_FEW
    return SliceVerdict.NOT_WORSE if passed else SliceVerdict.UNPROVEN


def _compare_metric(
    name: Objective, candidate: ReleasePredictions, champion: ReleasePredictions, groups: list[str]
) -> MetricComparison:
    def difference(rows: npt.NDArray[np.int64]) -> float | None:
        new, old = candidate.metric(name, rows), champion.metric(name, rows)
        return None if new is None or old is None else new - old

    new, old = candidate.metric(name), champion.metric(name)
    if new is None or old is None:
        return MetricComparison(name=name, candidate=new, champion=old)
    span = metrics.group_interval(difference, groups)
    low, high = span if span is not None else (None, None)
    return MetricComparison(name=name, candidate=new, champion=old, difference=new - old, low=low, high=high)
