"""A pool of frame buffers: in steady state capture allocates nothing of a frame's size.

Life of a buffer: the capture thread acquires it, the source decodes into it, the frame carries its index, and the last
user of the frame releases it: the worker after the inspection, the intake when it displaces the frame, the capture
thread when it drops it. Code that needs pixels for longer (evidence of a defect) copies them first.

No thread ever waits for a buffer, so the pool cannot deadlock. When none is free, `acquire` returns -1 and the source
allocates that one image itself; memory stays bounded because the frames in flight are bounded by the intake and the
workers' batches. A pool of `intake capacity + workers x batch size + cameras` buffers never gets there; `misses`
counts.

Buffers are made on first use and remade when the size of the frames changes, so one pool serves cameras of different
sizes. All methods may be called from any thread.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from agent.records import Pixels

Shape = tuple[int, ...]


class FramePool:
    """At most `buffers` frame buffers, uint8, of any requested shapes."""

    def __init__(self, *, buffers: int) -> None:
        self._lock = threading.Lock()
        self._arrays: list[Pixels] = []
        self._held: set[int] = set()
        self._free: dict[Shape, list[int]] = {}
        self._capacity = buffers
        self._misses = 0

    @property
    def misses(self) -> int:
        """How often no buffer was free; it grows only when the pool is too small for the frames in flight."""
        return self._misses

    @property
    def held(self) -> int:
        """How many buffers are acquired and not yet released."""
        return len(self._held)

    def acquire(self, shape: Shape) -> int:
        """Return the index of a free buffer of `shape` ([H, W] or [H, W, 3]), or -1 when all are held."""
        with self._lock:
            index = self._acquire(shape)
            if index < 0:
                self._misses += 1
            else:
                self._held.add(index)
            return index

    def buffer(self, index: int) -> Pixels:
        """Return the buffer `index`, which the caller has acquired."""
        return self._arrays[index]

    def release(self, index: int) -> None:
        """Release the buffer; -1 marks a frame whose pixels the source owns, and is ignored.

        Raises ValueError for a buffer that is not held: otherwise two frames would share it.
        """
        if index < 0:
            return
        with self._lock:
            if index not in self._held:
                raise ValueError(f"frame buffer {index} is released twice")
            self._held.remove(index)
            # Last in, first out: the buffer that was used last is the one still in the cache.
            self._free.setdefault(self._arrays[index].shape, []).append(index)

    def _acquire(self, shape: Shape) -> int:
        if same := self._free.get(shape):
            return same.pop()
        if len(self._arrays) < self._capacity:
            self._arrays.append(np.empty(shape, np.uint8))
            return len(self._arrays) - 1
        for other in self._free.values():
            if other:
                index = other.pop(0)
                self._arrays[index] = np.empty(shape, np.uint8)
                return index
        return -1
