"""Finds labels that contradict each other: between labellers, over time, and between duplicates.

Disagreements stay open until a label with the source `review` resolves them, and keep their images out of data sets. A
revision by one labeller is reported, and the later label holds.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.datasets.label_store import REVIEW

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pipeline.datasets.label_store import Label, LabelHistory


@dataclass(frozen=True, slots=True, order=True)
class LabelConflict:
    """One image, or several that are the same, with the contradicting labels."""

    keys: tuple[str, ...]
    labels: tuple[str, ...]  # "class (labeller, source, time)"

    def __str__(self) -> str:
        return f"{' = '.join(self.keys)}: {', '.join(self.labels)}"


def find_disagreements(label_history: LabelHistory) -> dict[str, LabelConflict]:
    """Key -> disagreement of its labellers since the last review of the key."""
    found = {}
    for key, history in label_history.by_key.items():
        last = _last_of_each(_since_review(history))
        if len({label.label for label in last}) > 1:
            found[key] = _conflict(last)
    return found


def find_revisions(label_history: LabelHistory) -> list[LabelConflict]:
    """Keys whose labeller changed an earlier label; the later one holds."""
    found = []
    for history in label_history.by_key.values():
        by_labeller: defaultdict[str, list[Label]] = defaultdict(list)
        for label in history:
            by_labeller[label.labeller].append(label)
        found += [_conflict(own) for own in by_labeller.values() if len({label.label for label in own}) > 1]
    return sorted(found)


def find_duplicate_conflicts(labels: Iterable[tuple[str, Label]]) -> dict[str, LabelConflict]:
    """SHA-256 of an image -> its labels, where images of equal bytes have different ones."""
    by_picture: defaultdict[str, list[Label]] = defaultdict(list)
    for sha256, label in labels:
        by_picture[sha256].append(label)
    return {
        sha256: _conflict(sorted(found)) for sha256, found in by_picture.items() if len({x.label for x in found}) > 1
    }


def _since_review(history: Sequence[Label]) -> Sequence[Label]:
    reviews = [number for number, label in enumerate(history) if label.source == REVIEW]
    return history[reviews[-1] :] if reviews else history


def _last_of_each(history: Sequence[Label]) -> list[Label]:
    return sorted({label.labeller: label for label in history}.values())


def _conflict(labels: Sequence[Label]) -> LabelConflict:
    keys = tuple(sorted({label.key for label in labels}))
    return LabelConflict(keys, tuple(f"{x.label} ({x.labeller}, {x.source}, {x.labelled_at})" for x in labels))
