"""Defects of graded difficulty, drawn as a relative change of brightness over one part.

Difficulty is a promise about visibility, kept by measurement: after drawing, the defect's strength is scaled until its
detection index d' lies in the band of its grade. d' = sqrt(sum D^2) / sigma, where D is the relative change of
brightness after 4x area averaging (what a model that sees the ROI at 224x224 gets) and sigma the surface texture's own
deviation there: the signal-to-noise ratio of a matched filter in white noise. weak: near the threshold; medium: a
person sees it when looking for it; strong: obvious. Lengths are part pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from simulator.line.textures import smooth_noise

if TYPE_CHECKING:
    from simulator.line.config import Difficulty, Kind
    from simulator.line.designs import PartDesign

Floats = npt.NDArray[np.float32]
BoolMask = npt.NDArray[np.bool_]
Points = npt.NDArray[np.float64]

_SHIFT = 4  # fractional bits of cv2's coordinates
_BANDS: dict[Difficulty, tuple[float, float]] = {"weak": (9.0, 17.0), "medium": (34.0, 70.0), "strong": (80.0, 1e9)}
_FLOOR_ONLY = frozenset({"stain", "chip"})  # large areas: the drawn contrast grades them, d' only guards from below
_DARKEST, _BRIGHTEST = -0.88, 0.75


@dataclass(frozen=True, slots=True)
class DefectOverlay:
    """What a defect does to the part inside the box that starts at (`x`, `y`); arrays are [h, w] in camera pixels."""

    x: int
    y: int
    brightness_change: Floats  # relative change of brightness
    mask: BoolMask  # ground truth
    missing: Floats | None = None  # share of the metal that is gone, 0..1
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)  # how strongly B, G, R follow `change`


@dataclass(frozen=True, slots=True)
class DefectCanvas:
    """Where a defect may be drawn."""

    rng: np.random.Generator
    design: PartDesign
    scale: int
    texture_sigma: float  # of the surface, relative, after 4x area averaging

    @property
    def side(self) -> int:
        """Side of the part's square, camera pixels."""
        return int(self.design.shade.shape[0])

    def place(self, clearance: float) -> tuple[float, float]:
        """Return a random point (x, y) in camera pixels with at least `clearance` part pixels of metal around it."""
        for _ in range(400):
            x, y = self.rng.uniform(0.08, 0.92, 2) * self.side
            if self.design.distance[int(y), int(x)] < -clearance:
                return float(x), float(y)
            clearance *= 0.995
        return self.side * 0.5, self.side * 0.22

    def uniform(self, low: float, high: float) -> float:
        """Return a uniform random number."""
        return float(self.rng.uniform(low, high))


def _graded(
    difficulty: Difficulty, weak: tuple[float, float], medium: tuple[float, float], strong: tuple[float, float]
) -> tuple[float, float]:
    return {"weak": weak, "medium": medium}.get(difficulty, strong)


def _stroke(canvas: DefectCanvas, points: Points, width: float) -> tuple[int, int, Floats]:
    """Return (x, y, coverage 0..1) of an anti-aliased polyline, drawn 4x larger and averaged."""
    over = 4
    pad = int(np.ceil(width * canvas.scale)) + 6
    low = np.clip(np.floor(points.min(axis=0)).astype(int) - pad, 0, canvas.side - 2)
    high = np.clip(np.ceil(points.max(axis=0)).astype(int) + pad, 1, canvas.side)
    w, h = (int(value) for value in np.maximum(high - low, 2))
    sheet = np.zeros((h * over, w * over), dtype=np.uint8)
    path = np.rint((points - low + 0.5) * over * (1 << _SHIFT)).astype(np.int32)
    cv2.polylines(sheet, [path], False, 255, max(1, round(width * canvas.scale * over)), cv2.LINE_8, _SHIFT)
    small = cv2.resize(sheet, (w, h), interpolation=cv2.INTER_AREA)
    return int(low[0]), int(low[1]), np.asarray(small, dtype=np.float32) / 255.0


def _metal(canvas: DefectCanvas, x: int, y: int, shape: tuple[int, ...]) -> Floats:
    """Return how much of each pixel is metal, 0..1."""
    return np.asarray(canvas.design.alpha[y : y + shape[0], x : x + shape[1]], dtype=np.float32) / 255.0


