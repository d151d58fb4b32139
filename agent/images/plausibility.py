"""Checks whether an image can prove anything about its part; pure.

It compares brightness and contrast with those of the golden set.

Promise: `measure` reads a few thousand bytes of the model's preprocessed input, in about 15 us; it never reads the
frame again. The limits come from the release's own golden set, whose images are model inputs, too, so both sides are
measured in the same way. An image beyond the limits of `find_fault` gets the outcome `unknown`; `describe_mismatch` is
narrower and only warns. A release whose golden set cannot be read has no limits, and nothing is checked.

Contrast is the RMS difference of neighbouring cells, means of 8 input pixels in every 16th row. Vignetting and uneven
light change it little, sensor noise is averaged out: a flat field stays near 0, also where its corners are dark.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np

from agent.records import ImageFault

if TYPE_CHECKING:
    from agent.records import Geometry, Pixels

_CELL_PX: Final = 8  # wide, one row high
_ROW_STEP: Final = 16  # from one row of cells to the next: reading every row would cost 2 % of the line's rate
_MAX_TILES: Final = 8  # of one part, evenly chosen
_DARK: Final = 0.3  # of the golden set's lowest level
_BRIGHT: Final = 0.2  # of what the golden set's highest level leaves up to white
_FLAT: Final = 0.25  # of the golden set's low contrast
_FLATTEST: Final = 0.8  # grey levels: sensor noise of sigma 1.6 at the model's scale gives less
_WHITE: Final = 255.0
_LOW_QUANTILE: Final = 0.05  # of the golden set's contrast: a single odd image does not widen the limit
_WARN_LEVEL: Final = (
    0.75  # `describe_mismatch`: share of the lowest level, and of the distance of the highest from black and white
)
_ASPECT: Final = (0.8, 1.25)  # of the trained one
_WARN_CONTRAST: Final = (0.6, 1.7)  # of the low, and of the highest contrast


@dataclass(frozen=True, slots=True)
class ImageStatistics:
    """Statistics of one part's image, as the model gets it; grey levels 0 to 255."""

    level: float  # mean
    contrast: float  # RMS difference of neighbouring cells; of the tile with the most


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """The range of the golden set; grey levels."""

    level_low: float
    level_high: float
    contrast_low: float
    contrast_high: float

    @property
    def darkest(self) -> float:
        """Below this level an image is dark."""
        return _DARK * self.level_low

    @property
    def brightest(self) -> float:
        """Above this level an image is bright."""
        return _WHITE - _BRIGHT * (_WHITE - self.level_high)

    @property
    def flattest(self) -> float:
        """Below this contrast an image is flat; 0 where the golden set has flat images itself."""
        return max(_FLATTEST, _FLAT * self.contrast_low) if self.contrast_low > _FLATTEST else 0.0


