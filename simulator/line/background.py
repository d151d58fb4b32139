"""The scene: a rubber belt between aluminium rails, with sensors, light bar and reject nozzle.

Everything is measured in part pixels from the optical centre and drawn once per line; only the belt moves. Static parts
stay outside the ROI, so that a ROI needs the belt alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from simulator.line.textures import smooth_noise

if TYPE_CHECKING:
    from simulator.line.config import CameraModel

Floats = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]

BELT_HALF_PX = 470  # half the belt's visible width, part pixels
_SPARE_PX = 384  # by how much the belt's texture is longer than a frame before it repeats
_SHIFT = 4


def _belt(rng: np.random.Generator, length: int, scale: int) -> Floats:
    """Return grey levels of one turn of the belt, `length` camera pixels: woven rubber with wear along the travel."""
    height = 2 * BELT_HALF_PX * scale
    along, down = (np.sin(2.0 * np.pi / 8.0 / scale * np.arange(n, dtype=np.float32)) ** 2 for n in (length, height))
    weave = along[None, :] - down[:, None]
    level = 52.0 + 3.2 * weave + 2.0 * smooth_noise(rng, (height, length), 0.9 * scale)
    level += 1.6 * np.asarray(cv2.blur(smooth_noise(rng, (height, length), 1.5 * scale), (220 * scale, 1))) * 6.0
    dust = smooth_noise(rng, (height, length), 0.8 * scale)
    level += 10.0 * np.clip(dust - 3.1, 0.0, 1.0)
    across = (np.arange(height, dtype=np.float32) / scale - BELT_HALF_PX) / BELT_HALF_PX
    level *= 1.0 - 0.22 * across[:, None] ** 4
    blend = 128 * scale  # the two ends meet without a seam
    ramp = np.linspace(0.0, 1.0, blend, dtype=np.float32)[None, :]
    level[:, :blend] = level[:, :blend] * ramp + level[:, -blend:] * (1.0 - ramp)
    return np.asarray(level[:, : length - blend], dtype=np.float32)


class Pen:
    """Draws in part pixels from the frame's centre onto a BGR sheet of camera pixels, anti-aliased."""

    def __init__(self, sheet: Pixels, scale: int) -> None:
        """Draw on `sheet` [H, W, 3]."""
        self._sheet = sheet
        self._scale = scale
        self._centre = np.array([sheet.shape[1] / 2.0, sheet.shape[0] / 2.0])

    def _points(self, points: npt.ArrayLike) -> npt.NDArray[np.int32]:
        camera = np.asarray(points, dtype=np.float64) * self._scale + self._centre
        return np.asarray(np.rint(camera * (1 << _SHIFT)), dtype=np.int32)

    def polygon(self, points: npt.ArrayLike, colour: Colour) -> None:
        """Fill a polygon [N, 2]."""
        cv2.fillPoly(self._sheet, [self._points(points)], colour, cv2.LINE_AA, _SHIFT)

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: Colour) -> None:
        """Fill a rectangle."""
        self.polygon([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], colour)

    def disc(self, x: float, y: float, radius: float, colour: Colour) -> None:
        """Fill a disc."""
        centre = self._points([x, y])
        size = round(radius * self._scale * (1 << _SHIFT))
        cv2.circle(self._sheet, (int(centre[0]), int(centre[1])), size, colour, -1, cv2.LINE_AA, _SHIFT)

    def line(self, points: npt.ArrayLike, width: float, colour: Colour) -> None:
        """Draw a polyline [N, 2]."""
        cv2.polylines(
            self._sheet, [self._points(points)], False, colour, max(1, round(width * self._scale)), cv2.LINE_AA, _SHIFT
        )

    def gradient(self, x0: float, y0: float, x1: float, y1: float, stops: tuple[float, ...], tint: Colour) -> None:
        """Fill a rectangle with brightness `stops` from top to bottom, times `tint`: a profile seen from above."""
        low, high = (self._points(point) >> _SHIFT for point in ([x0, y0], [x1, y1]))
        left, right = max(int(low[0]), 0), min(int(high[0]), self._sheet.shape[1])
        rows = np.arange(max(int(low[1]), 0), min(int(high[1]), self._sheet.shape[0]))
        if not len(rows) or left >= right:
            return
        t = (rows - low[1]) / max(int(high[1] - low[1]), 1)
        level = np.interp(t, np.linspace(0.0, 1.0, len(stops)), stops)
        band = np.clip(level[:, None, None] * np.array(tint)[None, None, :], 0, 255)
        self._sheet[rows[0] : rows[-1] + 1, left:right] = np.rint(band).astype(np.uint8)


