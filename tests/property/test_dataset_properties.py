"""Data sets in any order: no group straddles splits, and equal contents are equal versions."""

from __future__ import annotations

import contextlib
import itertools
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.dataset_reader import DatasetError
from pipeline.datasets.collected_frames import FrameScan
from pipeline.datasets.dataset_version import (
    DatasetVersion,
    SampleEntry,
    digest_of,
    manifest_csv,
    parse_version,
    to_json,
)
from pipeline.datasets.label_formats import FrameIndex, ImportOptions, read_ground_truth
from pipeline.datasets.label_store import read_lines, read_table, to_csv
from pipeline.datasets.split_assignment import Member, SplitAssignment, SplitShares, assign_splits
from pipeline.datasets.version_summary import diff_versions
from tests.kits.cloud.datasets import NOW, label

if TYPE_CHECKING:
    import random as randoms
    from collections.abc import Callable, Iterator

NEIGHBOUR_S = 2.0
SHARES = SplitShares()


@st.composite
def members(draw: st.DrawFn, max_size: int = 40) -> list[Member]:
    """Images of two cameras, some triggered, close together and far apart."""
    count = draw(st.integers(1, max_size))
    return [
        Member(
            sha256=f"{number:064x}",
            class_name=draw(st.sampled_from(("ok", "spot", "line"))),
            view=draw(st.sampled_from(("left", "right", ""))),
            part=draw(st.one_of(st.none(), st.integers(0, 9).map(str))),
            captured_utc_us=draw(st.integers(0, 60)) * 700_000,
        )
        for number in range(count)
    ]


def linked(pictures: list[Member]) -> Iterator[tuple[str, str]]:
    """Pairs that belong together, found by looking at all of them."""
    for one, other in itertools.combinations(pictures, 2):
        same_part = one.part is not None and one.part == other.part
        apart = abs((one.captured_utc_us or 0) - (other.captured_utc_us or 0))
        different = one.part is not None and other.part is not None
        neighbours = bool(one.view) and one.view == other.view and apart <= NEIGHBOUR_S * 1e6 and not different
        if same_part or neighbours:
            yield one.sha256, other.sha256


def placed(pictures: list[Member], seed: int) -> SplitAssignment:
    return assign_splits(pictures, seed=seed, neighbour_s=NEIGHBOUR_S, shares=SHARES)


@given(members(), st.integers(0, 3), st.randoms(use_true_random=False))
def test_what_belongs_together_shares_a_split_in_any_order(
    pictures: list[Member], seed: int, random: randoms.Random
) -> None:
    first = placed(pictures, seed)
    random.shuffle(pictures)

    assert placed(pictures, seed) == first
    assert set(first.places) == {p.sha256 for p in pictures}
    assert all(first.places[one] == first.places[other] for one, other in linked(pictures))


@given(members(), st.lists(st.integers(0, 3), min_size=40, max_size=40), st.integers(0, 3))
def test_over_versions_nothing_moves_and_nothing_leaks(pictures: list[Member], arrival: list[int], seed: int) -> None:
    known: dict[str, Member] = {}
    for version in range(4):
        new = [p for p, when in zip(pictures, arrival, strict=False) if when == version]
        # Each version may be built with another seed: what is settled stays.
        found = placed([*known.values(), *new], seed + version)
        for sha256, member in known.items():
            assert (found.places[sha256].group, found.places[sha256].split) == (member.group, member.split)
        for picture in new:
            place = found.places.get(picture.sha256)
            if place is None:
                assert picture.sha256 in found.straddling
            else:
                known[picture.sha256] = replace(picture, group=place.group, split=place.split)
        split_of: dict[str, str | None] = {}
        assert all(split_of.setdefault(str(m.group), m.split) == m.split for m in known.values())
        assert all(known[one].split == known[other].split for one, other in linked(list(known.values())))


@given(st.integers(0, 1_000))
def test_shares_are_kept_for_every_class(seed: int) -> None:
    pictures = [Member(f"{n:064x}", ("ok", "spot")[n % 4 == 0]) for n in range(200)]
    places = placed(pictures, seed).places
    for name, total in (("ok", 150), ("spot", 50)):
        counts = {
            split: sum(p.class_name == name and places[p.sha256].split == split for p in pictures)
            for split in ("train", "val", "test")
        }
        assert abs(counts["train"] - 0.7 * total) <= 2
        assert abs(counts["val"] - 0.15 * total) <= 2


