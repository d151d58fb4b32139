"""Number and time of an exposure, drawn into the image as bars that survive JPEG and scaling.

Who reads it from the pixels that reach a worker knows how old the image is and which ones are missing, whatever the
agent believes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.records import Pixels

_BITS: Final = 32  # of each of the two rows
_LEVEL: Final = 128


@dataclass(frozen=True, slots=True)
class FrameStamp:
    """What an image says of itself."""

    number: int
    drawn_ms: int  # time.monotonic of this machine, milliseconds, modulo 2**32

    def age_ms(self) -> float:
        """Return how long ago it was drawn."""
        return (time.monotonic() * 1_000 - self.drawn_ms) % (1 << _BITS)


def draw_stamp(pixels: Pixels, *, number: int) -> None:
    """Draw number and time into the upper eighth of [H, W] or [H, W, 3]; W at least 8 px a bar."""
    height, width = pixels.shape[0] // 16, pixels.shape[1] // _BITS
    for row, value in enumerate((number, int(time.monotonic() * 1_000) % 2**_BITS)):
        bars = pixels[row * height : (row + 1) * height]
        bars[:] = 0
        for bit in range(_BITS):
            if value >> bit & 1:
                bars[:, bit * width : (bit + 1) * width] = 255


def read_stamp(pixels: Pixels) -> FrameStamp:
    """Read what `draw` drew."""
    height, width = pixels.shape[0] // 16, pixels.shape[1] // _BITS
    values = []
    for row in range(2):
        middle = pixels[row * height + height // 2, width // 2 : width * _BITS : width]
        lit = middle if middle.ndim == 1 else middle[:, 0]
        values.append(sum(1 << bit for bit in range(_BITS) if lit[bit] > _LEVEL))
    return FrameStamp(*values)


def stamped_jpegs(*, width: int = 512, height: int = 256) -> Callable[[int], bytes]:
    """Return the `picture` of a `CameraServer`: each is encoded when it is asked for."""
    rows = np.linspace(40, 200, height, dtype=np.uint8)[:, np.newaxis, np.newaxis]
    scene = np.ascontiguousarray(np.broadcast_to(rows, (height, width, 3)))

    def picture(number: int) -> bytes:
        pixels = scene.copy()
        draw_stamp(pixels, number=number)
        done, data = cv2.imencode(".jpg", pixels)
        if not done:
            raise RuntimeError("OpenCV cannot encode a JPEG")
        return data.tobytes()

    return picture
