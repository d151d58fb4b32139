"""Draws many frames with lines of text on one PNG, for a person who compares two models.

Frames and texts in, the bytes of a PNG out. Frames keep their proportions; characters outside ASCII show as `?`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np

from agent.errors import KensaError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.records import Pixels

_COLUMNS: Final = 4
_SIDE: Final = 320  # px: of a tile's image
_LINE: Final = 20
_GAP: Final = 12
_BACK: Final = (32, 28, 26)  # BGR
_INK: Final = (230, 228, 226)
_FONT: Final = cv2.FONT_HERSHEY_SIMPLEX
_SIZE: Final = 0.42


@dataclass(frozen=True, slots=True)
class SheetCell:
    """`frame` is [H, W] or [H, W, 3] uint8."""

    frame: Pixels
    lines: tuple[str, ...]


def draw_contact_sheet(tiles: Sequence[SheetCell]) -> bytes:
    """Return a PNG with up to four tiles a row, in their order. Raises KensaError when it cannot be encoded."""
    columns = min(_COLUMNS, len(tiles))
    texts = max(len(tile.lines) for tile in tiles)
    step_x, step_y = _SIDE + _GAP, _SIDE + _LINE * texts + _GAP
    rows = math.ceil(len(tiles) / columns)
    sheet = np.full((rows * step_y + _GAP, columns * step_x + _GAP, 3), _BACK, np.uint8)
    for number, tile in enumerate(tiles):
        left, top = _GAP + number % columns * step_x, _GAP + number // columns * step_y
        picture = _fitted(tile.frame)
        height, width = picture.shape[:2]
        x, y = left + (_SIDE - width) // 2, top + (_SIDE - height) // 2
        sheet[y : y + height, x : x + width] = picture
        for index, line in enumerate(tile.lines):
            baseline = top + _SIDE + _LINE * (index + 1) - 5
            text = line.encode("ascii", "replace").decode()
            cv2.putText(sheet, text, (left, baseline), _FONT, _SIZE, _INK, 1, cv2.LINE_AA)
    done, data = cv2.imencode(".png", sheet)
    if not done:
        raise KensaError("the contact sheet could not be encoded")
    return data.tobytes()


def _fitted(frame: Pixels) -> Pixels:
    """Return the frame as BGR, its longer side `_SIDE`."""
    colour = cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR) if frame.ndim == 2 else frame  # noqa: PLR2004 - mono
    height, width = colour.shape[:2]
    scale = _SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    interpolation = cv2.INTER_AREA if scale < 1.0 else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(colour, size, interpolation=interpolation), np.uint8)
