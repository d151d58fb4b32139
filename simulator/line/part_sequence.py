"""The sequence of parts: a pure function of (configuration, index), cheap enough for every verdict.

Invariants: planning never draws a pixel; two readers with the same `LineConfig` agree on every part of the line, in any
order of asking; with a pool, parts that share an image share its recipe and differ in part id and index only; on a
line that varies no two parts share an image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from simulator.line.config import Difficulty, Kind, LineConfig, Surface

_CHOICE, _RECIPE, _STEP, PIXELS, DAMAGE, VARIETY = range(6)  # independent random streams of one line
_U64 = 2**64 - 1
_POOL_LEVELS = 8  # light levels that a large pool holds


@dataclass(frozen=True, slots=True)
class Pose:
    """Where the part lies: displacement in part pixels and rotation in degrees about the ROI's centre."""

    dx: float
    dy: float
    degrees: float


@dataclass(frozen=True, slots=True)
class Lighting:
    """The state of the lamp and the exposure for one image."""

    drift: float  # the lamp's level by slow drift; 1 is nominal
    exposure: float  # the exposure's level by steps; 1 is nominal
    gain: float  # what reaches the pixels: drift x exposure x flicker
    tilt_x: float  # relative change of the light from the ROI's left edge to its right edge
    tilt_y: float  # the same from top to bottom


@dataclass(frozen=True, slots=True)
class RenderRecipe:
    """All that an image is rendered from, besides the random stream `picture`."""

    picture: int  # number of the image; equals the part's index on a line without a pool
    surface: Surface
    kind: Kind
    difficulty: Difficulty
    pose: Pose
    light: Lighting
    focus_px: float  # sigma
    motion_px: float  # travel along the belt
    blank: int | None = None  # number of the blank part that a line which varies made this one from
    shift: tuple[int, int] = (0, 0)  # part pixels (x, y) that the blank part is moved by; contained in `pose`


def stream(seed: int, purpose: int, number: int) -> np.random.Generator:
    """Return the random stream for one purpose and one part; streams do not depend on the order of asking."""
    return np.random.Generator(np.random.Philox(key=np.array([seed * 8 + purpose, number], dtype=np.uint64)))


def _uniform(seed: int, purpose: int, number: int) -> float:
    """Return one number in [0, 1) of a stream, in a microsecond: splitmix64 (Steele, Lea and Flood 2014)."""
    z = ((seed * 8 + purpose) * 0xD1B54A32D192ED03 + (number + 1) * 0x9E3779B97F4A7C15) & _U64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _U64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _U64
    return ((z ^ (z >> 31)) >> 11) / 2**53


def drift_at(config: LineConfig, index: int) -> float:
    """Return the lamp's level at part `index`: 1 is nominal, changes over `drift_period_parts` parts."""
    if config.drift_shape == "ramp":
        faded = (index - config.drift_after_parts) / config.drift_period_parts
        return 1.0 - config.drift_amplitude * min(max(faded, 0.0), 1.0)
    phase = index / config.drift_period_parts
    return 1.0 + config.drift_amplitude * math.sin(2.0 * math.pi * phase)


def exposure_at(config: LineConfig, index: int) -> float:
    """Return the exposure's level at part `index`: constant for `exposure_step_every_parts` parts, then it jumps."""
    step = index // config.exposure_step_every_parts
    if step == 0:
        return 1.0
    return 1.0 + config.exposure_step * (2.0 * _uniform(config.seed, _STEP, step) - 1.0)


