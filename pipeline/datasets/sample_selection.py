"""Which pictures a version has, and with which label. Pure: what was collected, labels and base in, a choice out.

A picture is used once, whatever its names. It is left out while labellers disagree about it, when its label is
`exclude`, when equal bytes have different labels, and when its class is said to be a defect here and good elsewhere.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.datasets.dataset_version import DatasetQuality, Examples
from pipeline.datasets.label_conflicts import find_disagreements, find_duplicate_conflicts
from pipeline.datasets.label_store import EXCLUDE, LabelHistory

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pipeline.datasets.collected_frames import CollectedFrame, FrameScan
    from pipeline.datasets.dataset_version import SampleEntry
    from pipeline.datasets.label_store import Label


@dataclass(frozen=True, slots=True)
class LabelledFrame:
    """A collected picture with the label that holds."""

    frame: CollectedFrame
    label: Label

    @property
    def sha256(self) -> str:
        """Of the picture."""
        return self.frame.sidecar.image.sha256


@dataclass(frozen=True, slots=True)
class SampleSelection:
    """`old` has the labels that hold now; weights and splits of `new` are still to be found."""

    old: tuple[SampleEntry, ...]
    retired: tuple[SampleEntry, ...]  # of the base, not used any more
    new: tuple[LabelledFrame, ...]
    # new ones, and those of the base with another label: what is to be judged
    newly_labelled: tuple[LabelledFrame, ...]
    quality: DatasetQuality  # what is known so far


def select_samples(
    found: FrameScan | None, book: LabelHistory | None, base: tuple[SampleEntry, ...]
) -> SampleSelection:
    """Choose; without labels the base stays as it is."""
    book = book or LabelHistory.from_labels(())
    kept = {k.key: k for k in found.frames} if found is not None else {}
    doubts = {key: str(conflict) for key, conflict in find_disagreements(book).items()}
    labels = {key: label for key in book.by_key if (label := book.latest(key)) is not None}
    doubts |= _ambiguous_classes(labels.values(), base)
    usable = {key: x for key, x in labels.items() if key not in doubts and x.label != EXCLUDE}
    candidates = [LabelledFrame(kept[key], label) for key, label in usable.items() if key in kept]
    same = find_duplicate_conflicts((c.sha256, c.label) for c in candidates)
    by_sha = {s.sha256: s for s in base}
    old, retired = _relabel_base(base, labels, usable, set(same))
    mine = {s.sha256: s for s in old}
    new: dict[str, LabelledFrame] = {}
    apart = {sha256: str(conflict) for sha256, conflict in same.items()}
    for chosen in sorted(candidates, key=lambda c: c.frame.image_path):
        known = mine.get(chosen.sha256)
        if known is not None and known.class_name != chosen.label.label:
            apart.setdefault(
                chosen.sha256,
                f"{chosen.frame.image_path}: {chosen.label.label}, in the base version {known.class_name}",
            )
        elif chosen.sha256 not in same and chosen.sha256 not in by_sha:
            new.setdefault(chosen.sha256, chosen)
    relabelled = {s.key for s in old if s.key is not None and by_sha[s.sha256] != s}
    news = [*new.values(), *(c for c in candidates if c.frame.key in relabelled)]
    pictures = {c.sha256 for c in candidates}
    known_keys = {s.key for s in base}
    return SampleSelection(
        old=old,
        retired=retired,
        new=tuple(new.values()),
        newly_labelled=tuple(sorted(news, key=lambda c: c.frame.image_path)),
        quality=DatasetQuality(
            unlabelled=sum(key not in labels for key in kept),
            orphans=sum(key not in kept and key not in known_keys for key in labels),
            excluded=sum(label.label == EXCLUDE for label in labels.values()),
            conflicts=Examples.of(doubts.values()),
            same_picture=Examples.of(apart.values()),
            duplicates=len(candidates) - len(pictures),
        ),
    )


def _relabel_base(
    base: tuple[SampleEntry, ...], labels: dict[str, Label], usable: dict[str, Label], same: set[str]
) -> tuple[tuple[SampleEntry, ...], tuple[SampleEntry, ...]]:
    """The base's samples with the labels that hold now, and those that are in doubt now."""
    old, retired = [], []
    for sample in base:
        if sample.sha256 in same or (sample.key in labels and sample.key not in usable):
            retired.append(sample)
            continue
        label = usable.get(sample.key) if sample.key is not None else None
        if label is not None and label.label != sample.class_name:
            changes = {"class_name": label.label, "is_defect": label.is_defect, "label_source": label.source}
            old.append(sample.model_copy(update=changes if label.is_defect else {**changes, "mask": None}))
        else:
            old.append(sample)
    return tuple(old), tuple(retired)


def _ambiguous_classes(labels: Iterable[Label], base: tuple[SampleEntry, ...]) -> dict[str, str]:
    """Keys whose label calls a class a defect that is good elsewhere, or the other way round.

    What the base version says of a class holds; of other classes, what the most labels say, and the earlier of equals.
    """
    kinds = {s.class_name: s.is_defect for s in base}
    votes: defaultdict[str, list[Label]] = defaultdict(list)
    for label in labels:
        votes[label.label].append(label)
    doubts = {}
    for name, given in votes.items():
        defects = sum(label.is_defect for label in given)
        first = min(given, key=lambda x: (x.labelled_at, x)).is_defect
        kind = kinds.get(name, first if 2 * defects == len(given) else 2 * defects > len(given))
        for label in given:
            if label.is_defect != kind:
                said, elsewhere = ("a defect", "good") if label.is_defect else ("good", "a defect")
                doubts[label.key] = f"{label.key}: {name} is {said} for {label.labeller}, {elsewhere} for the rest"
    return doubts
