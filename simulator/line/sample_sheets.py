"""Sample sheets of the line, for the README and for a person who grades difficulty."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from agent.errors import OperatorError
from simulator.line.config import CAMERAS, DEFECT_KINDS, DIFFICULTIES, SURFACES, LineConfig
from simulator.line.render import SimulatedLine

if TYPE_CHECKING:
    from pathlib import Path

    from agent.records import Pixels
    from simulator.line.config import CameraName, Difficulty, Kind, Surface

_TILE, _GAP, _HEAD, _SIDE = 200, 6, 34, 110
_INK = (40, 40, 40)
_CROP_PX = 300  # of the ROI around each defect
_SEARCH_PARTS = 4000


def _write(path: Path, sheet: Pixels, quality: int) -> None:
    flags = [cv2.IMWRITE_JPEG_QUALITY, quality] if path.suffix.lower() in {".jpg", ".jpeg"} else []
    try:
        written = cv2.imwrite(str(path), sheet, flags)
    except cv2.error:
        written = False
    if not written:
        raise OperatorError(f"{path} cannot be written; the folder must exist and the name end in .png or .jpg")


def _text(sheet: Pixels, text: str, x: int, y: int, size: float = 0.5) -> None:
    cv2.putText(sheet, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, size, _INK, 1, cv2.LINE_AA)


def _find(line: SimulatedLine, surface: Surface, kind: Kind, difficulty: Difficulty) -> int:
    for index in range(_SEARCH_PARTS):
        truth = line.truth(index)
        if (truth.surface, truth.kind, truth.difficulty) == (surface, kind, difficulty):
            return index
    raise OperatorError(f"no {difficulty} {kind} on a {surface} part in {_SEARCH_PARTS} parts; give another --seed")


def _crop(line: SimulatedLine, index: int) -> Pixels:
    """Return the surroundings of the part's defect, tile sized."""
    roi, mask = line.render_roi(index), line.mask_roi(index)
    x, y, width, height = cv2.boundingRect(mask)
    side = max(_CROP_PX, int(1.15 * max(width, height)))
    left = int(np.clip(x + width // 2 - side // 2, 0, roi.shape[1] - side))
    top = int(np.clip(y + height // 2 - side // 2, 0, roi.shape[0] - side))
    piece = roi[top : top + side, left : left + side]
    return np.asarray(cv2.resize(piece, (_TILE, _TILE), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def write_defect_sheet(path: Path, *, seed: int) -> None:
    """Write every kind of defect (rows) at every difficulty on every surface (columns), cropped around the defect."""
    line = SimulatedLine(LineConfig(seed=seed, defect_rate=1.0, weak_share=1 / 3))
    columns = [(surface, difficulty) for surface in SURFACES for difficulty in DIFFICULTIES]
    width = _SIDE + len(columns) * (_TILE + _GAP) + _GAP
    height = 2 * _HEAD + len(DEFECT_KINDS) * (_TILE + _GAP)
    sheet = np.full((height, width, 3), 255, dtype=np.uint8)
    for number, (surface, difficulty) in enumerate(columns):
        left = _SIDE + number * (_TILE + _GAP)
        if difficulty == DIFFICULTIES[0]:
            _text(sheet, surface, left, 24, 0.7)
        _text(sheet, difficulty, left, _HEAD + 22)
        for row, kind in enumerate(DEFECT_KINDS):
            top = 2 * _HEAD + row * (_TILE + _GAP)
            tile = _crop(line, _find(line, surface, kind, difficulty))
            sheet[top : top + _TILE, left : left + _TILE] = tile
            if number == 0:
                _text(sheet, kind.replace("_2px", " 2 px"), 8, top + _TILE // 2)
    _write(path, sheet, 80)


def write_frame_sheet(path: Path, *, seed: int) -> None:
    """Write one whole frame of each camera side by side, reduced to one height, with the ROI outlined."""
    height = 800
    frames: list[Pixels] = []
    shown: tuple[tuple[CameraName, Surface], ...] = (("colour1080", "turned"), ("mono5mp", "cast"))
    for camera, surface in shown:
        config = LineConfig(
            seed=seed + len(frames), camera=camera, surfaces=(surface,), defect_rate=1.0, kinds=("crack", "chip")
        )
        line = SimulatedLine(config)
        frame = line.render(_find(line, surface, "crack", "strong"))
        if frame.ndim == 2:
            frame = np.asarray(cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR))
        x, y, side, _ = CAMERAS[camera].roi
        cv2.rectangle(frame, (x, y), (x + side, y + side), (120, 220, 120), 2 * CAMERAS[camera].scale, cv2.LINE_AA)
        size = (round(frame.shape[1] * height / frame.shape[0]), height)
        small = np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
        frames.append(np.pad(small, ((0, 0), (0, 10), (0, 0)), constant_values=255))
    _write(path, np.asarray(np.hstack(frames)[:, :-10], dtype=np.uint8), 85)
