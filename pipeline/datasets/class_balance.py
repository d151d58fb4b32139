"""Balances the classes of a training set: limits on added samples, and sampling weights.

Pure: entries in, samples and weights out.

Only new training samples are limited: samples of the base version stay, and validation and test keep the line's own
mix. A hash of seed and group decides which of too many are kept, whole groups first; the order of arrival does not
matter.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pipeline.datasets.dataset_version import SampleEntry


def samples_over_limit(
    old: Iterable[SampleEntry],
    new: Sequence[SampleEntry],
    *,
    seed: int,
    max_per_class: int | None,
    max_good_per_defect: float | None,
) -> set[str]:
    """SHA-256 of the new training samples that are beyond the limits.

    `max_per_class` counts a class's training samples, old ones included; `max_good_per_defect` limits the good ones to
    that many for each defective one, all classes together.
    """
    kept: Counter[str] = Counter()
    good = defective = 0
    for sample in old:
        if sample.split == "train":
            kept[sample.class_name] += 1
            good, defective = good + (not sample.is_defect), defective + sample.is_defect
    dropped: set[str] = set()
    # Defects first: they decide how many good ones fit.
    for sample in sorted(new, key=lambda s: (not s.is_defect, _rank(seed, s))):
        if sample.split != "train":
            continue
        full = max_per_class is not None and kept[sample.class_name] >= max_per_class
        many = not sample.is_defect and max_good_per_defect is not None and good >= max_good_per_defect * defective
        if full or many:
            dropped.add(sample.sha256)
            continue
        kept[sample.class_name] += 1
        good, defective = good + (not sample.is_defect), defective + sample.is_defect
    return dropped


def _rank(seed: int, sample: SampleEntry) -> tuple[bytes, str]:
    return hashlib.sha256(f"{seed}:{sample.group}".encode()).digest(), sample.sha256


def sample_weights(samples: Iterable[SampleEntry], *, max_weight: float) -> dict[str, float]:
    """SHA-256 -> how often to draw a training sample, 1 on average: classes are drawn equally often.

    Bounded to 1 / max_weight .. max_weight, so that a class of three images does not fill every batch. Samples of
    other splits have 1.
    """
    everything = list(samples)
    counts = Counter(s.class_name for s in everything if s.split == "train")
    mean = sum(counts.values()) / max(1, len(counts))
    return {
        s.sha256: round(min(max_weight, max(1 / max_weight, mean / counts[s.class_name])), 4)
        if s.split == "train"
        else 1.0
        for s in everything
    }
