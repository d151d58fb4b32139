"""Copies of frames in shared memory for a child process; no pixels are sent through a pipe."""

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from agent.records import Pixels


class SharedFrame:
    """Memory for one frame in an anonymous file; it grows to the largest frame so far."""

    def __init__(self, index: int) -> None:
        """Take no memory yet. Raises OSError where the system has no anonymous files."""
        self.index = index
        self.fd = os.memfd_create(f"kensa-collect-{index}", os.MFD_CLOEXEC)
        self._map: mmap.mmap | None = None

    def fill(self, pixels: Pixels) -> None:
        """Copy [H, W] or [H, W, 3] uint8, a region of a frame included."""
        if self._map is None or pixels.nbytes > len(self._map):
            os.ftruncate(self.fd, pixels.nbytes)
            self._map = mmap.mmap(self.fd, pixels.nbytes)
        room = np.frombuffer(self._map, np.uint8, count=pixels.nbytes)
        np.copyto(room.reshape(pixels.shape), pixels)

    def close(self) -> None:
        """Free the memory once no view of it is left."""
        os.close(self.fd)
        self._map = None


def view_shared_frame(fd: int, shape: tuple[int, ...]) -> Pixels:
    """Return a slot's pixels, read-only, in the process that inherited `fd`."""
    size = int(np.prod(shape))
    return np.frombuffer(mmap.mmap(fd, size, prot=mmap.PROT_READ), np.uint8).reshape(shape)
