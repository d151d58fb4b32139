"""Draws one part of a simulated line, its belt, light and noise, from a recipe.

Invariants: a recipe always gives the same pixels on one platform, whatever was rendered before; a region rendered
alone has the pixels that it has in the whole frame.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from simulator.line import part_sequence
from simulator.line.background import LineBackground
from simulator.line.config import CAMERAS, CameraModel, LineConfig
from simulator.line.defects import DefectCanvas, DefectOverlay, draw
from simulator.line.designs import SIDE_PX, PartDesign, design_for
from simulator.line.textures import Textures

if TYPE_CHECKING:
    import numpy.typing as npt

    from agent.records import Box, Pixels
    from simulator.line.config import Surface
    from simulator.line.part_sequence import Lighting, Pose, RenderRecipe

_PAD_PX = 16  # rendered around a region so that blur has its neighbours
_NOISE_SIDE = 1024


@cache
def _design(surface: Surface, scale: int) -> PartDesign:
    return design_for(surface, scale)


def _scaled(pixels: Pixels, share: Pixels) -> Pixels:
    """Multiply [h, w] or [h, w, 3] by a share [h, w] of 255."""
    shares = cv2.merge([share] * 3) if pixels.ndim == 3 else share
    return np.asarray(cv2.multiply(pixels, shares, scale=1.0 / 255.0), dtype=np.uint8)


def _blurred(frame: npt.NDArray[Any], recipe: RenderRecipe, scale: int) -> npt.NDArray[Any]:
    """Blur by focus (Gaussian) and by the belt's travel during the exposure (along x)."""
    sigma = recipe.focus_px * scale
    if sigma > 0.2:
        radius = min(int(np.ceil(3.0 * sigma)), _PAD_PX - 4)
        frame = np.asarray(cv2.GaussianBlur(frame, (2 * radius + 1, 2 * radius + 1), sigma))
    travel = recipe.motion_px * scale
    if travel > 0.3:
        half = int(np.ceil(travel / 2.0))
        kernel = np.clip(travel / 2.0 + 0.5 - np.abs(np.arange(-half, half + 1)), 0.0, 1.0)
        kernel = (kernel / kernel.sum()).astype(np.float32)[None, :]
        frame = np.asarray(cv2.filter2D(frame, -1, kernel))
    return frame


