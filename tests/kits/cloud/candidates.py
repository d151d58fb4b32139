"""Candidates without training: releases that find bright spots, and images with such spots.

A release's threshold says which spots it sees: a spot of brightness 255 * t scores t. `Part`s are written as a data set
with or without a version's `dataset.json`.
"""

from __future__ import annotations

import csv
import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import cv2
import numpy as np

from tests.kits.releases import CELL, SIDE, spot_model, write_release

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Part:
    """One image: `score` is what the spot model gives it."""

    class_name: str
    score: float
    group: str = ""
    split: str = "val"
    marks: dict[str, str] = field(default_factory=dict)


def write_parts(root: Path, parts: Iterable[Part]) -> Path:
    """Write manifest.csv, the images, and dataset.json where a part has marks; returns `root`."""
    rows, samples = [], []
    (root / "pictures").mkdir(parents=True)
    for number, part in enumerate(parts):
        pixels = np.full((SIDE, SIDE), 10, np.uint8)
        pixels[0, 0] = number % 200  # different files for different parts; far below what a cell's mean shows
        pixels[0, 1] = number // 200
        pixels[CELL : 2 * CELL, CELL : 2 * CELL] = round(part.score * 255)
        name = f"pictures/{number:05d}.png"
        cv2.imwrite(str(root / name), pixels)
        digest = hashlib.sha256((root / name).read_bytes()).hexdigest()
        rows.append((name, part.split, part.class_name, digest, part.group))
        samples.append({"path": name, "sha256": digest, "slices": part.marks})
    with (root / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "split", "class", "sha256", "group"))
        writer.writerows(rows)
    if any(sample["slices"] for sample in samples):
        (root / "dataset.json").write_text(json.dumps({"samples": samples}), encoding="utf-8")
    return root


def write_spotter(folder: Path, threshold: float, *, version: str = "1.0.0", seed: int = 1) -> Path:
    """Write a release that calls a part defective from `threshold` on; returns `folder`."""
    model = spot_model()
    model.doc_string = f"{version} {threshold} {seed}"  # models of their own, as trainings would give
    lineage = {
        "dataset_sha256": "0" * 64,
        "code_version": "test",
        "seed": seed,
        "parameters": {},
        "libraries": {},
        "cpu": "test",
        "threads": 1,
        "created_utc": "2026-01-01T00:00:00Z",
    }
    decision = {"thresholds": {"spot": threshold}, "unsure_band": 0.0, "score": "evidence"}
    return write_release(folder, model=model.SerializeToString(), version=version, decision=decision, lineage=lineage)


def parts(good: int, weak: int, strong: int, *, dusty: int = 0, marks: dict[str, str] | None = None) -> list[Part]:
    """Good parts score 0.1, dusty good ones 0.55, weak spots 0.65, strong ones 0.9."""
    counts = (("ok", 0.1, good), ("ok", 0.55, dusty), ("spot", 0.65, weak), ("spot", 0.9, strong))
    return [Part(name, score, marks=marks or {}) for name, score, count in counts for _ in range(count)]
