"""The configuration of a simulated line, as one frozen record.

Two lines with equal records show the same pixels.

Invariants: all lengths are in part pixels, which are the pixels of the colour camera's 896x896 ROI (the mono camera has
twice the resolution, so one part pixel is 2x2 of its pixels). All periods count parts, not seconds, so that a line is
the same at every frame rate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from agent.strict import Strict

if TYPE_CHECKING:
    from agent.records import Box

Surface = Literal["brushed", "cast", "turned"]
CameraName = Literal["colour1080", "mono5mp"]
DefectKind = Literal["scratch", "scratch_2px", "blowhole", "crack", "stain", "chip"]
Kind = Literal["none"] | DefectKind
Difficulty = Literal["none", "weak", "medium", "strong"]

SURFACES: tuple[Surface, ...] = ("brushed", "cast", "turned")
CLASSES: tuple[str, ...] = ("ok", "scratch", "blowhole", "crack", "stain", "chip")
DEFECT_KINDS: tuple[DefectKind, ...] = ("scratch", "scratch_2px", "blowhole", "crack", "stain", "chip")
DIFFICULTIES: tuple[Difficulty, ...] = ("weak", "medium", "strong")

ROI_PX = 896  # side of the square region that holds the part, part pixels
Rate = Annotated[float, Field(ge=0.0, le=1.0)]


def class_of(kind: Kind) -> str:
    """Return the class name that a defect kind belongs to: both scratch kinds are `scratch`, none is `ok`."""
    return {"none": "ok", "scratch_2px": "scratch"}.get(kind, kind)


@dataclass(frozen=True, slots=True)
class CameraModel:
    """Geometry of one camera. The optical centre looks at the middle of the belt."""

    width: int  # px
    height: int  # px
    channels: Literal[1, 3]
    scale: Literal[1, 2]  # camera pixels per part pixel

    @property
    def roi(self) -> Box:
        """The central square that holds the part: 896 px for the colour camera, 1792 px for the mono camera."""
        side = ROI_PX * self.scale
        return (self.width - side) // 2, (self.height - side) // 2, side, side


CAMERAS: dict[CameraName, CameraModel] = {
    "colour1080": CameraModel(width=1920, height=1080, channels=3, scale=1),
    "mono5mp": CameraModel(width=2448, height=2048, channels=1, scale=2),
}


class LineConfig(Strict):
    """One simulated line. Lighting is a function of the part's index only: see `simulator.line.part_sequence`."""

    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 1
    camera: CameraName = "colour1080"
    surfaces: Annotated[tuple[Surface, ...], Field(min_length=1)] = SURFACES
    defect_rate: Rate = 0.03
    kinds: Annotated[tuple[DefectKind, ...], Field(min_length=1)] = DEFECT_KINDS
    weak_share: Rate = 0.2  # of the defects; medium and strong share the rest evenly
    pool: Annotated[int, Field(ge=0, le=4096)] = 0  # images that the line cycles through; 0: every part is new
    vary: bool = False  # make each part anew from one of the pool's blank parts: see `simulator.line.varied_parts`
    pool_defect_share: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.4  # of the pool; not the rate on the line

    drift_amplitude: Annotated[float, Field(ge=0.0, le=0.6)] = 0.08  # of the light's level
    drift_period_parts: Annotated[int, Field(ge=2)] = 1500
    drift_shape: Literal["sine", "ramp"] = "sine"  # `ramp`: the lamp fades over one period and stays there
    drift_after_parts: Annotated[int, Field(ge=0)] = 0  # of a ramp: nominal light before
    exposure_step: Annotated[float, Field(ge=0.0, le=0.5)] = 0.05  # largest jump of the exposure, of its level
    exposure_step_every_parts: Annotated[int, Field(ge=1)] = 400
    flicker: Annotated[float, Field(ge=0.0, le=0.2)] = 0.01  # from part to part, of the light's level
    focus_blur_px: Annotated[float, Field(ge=0.0, le=6.0)] = 0.6  # largest sigma of the lens' blur
    motion_blur_px: Annotated[float, Field(ge=0.0, le=12.0)] = 1.5  # largest travel of the belt during the exposure
    noise: Annotated[float, Field(ge=0.0, le=20.0)] = 1.6  # sensor noise, sigma in grey levels
    jitter_px: Annotated[float, Field(ge=0.0, le=30.0)] = 10.0  # largest displacement of the part along each axis
    jitter_deg: Annotated[float, Field(ge=0.0, le=4.0)] = 2.0  # largest rotation of the part

    @model_validator(mode="after")
    def _vary_needs_blanks(self) -> Self:
        if self.vary and not self.pool:
            raise ValueError("vary makes parts from the blank parts of a pool; give pool, e.g. 32")
        return self