_ALUMINIUM: Colour = (186, 182, 176)
_DARK: Colour = (34, 33, 32)


def _curve(start: list[float], out: list[float], into: list[float], end: list[float]) -> npt.NDArray[np.float64]:
    """Return 24 points [24, 2] of the cubic Bezier curve from `start` to `end`."""
    t = np.linspace(0.0, 1.0, 24)[:, None]
    points = (np.array(point, dtype=np.float64) for point in (start, out, into, end))
    weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3)
    return np.asarray(sum(weight * point for weight, point in zip(weights, points, strict=True)))


def _light_bar(pen: Pen, x0: float, x1: float, y: float) -> None:
    """A bar light in a dark housing: a row of lenses behind a diffuser, `y` is its middle."""
    pen.gradient(x0, y - 34.0, x1, y + 28.0, (0.5, 1.1, 0.95, 0.9, 0.8, 0.45), (70, 68, 66))
    pen.gradient(x0 + 10.0, y - 16.0, x1 - 10.0, y + 16.0, (0.78, 0.92, 1.0, 0.92, 0.78), (250, 248, 240))
    for x in np.arange(x0 + 26.0, x1 - 16.0, 24.0):
        pen.disc(float(x), y, 9.0, (246, 242, 232))
        pen.disc(float(x), y, 5.5, (255, 255, 255))
    for x in (x0 + 24.0, x1 - 24.0):
        _bolt(pen, x, y + 22.0, 4.0)


def _bolt(pen: Pen, x: float, y: float, radius: float) -> None:
    pen.disc(x + 1.5, y + 2.5, radius * 1.25, (70, 69, 67))
    pen.disc(x, y, radius * 1.15, (120, 118, 115))
    pen.disc(x - 0.6, y - 0.8, radius, (176, 174, 170))
    turns = np.deg2rad(np.arange(6) * 60.0 + x % 60.0)
    hexagon = np.stack([x + 0.55 * radius * np.cos(turns), y + 0.55 * radius * np.sin(turns)], axis=1)
    pen.polygon(hexagon, (46, 45, 44))


def _rail(pen: Pen, side: int, half_width: float) -> None:
    """One side rail: an extruded profile with a slot, bolts, and hazard stripes on its lower flank."""
    edge, far = BELT_HALF_PX - 6.0, BELT_HALF_PX + 150.0
    if side < 0:
        edge, far = -far, -edge
        pen.gradient(-half_width, edge, half_width, far, (0.8, 0.95, 1.02, 0.92, 0.80, 0.72, 0.52), _ALUMINIUM)
    else:
        pen.gradient(-half_width, edge, half_width, far, (1.12, 0.98, 0.9, 0.86, 0.82, 0.74, 0.6), _ALUMINIUM)
    slot = side * (BELT_HALF_PX + 34.0)
    pen.gradient(-half_width, slot - 9.0, half_width, slot + 9.0, (0.16, 0.24, 0.36, 0.5), _ALUMINIUM)
    pen.line([[-half_width, slot + 9.0], [half_width, slot + 9.0]], 1.2, (206, 203, 198))
    for x in range(-840, 841, 240):
        _bolt(pen, x + 0.0, side * (BELT_HALF_PX + 12.0), 6.5)


