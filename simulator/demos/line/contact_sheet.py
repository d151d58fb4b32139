"""The contact sheet: findings, their place and whether they were right, as one image.

Each card shows the spot enlarged with the evidence as a glow and the box the verdict names, the whole part in the
corner, and under it class and score beside the truth. Mistakes come first, then as many kinds of defects as there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np

from simulator.demos.common.verdict_metrics import Grade

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from agent.records import Box, Floats, Pixels
    from simulator.demos.common.verdict_metrics import GradedVerdict
    from simulator.line import SimulatedLine

Colour = tuple[int, int, int]  # BGR

_COLUMNS: Final = 4
_CARDS: Final = 16
_MISTAKES: Final = 6  # at most; the rest shows what was found
_PICTURE: Final = 360  # px, side of a card's image
_LABEL: Final = 76  # px, height of the text under it
_GAP: Final = 20
_HEADER: Final = 96
_THUMB: Final = 92  # px, side of the whole part in the corner
_CONTEXT: Final = 2.4  # the enlarged spot is so many times the box
_LEAST_SPOT: Final = 220  # part pixels: more enlargement than this shows only noise
_HEAT_STEP: Final = 4  # frame pixels for each pixel of the evidence canvas
_FAINT: Final = 0.25  # evidence below this does not glow

_BACK: Final[Colour] = (24, 20, 17)
_CARD: Final[Colour] = (41, 35, 31)
_TEXT: Final[Colour] = (235, 232, 228)
_QUIET: Final[Colour] = (160, 152, 145)
_GLOW: Final[Colour] = (40, 90, 255)
_FINDING: Final[Mapping[Grade, Colour]] = {
    Grade.PASSED: (120, 190, 110),
    Grade.CAUGHT: (120, 190, 110),
    Grade.ESCAPE: (70, 70, 240),
    Grade.FALSE_REJECT: (70, 70, 240),
    Grade.REVIEW: (60, 190, 240),
    Grade.NOT_INSPECTED: (200, 120, 200),
}


@dataclass(frozen=True, slots=True)
class _InspectedFrame:
    """A frame as it was inspected, and the evidence on it."""

    pixels: Pixels  # [H, W, 3] BGR
    heat: Floats | None  # evidence on the ROI, one value for `_HEAT_STEP` x `_HEAT_STEP` frame pixels
    heat_roi: Box
    roi: Box  # the square that holds the part


def choose_cards(graded: Sequence[GradedVerdict]) -> list[GradedVerdict]:
    """Pick what the sheet shows: mistakes first, then one of each kind and difficulty in turn, newest of each.

    A line may show the same image many times; the sheet shows it once, preferably as the agent kept it.
    """
    different: dict[tuple[str, int], GradedVerdict] = {}
    for item in graded:
        known = different.get(key := (item.verdict.origin.camera, item.truth.picture))
        if known is None or item.verdict.image is not None or known.verdict.image is None:
            different[key] = item
    graded = list(different.values())
    wrong = [g for g in reversed(graded) if g.grade in {Grade.ESCAPE, Grade.FALSE_REJECT}][:_MISTAKES]
    groups: dict[tuple[str, str], list[GradedVerdict]] = {}
    for item in graded:
        if item.grade in {Grade.CAUGHT, Grade.REVIEW}:
            groups.setdefault((item.truth.kind, item.truth.difficulty), []).append(item)
    right: list[GradedVerdict] = []
    while any(groups.values()) and len(wrong) + len(right) < _CARDS:
        right.extend(group.pop() for _, group in sorted(groups.items()) if group)
    return (wrong + right)[:_CARDS]


def write_sheet(
    path: Path, graded: Sequence[GradedVerdict], *, state_dir: Path, lines: Mapping[str, SimulatedLine], title: str
) -> int:
    """Write the sheet as PNG to `path` and return how many cards it has; nothing is written for none."""
    cards = [_card(item, _load(item, state_dir, lines[item.verdict.origin.camera])) for item in choose_cards(graded)]
    if not cards:
        return 0
    columns = min(_COLUMNS, len(cards))
    rows = -(-len(cards) // columns)
    cell_h, cell_w = cards[0].shape[:2]
    width = max(columns * (cell_w + _GAP) + _GAP, 3 * (cell_w + _GAP) + _GAP)
    sheet = np.full((_HEADER + rows * (cell_h + _GAP), width, 3), _BACK, np.uint8)
    _write(sheet, "KENSA", (_GAP, 44), 1.0, (235, 200, 90))
    _write(sheet, "What the line found", (_GAP + 130, 44), 0.95, _TEXT)
    _write(sheet, title, (_GAP, 76), 0.55, _QUIET)
    for number, card in enumerate(cards):
        row, column = divmod(number, columns)
        y, x = _HEADER + row * (cell_h + _GAP), _GAP + column * (cell_w + _GAP)
        sheet[y : y + cell_h, x : x + cell_w] = card
    path.write_bytes(cv2.imencode(".png", sheet)[1].tobytes())
    return len(cards)


# --- the images -----------------------------------------------------------------------------------------------------


def _load(item: GradedVerdict, state_dir: Path, line: SimulatedLine) -> _InspectedFrame:
    """Read the frame that the agent kept; of a part that it let pass nothing is kept, so the line shows it again."""
    pixels, heat, heat_roi = None, None, line.roi
    if item.verdict.image is not None:
        kept = state_dir / item.verdict.image
        pixels = cv2.imread(str(kept), cv2.IMREAD_COLOR)
        if (evidence := kept.with_suffix(".npz")).exists():
            heat, heat_roi = _heat(evidence)
    if pixels is None:
        pixels = line.render(item.truth.index)
    if pixels.ndim == 2:  # noqa: PLR2004 - mono
        pixels = cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR)
    return _InspectedFrame(np.asarray(pixels, np.uint8), heat, heat_roi, line.roi)


def _heat(path: Path) -> tuple[Floats, Box]:
    """Lay the evidence of all tiles over their ROI; where tiles overlap the larger value counts."""
    with np.load(path) as kept:
        evidence, tiles, (scale_x, scale_y) = kept["evidence"], kept["tiles"], kept["scale"]
        x, y, width, height = (int(v) for v in kept["roi"])
        input_h, input_w = kept["input_hw"]
    canvas = np.zeros((-(-height // _HEAT_STEP), -(-width // _HEAT_STEP)), np.float32)
    tile_h, tile_w = round(input_h * scale_y / _HEAT_STEP), round(input_w * scale_x / _HEAT_STEP)
    for cells, (tile_x, tile_y) in zip(evidence, tiles, strict=True):
        top, left = round(tile_y * scale_y / _HEAT_STEP), round(tile_x * scale_x / _HEAT_STEP)
        grown = cv2.resize(cells.astype(np.float32) / 255.0, (tile_w, tile_h), interpolation=cv2.INTER_CUBIC)
        target = canvas[top : top + tile_h, left : left + tile_w]
        np.maximum(target, grown[: target.shape[0], : target.shape[1]], out=target)
    return canvas, (x, y, width, height)


def _zoom_box(box: Box | None, roi: Box) -> Box:
    """Return the square of the frame to enlarge: around the box, within the ROI; the whole ROI without a box."""
    if box is None:
        return roi
    side = int(min(max(_CONTEXT * max(box[2], box[3]), _LEAST_SPOT * roi[2] / 896), roi[2], roi[3]))
    x = min(max(box[0] + box[2] // 2 - side // 2, roi[0]), roi[0] + roi[2] - side)
    y = min(max(box[1] + box[3] // 2 - side // 2, roi[1]), roi[1] + roi[3] - side)
    return x, y, side, side


def _cut(pixels: Pixels, box: Box, side: int) -> Pixels:
    x, y, width, height = box
    piece = pixels[y : y + height, x : x + width]
    enlarge = side > width
    return np.asarray(
        cv2.resize(piece, (side, side), interpolation=cv2.INTER_CUBIC if enlarge else cv2.INTER_AREA), np.uint8
    )


def _draw_evidence(view: Pixels, picture: _InspectedFrame, spot: Box) -> Pixels:
    """Lay the evidence over the enlarged spot."""
    if picture.heat is None:
        return view
    x, y, width, height = (
        (spot[0] - picture.heat_roi[0]) / _HEAT_STEP,
        (spot[1] - picture.heat_roi[1]) / _HEAT_STEP,
        spot[2] / _HEAT_STEP,
        spot[3] / _HEAT_STEP,
    )
    scale = (_PICTURE / width, _PICTURE / height)
    matrix = np.array([[scale[0], 0.0, -x * scale[0]], [0.0, scale[1], -y * scale[1]]])
    heat = cv2.warpAffine(picture.heat, matrix, (_PICTURE, _PICTURE))
    share = (np.clip((np.asarray(heat) - _FAINT) / (1.0 - _FAINT), 0.0, 1.0) * 0.5)[..., None]
    return np.asarray(view * (1.0 - share) + np.array(_GLOW) * share, np.uint8)


def _card(item: GradedVerdict, picture: _InspectedFrame) -> Pixels:
    judgement, truth, colour = item.verdict.judgement, item.truth, _FINDING[item.grade]
    box = judgement.box or (truth.box() if item.grade is Grade.ESCAPE else None)
    spot = _zoom_box(box, picture.roi)
    card = np.full((_PICTURE + _LABEL, _PICTURE, 3), _CARD, np.uint8)
    view = _draw_evidence(_cut(picture.pixels, spot, _PICTURE), picture, spot)
    if box is not None:
        _draw_box_corners(view, _within(box, spot, _PICTURE), colour)
    _inset(view, picture, spot)
    card[:_PICTURE] = view
    cv2.rectangle(card, (0, _PICTURE), (_PICTURE, _PICTURE + 3), colour, -1)
    said = f"{judgement.class_name or judgement.outcome} {judgement.score:.2f}"
    _write(card, said, (12, _PICTURE + 32), 0.68, _TEXT)
    _write(card, str(item.grade), (_PICTURE - 12, _PICTURE + 32), 0.58, colour, right=True)
    real = f"truth: {truth.kind.replace('_', ' ')}, {truth.difficulty}" if truth.is_defective else "truth: good part"
    _write(card, real, (12, _PICTURE + 60), 0.5, _QUIET)
    _write(card, truth.part_id, (_PICTURE - 12, _PICTURE + 60), 0.46, _QUIET, right=True)
    return card


def _within(box: Box, spot: Box, side: int) -> Box:
    """Map a box of the frame into a square view of `spot`."""
    scale = side / spot[2]
    return (
        round((box[0] - spot[0]) * scale),
        round((box[1] - spot[1]) * scale),
        max(6, round(box[2] * scale)),
        max(6, round(box[3] * scale)),
    )


def _draw_box_corners(view: Pixels, box: Box, colour: Colour) -> None:
    """Mark the box by its corners only: a whole rectangle would cover thin defects."""
    x, y, width, height = box
    arm = max(8, min(width, height) // 4)
    for cx, dx in ((x - 3, arm), (x + width + 3, -arm)):
        for cy, dy in ((y - 3, arm), (y + height + 3, -arm)):
            cv2.line(view, (cx, cy), (cx + dx, cy), colour, 2, cv2.LINE_AA)
            cv2.line(view, (cx, cy), (cx, cy + dy), colour, 2, cv2.LINE_AA)


def _inset(view: Pixels, picture: _InspectedFrame, spot: Box) -> None:
    """Show the whole part in the corner, and where on it the enlarged spot lies."""
    if spot == picture.roi:
        return
    thumb = _cut(picture.pixels, picture.roi, _THUMB)
    x, y, width, height = _within(spot, picture.roi, _THUMB)
    cv2.rectangle(thumb, (x, y), (x + width, y + height), (255, 255, 255), 1, cv2.LINE_AA)
    top = left = _PICTURE - _THUMB - 8
    cv2.rectangle(view, (left - 2, top - 2), (left + _THUMB + 1, top + _THUMB + 1), _BACK, -1)
    view[top : top + _THUMB, left : left + _THUMB] = thumb


def _write(image: Pixels, text: str, at: tuple[int, int], size: float, colour: Colour, *, right: bool = False) -> None:
    """Write ASCII `text` with its baseline's left (or right) end at `at`."""
    font = cv2.FONT_HERSHEY_DUPLEX
    x, y = at
    if right:
        x -= cv2.getTextSize(text, font, size, 1)[0][0]
    cv2.putText(image, text, (x, y), font, size, colour, 1, cv2.LINE_AA)
