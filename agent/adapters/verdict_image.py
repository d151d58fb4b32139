"""Draws one inspected frame for a person: frame, evidence, a close-up of the defect, and a caption.

Pixels and texts in, the bytes of a PNG out. The evidence is shown as the model gave it: each cell at its place, warm
where the model detected a defect, transparent elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np

from agent.errors import KensaError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.preprocess import InputPlan
    from agent.records import Box, Floats, Pixels

Colour = tuple[int, int, int]  # BGR

_PANE: Final = 600  # px: largest width of an image
_TALLEST: Final = 900
_CLOSE: Final = 0.6  # a cut wider than this share of the frame shows nothing new
_LEAST: Final = 120  # px: narrowest cut, so that a speck keeps its surroundings
_MARGIN: Final = 20
_HEADER: Final = 64
_LINE: Final = 26
_TAG: Final = 28
_BACK: Final[Colour] = (32, 28, 26)
_INK: Final[Colour] = (230, 228, 226)
_FAINT: Final[Colour] = (160, 152, 146)
_FONT: Final = cv2.FONT_HERSHEY_DUPLEX
_OUTCOMES: Final[dict[str, Colour]] = {
    "ok": (96, 174, 61),
    "defect": (60, 60, 226),
    "unsure": (40, 160, 240),
    "unknown": (150, 150, 150),
}


@dataclass(frozen=True, slots=True)
class Caption:
    """The texts around the images; characters outside ASCII show as `?`."""

    outcome: str
    title: str
    lines: tuple[tuple[str, str], ...]  # (name, value)


@dataclass(frozen=True, slots=True)
class Heatmap:
    """Evidence float32 [tiles, h, w] in [0, 1], and how its tiles lie on the frame."""

    evidence: Floats
    plan: InputPlan


def draw_verdict(frame: Pixels, *, caption: Caption, box: Box | None, heat: Heatmap | None) -> bytes:
    """Return a PNG. `frame` is [H, W] or [H, W, 3] uint8; `box` (x, y, w, h) in its pixels. Raises KensaError."""
    height, width = frame.shape[:2]
    scale = min(_PANE / width, _TALLEST / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    plain = _fitted(frame, size)
    colour = _OUTCOMES.get(caption.outcome, _FAINT)
    panes = [("frame", plain.copy())]
    if heat is not None:
        panes.append(("evidence", _overlay_heatmap(plain, heat, scale)))
    if box is not None:
        for _, pane in panes:
            _corners(pane, _scaled(box, (0, 0), scale), colour)
        left, top, cut_w, cut_h = _close_up_region(box, width, height)
        if cut_w <= width * _CLOSE:
            close = _fitted(frame[top : top + cut_h, left : left + cut_w], size)
            _corners(close, _scaled(box, (left, top), size[0] / cut_w), colour)
            panes.append(("close-up", close))
    canvas = _canvas(panes, caption, colour)
    done, data = cv2.imencode(".png", canvas)
    if not done:
        raise KensaError("the image could not be encoded")
    return data.tobytes()


def _scaled(box: Box, origin: tuple[int, int], scale: float) -> Box:
    x, y, w, h = box
    return (
        round((x - origin[0]) * scale),
        round((y - origin[1]) * scale),
        round(w * scale),
        round(h * scale),
    )


def _close_up_region(box: Box, width: int, height: int) -> Box:
    """A cut with the frame's proportions around the box, three times its size."""
    x, y, w, h = box
    cut_w = min(width, max(3 * w, round(3 * h * width / height), _LEAST))
    cut_h = min(height, max(1, round(cut_w * height / width)))
    left = min(max(0, x + w // 2 - cut_w // 2), width - cut_w)
    top = min(max(0, y + h // 2 - cut_h // 2), height - cut_h)
    return (left, top, cut_w, cut_h)


def _fitted(frame: Pixels, size: tuple[int, int]) -> Pixels:
    colour = cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR) if frame.ndim == 2 else frame  # noqa: PLR2004 - mono
    smaller = size[0] < frame.shape[1]
    return np.asarray(
        cv2.resize(colour, size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_NEAREST), np.uint8
    )


def _overlay_heatmap(plain: Pixels, heat: Heatmap, scale: float) -> Pixels:
    """Overlay the evidence on the image."""
    rows, columns = plain.shape[:2]
    level = np.zeros((rows, columns), np.float32)
    for index, cells in enumerate(heat.evidence):
        x, y, w, h = heat.plan.original_box(index, (0.0, 0.0, 1.0, 1.0))
        left, top = round(x * scale), round(y * scale)
        right, bottom = min(columns, round((x + w) * scale)), min(rows, round((y + h) * scale))
        if right <= left or bottom <= top:
            continue
        grown = cv2.resize(cells, (right - left, bottom - top), interpolation=cv2.INTER_CUBIC)
        np.maximum(level[top:bottom, left:right], grown, out=level[top:bottom, left:right])
    level = np.clip(level, 0.0, 1.0)
    colours = cv2.applyColorMap(np.round(level * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
    share = np.expand_dims(0.8 * level, 2)
    faded = plain.astype(np.float32) * 0.8
    return np.asarray(np.round(faded * (1 - share) + colours.astype(np.float32) * share), np.uint8)


def _corners(pane: Pixels, box: Box, colour: Colour) -> None:
    """Mark the box by its corners: a whole rectangle would hide a thin defect at its edge."""
    x, y, w, h = box
    left, top = max(2, x - 4), max(2, y - 4)
    right, bottom = min(pane.shape[1] - 3, x + w + 4), min(pane.shape[0] - 3, y + h + 4)
    arm = max(8, min(right - left, bottom - top) // 4)
    for cx, dx in ((left, arm), (right, -arm)):
        for cy, dy in ((top, arm), (bottom, -arm)):
            for thickness, ink in ((5, (0, 0, 0)), (2, colour)):
                cv2.line(pane, (cx, cy), (cx + dx, cy), ink, thickness, cv2.LINE_AA)
                cv2.line(pane, (cx, cy), (cx, cy + dy), ink, thickness, cv2.LINE_AA)


def _canvas(panes: Sequence[tuple[str, Pixels]], caption: Caption, colour: Colour) -> Pixels:
    height, width = panes[0][1].shape[:2]
    column = max(width, _PANE)
    total_w = _MARGIN + len(panes) * (column + _MARGIN)
    total_h = _HEADER + _MARGIN + _TAG + height + _MARGIN + _LINE * len(caption.lines) + _MARGIN
    canvas = np.full((total_h, total_w, 3), _BACK, np.uint8)
    canvas[:_HEADER] = (24, 21, 19)
    canvas[_HEADER - 3 : _HEADER] = colour
    _write(canvas, caption.outcome.upper(), (_MARGIN, 42), 0.95, colour)
    at = _MARGIN + int(cv2.getTextSize(caption.outcome.upper(), _FONT, 0.95, 1)[0][0]) + 24
    _write(canvas, caption.title, (at, 41), 0.72, _INK)
    top = _HEADER + _MARGIN + _TAG
    for number, (name, pane) in enumerate(panes):
        left = _MARGIN + number * (column + _MARGIN)
        _write(canvas, name, (left, top - 10), 0.5, _FAINT)
        canvas[top : top + height, left : left + width] = pane
    for number, (name, value) in enumerate(caption.lines):
        baseline = top + height + _MARGIN + _LINE * number + 16
        _write(canvas, name, (_MARGIN, baseline), 0.5, _FAINT)
        _write(canvas, value, (_MARGIN + 130, baseline), 0.5, _INK)
    return canvas


def _write(canvas: Pixels, text: str, at: tuple[int, int], size: float, colour: Colour) -> None:
    cv2.putText(canvas, text.encode("ascii", "replace").decode(), at, _FONT, size, colour, 1, cv2.LINE_AA)
