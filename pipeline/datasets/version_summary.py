"""Formats versions and their differences for `kensa cloud dataset show` and `diff`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.datasets.dataset_version import SPLITS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pipeline.datasets.dataset_version import DatasetQuality, DatasetVersion, SampleEntry


@dataclass(frozen=True, slots=True)
class VersionDiff:
    """The differences of two versions, by SHA-256, sorted; swapping the versions inverts them."""

    old: str  # digests
    new: str
    added: tuple[tuple[str, str], ...]  # image, class
    removed: tuple[tuple[str, str], ...]
    relabelled: tuple[tuple[str, str, str], ...]  # image, class before, class after
    moved: tuple[tuple[str, str, str], ...]  # image, split before, split after

    @property
    def is_empty(self) -> bool:
        """Whether the same images have the same classes in the same splits."""
        return not (self.added or self.removed or self.relabelled or self.moved)

    def to_dict(self) -> dict[str, Any]:
        """For --json: numbers by class, and the pictures."""
        return {
            "old": self.old,
            "new": self.new,
            "added": {"by_class": _count(c for _, c in self.added), "pictures": [sha for sha, _ in self.added]},
            "removed": {"by_class": _count(c for _, c in self.removed), "pictures": [sha for sha, _ in self.removed]},
            "relabelled": {
                "by_class": _count(f"{one} -> {other}" for _, one, other in self.relabelled),
                "pictures": [sha for sha, _, _ in self.relabelled],
            },
            "moved": {
                "by_split": _count(f"{one} -> {other}" for _, one, other in self.moved),
                "pictures": [sha for sha, _, _ in self.moved],
            },
        }

    def to_lines(self) -> Iterator[str]:
        """Lines of text."""
        yield f"{self.old[:12]} -> {self.new[:12]}"
        if self.is_empty:
            yield "the same images, classes and splits"
        for what, counts in (
            ("added", _count(c for _, c in self.added)),
            ("removed", _count(c for _, c in self.removed)),
            ("relabelled", _count(f"{one} -> {other}" for _, one, other in self.relabelled)),
            ("moved", _count(f"{one} -> {other}" for _, one, other in self.moved)),
        ):
            if counts:
                yield f"{what}: {sum(counts.values())}"
                yield from (f"  {name}: {count}" for name, count in counts.items())


def diff_versions(old: DatasetVersion, new: DatasetVersion) -> VersionDiff:
    """Compare two versions by the digests of their images."""
    before = {s.sha256: s for s in old.samples}
    after = {s.sha256: s for s in new.samples}
    both = sorted(before.keys() & after.keys())
    return VersionDiff(
        old=old.digest,
        new=new.digest,
        added=tuple((sha, after[sha].class_name) for sha in sorted(after.keys() - before.keys())),
        removed=tuple((sha, before[sha].class_name) for sha in sorted(before.keys() - after.keys())),
        relabelled=_changed(both, before, after, "class_name"),
        moved=_changed(both, before, after, "split"),
    )


def _changed(
    both: Iterable[str], before: Mapping[str, SampleEntry], after: Mapping[str, SampleEntry], field: str
) -> tuple[tuple[str, str, str], ...]:
    pairs = ((sha, getattr(before[sha], field), getattr(after[sha], field)) for sha in both)
    return tuple((sha, one, other) for sha, one, other in pairs if one != other)


def _count(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))


def summary(version: DatasetVersion) -> dict[str, Any]:
    """A version without its samples, for --json."""
    return {
        "name": version.name,
        "digest": version.digest,
        "parent": version.parent,
        "created_utc": version.created_utc,
        "samples": len(version.samples),
        "retired": len(version.retired),
        "counts": version.counts(),
        "groups": len({s.group for s in version.samples}),
        "parameters": version.parameters,
        "quality": {**version.quality.model_dump(mode="json"), "suspicious": version.quality.is_suspicious},
    }


def describe_version(version: DatasetVersion) -> Iterator[str]:
    """A version as lines of text: its content, and what to check before training on it."""
    parent = version.parent[:12] if version.parent else "none"
    yield f"{version.name}  {version.digest[:12]}  parent {parent}  {version.created_utc}"
    yield f"{'class':<24}" + "".join(f"{split:>8}" for split in SPLITS)
    for name, row in version.counts().items():
        yield f"{name:<24}" + "".join(f"{row[split]:>8}" for split in SPLITS)
    groups = len({s.group for s in version.samples})
    yield f"{len(version.samples)} images in {groups} groups, the largest has {version.quality.largest_group:.1%}"
    if version.retired:
        yield f"{len(version.retired)} images of earlier versions are no longer used"
    yield from _quality(version.quality)


def _quality(quality: DatasetQuality) -> Iterator[str]:
    for text, count in (
        ("collected frames have no label", quality.unlabelled),
        ("labels have no collected frame", quality.orphans),
        ("images are labelled `exclude`", quality.excluded),
        ("images are copies of another one, and used once", quality.duplicates),
        ("pairs of near-duplicates share a group", quality.near_duplicates),
        ("new training images are beyond the limits", quality.over_limit),
    ):
        if count:
            yield f"{count} {text}"
    for text, examples in (
        ("left out, labellers disagree (settle with labels of source `review`)", quality.conflicts),
        ("left out, equal images have different labels", quality.same_picture),
        ("left out, would tie two splits together", quality.straddling),
        ("left out, cannot be used", quality.unreadable),
        ("near-duplicates with different labels; check them", quality.near_conflicts),
    ):
        if examples.count:
            yield f"{examples.count} {text}:"
            yield from (f"  {line}" for line in examples.first[:5])
    for suspicion in quality.suspicions:
        for reason in suspicion.reasons:
            yield f"SUSPICIOUS labels of {suspicion.source}: {reason}"