def _direction(canvas: DefectCanvas) -> float:
    """Return a direction in radians that does not hide in the tool marks."""
    while True:
        angle = canvas.uniform(0.0, np.pi)
        if canvas.design.mark_direction != "along" or abs(np.sin(angle)) > 0.4:
            return angle


def _on_metal(canvas: DefectCanvas, points: Points) -> Points:
    """Cut the polyline where it leaves the metal, seen from its middle."""
    cells = np.clip(points.astype(int), 0, canvas.side - 1)
    good = canvas.design.distance[cells[:, 1], cells[:, 0]] < -8.0
    middle = len(points) // 2
    first = middle
    while first > 0 and good[first - 1]:
        first -= 1
    last = middle
    while last < len(points) - 1 and good[last + 1]:
        last += 1
    return points[first : last + 1]


def _scratch(canvas: DefectCanvas, difficulty: Difficulty, *, two_px: bool) -> DefectOverlay:
    width = 2.0 if two_px else canvas.uniform(*_graded(difficulty, (2.2, 3.0), (3.2, 4.6), (4.4, 7.0)))
    length = canvas.uniform(*_graded(difficulty, (70, 150), (110, 240), (160, 340)))
    points = np.empty((0, 2))
    for _ in range(60):
        x, y = canvas.place(20.0)
        angle, bend = _direction(canvas), canvas.uniform(-0.5, 0.5)
        t = np.linspace(-0.5, 0.5, 41)
        heading = angle + bend * t
        steps = np.stack([np.cos(heading), np.sin(heading)], axis=1) * (length / 40.0 * canvas.scale)
        points = np.cumsum(steps, axis=0)
        points = _on_metal(canvas, points - points[20] + (x, y))
        if len(points) >= 26:  # at least 60 % of the wanted length lies on metal
            break
    left, top, core = _stroke(canvas, points, width)
    fade = np.asarray(0.8 + 0.2 * smooth_noise(canvas.rng, core.shape, 14.0 * canvas.scale).clip(-1, 1))
    shift = np.array([[1, 0, 0.5 * width * canvas.scale], [0, 1, 0.5 * width * canvas.scale]], dtype=np.float32)
    burr = np.asarray(cv2.warpAffine(core, shift, (core.shape[1], core.shape[0])))
    metal = _metal(canvas, left, top, core.shape)
    contrast = canvas.uniform(*_graded(difficulty, (0.10, 0.2), (0.38, 0.55), (0.6, 0.8)))
    sign = -1.0 if two_px or canvas.rng.random() < 0.7 else 0.75
    change = sign * contrast * (core - 0.35 * np.clip(burr - core, 0.0, 1.0)) * fade * metal
    return DefectOverlay(left, top, np.asarray(change, dtype=np.float32), core * metal > 0.4)


def _blowhole(canvas: DefectCanvas, difficulty: Difficulty) -> DefectOverlay:
    low, high = _graded(difficulty, (2.6, 4.0), (5.0, 8.0), (8.0, 15.0))
    count = int(canvas.rng.integers(1, 4))
    reach = int((high * 2.5 + 34.0) * canvas.scale)
    cx, cy = canvas.place(high + 8.0)
    left, top = (int(np.clip(value - reach, 0, canvas.side - 2 * reach)) for value in (cx, cy))
    yy, xx = np.mgrid[0 : 2 * reach, 0 : 2 * reach].astype(np.float32)
    change = np.zeros(xx.shape, dtype=np.float32)
    mask = np.zeros(xx.shape, dtype=np.bool_)
    for number in range(count):
        radius = canvas.uniform(low, high) * (1.0 if number == 0 else 0.75) * canvas.scale
        away = 0.0 if number == 0 else canvas.uniform(1.2 * high, 1.2 * high + 26.0) * canvas.scale
        turn, squeeze = canvas.uniform(0.0, 2.0 * np.pi), canvas.uniform(0.78, 1.0)
        dx = xx - (cx - left + away * np.cos(turn))
        dy = (yy - (cy - top + away * np.sin(turn))) / squeeze
        around = np.arctan2(dy, dx)
        wobble = 1.0 + 0.07 * np.sin(2.0 * around + 3.0 * turn) + 0.05 * np.sin(3.0 * around + turn)
        depth = np.clip((radius * wobble - np.hypot(dx, dy)) / (0.35 * radius) + 0.5, 0.0, 1.0)
        lit = np.clip((dx + dy) / (1.4 * radius), -1.0, 1.0)  # the far wall of the pit catches the lamp
        rim = np.exp(-(((np.hypot(dx, dy) - 1.12 * radius) / (0.18 * radius)) ** 2)) * np.clip(lit, 0.0, 1.0)
        change = np.minimum(change, -depth * (0.85 - 0.3 * lit)) + 0.45 * rim * (depth < 0.3)
        mask |= depth > 0.4
    metal = _metal(canvas, left, top, change.shape)
    contrast = canvas.uniform(*_graded(difficulty, (0.2, 0.35), (0.6, 0.8), (0.85, 1.0)))
    return DefectOverlay(left, top, np.asarray(change * contrast * metal, dtype=np.float32), mask & (metal > 0.5))


