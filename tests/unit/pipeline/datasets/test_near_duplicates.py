"""Near-duplicates: altered copies of an image are found, different parts are not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.datasets.near_duplicates import HASH_BYTES, find_near_duplicates, fingerprint
from tests.kits.cloud.datasets import surface

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.records import Pixels

SIDE = 160
COPIES: dict[str, Callable[[Pixels], Pixels]] = {
    "jpeg": lambda p: np.asarray(
        cv2.imdecode(cv2.imencode(".jpg", p, [cv2.IMWRITE_JPEG_QUALITY, 75])[1], cv2.IMREAD_GRAYSCALE), np.uint8
    ),
    "brighter": lambda p: np.asarray(cv2.convertScaleAbs(p, alpha=1.06, beta=10), np.uint8),
    "darker": lambda p: np.asarray(cv2.convertScaleAbs(p, alpha=0.8), np.uint8),
    "blurred": lambda p: np.asarray(cv2.GaussianBlur(p, (3, 3), 0), np.uint8),
    "half as large": lambda p: np.asarray(cv2.resize(p, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), np.uint8),
    "a pixel aside": lambda p: np.roll(p, 1, 1),
    "noisy": lambda p: np.clip(p + np.random.default_rng(0).normal(0, 4, p.shape), 0, 255).astype(np.uint8),
    "in colour": lambda p: np.asarray(cv2.cvtColor(p, cv2.COLOR_GRAY2BGR), np.uint8),
}


def pairs(pictures: list[Pixels], views: list[str] | None = None) -> list[tuple[int, int]]:
    return find_near_duplicates([fingerprint(p) for p in pictures], views or ["cam"] * len(pictures))


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_is_found(name: str) -> None:
    pictures = [surface(seed, SIDE) for seed in range(40)]
    copies = [COPIES[name](p) for p in pictures[:10]]

    assert pairs(pictures + copies) == [(i, 40 + i) for i in range(10)]


def test_two_pictures_alone_are_compared_too() -> None:
    picture = surface(1, SIDE)
    assert pairs([picture, COPIES["jpeg"](picture), surface(2, SIDE)]) == [(0, 1)]


def scene(part: Pixels) -> Pixels:
    """A fixture that every image shows, and a part that is on it; 6 grey levels of the part's own texture."""
    frame = np.zeros((SIDE, SIDE), np.uint8)
    cv2.rectangle(frame, (10, 10), (150, 150), 200, -1)
    cv2.circle(frame, (40, 40), 20, 30, -1)
    cv2.rectangle(frame, (90, 30), (140, 60), 90, -1)
    texture = (part.astype(np.int16) - 120) // 16
    return np.asarray(np.clip(frame.astype(np.int16) + texture, 0, 255), np.uint8)


def test_different_parts_in_the_same_scene_are_not_duplicates() -> None:
    pictures = [scene(surface(seed, SIDE)) for seed in range(60)]
    assert pairs(pictures) == []
    assert pairs([*pictures, COPIES["brighter"](pictures[7])]) == [(7, 60)]


def test_where_all_pictures_look_alike_nothing_is_said() -> None:
    random = np.random.default_rng(1)
    flat = [np.clip(scene(np.full((SIDE, SIDE), 120, np.uint8)) + random.integers(0, 2), 0, 255) for _ in range(30)]
    assert pairs([p.astype(np.uint8) for p in flat]) == []


def test_pictures_of_different_cameras_are_not_compared() -> None:
    picture = surface(1, SIDE)
    assert pairs([picture, picture], ["left", "right"]) == []


def test_the_smallest_pictures_have_a_fingerprint() -> None:
    for shape in ((1, 1), (1, 300), (300, 1), (7, 5, 3)):
        assert len(fingerprint(np.zeros(shape, np.uint8))) == HASH_BYTES


def test_among_many_the_planted_ones_are_found() -> None:
    random = np.random.default_rng(4)
    prints = random.integers(0, 256, (8_000, HASH_BYTES), np.uint8)
    planted = random.permutation(8_000)[:400].reshape(200, 2)
    for one, other in planted:
        prints[other] = prints[one]
        for bit in random.choice(256, 16, replace=False):
            prints[other, bit // 8] ^= 1 << (bit % 8)

    found = find_near_duplicates([row.tobytes() for row in prints], ["cam"] * len(prints))

    assert set(found) <= {tuple(sorted(pair)) for pair in planted.tolist()}
    assert len(found) >= 195  # 6 % of the bits differ: the bands miss one pair in 1,000


def test_a_camera_that_stood_still_makes_one_group_without_comparing_all_with_all() -> None:
    random = np.random.default_rng(4)
    prints = [row.tobytes() for row in random.integers(0, 256, (3_000, HASH_BYTES), np.uint8)]
    still = [prints[0]] * 3_000

    found = find_near_duplicates(prints + still, ["cam"] * 6_000)

    assert len(found) < 4 * 3_000
    linked = {i for pair in found for i in pair}
    assert linked == {0, *range(3_000, 6_000)}


@given(st.lists(st.binary(min_size=HASH_BYTES, max_size=HASH_BYTES), max_size=30))
def test_pairs_are_in_order_and_within_a_view(prints: list[bytes]) -> None:
    views = [str(i % 2) for i in range(len(prints))]
    found = find_near_duplicates(prints, views)
    assert found == sorted(set(found))
    assert all(i < j and views[i] == views[j] for i, j in found)
