"""The three products of the line: outline, relief and how the lamp shades them.

Everything comes from signed distances (negative inside the metal) in part pixels about the part's centre, so that the
same design renders at every scale. The lamp stands at the upper left.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]

SIDE_PX = 800  # side of the square that a part is drawn in, part pixels
_LAMP = np.array([-0.46, -0.56, 0.69], dtype=np.float32)


@dataclass(frozen=True, slots=True)
class PartDesign:
    """One product at one scale; arrays are [side, side]."""

    shade: Floats  # grey level of the bare form under nominal light
    alpha: Pixels  # 255 where there is metal
    shadow: Pixels  # 255 where light falls freely, less where the part shades the belt
    distance: Floats  # signed distance to the nearest edge, part pixels, negative inside the metal
    outer: Floats  # signed distance to the outer contour alone
    tint: tuple[float, float, float]  # of the metal, relative B, G, R
    mark_direction: str  # direction of the tool marks: "along" the belt, "round" the centre or "none"


def _box(x: Floats, y: Floats, half_x: float, half_y: float, radius: float) -> Floats:
    """Signed distance to a rounded box about the origin (Quilez)."""
    qx, qy = np.abs(x) - (half_x - radius), np.abs(y) - (half_y - radius)
    outside = np.hypot(np.maximum(qx, 0.0), np.maximum(qy, 0.0))
    return np.asarray(outside + np.minimum(np.maximum(qx, qy), 0.0) - radius, dtype=np.float32)


def _disc(x: Floats, y: Floats, radius: float) -> Floats:
    return np.asarray(np.hypot(x, y) - radius, dtype=np.float32)


def _bevel(distance: Floats, width: float, height: float) -> Floats:
    """Height of a rounded edge that rises over `width` from the contour inwards."""
    t = np.clip(-distance / width, 0.0, 1.0)
    return np.asarray(height * np.sqrt(1.0 - (1.0 - t) ** 2), dtype=np.float32)


def _step(distance: Floats, width: float, height: float) -> Floats:
    """Height of a raised face with a smooth flank of `width` inside its contour."""
    t = np.clip(-distance / width, 0.0, 1.0)
    return np.asarray(height * t * t * (3.0 - 2.0 * t), dtype=np.float32)


def _lit(height: Floats, scale: int, level: float, gloss: float) -> Floats:
    """Grey levels of a relief: Lambert with ambient light, and a Blinn highlight on flanks that face the lamp."""
    gy, gx = np.gradient(height, 1.0 / scale)
    norm = np.sqrt(gx * gx + gy * gy + 1.0)
    lambert = np.clip((-gx * _LAMP[0] - gy * _LAMP[1] + _LAMP[2]) / norm, 0.0, None)
    half = _LAMP + np.array([0.0, 0.0, 1.0], dtype=np.float32)
    half /= np.linalg.norm(half)
    facing = np.clip((-gx * half[0] - gy * half[1] + half[2]) / norm, 0.0, 1.0)
    glint = facing**24 - float(half[2]) ** 24
    return np.asarray(level * (0.34 + 0.66 * lambert / _LAMP[2]) + gloss * glint, dtype=np.float32)


def _finish(
    shade: Floats, outer: Floats, holes: list[Floats], scale: int, tint: tuple[float, float, float], lay: str
) -> PartDesign:
    solid = outer
    for hole in holes:
        solid = np.maximum(solid, -hole)
    alpha = np.clip(0.5 - solid * scale, 0.0, 1.0)
    blocked = np.asarray(cv2.GaussianBlur(alpha, (0, 0), 7.0 * scale), dtype=np.float32)
    shift = np.array([[1, 0, 11 * scale], [0, 1, 14 * scale]], dtype=np.float32)
    cast = cv2.warpAffine(blocked, shift, (blocked.shape[1], blocked.shape[0]))
    contact = np.asarray(cv2.GaussianBlur(alpha, (0, 0), 3.0 * scale), dtype=np.float32)
    shadow = (1.0 - 0.62 * np.asarray(cast)) * (1.0 - 0.35 * contact)
    return PartDesign(
        shade=shade,
        alpha=np.rint(alpha * 255.0).astype(np.uint8),
        shadow=np.rint(shadow * 255.0).astype(np.uint8),
        distance=np.asarray(solid, dtype=np.float32),
        outer=outer,
        tint=tint,
        mark_direction=lay,
    )


def _plate(x: Floats, y: Floats, scale: int) -> PartDesign:
    """A brushed steel plate with four countersunk holes and a slot."""
    outer = _box(x, y, 342.0, 282.0, 46.0)
    holes = [_disc(x - sx * 278.0, y - sy * 218.0, 24.0) for sx in (-1, 1) for sy in (-1, 1)]
    slot = _box(x, y, 122.0, 34.0, 34.0)
    height = _bevel(outer, 9.0, 7.0) - _step(_box(x, y, 150.0, 62.0, 62.0), 6.0, 4.0)
    for hole in holes:
        height = height - _step(hole - 15.0, 16.0, 9.0)
    shade = _lit(np.asarray(height, dtype=np.float32), scale, 148.0, 60.0)
    shade = np.asarray(shade * (1.0 + 0.10 * np.cos((x + 60.0) / 210.0)), dtype=np.float32)  # sheen across the lay
    return _finish(shade, outer, [*holes, slot], scale, (1.03, 1.0, 0.97), "along")


def _cover(x: Floats, y: Floats, scale: int) -> PartDesign:
    """A sand-blasted aluminium cover with lugs, a raised rim and a boss."""
    body = _box(x, y, 290.0, 290.0, 90.0)
    lugs = [(x - sx * 258.0, y - sy * 258.0) for sx in (-1, 1) for sy in (-1, 1)]
    outer = body
    for lug_x, lug_y in lugs:
        outer = np.minimum(outer, _disc(lug_x, lug_y, 74.0))
    holes = [_disc(lug_x, lug_y, 25.0) for lug_x, lug_y in lugs]
    height = _bevel(outer, 12.0, 9.0) + _step(_box(x, y, 236.0, 236.0, 70.0), 11.0, 8.0)
    height = height - _step(_box(x, y, 204.0, 204.0, 52.0), 9.0, 6.0) + _step(_disc(x, y, 104.0), 12.0, 9.0)
    height = height - _step(_disc(x, y, 62.0), 8.0, 5.0)
    for lug_x, lug_y in lugs:
        height = height - _step(_disc(lug_x, lug_y, 40.0), 5.0, 4.0)
    shade = _lit(np.asarray(height, dtype=np.float32), scale, 122.0, 26.0)
    return _finish(shade, outer, holes, scale, (1.0, 1.0, 1.0), "none")


def _flange(x: Floats, y: Floats, scale: int) -> PartDesign:
    """A turned brass flange with a bore, a shoulder and a bolt circle."""
    outer = _disc(x, y, 336.0)
    bore = _disc(x, y, 84.0)
    turns = np.deg2rad(np.arange(6) * 60.0 + 12.0)
    bolts = [_disc(x - 246.0 * float(np.cos(turn)), y - 246.0 * float(np.sin(turn)), 24.0) for turn in turns]
    height = _bevel(outer, 10.0, 8.0) + _step(_disc(x, y, 164.0), 10.0, 8.0) - _step(bore - 12.0, 12.0, 8.0)
    for bolt in bolts:
        height = height - _step(bolt - 7.0, 7.0, 4.0)
    shade = _lit(np.asarray(height, dtype=np.float32), scale, 146.0, 50.0)
    angle = np.arctan2(y, x)
    bow = np.cos(angle - np.deg2rad(40.0)) ** 2  # a turned face shines in two wedges across the lamp's direction
    shade = np.asarray(shade * (0.86 + 0.30 * bow**3), dtype=np.float32)
    return _finish(shade, outer, [bore, *bolts], scale, (0.70, 0.95, 1.10), "round")


def design_for(surface: str, scale: int) -> PartDesign:
    """Return the product that carries `surface`, drawn at `scale` camera pixels per part pixel."""
    axis = (np.arange(SIDE_PX * scale, dtype=np.float32) - (SIDE_PX * scale - 1) / 2.0) / scale
    x, y = (np.asarray(field, dtype=np.float32) for field in np.meshgrid(axis, axis))
    return {"brushed": _plate, "cast": _cover, "turned": _flange}[surface](x, y, scale)