def pool_levels(config: LineConfig) -> int:
    """Return how many light levels the pool holds (0 without a pool); images are spread evenly over them."""
    return min(_POOL_LEVELS, max(1, config.pool // 8)) if config.pool else 0


def _pool_defects(config: LineConfig, level: int) -> tuple[int, int]:
    """Return (images, defective images) of the pool at one light level."""
    pictures = len(range(level, config.pool, pool_levels(config)))
    return pictures, min(max(1, round(pictures * config.pool_defect_share)), pictures - 1) if pictures > 1 else 0


def _drift_range(config: LineConfig) -> tuple[float, float]:
    """Return the lowest level of the lamp and the span up to the highest."""
    amplitude = config.drift_amplitude
    return 1.0 - amplitude, amplitude if config.drift_shape == "ramp" else 2.0 * amplitude


def _level_light(config: LineConfig, level: int) -> float:
    low, span = _drift_range(config)
    return low + span * (level + 0.5) / pool_levels(config)


def picture_of(config: LineConfig, index: int) -> int:
    """Return the number of the image that part `index` shows.

    With a pool the part's class is drawn at the line's defect rate, and its image among those of the pool that have
    that class and the light level that is nearest to the drift at this moment. Exposure steps are left to lines without
    a pool.
    """
    if not config.pool or config.vary:
        return index
    levels = pool_levels(config)
    low, span = _drift_range(config)
    level = min(int((drift_at(config, index) - low) / span * levels), levels - 1) if span else 0
    pictures, defects = _pool_defects(config, level)
    if defects and _uniform(config.seed, _CHOICE, 2 * index) < config.defect_rate:
        first, count = 0, defects
    else:
        first, count = defects, pictures - defects
    return level + (first + int(_uniform(config.seed, _CHOICE, 2 * index + 1) * count)) * levels


def _defect(config: LineConfig, kind: float, difficulty: float) -> tuple[Kind, Difficulty]:
    """Return the defect for two random numbers in [0, 1)."""
    strong_from = config.weak_share + (1.0 - config.weak_share) / 2.0
    grade: Difficulty = "weak" if difficulty < config.weak_share else "medium" if difficulty < strong_from else "strong"
    return config.kinds[int(kind * len(config.kinds))], grade


@lru_cache(maxsize=1024)
def blank_of(config: LineConfig, number: int) -> RenderRecipe:
    """Return the recipe of blank part `number` of a line that varies: good, in the middle, under nominal light."""
    whole = config.model_copy(update={"vary": False, "pool": 0, "defect_rate": 0.0})
    recipe = recipe_of(whole, number)
    light = replace(recipe.light, drift=1.0, exposure=1.0, gain=1.0)
    return replace(recipe, pose=Pose(0.0, 0.0, recipe.pose.degrees), light=light, blank=number)


def is_defective(config: LineConfig, index: int) -> bool:
    """Return whether part `index` of a line that varies is: cheaper than its whole recipe."""
    return float(stream(config.seed, VARIETY, index).random(2)[1]) < config.defect_rate


def _varied(config: LineConfig, index: int) -> RenderRecipe:
    """Return what part `index` of a line that varies shows."""
    draws = stream(config.seed, VARIETY, index).random(7)
    number = int(draws[0] * config.pool)
    blank = blank_of(config, number)
    kind, difficulty = (
        _defect(config, float(draws[2]), float(draws[3])) if draws[1] < config.defect_rate else ("none", "none")
    )
    reach = int(config.jitter_px)
    dx, dy = (int(draw * (2 * reach + 1)) - reach for draw in draws[4:6])
    drift, exposure = drift_at(config, index), exposure_at(config, index)
    gain = drift * exposure * (1.0 + config.flicker * float(2.0 * draws[6] - 1.0))
    return replace(
        blank,
        picture=index,
        kind=kind,
        difficulty=difficulty,
        pose=Pose(float(dx), float(dy), blank.pose.degrees),
        light=replace(blank.light, drift=drift, exposure=exposure, gain=gain),
        shift=(dx, dy),
    )


def recipe_of(config: LineConfig, picture: int) -> RenderRecipe:
    """Return what image number `picture` of the line shows."""
    if config.vary:
        return _varied(config, picture)
    rng = stream(config.seed, _RECIPE, picture)
    draws = rng.random(12)
    defective = bool(draws[0] < config.defect_rate)
    drift, exposure = 1.0, 1.0
    if config.pool:
        level = picture % pool_levels(config)
        defective = picture // pool_levels(config) < _pool_defects(config, level)[1]
        drift = _level_light(config, level)
    else:
        drift, exposure = drift_at(config, picture), exposure_at(config, picture)
    kind, difficulty = _defect(config, float(draws[1]), float(draws[2])) if defective else ("none", "none")
    signed = 2.0 * draws - 1.0
    return RenderRecipe(
        picture=picture,
        surface=config.surfaces[int(draws[3] * len(config.surfaces))],
        kind=kind,
        difficulty=difficulty,
        pose=Pose(
            dx=float(signed[4]) * config.jitter_px,
            dy=float(signed[5]) * config.jitter_px,
            degrees=float(signed[6]) * config.jitter_deg,
        ),
        light=Lighting(
            drift=drift,
            exposure=exposure,
            gain=drift * exposure * (1.0 + config.flicker * float(signed[7])),
            tilt_x=0.08 * float(signed[8]),
            tilt_y=0.08 * float(signed[9]),
        ),
        focus_px=float(draws[10]) * config.focus_blur_px,
        motion_px=float(draws[11]) * config.motion_blur_px,
    )