def measure(inputs: Pixels) -> ImageStatistics:
    """Measure one part's model inputs [tiles, H, W, C] uint8."""
    if len(inputs) == 1:
        return _measure_one(inputs[0])
    found = [_measure_one(inputs[i]) for i in range(0, len(inputs), -(-len(inputs) // _MAX_TILES))]
    return ImageStatistics(sum(s.level for s in found) / len(found), max(s.contrast for s in found))


def _measure_one(tile: Pixels) -> ImageStatistics:
    height, width, channels = tile.shape
    step = _ROW_STEP if height > _ROW_STEP * 3 // 2 else height // 2
    rows = np.ascontiguousarray(tile[step // 2 :: step, :, channels // 2])  # of colour the green: nearest to brightness
    cells = cv2.resize(rows, (max(2, width // _CELL_PX), len(rows)), interpolation=cv2.INTER_AREA)
    down = cv2.norm(cells[1:], cells[:-1], cv2.NORM_L2SQR) / cells[1:].size
    across = cv2.norm(cells[:, 1:], cells[:, :-1], cv2.NORM_L2SQR) / cells[:, 1:].size
    return ImageStatistics(cv2.mean(cells)[0], math.sqrt((down + across) / 2.0))


def measure_limits(images: Pixels) -> ImageLimits:
    """Return the range of golden images [N, H, W, C] uint8, N >= 1."""
    found = [_measure_one(image) for image in images]
    levels, contrasts = sorted(s.level for s in found), sorted(s.contrast for s in found)
    low = contrasts[int(_LOW_QUANTILE * (len(contrasts) - 1))]
    return ImageLimits(levels[0], levels[-1], low, contrasts[-1])


def find_fault(seen: ImageStatistics, limits: ImageLimits) -> ImageFault | None:
    """Return why the image proves nothing; None when it can be inspected. Dark and bright go before flat."""
    if seen.level < limits.darkest:
        return ImageFault.DARK
    if seen.level > limits.brightest:
        return ImageFault.BRIGHT
    return ImageFault.FLAT if seen.contrast < limits.flattest else None


def describe_fault(fault: ImageFault, seen: ImageStatistics, limits: ImageLimits) -> str:
    """Describe a fault with its measurements and its remedy, for the verdict."""
    match fault:
        case ImageFault.DARK:
            return (
                f"dark: brightness {seen.level:.0f} of 255, the model's images have {_span(limits)}, at least "
                f"{limits.darkest:.0f} is needed; check lamp, lens cap and exposure"
            )
        case ImageFault.BRIGHT:
            return (
                f"bright: brightness {seen.level:.0f} of 255, the model's images have {_span(limits)}, at most "
                f"{limits.brightest:.0f} is allowed; check exposure, gain and stray light"
            )
        case _:
            return (
                f"flat: contrast {seen.contrast:.1f}, at least {limits.flattest:.1f} is needed; is the lens covered or "
                "out of focus, or is there no part in view?"
            )


def describe_mismatch(seen: ImageStatistics, limits: ImageLimits) -> str | None:
    """Describe how a usable image differs from those that the model was trained on; None if it does not.

    For a warning: a model may classify such images correctly, or may reject or pass all of them.
    """
    problems = []
    brightest = min(limits.level_high / _WARN_LEVEL, _WHITE - _WARN_LEVEL * (_WHITE - limits.level_high))
    if not _WARN_LEVEL * limits.level_low <= seen.level <= brightest:
        problems.append(f"brightness {seen.level:.0f} of 255 against {_span(limits)} in the golden set")
    low, high = _WARN_CONTRAST
    if not low * limits.contrast_low <= seen.contrast <= high * limits.contrast_high:
        span = f"{limits.contrast_low:.1f} to {limits.contrast_high:.1f}"
        problems.append(f"contrast {seen.contrast:.1f} against {span} in the golden set")
    return "; ".join(problems) or None


def _span(limits: ImageLimits) -> str:
    return f"{limits.level_low:.0f} to {limits.level_high:.0f}"


def describe_shape_mismatch(geometry: Geometry, *, region: tuple[int, int], has_roi: bool) -> str | None:
    """Describe how a region (width, height in px) is squeezed or padded for the model; None if it is not."""
    width, height = region
    if width < geometry.width or height < geometry.height:
        return (
            f"the image is smaller than the model's input: {width}x{height} px against "
            f"{geometry.width}x{geometry.height}, so its border is repeated; use a larger roi, or more "
            "pixels of the camera"
        )
    seen, trained = width / height, geometry.width / geometry.height
    if geometry.mode == "tiles" or _ASPECT[0] <= seen / trained <= _ASPECT[1]:
        return None
    remedy = "correct the inspection's roi" if has_roi else "set the inspection's roi"
    return (
        f"the image has another aspect than trained: {width}x{height} px are {seen:.2f} wide to high, the model's "
        f"input is {trained:.2f}, so parts look squeezed to it: {remedy}"
    )
