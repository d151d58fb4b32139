from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from agent.errors import OperatorError
from agent.records import Geometry
from pipeline.dataset_reader import Dataset
from pipeline.training.auto_config import choose_geometry, choose_head, describe_geometry, parse_geometry

if TYPE_CHECKING:
    from pathlib import Path


def dataset(
    root: Path, sizes: list[tuple[int, int]], *, masks: bool = False, colour: bool = False, good: bool = True
) -> Dataset:
    for i, size in enumerate(sizes):
        class_name = "ok" if good and i % 2 else "dent"
        pixels = np.full((*size, 3), 90, np.uint8)
        if colour:
            pixels[0, 0] = (10, 20, 30)
        for folder in (root / "train" / class_name, root / "masks") if masks else (root / "train" / class_name,):
            folder.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / f"{i}.png"), pixels)
    return Dataset.load(root)


@pytest.mark.parametrize(
    ("sizes", "masks", "colour", "expected"),
    [
        ([(128, 128)] * 2, False, False, "whole:128x128x1"),
        ([(100, 250)] * 2, True, True, "whole:112x256x3"),
        ([(300, 300)] * 2, False, True, "whole:224x224x3"),
        ([(100, 100), (90, 100)], False, False, "whole:224x224x1"),
        ([(300, 200), (280, 220)], True, False, "tiles:"),
        ([(300, 300)] * 2, True, True, "tiles:"),
    ],
)
def test_the_geometry_follows_from_sizes_masks_and_colour(
    tmp_path: Path, sizes: list[tuple[int, int]], *, masks: bool, colour: bool, expected: str
) -> None:
    data = dataset(tmp_path, sizes, masks=masks, colour=colour)
    assert describe_geometry(choose_geometry(data, data.split("train"))).startswith(expected)


@pytest.mark.parametrize(
    ("masks", "good", "head"), [(True, True, "evidence"), (True, False, "classifier"), (False, True, "classifier")]
)
def test_the_head_follows_from_masks_and_good_parts(tmp_path: Path, *, masks: bool, good: bool, head: str) -> None:
    assert choose_head(dataset(tmp_path, [(32, 32)] * 4, masks=masks, good=good)) == head


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("whole:224x192x3", Geometry("whole", 224, 192, 3)),
        ("whole:224x192", Geometry("whole", 224, 192, 1)),
        ("tiles:96x128x1:r2:o24", Geometry("tiles", 96, 128, 1, 2, 24)),
        ("tiles:96x96x3", Geometry("tiles", 96, 96, 3)),
    ],
)
def test_a_named_geometry_is_read_and_written_alike(tmp_path: Path, text: str, expected: Geometry) -> None:
    samples = dataset(tmp_path, [(32, 32)] * 2).split("train")
    assert parse_geometry(text, samples) == expected
    assert parse_geometry(describe_geometry(expected), samples) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("224", "is invalid"),
        ("whole:224x224x2", "is invalid"),
        ("whole:224x224:r2", "is invalid"),
        ("tiles:96x96:r3", "is invalid"),
        ("whole:100x224", "multiples of 16"),
        ("whole:4096x224", "multiples of 16"),
        ("tiles:96x96:o96", "overlap must be less"),
    ],
)
def test_a_geometry_that_cannot_be_is_refused_with_the_form(tmp_path: Path, text: str, reason: str) -> None:
    samples = dataset(tmp_path, [(32, 32)] * 2).split("train")
    with pytest.raises(OperatorError, match=reason):
        parse_geometry(text, samples)
