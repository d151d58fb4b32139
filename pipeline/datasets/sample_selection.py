"""Selects the images of a data set version and their labels, by rules in a fixed order.

Pure: collected frames, labels and the base version in, a selection out. The rules:

1. An image whose labellers disagree is left out.
2. An image whose class is called a defect here and good elsewhere is left out.
3. An image with the label `exclude` is left out.
4. Images with equal bytes and different labels are left out.
5. The base version keeps its samples, with the labels that hold now, except those that the rules above leave out.
6. A new label that contradicts the base version's for the same image is reported and not used.
7. An image is new when the base version does not have it; it is used once, whatever its names.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.datasets.dataset_version import DatasetQuality, Examples
from pipeline.datasets.label_conflicts import find_disagreements, find_duplicate_conflicts
from pipeline.datasets.label_store import EXCLUDE, LabelHistory

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pipeline.datasets.collected_frames import CollectedFrame, FrameScan
    from pipeline.datasets.dataset_version import SampleEntry
    from pipeline.datasets.label_store import Label


@dataclass(frozen=True, slots=True)
class LabelledFrame:
    """A collected image with its current label."""

    frame: CollectedFrame
    label: Label

    @property
    def sha256(self) -> str:
        """Of the image."""
        return self.frame.sidecar.image.sha256


@dataclass(frozen=True, slots=True)
class SampleSelection:
    """The result of the rules. `old` has the current labels; weights and splits of `new` are assigned later."""

    old: tuple[SampleEntry, ...]
    retired: tuple[SampleEntry, ...]  # of the base, no longer used
    new: tuple[LabelledFrame, ...]
    newly_labelled: tuple[LabelledFrame, ...]  # new ones, and those of the base with another label: to be checked
    quality: DatasetQuality  # what is known at this point


def select_samples(
    scan: FrameScan | None, history: LabelHistory | None, base: tuple[SampleEntry, ...]
) -> SampleSelection:
    """Apply the rules of the module; without labels the base stays as it is."""
    history = history or LabelHistory.from_labels(())
    frames = {frame.key: frame for frame in scan.frames} if scan is not None else {}
    labels = {key: label for key in history.by_key if (label := history.latest(key)) is not None}
    doubts = {**_disputed_images(history), **_ambiguous_classes(labels.values(), base)}
    usable = _without_excluded({key: label for key, label in labels.items() if key not in doubts})
    candidates = sorted(
        (LabelledFrame(frames[key], label) for key, label in usable.items() if key in frames),
        key=lambda candidate: candidate.frame.image_path,
    )
    duplicates = _conflicting_duplicates(candidates)
    old, retired = _relabel_base(base, labels, usable, duplicates)
    contradictions = _contradictions_of_base(candidates, old)
    new = _new_images(candidates, duplicates, base)
    return SampleSelection(
        old=old,
        retired=retired,
        new=new,
        newly_labelled=_newly_labelled(candidates, new, old, base),
        quality=DatasetQuality(
            unlabelled=sum(key not in labels for key in frames),
            orphans=len(labels.keys() - frames.keys() - {sample.key for sample in base}),
            excluded=sum(label.label == EXCLUDE for label in labels.values()),
            conflicts=Examples.of(doubts.values()),
            same_picture=Examples.of([*duplicates.values(), *contradictions.values()]),
            duplicates=len(candidates) - len({candidate.sha256 for candidate in candidates}),
        ),
    )


# --- the rules, in their order ----------------------------------------------------------------------------------------


def _disputed_images(history: LabelHistory) -> dict[str, str]:
    """Rule 1: keys whose labellers disagree, with the reason."""
    return {key: str(conflict) for key, conflict in find_disagreements(history).items()}


def _ambiguous_classes(labels: Iterable[Label], base: tuple[SampleEntry, ...]) -> dict[str, str]:
    """Rule 2: keys whose label calls a class a defect that is good elsewhere, or the other way round.

    The base version decides for its classes; for other classes the majority of labels, the earliest one in a tie.
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
                kind_here, elsewhere = ("a defect", "good") if label.is_defect else ("good", "a defect")
                doubts[label.key] = f"{label.key}: {name} is {kind_here} for {label.labeller}, {elsewhere} for the rest"
    return doubts


def _without_excluded(labels: Mapping[str, Label]) -> dict[str, Label]:
    """Rule 3: labels other than `exclude`."""
    return {key: label for key, label in labels.items() if label.label != EXCLUDE}


def _conflicting_duplicates(candidates: Iterable[LabelledFrame]) -> dict[str, str]:
    """Rule 4: digests of images that have several labels, with the reason."""
    conflicts = find_duplicate_conflicts((candidate.sha256, candidate.label) for candidate in candidates)
    return {sha256: str(conflict) for sha256, conflict in conflicts.items()}


def _relabel_base(
    base: tuple[SampleEntry, ...],
    labels: Mapping[str, Label],
    usable: Mapping[str, Label],
    duplicates: Mapping[str, str],
) -> tuple[tuple[SampleEntry, ...], tuple[SampleEntry, ...]]:
    """Rule 5: the base's samples with their current labels, and those that the rules leave out."""
    old, retired = [], []
    for sample in base:
        if sample.sha256 in duplicates or (sample.key in labels and sample.key not in usable):
            retired.append(sample)
            continue
        label = usable.get(sample.key) if sample.key is not None else None
        if label is not None and label.label != sample.class_name:
            changes = {"class_name": label.label, "is_defect": label.is_defect, "label_source": label.source}
            old.append(sample.model_copy(update=changes if label.is_defect else {**changes, "mask": None}))
        else:
            old.append(sample)
    return tuple(old), tuple(retired)


def _contradictions_of_base(candidates: Iterable[LabelledFrame], old: Iterable[SampleEntry]) -> dict[str, str]:
    """Rule 6: digests of images that have another label in the base version, with the reason of the first one."""
    classes = {sample.sha256: sample.class_name for sample in old}
    found: dict[str, str] = {}
    for candidate in candidates:
        name, in_base = candidate.label.label, classes.get(candidate.sha256)
        if in_base is not None and in_base != name:
            found.setdefault(candidate.sha256, f"{candidate.frame.image_path}: {name}, in the base version {in_base}")
    return found


def _new_images(
    candidates: Iterable[LabelledFrame], duplicates: Mapping[str, str], base: Iterable[SampleEntry]
) -> tuple[LabelledFrame, ...]:
    """Rule 7: images that the base version does not have, each under the first of its names."""
    known = {sample.sha256 for sample in base}
    new: dict[str, LabelledFrame] = {}
    for candidate in candidates:
        if candidate.sha256 not in duplicates and candidate.sha256 not in known:
            new.setdefault(candidate.sha256, candidate)
    return tuple(new.values())


# --- what follows from them -------------------------------------------------------------------------------------------


def _newly_labelled(
    candidates: Iterable[LabelledFrame],
    new: Sequence[LabelledFrame],
    old: Iterable[SampleEntry],
    base: Iterable[SampleEntry],
) -> tuple[LabelledFrame, ...]:
    """New images and relabelled ones of the base, in the order of their paths."""
    before = {sample.sha256: sample for sample in base}
    relabelled = {sample.key for sample in old if sample.key is not None and before[sample.sha256] != sample}
    found = [*new, *(candidate for candidate in candidates if candidate.frame.key in relabelled)]
    return tuple(sorted(found, key=lambda candidate: candidate.frame.image_path))