class PartRenderer:
    """Renders recipes for one line. Immutable after construction and safe to use from several threads."""

    def __init__(self, config: LineConfig) -> None:
        """Generate the materials of the line: a second or two."""
        self.config = config
        self._camera = CAMERAS[config.camera]
        self.side = SIDE_PX * self._camera.scale
        self._background = LineBackground(seed=config.seed, camera=self._camera)
        self.textures = Textures(surfaces=config.surfaces, seed=config.seed, side=self.side, scale=self._camera.scale)
        self._sigma = {
            surface: self.textures.deviation(surface, np.random.default_rng((config.seed, 5)))
            for surface in config.surfaces
        }
        rng = np.random.default_rng((config.seed, 37))
        shape = (_NOISE_SIDE, _NOISE_SIDE, self._camera.channels)
        noise = rng.standard_normal(shape, dtype=np.float32) * np.float32(config.noise)
        self.noise = np.squeeze(np.clip(np.rint(noise), -127, 127).astype(np.int8))

    @property
    def camera(self) -> CameraModel:
        """The camera that looks at the line."""
        return self._camera

    @property
    def roi(self) -> Box:
        """The square of the frame (x, y, width, height) that holds the part."""
        return self._camera.roi

    def render_blank(self, recipe: RenderRecipe) -> tuple[Pixels, Pixels, int]:
        """Return a blank part's frame (no texture, no noise), where in its square metal is, and the belt's travel."""
        rng = part_sequence.stream(self.config.seed, part_sequence.PIXELS, recipe.picture)
        part, alpha = self._part(recipe, rng, textured=False)
        travel = int(rng.integers(0, 1 << 20))
        whole = (0, 0, self._camera.width, self._camera.height)
        frame = self._background.render_region(travel, *whole)
        self._composite(frame, part, alpha, recipe, whole)
        frame = self.blurred(self._apply_lighting(frame, recipe.light, whole), recipe)
        x, y = ((size - self.side) // 2 for size in whole[2:])
        lies = self.matrix(recipe.pose, (x, y, self.side, self.side))
        metal = np.asarray(cv2.warpAffine(alpha, lies, (self.side, self.side)), np.uint8)
        return frame, np.where(metal > 127, 255, 0).astype(np.uint8), travel

    def render_ground(self, recipe: RenderRecipe, travel: int, region: Box) -> Pixels:
        """Return the belt with the part's shadow under nominal light in `region` of the frame, without the part."""
        design = _design(recipe.surface, self._camera.scale)
        frame = self._background.render_region(travel, *region)
        shadow = cv2.warpAffine(
            design.shadow, self.matrix(recipe.pose, region), region[2:], flags=cv2.INTER_NEAREST, borderValue=255
        )
        return self._apply_lighting(_scaled(frame, np.asarray(shadow, dtype=np.uint8)), recipe.light, region)

    def blurred(self, picture: npt.NDArray[Any], recipe: RenderRecipe) -> npt.NDArray[Any]:
        """Blur as lens and belt do for this recipe."""
        return _blurred(picture, recipe, self._camera.scale)

    def draw_defect(self, recipe: RenderRecipe) -> DefectOverlay:
        """Draw the recipe's defect, from a random stream of its own: the part is the same with and without it."""
        canvas = DefectCanvas(
            rng=part_sequence.stream(self.config.seed, part_sequence.DAMAGE, recipe.picture),
            design=_design(recipe.surface, self._camera.scale),
            scale=self._camera.scale,
            texture_sigma=self._sigma[recipe.surface],
        )
        return draw(canvas, recipe.kind, recipe.difficulty)

    def matrix(self, pose: Pose, region: Box) -> npt.NDArray[np.float64]:
        """Return the 2x3 map from the part's square to the region's pixels."""
        centre = (self.side - 1) / 2.0
        matrix = cv2.getRotationMatrix2D((centre, centre), pose.degrees, 1.0)
        scale = self._camera.scale
        matrix[0, 2] += self._camera.width / 2.0 - 0.5 - centre - region[0] + pose.dx * scale
        matrix[1, 2] += self._camera.height / 2.0 - 0.5 - centre - region[1] + pose.dy * scale
        return np.asarray(matrix, dtype=np.float64)

    def _part(self, recipe: RenderRecipe, rng: np.random.Generator, *, textured: bool = True) -> tuple[Pixels, Pixels]:
        """Return the part on its own, (pixels, alpha), before it is laid on the belt."""
        design = _design(recipe.surface, self._camera.scale)
        damage = None if recipe.kind == "none" else self.draw_defect(recipe)
        grey = design.shade
        if textured:
            grey = grey * (1.0 + self.textures.cut(recipe.surface, rng))
        if self._camera.channels == 3:
            tone = 1.0 + rng.uniform(-0.012, 0.012, 3)
            planes = [cv2.convertScaleAbs(grey, alpha=t * k) for t, k in zip(design.tint, tone, strict=True)]
            pixels = np.asarray(cv2.merge(planes), dtype=np.uint8)
        else:
            pixels = np.asarray(cv2.convertScaleAbs(grey), dtype=np.uint8)
        alpha = design.alpha
        if damage is not None:
            alpha = alpha.copy()
            rows, columns = damage.brightness_change.shape
            where = np.s_[damage.y : damage.y + rows, damage.x : damage.x + columns]
            if pixels.ndim == 3:
                change = damage.brightness_change[..., None] * np.array(damage.tint, dtype=np.float32)
            else:
                change = damage.brightness_change
            pixels[where] = np.clip(np.rint(pixels[where] * (1.0 + change)), 0, 255).astype(np.uint8)
            if damage.missing is not None:
                alpha[where] = np.rint(alpha[where] * (1.0 - damage.missing)).astype(np.uint8)
        return pixels, alpha

    def _expose(self, recipe: RenderRecipe, region: Box) -> Pixels:
        """Render one region of the frame: belt, shadow, part, light, blur and noise, in this order."""
        rng = part_sequence.stream(self.config.seed, part_sequence.PIXELS, recipe.picture)
        part, alpha = self._part(recipe, rng)
        travel = int(rng.integers(0, 1 << 20))
        noise_x, noise_y = (int(value) for value in rng.integers(0, _NOISE_SIDE, 2))
        padded = self._padded(region)
        frame = self._background.render_region(travel, *padded)
        self._composite(frame, part, alpha, recipe, padded)
        frame = self._apply_lighting(frame, recipe.light, padded)
        frame = self.blurred(frame, recipe)
        x, y, width, height = region
        frame = frame[y - padded[1] : y - padded[1] + height, x - padded[0] : x - padded[0] + width]
        return self._noisy(frame, noise_x + x, noise_y + y)

    def _padded(self, region: Box) -> Box:
        x0, y0 = max(region[0] - _PAD_PX, 0), max(region[1] - _PAD_PX, 0)
        x1 = min(region[0] + region[2] + _PAD_PX, self._camera.width)
        y1 = min(region[1] + region[3] + _PAD_PX, self._camera.height)
        return x0, y0, x1 - x0, y1 - y0

    def _composite(self, frame: Pixels, part: Pixels, alpha: Pixels, recipe: RenderRecipe, region: Box) -> None:
        """Lay the part with its shadow onto the belt, in place."""
        x, y, width, height = self.roi
        top, left = y - region[1], x - region[0]
        target = frame[top : top + height, left : left + width]
        matrix = self.matrix(recipe.pose, self.roi)
        size = (width, height)
        design = _design(recipe.surface, self._camera.scale)
        moved = cv2.warpAffine(cv2.merge([*cv2.split(part), alpha]), matrix, size)
        cover = np.asarray(cv2.extractChannel(moved, self._camera.channels), dtype=np.uint8)
        metal = cv2.cvtColor(moved, cv2.COLOR_BGRA2BGR) if part.ndim == 3 else cv2.extractChannel(moved, 0)
        # The shadow is soft: the nearest pixel will do.
        shadow = cv2.warpAffine(design.shadow, matrix, size, flags=cv2.INTER_NEAREST, borderValue=255)
        belt = _scaled(_scaled(target, np.asarray(shadow, dtype=np.uint8)), 255 - cover)
        cv2.add(belt, _scaled(np.asarray(metal, dtype=np.uint8), cover), dst=belt)
        target[...] = belt

    def _apply_lighting(self, frame: Pixels, light: Lighting, region: Box) -> Pixels:
        """Apply the lamp: level, tilt over the ROI and fall-off towards the frame's corners."""
        scale, camera = self._camera.scale, self._camera
        x, y, width, height = region
        u = (np.arange(x, x + width, dtype=np.float32) - camera.width / 2.0) / (896.0 * scale)
        v = (np.arange(y, y + height, dtype=np.float32) - camera.height / 2.0) / (896.0 * scale)
        across = light.tilt_x * u - 0.10 * u * u
        along = light.tilt_y * v - 0.10 * v * v
        gain = np.float32(light.gain) * (1.0 + across[None, :] + along[:, None])
        level = np.rint(np.clip(gain * 128.0, 0.0, 255.0)).astype(np.uint8)
        if frame.ndim == 3:
            level = np.asarray(cv2.merge([level] * 3))
        return np.asarray(cv2.multiply(frame, level, scale=1.0 / 128.0), dtype=np.uint8)

    def _noisy(self, frame: Pixels, x: int, y: int) -> Pixels:
        """Add the sensor's noise, cut from a bank at (x, y) so that a ROI has the noise of its frame."""
        out = np.empty_like(frame, order="C")
        height, width = frame.shape[:2]
        row = 0
        while row < height:
            from_y = (y + row) % _NOISE_SIDE
            rows = min(height - row, _NOISE_SIDE - from_y)
            column = 0
            while column < width:
                from_x = (x + column) % _NOISE_SIDE
                columns = min(width - column, _NOISE_SIDE - from_x)
                noise = self.noise[from_y : from_y + rows, from_x : from_x + columns]
                piece = np.s_[row : row + rows, column : column + columns]
                out[piece] = cv2.add(frame[piece], noise, dtype=cv2.CV_8U)
                column += columns
            row += rows
        return out
