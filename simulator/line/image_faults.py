"""Image faults of lamps, lenses and cameras: dark, black, white, flat, frozen.

For the checks of images.

Every degraded image but the frozen one has sensor noise of its own, as a living camera's has; equal seeds give equal
images.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from agent.records import Pixels

_DARK: Final = 0.1  # of the light
_BLACK_LEVEL: Final = 3.0  # grey levels of a covered sensor
_GREY: Final = 110.0
_VIGNETTING: Final = 0.3  # of the light, lost in the corners
_NOISE: Final = 1.6  # sigma in grey levels, as `LineConfig.noise`
_SPARE_PX: Final = 64  # by how much larger the bank of noise is than a frame


class InjectedFault(StrEnum):
    """What is wrong with the image."""

    DARK_LAMP = "dark_lamp"  # ten times too dark
    LENS_CAP = "lens_cap"  # black
    WHITE_OUT = "white_out"  # every pixel saturated
    FLAT = "flat"  # an even grey with dark corners: a covered lens in the light, a sheet before the part
    FROZEN = "frozen"  # the last image again and again


class ImageFaultInjector:
    """Spoils images of one camera, one after the other; not safe for threads."""

    def __init__(self, *, seed: int = 0) -> None:
        """Nothing is made before the first image."""
        self._rng = np.random.default_rng(seed)
        self._noise: np.ndarray[tuple[int, ...], np.dtype[np.float32]] | None = None
        self._last: Pixels | None = None

    def apply(self, pixels: Pixels, fault: InjectedFault) -> Pixels:
        """Return the image [H, W] or [H, W, 3] uint8 with that fault; `pixels` itself stays as it is."""
        if fault is InjectedFault.FROZEN:
            if self._last is None or self._last.shape != pixels.shape:
                self._last = pixels.copy()
            return self._last
        self._last = None
        match fault:
            case InjectedFault.WHITE_OUT:
                return np.full_like(pixels, 255)
            case InjectedFault.DARK_LAMP:
                light = pixels.astype(np.float32) * _DARK
            case InjectedFault.LENS_CAP:
                light = np.full(pixels.shape, _BLACK_LEVEL, np.float32)
            case _:
                light = np.broadcast_to(_even_grey(pixels.shape), pixels.shape)
        noisy: Pixels = np.clip(light + self._fresh_noise(pixels.shape), 0.0, 255.0).astype(np.uint8)
        return noisy

    def note_good_picture(self) -> None:
        """An image passed that was not spoilt: a later freeze has another one."""
        self._last = None

    def _fresh_noise(self, shape: tuple[int, ...]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        """Cut another piece out of a bank: drawing six million numbers a frame would hold the camera up."""
        size = (shape[0] + _SPARE_PX, shape[1] + _SPARE_PX, *shape[2:])
        if self._noise is None or self._noise.shape != size:
            self._noise = self._rng.standard_normal(size, np.float32) * np.float32(_NOISE)
        y, x = self._rng.integers(0, _SPARE_PX, 2)
        return self._noise[y : y + shape[0], x : x + shape[1]]


def _even_grey(shape: tuple[int, ...]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    y, x = np.ogrid[-1.0 : 1.0 : shape[0] * 1j, -1.0 : 1.0 : shape[1] * 1j]
    grey: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = (
        _GREY * (1.0 - _VIGNETTING * (x * x + y * y) / 2.0)
    ).astype(np.float32)
    return grey[:, :, None] if len(shape) == 3 else grey