def _hazard(pen: Pen, x0: float, x1: float, y0: float, y1: float) -> None:
    pen.box(x0, y0, x1, y1, (38, 178, 222))
    pitch, lean = 26.0, y1 - y0
    x = x0 - lean
    while x < x1:
        corners = np.array([[x, y1], [x + lean, y0], [x + lean + pitch / 2, y0], [x + pitch / 2, y1]])
        corners[:, 0] = np.clip(corners[:, 0], x0, x1)
        pen.polygon(corners, (30, 29, 28))
        x += pitch


def _sensor(pen: Pen, x: float, y: float, turn: int) -> None:
    """A photoelectric sensor on a bracket, `turn` = +1 looking down the belt from the upper rail, -1 from the lower."""

    def at(dx: float, dy: float) -> list[float]:
        return [x + dx, y + dy * turn]

    pen.polygon([at(-34, -70), at(34, -70), at(34, 10), at(-34, 10)], (128, 126, 122))
    pen.polygon([at(-34, -70), at(-28, -70), at(-28, 10), at(-34, 10)], (188, 185, 180))
    for dx in (-18, 18):
        _bolt(pen, x + dx, y - 52 * turn, 5.5)
    pen.polygon([at(-22, -34), at(22, -34), at(22, 58), at(-22, 58)], (30, 92, 204))
    pen.polygon([at(-22, -34), at(-15, -34), at(-15, 58), at(-22, 58)], (62, 128, 236))
    pen.polygon([at(-16, 40), at(16, 40), at(16, 58), at(-16, 58)], _DARK)
    pen.disc(x, y + 50 * turn, 6.0, (60, 40, 120))
    pen.disc(x - 9, y - 20 * turn, 3.2, (90, 240, 120))
    cable = _curve(at(8, -34), at(10, -88), at(40, -66), at(120, -130))
    pen.line(cable, 7.0, (28, 28, 28))
    pen.line(cable + np.array([-1.0, -1.5]), 1.6, (74, 74, 74))


def _nozzle(pen: Pen, x: float, y: float) -> None:
    """The reject nozzle: a valve block on the lower rail with a blue air hose."""
    pen.box(x - 52, y - 20, x + 52, y + 90, (84, 82, 80))
    pen.box(x - 52, y - 20, x - 45, y + 90, (140, 138, 134))
    pen.box(x - 52, y - 20, x + 52, y - 14, (150, 148, 144))
    pen.polygon([[x - 13, y - 66], [x + 13, y - 66], [x + 20, y - 20], [x - 20, y - 20]], (88, 148, 176))
    pen.polygon([[x - 13, y - 66], [x - 6, y - 66], [x - 11, y - 20], [x - 20, y - 20]], (134, 190, 214))
    pen.box(x - 9, y - 74, x + 9, y - 66, (52, 92, 112))
    for dx in (-36, 36):
        _bolt(pen, x + dx, y + 2, 6.0)
    hose = _curve([x + 40, y + 24], [x + 120, y + 20], [x + 120, y + 62], [x + 300, y + 44])
    pen.box(x + 34, y + 12, x + 56, y + 36, (60, 120, 150))
    pen.line(hose + np.array([2.0, 4.0]), 15.0, (70, 68, 66))
    pen.line(hose, 14.0, (146, 84, 26))
    pen.line(hose + np.array([0.0, -3.0]), 3.5, (214, 150, 84))