def entry(number: int, class_name: str, split: str) -> SampleEntry:
    sha256 = f"{number:064x}"
    return SampleEntry.model_validate(
        {
            "path": f"objects/{sha256[:2]}/{sha256}.png",
            "sha256": sha256,
            "class": class_name,
            "is_defect": class_name != "ok",
            "split": split,
            "group": f"g-{number}",
            "fingerprint": "0" * 64,
        }
    )


@dataclass(frozen=True, slots=True)
class Content:
    class_name: str
    split: str


contents = st.dictionaries(
    st.integers(0, 20),
    st.builds(Content, st.sampled_from(("ok", "spot", "line")), st.sampled_from(("train", "val", "test"))),
    min_size=1,
)


def version(content: dict[int, Content]) -> DatasetVersion:
    samples = tuple(entry(number, c.class_name, c.split) for number, c in sorted(content.items()))
    return DatasetVersion(name="v", digest=digest_of(samples), created_utc="2026-01-01T00:00:00Z", samples=samples)


@given(contents, contents)
def test_a_difference_is_inverted_by_swapping_and_empty_only_between_equals(
    one: dict[int, Content], other: dict[int, Content]
) -> None:
    a, b = version(one), version(other)
    there, back = diff_versions(a, b), diff_versions(b, a)

    assert (there.added, there.removed) == (back.removed, back.added)
    assert there.relabelled == tuple((sha, x, y) for sha, y, x in back.relabelled)
    assert there.moved == tuple((sha, x, y) for sha, y, x in back.moved)
    assert there.is_empty == (one == other) == (a.digest == b.digest)
    assert len(there.added) - len(there.removed) == len(b.samples) - len(a.samples)
    assert there.to_dict()["added"]["by_class"] == back.to_dict()["removed"]["by_class"]
    assert next(iter(there.to_lines())).startswith(a.digest[:12])


@given(contents)
def test_a_version_is_read_back_as_it_was_written(content: dict[int, Content]) -> None:
    made = version(content)
    assert parse_version(to_json(made), "x") == made
    assert to_json(parse_version(to_json(made), "x")) == to_json(made)
    assert manifest_csv(made.samples) == manifest_csv(tuple(reversed(made.samples)))


LABELS = (label("l/c/1/2", "spot"), label("l/c/1/3", "ok", labeller="bob"))
VERSION = to_json(version({n: Content(("ok", "spot")[n % 2], "train") for n in range(3)}))
MANIFEST = json.dumps(
    {
        "source-ref": "s3://bucket/collected/v1/x.png",
        "a": 1,
        "a-metadata": {
            "class-name": "spot",
            "confidence": 0.5,
            "human-annotated": "yes",
            "creation-date": "2026-01-01T00:00:00",
            "job-name": "job",
            "type": "groundtruth/image-classification",
        },
    }
).encode()
READERS: dict[str, tuple[bytes, Callable[[bytes], object]]] = {
    "version": (VERSION, lambda data: parse_version(data, "x")),
    "json lines": ("\n".join(x.line() for x in LABELS).encode(), lambda data: list(read_lines(data, "x", now=NOW))),
    "table": (to_csv(LABELS), lambda data: list(read_table(data, "x", now=NOW, defaults={}))),
    "manifest": (
        MANIFEST,
        lambda data: read_ground_truth(data, "x", FrameIndex(FrameScan((), ())), ImportOptions(now=NOW)),
    ),
}
PIECES = st.sampled_from(
    [b"", b"null", b"NaN", b"[", b"{", b'"', b"1e999", b"-1", b"true", b"\\ud800", b"\xff", b"[" * 2_000, b"9" * 5_000]
)


@pytest.mark.parametrize("kind", READERS)
@given(st.data())
def test_a_damaged_file_is_read_or_refused_and_nothing_else(kind: str, data: st.DataObject) -> None:
    good, read = READERS[kind]
    read(good)
    start = data.draw(st.integers(0, len(good)))
    end = data.draw(st.integers(start, min(len(good), start + 40)))
    damaged = good[:start] + data.draw(st.one_of(PIECES, st.binary(max_size=8))) + good[end:]
    with contextlib.suppress(DatasetError):
        read(damaged)
