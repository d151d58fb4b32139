"""The agent's capture process with a simulated driver: the child of `v4l2_camera`.

The driver behaves like V4L2: a queue of four buffers that the camera fills at its rate, oldest first, and that loses
exposures while it is full.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from simulator.doubles.cameras import frame_stamp

if TYPE_CHECKING:
    from agent.records import Pixels

WIDTH, HEIGHT = 512, 256
_BUFFERS: Final = 4  # what OpenCV asks of a driver


class _Driver:
    """In place of `cv2.VideoCapture`."""

    def __init__(self, *_: Any) -> None:
        self._options: dict[int, float] = {}
        self._changed = threading.Condition()
        self._filled: deque[Pixels] = deque()
        self._grabbed: Pixels | None = None
        self._number = 0

    def isOpened(self) -> bool:  # noqa: N802 - OpenCV's name
        return True

    def set(self, option: int, value: float) -> bool:
        import cv2  # noqa: PLC0415

        self._options[option] = value
        if option == cv2.CAP_PROP_FPS:
            threading.Thread(target=self._expose, args=(value,), name="sensor", daemon=True).start()
        return True

    def get(self, option: int) -> float:
        return self._options.get(option, 0.0)

    def _expose(self, fps: float) -> None:
        due = time.monotonic()
        while True:
            due += 1.0 / fps
            time.sleep(max(0.0, due - time.monotonic()))
            pixels = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
            with self._changed:
                if len(self._filled) < _BUFFERS:  # else the driver has nowhere to put it
                    frame_stamp.draw_stamp(pixels, number=self._number)
                    self._filled.append(pixels)
                self._number += 1
                self._changed.notify_all()

    def grab(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._filled)
            self._grabbed = self._filled.popleft()
        return True

    def retrieve(self, into: Pixels | None = None) -> tuple[bool, Pixels | None]:
        if self._grabbed is None:
            return False, None
        if into is None or into.shape != self._grabbed.shape:
            return True, self._grabbed.copy()
        np.copyto(into, self._grabbed)
        return True, into

    def release(self) -> None:
        self._filled.clear()


if __name__ == "__main__":
    import cv2

    from agent.video.__main__ import main

    cv2.VideoCapture = _Driver  # type: ignore[misc, assignment]
    os._exit(main(int(sys.argv[1])))
