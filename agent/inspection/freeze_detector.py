"""Detects a live camera that repeats one image.

A sensor's noise makes every frame differ, so equal frames mean that the camera is frozen. What equality proves depends
on the kind of camera. Raw pixels (V4L2, vendors' SDKs) and images that are coded one by one (MJPEG) differ from frame
to frame on a working sensor: the third equal frame in a row is classified as frozen. A video codec (RTSP) may decode a
still scene to equal frames until its next key frame: there equality must also last for a stated time. Files and replays
may repeat and are never checked.

Promise: about 500 pixels are compared for each frame, and all of them (by CRC-32) only where those are equal; a frame
that differs anywhere ends the run. The camera's capture thread uses it.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

import numpy as np

from agent.timing.clock import NS_PER_S

if TYPE_CHECKING:
    from agent.records import Pixels

EQUAL_FRAMES: Final = 3  # in a row, from which a source is frozen
_ROWS: Final = 12  # of the sample
_COLUMNS: Final = 40


class FreezeDetector:
    """One camera's run of equal frames. `after_s` None: never frozen; else equality must last for `after_s` seconds."""

    def __init__(self, after_s: float | None) -> None:
        """Begin without a frame."""
        self._after_ns = None if after_s is None else round(after_s * NS_PER_S)
        self._sample = b""
        self._checksum: int | None = None  # of the previous frame; None where its sample was new
        self._run = 0
        self._since_ns = 0

    def is_frozen(self, pixels: Pixels, now_ns: int) -> bool:
        """Check the next frame [H, W] or [H, W, 3] uint8; True from the frame on that proves the source frozen."""
        if self._after_ns is None:
            return False
        height, width = pixels.shape[:2]
        sample = pixels[:: max(1, height // _ROWS), :: max(1, width // _COLUMNS)].tobytes()
        if sample != self._sample:
            self._sample, self._checksum, self._run, self._since_ns = sample, None, 1, now_ns
            return False
        checksum = zlib.crc32(np.ascontiguousarray(pixels).data)
        if self._checksum is not None and checksum != self._checksum:
            self._run, self._since_ns = 0, now_ns
        self._checksum = checksum
        self._run += 1
        return self._run >= EQUAL_FRAMES and now_ns - self._since_ns >= self._after_ns
