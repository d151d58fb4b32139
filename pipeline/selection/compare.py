"""Candidate against champion, slice by slice: which pictures were gained and lost, and whether that is too many.

Each slice is judged by itself: what happens on one never helps another. See `policy` for the test.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.statistics import mcnemar_p
from pipeline.evaluation import metrics
from pipeline.selection import paired
from pipeline.selection.record import Comparison, Figure, SliceResult, Verdict
from pipeline.selection.slices import slices_of

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from pipeline.selection.judged import Judged, Pictures
    from pipeline.selection.policy import Objective, Policy
    from pipeline.selection.slices import Slice

_FIGURES: tuple[Objective, ...] = ("balanced", "accuracy", "auroc")


def compare(candidate: Judged, champion: Judged, pictures: Pictures, policy: Policy) -> Comparison:
    """All slices and figures of one data set."""
    slices = slices_of(pictures.samples, pictures.marks, policy.protected)
    return Comparison(
        data=pictures.dataset.root.name,
        dataset_digest=pictures.dataset.digest,
        split=pictures.split,
        champion=champion.title,
        champion_sha256=champion.manifest.files["model.onnx"].sha256,
        candidates=policy.candidates,
        level=policy.level,
        slices=tuple(_slice(s, candidate, champion, pictures, policy) for s in slices),
        figures=tuple(_figure(name, candidate, champion, pictures.groups) for name in _FIGURES),
    )


def _slice(part: Slice, candidate: Judged, champion: Judged, pictures: Pictures, policy: Policy) -> SliceResult:
    new, old = candidate.right[part.rows], champion.right[part.rows]
    return judge_slice(
        part.name,
        part,
        gained=int((new & ~old).sum()),
        lost=int((old & ~new).sum()),
        both=int((new & old).sum()),
        parts=paired.effective([pictures.samples[i].group for i in part.rows]),
        policy=policy,
    )


def judge_slice(
    name: str, part: Slice, *, gained: int, lost: int, both: int, parts: float, policy: Policy
) -> SliceResult:
    """Decide on one slice from its counts of pictures; `parts` is what they are worth, see `paired.effective`."""
    pictures = len(part.rows)
    scale = parts / pictures
    low, high = paired.interval(gained * scale, lost * scale, parts, z=policy.z)
    margin = policy.margin_of(parts, (pictures - both - lost) * scale)
    few = margin > policy.max_margin
    passed = lost - gained <= policy.slack if few else low >= -margin
    return SliceResult(
        slice=name,
        of=part.of,
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


def _verdict(low: float, high: float, *, few: bool, passed: bool) -> Verdict:
    if high < 0.0:
        return Verdict.WORSE
    if low > 0.0:
        return Verdict.BETTER
    if few:
        return Verdict.TOO_FEW
    return Verdict.NOT_WORSE if passed else Verdict.UNPROVEN


def _figure(name: Objective, candidate: Judged, champion: Judged, groups: list[str]) -> Figure:
    def difference(rows: npt.NDArray[np.int64]) -> float | None:
        new, old = candidate.figure(name, rows), champion.figure(name, rows)
        return None if new is None or old is None else new - old

    new, old = candidate.figure(name), champion.figure(name)
    if new is None or old is None:
        return Figure(name=name, candidate=new, champion=old)
    span = metrics.group_interval(difference, groups)
    low, high = span if span is not None else (None, None)
    return Figure(name=name, candidate=new, champion=old, difference=new - old, low=low, high=high)
