"""From a recipe to pixels: the simulated line as a camera sees it, with the truth of every part.

Invariants: part k of a configuration always has the same pixels on one platform, whatever was rendered before; the
ROI of a frame and the ROI rendered alone are the same pixels; the part lies inside the ROI.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import cv2
import numpy as np

from simulator.line import part_sequence
from simulator.line.config import LineConfig, class_of
from simulator.line.part_renderer import PartRenderer
from simulator.line.varied_parts import VariedParts

if TYPE_CHECKING:
    from agent.records import Box, Pixels
    from simulator.line.config import Difficulty, Kind, Surface
    from simulator.line.part_sequence import Lighting, Pose, RenderRecipe

RENDERER_VERSION = 1  # part of the cache's key: raise it with every change of pixels


@dataclass(frozen=True, slots=True)
class PartTruth:
    """What really lies under the camera when part `part_id` is exposed."""

    part_id: str
    index: int
    class_name: str  # one of simulator.line.CLASSES
    kind: Kind
    difficulty: Difficulty
    surface: Surface
    pose: Pose
    light: Lighting
    picture: int  # parts with equal numbers show the same pixels
    _line: SimulatedLine = field(repr=False, compare=False)

    @property
    def is_defective(self) -> bool:
        """True when the part must be rejected."""
        return self.kind != "none"

    def mask(self) -> Pixels:
        """Return [H, W] uint8 in frame pixels: 255 on the defect, 0 elsewhere. Drawn when asked for: milliseconds."""
        return self._line.mask(self.index)

    def box(self) -> Box | None:
        """Return the defect's bounding box in frame pixels, or None for a good part."""
        mask = self.mask()
        if not mask.any():
            return None
        x, y, width, height = cv2.boundingRect(mask)
        return x, y, width, height


class SimulatedLine(PartRenderer):
    """A conveyor with a camera over it. Immutable after construction and safe to use from several threads."""

    def __init__(self, config: LineConfig) -> None:
        """Generate the materials of the line: a second or two."""
        super().__init__(config)
        self.varied = VariedParts(self)  # the parts of a line that varies

    def part_id(self, index: int) -> str:
        """Return the id of part `index`: `S{seed}-{index}` with seven digits."""
        return f"S{self.config.seed}-{index:07d}"

    def index_of(self, part_id: str) -> int:
        """Return the index of a part id of this line. Raises ValueError for an id of another line."""
        match = re.fullmatch(r"S(\d+)-(\d{7,})", part_id)
        if match is None or int(match[1]) != self.config.seed:
            raise ValueError(f"{part_id!r} is not a part of this line; its first part is {self.part_id(0)!r}")
        return int(match[2])

    def truth(self, part: int | str) -> PartTruth:
        """Return the truth of a part by index or part id, without drawing anything: tens of microseconds."""
        index = self.index_of(part) if isinstance(part, str) else part
        recipe = self._recipe(index)
        return PartTruth(
            part_id=self.part_id(index),
            index=index,
            class_name=class_of(recipe.kind),
            kind=recipe.kind,
            difficulty=recipe.difficulty,
            surface=recipe.surface,
            pose=recipe.pose,
            light=recipe.light,
            picture=recipe.picture,
            _line=self,
        )

    def _recipe(self, index: int) -> RenderRecipe:
        if index < 0:
            raise ValueError(f"part index {index} is negative; the first part is 0")
        return part_sequence.recipe_of(self.config, part_sequence.picture_of(self.config, index))

    def render(self, index: int) -> Pixels:
        """Return the whole frame of part `index`: [1080, 1920, 3] BGR or [2048, 2448] mono, uint8."""
        if self.config.vary:
            return self.varied.frame(index)
        return self._expose(self._recipe(index), (0, 0, self.camera.width, self.camera.height))

    def render_picture(self, picture: int) -> Pixels:
        """Return the whole frame of an image by its number (see `PartTruth.picture`)."""
        if self.config.vary:
            return self.varied.frame(picture)
        recipe = part_sequence.recipe_of(self.config, picture)
        return self._expose(recipe, (0, 0, self.camera.width, self.camera.height))

    def render_roi(self, index: int) -> Pixels:
        """Return the ROI of part `index` alone, as `render` would show it: [896, 896, 3] or [1792, 1792] uint8."""
        if self.config.vary:
            x, y, width, height = self.roi
            return self.varied.frame(index)[y : y + height, x : x + width]
        return self._expose(self._recipe(index), self.roi)

    def mask(self, index: int) -> Pixels:
        """Return the defect's mask of part `index` in frame pixels [H, W] uint8: 255 on the defect, 0 elsewhere."""
        out = np.zeros((self.camera.height, self.camera.width), dtype=np.uint8)
        x, y, width, height = self.roi
        out[y : y + height, x : x + width] = self.mask_roi(index)
        return out

    def mask_roi(self, index: int) -> Pixels:
        """Return the defect's mask of part `index` in ROI pixels [h, w] uint8."""
        recipe = self._recipe(index)
        _, _, width, height = self.roi
        if recipe.kind == "none":
            return np.zeros((height, width), dtype=np.uint8)
        damage = self.draw_defect(recipe)
        flat = np.zeros((self.side, self.side), dtype=np.uint8)
        rows, columns = damage.mask.shape
        flat[damage.y : damage.y + rows, damage.x : damage.x + columns] = damage.mask * np.uint8(255)
        moved = cv2.warpAffine(flat, self.matrix(recipe.pose, self.roi), (width, height), flags=cv2.INTER_LINEAR)
        return np.asarray(np.where(np.asarray(moved) > 127, 255, 0), dtype=np.uint8)
