"""The capture process's loop: grabs every exposure, decodes the requested ones into shared memory.

Promise: the camera is read continuously; an exposure that is not requested when it arrives is skipped and counted in
the next `FrameReady.skipped`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from agent.errors import CameraError
from agent.video.capture_protocol import CameraOpened, DecodeFailed, FrameReady, SlotTooSmall

if TYPE_CHECKING:
    from agent.records import Pixels
    from agent.video.mailbox import Mailbox
    from agent.video.opencv_cameras import LiveCamera

_GROW_S: Final = 1.0  # for the parent to provide a larger slot


def deliver_frames(camera: LiveCamera, mailbox: Mailbox) -> None:
    """Deliver until the parent ends it. Raises CameraError when the camera is lost."""
    mailbox.send(CameraOpened())
    delivery = _FrameDelivery(camera, mailbox)
    while not mailbox.ended.is_set():
        grabbed = camera.grab()
        delivery.skipped += grabbed.skipped
        slot = mailbox.wait_requested_slot()
        if slot is None:
            delivery.skipped += 1
        else:
            delivery.deliver(slot, grabbed.arrived_ns)


class _FrameDelivery:
    """Puts exposures into slots."""

    def __init__(self, camera: LiveCamera, mailbox: Mailbox) -> None:
        self._camera = camera
        self._mailbox = mailbox
        self._shape: tuple[int, ...] | None = None  # of the last exposure
        self.skipped = 0

    def deliver(self, slot: int, arrived_ns: int) -> None:
        """Decode the grabbed exposure into `slot`, or into a larger one that the parent provides."""
        room = self._room(slot)
        fits = self._shape is not None and int(np.prod(self._shape)) <= room.size
        target = room[: int(np.prod(self._shape))].reshape(self._shape) if fits and self._shape is not None else None
        pixels = self._camera.retrieve(target)
        if pixels is None:
            self._mailbox.send(DecodeFailed("the frame cannot be decoded"))
            return
        self._shape = pixels.shape
        if pixels is not target and not np.shares_memory(pixels, room):
            placed = self._placed(slot, pixels)
            if placed is None:
                self.skipped += 1
                return
            slot = placed
        self._mailbox.send(FrameReady(slot, pixels.shape, arrived_ns, self.skipped))
        self.skipped = 0

    def _room(self, slot: int) -> Pixels:
        return np.frombuffer(self._mailbox.slot_memory(slot), np.uint8)

    def _placed(self, slot: int, pixels: Pixels) -> int | None:
        """Copy `pixels` into `slot`, or into the larger one that comes on request; return which, None at the end."""
        if self._room(slot).size < pixels.nbytes:
            self._mailbox.send(SlotTooSmall(pixels.nbytes))
            larger = self._mailbox.wait_requested_slot(_GROW_S)
            if larger is None:
                return None
            slot = larger
        room = self._room(slot)
        if room.size < pixels.nbytes:
            raise CameraError("the inspecting process provides no memory for an image of this size")
        room[: pixels.nbytes].reshape(pixels.shape)[...] = pixels
        return slot