def _walk(canvas: DefectCanvas, x: float, y: float, angle: float, length: float) -> Points:
    count = max(4, int(length / 9.0))
    heading = angle + np.cumsum(canvas.rng.normal(0.0, 0.16, count)) + canvas.rng.normal(0.0, 0.42, count)
    pace = canvas.rng.uniform(5.0, 13.0, count)[:, None] * canvas.scale
    path = np.cumsum(np.stack([np.cos(heading), np.sin(heading)], axis=1) * pace, axis=0) + (x, y)
    return np.concatenate([[[x, y]], path])


def _crack(canvas: DefectCanvas, difficulty: Difficulty) -> DefectOverlay:
    width = canvas.uniform(*_graded(difficulty, (1.6, 2.2), (2.4, 3.6), (3.4, 5.4)))
    length = canvas.uniform(*_graded(difficulty, (60, 130), (110, 210), (170, 330)))
    change = np.zeros((canvas.side, canvas.side), dtype=np.float32)
    x, y = canvas.place(26.0)
    angle = _direction(canvas)
    arms = [_walk(canvas, x, y, angle, length / 2), _walk(canvas, x, y, angle + np.pi, length / 2)]
    if difficulty != "weak":
        fork = arms[0][len(arms[0]) // 2]
        arms.append(_walk(canvas, float(fork[0]), float(fork[1]), angle + canvas.uniform(0.5, 1.0), length * 0.3))
    for arm in arms:
        pieces = np.array_split(np.arange(len(arm)), 3)
        for number, piece in enumerate(pieces):  # a crack tapers towards its ends
            points = arm[piece[0] : piece[-1] + 2]
            if len(points) < 2:
                continue
            left, top, cover = _stroke(canvas, points, width * (1.0 - 0.27 * number))
            part = change[top : top + cover.shape[0], left : left + cover.shape[1]]
            np.maximum(part, cover, out=part)
    left, top, w, h = cv2.boundingRect((change > 0).astype(np.uint8))
    core = change[top : top + h, left : left + w]
    metal = _metal(canvas, left, top, core.shape)
    contrast = canvas.uniform(*_graded(difficulty, (0.2, 0.3), (0.5, 0.65), (0.72, 0.85)))
    return DefectOverlay(left, top, np.asarray(-contrast * core * metal, dtype=np.float32), core * metal > 0.35)


def _stain(canvas: DefectCanvas, difficulty: Difficulty) -> DefectOverlay:
    radius = canvas.uniform(*_graded(difficulty, (26, 44), (30, 62), (40, 90)))
    reach = int(radius * 1.7 * canvas.scale)
    cx, cy = canvas.place(radius * 0.5)
    left, top = (int(np.clip(value - reach, 0, canvas.side - 2 * reach)) for value in (cx, cy))
    yy, xx = np.mgrid[0 : 2 * reach, 0 : 2 * reach].astype(np.float32)
    dx, dy = (xx - (cx - left)) / canvas.scale, (yy - (cy - top)) / canvas.scale
    ragged = smooth_noise(canvas.rng, xx.shape, radius * 0.28 * canvas.scale) * 0.16
    ragged = ragged + smooth_noise(canvas.rng, xx.shape, radius * 0.07 * canvas.scale) * 0.035
    inside = 1.0 - np.hypot(dx, dy * canvas.uniform(1.0, 1.35)) / radius + ragged
    cover = np.clip(inside / 0.16, 0.0, 1.0)
    ring = np.exp(-(((inside - 0.10) / 0.07) ** 2))  # dried liquid is darkest along its border
    body = cover * (0.8 + 0.12 * smooth_noise(canvas.rng, xx.shape, radius * 0.2 * canvas.scale)) + 0.35 * ring
    metal = _metal(canvas, left, top, cover.shape)
    contrast = canvas.uniform(*_graded(difficulty, (0.05, 0.075), (0.2, 0.3), (0.36, 0.52)))
    change = np.asarray(-contrast * np.clip(body, 0.0, 1.4) * metal, dtype=np.float32)
    return DefectOverlay(left, top, change, (cover * metal) > 0.5, tint=(1.2, 1.0, 0.82))


def _chip(canvas: DefectCanvas, difficulty: Difficulty) -> DefectOverlay:
    radius = canvas.uniform(*_graded(difficulty, (5.0, 7.5), (12.0, 18.0), (20.0, 38.0)))
    rim = np.argwhere((canvas.design.outer < -0.5) & (canvas.design.outer > -2.5))
    cy, cx = (float(value) for value in rim[int(canvas.rng.integers(len(rim)))])
    reach = int(radius * 1.9 * canvas.scale)
    left, top = (int(np.clip(value - reach, 0, canvas.side - 2 * reach)) for value in (cx, cy))
    yy, xx = np.mgrid[0 : 2 * reach, 0 : 2 * reach].astype(np.float32)
    dx, dy = (xx - (cx - left)) / canvas.scale, (yy - (cy - top)) / canvas.scale
    ragged = smooth_noise(canvas.rng, xx.shape, radius * 0.22 * canvas.scale) * 0.14
    bite = 1.0 - np.hypot(dx, dy) / radius + ragged
    facets = smooth_noise(canvas.rng, xx.shape, radius * 0.16 * canvas.scale)
    broken = np.clip(bite / 0.10, 0.0, 1.0)
    gone = np.clip((bite - 0.42) / 0.06, 0.0, 1.0)
    metal = _metal(canvas, left, top, bite.shape)
    contrast = canvas.uniform(*_graded(difficulty, (0.28, 0.4), (0.42, 0.52), (0.4, 0.5)))
    change = broken * np.clip(-contrast + 0.32 * facets, _DARKEST, 0.4) * metal
    return DefectOverlay(
        left,
        top,
        np.asarray(change, dtype=np.float32),
        (broken > 0.5) & (metal > 0.4),
        missing=np.asarray(gone, dtype=np.float32),
    )


def detection_index(change: Floats, sigma: float, scale: int) -> float:
    """Return d' of a relative change of brightness [h, w] in camera pixels: see the module's text."""
    cell = 4 * scale
    h, w = change.shape
    padded = np.pad(change, ((0, -h % cell), (0, -w % cell)))
    small = padded.reshape(padded.shape[0] // cell, cell, padded.shape[1] // cell, cell).mean(axis=(1, 3))
    return float(np.sqrt(np.sum(small * small)) / sigma)


def draw(canvas: DefectCanvas, kind: Kind, difficulty: Difficulty) -> DefectOverlay:
    """Draw one defect of `kind` and grade its strength; see the module's text."""
    if kind in ("scratch", "scratch_2px"):
        damage = _scratch(canvas, difficulty, two_px=kind == "scratch_2px")
    else:
        damage = {"blowhole": _blowhole, "crack": _crack, "stain": _stain, "chip": _chip}[kind](canvas, difficulty)
    low, high = _BANDS[difficulty]
    index = detection_index(damage.brightness_change, canvas.texture_sigma, canvas.scale)
    factor = 1.0
    if index < low:
        factor = low / max(index, 1e-6)
    elif index > high and kind not in _FLOOR_ONLY:
        factor = high / index
    change = np.clip(damage.brightness_change * factor, _DARKEST, _BRIGHTEST)
    return DefectOverlay(
        damage.x, damage.y, np.asarray(change, dtype=np.float32), damage.mask, damage.missing, damage.tint
    )
