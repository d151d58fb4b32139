"""A line on which every part differs, made from pre-rendered blank parts at camera speed.

A blank part is a good part of one surface without texture and without noise: form, outline, rotation, belt, shadow,
tone, tilt of the light and blur. Each exposure takes one and gives it what differs from part to part: a place, the
lamp's level and the exposure, noise, a piece of the surface's texture, and its own defect, which is drawn and moved
with the part. That costs 2 ms for a 1080p frame, where `simulator.line.render` takes 30 ms. Simplified against it: the
texture is not rotated with the part (by 2 degrees at most), and noise is scaled by texture and defect as the part is.

Invariants: part k of a configuration always has the same pixels on one platform, whatever was made before; truth, mask
and pixels come from one recipe.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np

from simulator.line import part_sequence

if TYPE_CHECKING:
    from agent.records import Floats, Pixels
    from simulator.line.defects import DefectOverlay
    from simulator.line.part_renderer import PartRenderer
    from simulator.line.part_sequence import RenderRecipe

_SLACK: Final = 256  # camera pixels that the noise is larger than a frame: how many different pieces there are
_HALF: Final = 128  # a byte that means 0 in a field of noise, and 1 in a field of texture
_EDGE: Final = 12  # camera pixels around a defect in which blur moves it
# Part pixels, sigma: what the renderer does to a texture on average, which is to interpolate it where the part lies
# (0.41), to focus (0.35) and to move (0.25 along the belt).
_TEXTURE_BLUR: Final = 0.57
_RING_STEPS: Final = 4  # of a radial profile per part pixel


@dataclass(frozen=True, slots=True)
class BlankPart:
    """One blank part under nominal light; arrays are in camera pixels."""

    recipe: RenderRecipe
    pixels: Pixels  # [H + 2 m, W + 2 m] or [.., 3]: a frame with a margin of m, the largest shift
    metal: Pixels  # [side, side] uint8, 255 where texture belongs: the part's square
    travel: int  # of the belt, for what shows where metal is missing


class VariedParts:
    """Makes the parts of one line. Safe to use from several threads; blanks are rendered when they are first needed."""

    def __init__(self, line: PartRenderer) -> None:
        """Nothing is rendered yet."""
        self._line = line
        self._scale = line.camera.scale
        self._margin = int(line.config.jitter_px) * self._scale
        self._blanks: dict[int, BlankPart] = {}
        self._defect_overlays: dict[int, DefectOverlay] = {}
        self._lock = threading.Lock()  # of the two dictionaries

    def blank(self, number: int) -> BlankPart:
        """Return blank part `number`, rendered the first time: 30 ms for a colour frame, 120 ms for a mono one."""
        with self._lock:
            known = self._blanks.get(number)
        if known is None:
            recipe = part_sequence.blank_of(self._line.config, number)
            pixels, metal, travel = self._line.render_blank(recipe)
            m = self._margin
            padded = np.asarray(cv2.copyMakeBorder(pixels, m, m, m, m, cv2.BORDER_REPLICATE), np.uint8)
            known = BlankPart(recipe, padded, metal, travel)
            with self._lock:
                self._blanks[number] = known
        return known

    def draw_ahead(self, index: int) -> None:
        """Draw the defect of part `index`, where it has one, so that `frame` need not: up to 100 ms."""
        recipe = part_sequence.recipe_of(self._line.config, index)
        if recipe.kind != "none":
            damage = self._line.draw_defect(recipe)
            with self._lock:
                self._defect_overlays[index] = damage

    def frame(self, index: int, out: Pixels | None = None) -> Pixels:
        """Return the frame of part `index`, in `out` where that fits: [H, W, 3] or [H, W] uint8."""
        recipe = part_sequence.recipe_of(self._line.config, index)
        assert recipe.blank is not None  # noqa: S101 - for the type checker: the line varies
        blank = self.blank(recipe.blank)
        camera, m = self._line.camera, self._margin
        dx, dy = (value * self._scale for value in recipe.shift)
        view = blank.pixels[m - dy : m - dy + camera.height, m - dx : m - dx + camera.width]
        if out is None or out.shape != view.shape:
            out = np.empty(view.shape, np.uint8)
        rng = part_sequence.stream(self._line.config.seed, part_sequence.PIXELS, index)
        noise_y, noise_x, texture_y, texture_x = (int(v) for v in rng.integers(0, 1 << 30, 4))
        y, x = noise_y % _SLACK, noise_x % _SLACK
        noise = self._noise[y : y + camera.height, x : x + camera.width]
        cv2.addWeighted(view, recipe.light.gain, noise, 1.0, -_HALF, dst=out)
        square = self._square(recipe)
        self._texture(out[square], blank, (texture_y, texture_x), rng)
        if recipe.kind != "none":
            with self._lock:
                damage = self._defect_overlays.pop(index, None)
            self._apply_defect(out, recipe, blank, damage or self._line.draw_defect(recipe))
        return out

    def _square(self, recipe: RenderRecipe) -> tuple[slice, slice]:
        """Where the part's square lies in the frame: rows, columns."""
        camera, side = self._line.camera, self._line.side
        dx, dy = (value * self._scale for value in recipe.shift)
        top, left = (camera.height - side) // 2 + dy, (camera.width - side) // 2 + dx
        return slice(top, top + side), slice(left, left + side)

    def _texture(self, part: Pixels, blank: BlankPart, where: tuple[int, int], rng: np.random.Generator) -> None:
        """Give the metal of `part`, a view of the frame, a piece of its surface's texture, and own tool marks."""
        surface, side = blank.recipe.surface, self._line.side
        field = self._fields[surface]
        y, x = where[0] % (field.shape[0] - side + 1), where[1] % (field.shape[1] - side + 1)
        made = cv2.multiply(part, field[y : y + side, x : x + side], scale=1.0 / _HALF)
        if surface == "turned":
            made = cv2.multiply(made, self._rings(rng), scale=1.0 / _HALF)
        cv2.copyTo(made, blank.metal, part)

    def _apply_defect(self, frame: Pixels, recipe: RenderRecipe, blank: BlankPart, damage: DefectOverlay) -> None:
        """Put the defect where the part lies, blurred as the part is."""
        line = self._line
        matrix = line.matrix(recipe.pose, (0, 0, line.camera.width, line.camera.height))
        rows, columns = damage.brightness_change.shape
        corners = np.array([[0, 0, 1], [columns, 0, 1], [0, rows, 1], [columns, rows, 1]]) + [damage.x, damage.y, 0]
        moved = corners @ matrix.T
        left, top = (int(v) - _EDGE for v in np.floor(moved.min(axis=0)))
        right, bottom = (int(v) + _EDGE for v in np.ceil(moved.max(axis=0)))
        left, top = max(left, 0), max(top, 0)
        right, bottom = min(right, line.camera.width), min(bottom, line.camera.height)
        place = matrix.copy()
        place[:, 2] += matrix[:, :2] @ (damage.x, damage.y) - (left, top)
        size = (right - left, bottom - top)
        change = line.blurred(np.asarray(cv2.warpAffine(damage.brightness_change, place, size)), recipe)
        region = frame[top:bottom, left:right]
        tinted = change[..., None] * np.array(damage.tint, np.float32) if frame.ndim == 3 else change
        hurt = region * (1.0 + tinted)
        if damage.missing is not None:
            gone = line.blurred(np.asarray(cv2.warpAffine(damage.missing, place, size)), recipe)
            dx, dy = (value * self._scale for value in recipe.shift)
            ground = line.render_ground(blank.recipe, blank.travel, (left - dx, top - dy, *size))
            share = gone[..., None] if frame.ndim == 3 else gone
            hurt = hurt * (1.0 - share) + ground * np.float32(recipe.light.gain) * share
        region[...] = np.clip(np.rint(hurt), 0.0, 255.0).astype(np.uint8)

    # --- what all parts share -----------------------------------------------------------------------------------------

    @cached_property
    def _noise(self) -> Pixels:
        """The sensor's noise about `_HALF`, larger than a frame."""
        camera = self._line.camera
        bank = (self._line.noise.astype(np.int16) + _HALF).astype(np.uint8)
        repeat = [-(-(side + _SLACK) // bank.shape[0]) for side in (camera.height, camera.width)]
        tiled = np.tile(bank, (*repeat, 1) if bank.ndim == 3 else tuple(repeat))
        return np.ascontiguousarray(tiled[: camera.height + _SLACK, : camera.width + _SLACK])

    def _rings(self, rng: np.random.Generator) -> Pixels:
        """Return the tool marks of one turned part as shares of `_HALF`, [side, side] or [side, side, 3]."""
        profile = self._line.textures.rings(rng)[:, None]
        soft = cv2.GaussianBlur(profile, (1, 0), sigmaX=0.1, sigmaY=_TEXTURE_BLUR * _RING_STEPS)
        return self._planes(np.take(_shares(np.asarray(soft, np.float32)[:, 0]), self._line.textures.ring))

    def _planes(self, grey: Pixels) -> Pixels:
        return np.asarray(cv2.merge([grey] * 3) if self._line.camera.channels == 3 else grey, np.uint8)

    @cached_property
    def _fields(self) -> dict[str, Pixels]:
        """The texture of each surface as shares of `_HALF`."""
        banks = {surface: self._line.textures.bank(surface) for surface in self._line.config.surfaces}
        sigma = _TEXTURE_BLUR * self._scale
        soft = {
            surface: np.asarray(cv2.GaussianBlur(bank, (0, 0), sigma), np.float32) for surface, bank in banks.items()
        }
        return {surface: self._planes(_shares(bank)) for surface, bank in soft.items()}

    def prepare(self) -> None:
        """Make what all parts share: half a second."""
        _ = self._noise, self._fields


def _shares(texture: Floats) -> Pixels:
    """Return 1 + texture as bytes of which `_HALF` is 1."""
    return np.asarray(np.clip(np.rint((1.0 + texture) * _HALF), 0, 255), np.uint8)
