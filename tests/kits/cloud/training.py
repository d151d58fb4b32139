"""Small data sets and networks for the pipeline's tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from agent.records import Pixels

SIDE = 64  # px


def part(class_name: str, random: np.random.Generator) -> tuple[Pixels, Pixels]:
    """A grey part with noise and its mask: `spot` has a dark disc, `line` a bright stroke, `ok` nothing."""
    picture = np.clip(random.normal(120, 6, (SIDE, SIDE)), 0, 255).astype(np.uint8)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    y, x = (int(v) for v in random.integers(14, SIDE - 14, 2))
    if class_name == "spot":
        cv2.circle(mask, (x, y), 6, 255, -1)
        picture[mask > 0] = 40
    elif class_name == "line":
        cv2.line(mask, (x - 10, y - 6), (x + 10, y + 6), 255, 3)
        picture[mask > 0] = 220
    return picture, mask


def write_parts(
    root: Path, *, train: int, val: int, masks: bool, classes: tuple[str, ...] = ("ok", "line", "spot")
) -> None:
    """Write split/class/NAME.png, `train` and `val` parts of each class; equal calls give equal files."""
    random = np.random.default_rng(11)
    for split, count in (("train", train), ("val", val)):
        for class_name in classes:
            (root / split / class_name).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                picture, mask = part(class_name, random)
                name = f"{split}_{class_name}_{number}.png"
                cv2.imwrite(str(root / split / class_name / name), picture)
                if masks and class_name != "ok":
                    (root / "masks").mkdir(exist_ok=True)
                    cv2.imwrite(str(root / "masks" / name), mask)
