"""Checks a batch of labels against the champion's verdicts and against earlier labels.

A batch of swapped or invented labels would train a model that passes bad parts, and spoil the validation data that
would detect this. Each source of new labels is compared with

- the champion's confident verdicts. The sample of `ok` parts counts by 1 / its rate, so that the value estimates the
  share of all parts on which the champion would have been confidently wrong: a working model is not wrong on half of
  them, even when the light has changed. Confidently passed and confidently rejected parts are also checked separately,
  because errors in one direction only may hide in the sum;
- earlier labels of the same images (of the base version or an earlier source), except reviews.

The lower end of the 95 % confidence interval (Wilson) of a share decides, from `min_evidence` labels on: a few
corrections are the purpose of labels, and are never suspicious.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from agent.records import Outcome
from agent.sequential_tests import wilson
from pipeline.datasets.dataset_version import LabelSuspicion
from pipeline.datasets.label_store import EXCLUDE, REVIEW

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pipeline.datasets.collected_frames import CollectedFrame
    from pipeline.datasets.label_store import Label, LabelHistory

ALL: Final = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelQualityLimits:
    """Limits beyond which a batch of labels is suspicious; shares in [0, 1]."""

    confident: float = 0.8  # a defect's score from here on, and an ok part's up to 1 - this, is a confident verdict
    max_contradicted: float = 0.5  # of the line's parts
    max_passed: float = 0.5  # of the parts that were confidently passed
    max_rejected: float = 0.9  # of those confidently rejected: after a change of light most of them may be good
    max_overlap: float = 0.2  # of the images labelled before
    min_evidence: int = 20


@dataclass(slots=True)
class _WeightedShare:
    """Contradictions among weighted observations."""

    weight: float = 0.0
    squares: float = 0.0
    against: float = 0.0
    count: int = 0

    def add(self, weight: float, *, against: bool) -> None:
        self.weight += weight
        self.squares += weight * weight
        self.against += weight * against
        self.count += 1

    @property
    def share(self) -> float:
        return self.against / self.weight if self.weight else 0.0

    @property
    def low(self) -> float:
        """Lower end of the Wilson interval, with Kish's effective number of observations."""
        if not self.weight:
            return 0.0
        effective = max(1, int(self.weight**2 / self.squares))
        return wilson(round(self.share * effective), effective)[0]


def check_labels(
    labels: Iterable[tuple[Label, CollectedFrame]],
    label_history: LabelHistory,
    established: Mapping[str, str],
    guard: LabelQualityLimits,
) -> tuple[LabelSuspicion, ...]:
    """Check every source of the new `labels`, and all together; `established` is key -> class in the base version."""
    by_source: defaultdict[str, list[tuple[Label, CollectedFrame]]] = defaultdict(list)
    for label, frame in sorted(labels, key=lambda pair: pair[0]):
        by_source[label.source].append((label, frame))
        by_source[ALL].append((label, frame))
    overlaps = _overlaps(label_history, established)
    return tuple(_check_source(name, found, overlaps[name], guard) for name, found in sorted(by_source.items()))


def _check_source(
    source: str, labels: list[tuple[Label, CollectedFrame]], overlap: _WeightedShare, guard: LabelQualityLimits
) -> LabelSuspicion:
    everything, passed, rejected = _WeightedShare(), _WeightedShare(), _WeightedShare()
    for label, frame in labels:
        outcome = _confident_outcome(frame, guard)
        if outcome is None or label.label == EXCLUDE:
            continue
        against = label.is_defect != (outcome is Outcome.DEFECT)
        everything.add(1.0 / (frame.sidecar.sample_rate or 1.0), against=against)
        (rejected if outcome is Outcome.DEFECT else passed).add(1.0, against=against)
    checks = (
        (everything, guard.max_contradicted, "the champion was confidently wrong on {:.0%} of the line's parts"),
        (passed, guard.max_passed, "{:.0%} of the parts that it confidently passed are defects"),
        (rejected, guard.max_rejected, "{:.0%} of the parts that it confidently rejected are good"),
        (overlap, guard.max_overlap, "{:.0%} of the images labelled before were labelled wrongly"),
    )
    reasons = tuple(
        f"if these labels hold, {text.format(tally.share)} (at least {tally.low:.0%}; up to {limit:.0%} is accepted)"
        for tally, limit, text in checks
        if tally.count >= guard.min_evidence and tally.low > limit
    )
    return LabelSuspicion(
        source=source,
        labels=len(labels),
        confident=everything.count,
        contradicted=_rounded(everything.share),
        contradicted_low=_rounded(everything.low),
        passed_low=_rounded(passed.low),
        rejected_low=_rounded(rejected.low),
        overlap=overlap.count,
        overlap_contradicted_low=_rounded(overlap.low),
        reasons=reasons,
    )


def _confident_outcome(frame: CollectedFrame, guard: LabelQualityLimits) -> Outcome | None:
    judgement = frame.verdict.judgement
    if judgement.outcome is Outcome.DEFECT and judgement.score >= guard.confident:
        return Outcome.DEFECT
    if judgement.outcome is Outcome.OK and judgement.score <= 1 - guard.confident:
        return Outcome.OK
    return None


def _overlaps(label_history: LabelHistory, established: Mapping[str, str]) -> defaultdict[str, _WeightedShare]:
    """Source -> agreement of its labels with earlier ones of the same images."""
    tallies: defaultdict[str, _WeightedShare] = defaultdict(_WeightedShare)
    for key, history in label_history.by_key.items():
        first = history[0]
        known = established.get(key, first.label)
        last = {label.source: label for label in history if label.source != REVIEW}
        for source, label in last.items():
            if key in established or source != first.source:
                against = label.label != known
                tallies[source].add(1.0, against=against)
                tallies[ALL].add(1.0, against=against)
    return tallies


def _rounded(share: float) -> float:
    return round(share, 4)