def _draw_static_parts(sheet: Pixels, camera: CameraModel) -> Pixels:
    """Draw all that stands still; return 255 where it covers the belt."""
    pen = Pen(sheet, camera.scale)
    half = camera.width / camera.scale / 2.0
    for side in (-1, 1):
        _rail(pen, side, half)
    _hazard(pen, -half, half, -BELT_HALF_PX - 80.0, -BELT_HALF_PX - 52.0)
    _hazard(pen, -half, half, BELT_HALF_PX + 52.0, BELT_HALF_PX + 80.0)
    if half > 700.0:
        _sensor(pen, -610.0, -BELT_HALF_PX + 34.0, 1)
        _sensor(pen, -610.0, BELT_HALF_PX - 34.0, -1)
        _nozzle(pen, 700.0, BELT_HALF_PX - 4.0)
        _light_bar(pen, 560.0, 900.0, -BELT_HALF_PX - 20.0)
    else:
        _sensor(pen, -530.0, -BELT_HALF_PX + 26.0, 1)
        _nozzle(pen, 540.0, BELT_HALF_PX + 18.0)
    return np.where(np.any(sheet != 1, axis=2), 255, 0).astype(np.uint8)


class LineBackground:
    """The line without parts, for one camera; pixels are [H, W] or [H, W, 3] uint8 under nominal light."""

    def __init__(self, *, seed: int, camera: CameraModel) -> None:
        """Draw belt and furniture."""
        self._camera = camera
        rng = np.random.default_rng((seed, 23))
        grey = np.clip(_belt(rng, camera.width + _SPARE_PX * camera.scale, camera.scale), 0, 255)
        tint = np.array([1.02, 1.03, 0.95], dtype=np.float32)
        self._belt: Pixels = np.rint(grey if camera.channels == 1 else grey[..., None] * tint).astype(np.uint8)
        sheet = np.full((camera.height, camera.width, 3), 1, dtype=np.uint8)
        cover = _draw_static_parts(sheet, camera)
        free = np.asarray(cv2.GaussianBlur(255 - cover, (0, 0), 9.0 * camera.scale), dtype=np.float32) / 255.0
        shift = np.array([[1, 0, 8 * camera.scale], [0, 1, 10 * camera.scale]], dtype=np.float32)
        size = (camera.width, camera.height)
        free = np.asarray(cv2.warpAffine(free, shift, size, borderMode=cv2.BORDER_REPLICATE), dtype=np.float32)
        shade = np.where(cover > 0, 255.0, 90.0 + 165.0 * np.clip(free, 0.0, 1.0))
        self._shade: Pixels = np.rint(shade).astype(np.uint8)  # the furniture's shadow on the belt
        self._cover = cover
        self._static_parts = sheet if camera.channels == 3 else np.asarray(cv2.cvtColor(sheet, cv2.COLOR_BGR2GRAY))

    def render_region(self, travel: int, x: int, y: int, width: int, height: int) -> Pixels:
        """Return the region (x, y, width, height) of the frame with the belt advanced by `travel` camera pixels."""
        camera = self._camera
        first_row = BELT_HALF_PX * camera.scale - camera.height // 2
        rows = np.clip(np.arange(y, y + height) + first_row, 0, len(self._belt) - 1)
        length = self._belt.shape[1]
        start = (x + travel) % length
        first = min(width, length - start)
        band = self._belt[rows[0] : rows[-1] + 1]
        top = int(np.searchsorted(rows, rows[0], side="right")) - 1
        out = np.empty((height, width, *self._belt.shape[2:]), dtype=np.uint8)
        bottom = top + len(band)
        out[top:bottom, :first] = band[:, start : start + first]
        out[top:bottom, first:] = band[:, : width - first]
        out[:top] = out[top]
        out[bottom:] = out[bottom - 1]
        region = np.s_[y : y + height, x : x + width]
        cover = self._cover[region]
        if cover.any():
            np.copyto(out, self._static_parts[region], where=(cover > 0)[..., None] if out.ndim == 3 else cover > 0)
        shade = self._shade[region]
        if shade.min() < 255:
            shades = cv2.merge([shade] * 3) if out.ndim == 3 else shade
            out = np.asarray(cv2.multiply(out, shades, scale=1.0 / 255.0), dtype=np.uint8)
        return out
