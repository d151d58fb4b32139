"""Groups images that belong together and assigns the groups to splits.

Pure: entries in, splits out.

Images belong together when they show the same part (part id), when they are near-duplicates, and when the same camera
took them within a few seconds of each other, unless both have part ids that differ: then they show different parts.
The relation is transitive: a chain is one group. A group never straddles splits.

An image that has a split keeps it. A new image goes to the split of its group; one that would connect two splits is
left out; a group of new images only goes to the split that lacks its classes most, in the order of a hash of seed and
group. Nothing depends on the order of the entries.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pipeline.datasets.dataset_version import SPLITS
from pipeline.datasets.near_duplicates import find_near_duplicates

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pipeline.datasets.dataset_version import Split

_US_PER_S: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Member:
    """The properties of an image that decide its group and split."""

    sha256: str
    class_name: str
    view: str = ""  # site/line/camera; "" when unknown
    part: str | None = None  # site/line/part id
    captured_utc_us: int | None = None
    fingerprint: bytes | None = None  # None: not compared
    group: str | None = None  # with its split: from an earlier version
    split: Split | None = None


@dataclass(frozen=True, slots=True)
class SplitShares:
    """The share of the images that each split should get."""

    train: float = 0.7
    val: float = 0.15
    test: float = 0.15

    def of(self, split: Split) -> float:
        """The split's share."""
        return {"train": self.train, "val": self.val, "test": self.test}[split]


@dataclass(frozen=True, slots=True)
class SplitPlace:
    """The split and group of an image."""

    group: str
    split: Split


@dataclass(frozen=True, slots=True)
class SplitAssignment:
    """The assignment by sha256; images left out are in `straddling`."""

    places: Mapping[str, SplitPlace]
    straddling: tuple[str, ...]  # new images that are left out
    near_duplicates: tuple[tuple[str, str], ...]  # near-duplicates


class _UnionFind:
    """Disjoint sets of 0..n-1; the smallest member stands for its set."""

    def __init__(self, count: int) -> None:
        self._parent = list(range(count))

    def find(self, item: int) -> int:
        while self._parent[item] != item:
            self._parent[item] = self._parent[self._parent[item]]
            item = self._parent[item]
        return item

    def join(self, one: int, other: int) -> None:
        first, second = sorted((self.find(one), self.find(other)))
        self._parent[second] = first


def assign_splits(members: Iterable[Member], *, seed: int, neighbour_s: float, shares: SplitShares) -> SplitAssignment:
    """Place all members. Each sha256 is there once; `neighbour_s` seconds make two images of a camera neighbours."""
    ordered = sorted(members, key=lambda m: m.sha256)
    union = _UnionFind(len(ordered))
    _join_equal(union, [m.part for m in ordered])
    _join_equal(union, [m.group for m in ordered])
    _join_neighbours(union, ordered, int(neighbour_s * _US_PER_S))
    near = _join_near(union, ordered)
    sets: defaultdict[int, list[Member]] = defaultdict(list)
    for number, member in enumerate(ordered):
        sets[union.find(number)].append(member)
    places: dict[str, SplitPlace] = {}
    straddling: list[str] = []
    fresh: list[list[Member]] = []
    for group in sets.values():
        settled = {m.sha256: SplitPlace(m.group or m.sha256[:16], m.split) for m in group if m.split is not None}
        places.update(settled)
        new = [m for m in group if m.split is None]
        if len({place.split for place in settled.values()}) > 1:
            straddling.extend(m.sha256 for m in new)
        elif settled:
            place = min(settled.values(), key=lambda p: p.group)
            places.update((m.sha256, place) for m in new)
        else:
            fresh.append(new)
    class_of = {m.sha256: m.class_name for m in ordered}
    _assign_new_groups(fresh, places, class_of, seed=seed, shares=shares)
    return SplitAssignment(places, tuple(sorted(straddling)), near)


def _join_equal(union: _UnionFind, values: Sequence[str | None]) -> None:
    first: dict[str, int] = {}
    for number, value in enumerate(values):
        if value is not None:
            union.join(first.setdefault(value, number), number)


def _join_near(union: _UnionFind, members: Sequence[Member]) -> tuple[tuple[str, str], ...]:
    numbers = [i for i, m in enumerate(members) if m.fingerprint is not None]
    prints = [m.fingerprint for m in members if m.fingerprint is not None]
    found = []
    for one, other in find_near_duplicates(prints, [members[i].view for i in numbers]):
        union.join(numbers[one], numbers[other])
        found.append((members[numbers[one]].sha256, members[numbers[other]].sha256))
    return tuple(found)


def _join_neighbours(union: _UnionFind, members: Sequence[Member], within_us: int) -> None:
    by_view: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    for number, member in enumerate(members):
        if member.view and member.captured_utc_us is not None:
            by_view[member.view].append((member.captured_utc_us, number))
    for shots in by_view.values() if within_us > 0 else ():
        shots.sort()
        free: tuple[int, int] | None = None  # the last one without a part id
        since: list[tuple[int, int]] = []  # those with one after it
        for time, number in shots:
            if free is not None and time - free[0] <= within_us:
                union.join(free[1], number)
            if members[number].part is not None:
                since.append((time, number))
                continue
            for other_time, other in since:
                if time - other_time <= within_us:
                    union.join(other, number)
            free, since = (time, number), []


def _assign_new_groups(
    groups: list[list[Member]],
    places: dict[str, SplitPlace],
    class_of: Mapping[str, str],
    *,
    seed: int,
    shares: SplitShares,
) -> None:
    """Give each group the split in which its classes are furthest below their share; a tie goes to train."""
    have: Counter[tuple[Split, str]] = Counter()
    total: Counter[str] = Counter()
    for sha256, place in places.items():
        have[place.split, class_of[sha256]] += 1
        total[class_of[sha256]] += 1
    for group in groups:
        total.update(m.class_name for m in group)
    taken = {place.group for place in places.values()}
    for group in sorted(groups, key=lambda g: hashlib.sha256(f"{seed}:{g[0].sha256}".encode()).digest()):
        counts = Counter(m.class_name for m in group)

        def lack(split: Split, counts: Counter[str] = counts) -> float:
            return sum(n * (shares.of(split) - have[split, name] / total[name]) for name, n in sorted(counts.items()))

        split = max((s for s in SPLITS if shares.of(s) > 0), key=lack)
        name = group[0].sha256[:16]
        while name in taken:  # an older group may have this name
            name += "."
        taken.add(name)
        for member in group:
            places[member.sha256] = SplitPlace(name, split)
            have[split, member.class_name] += 1
