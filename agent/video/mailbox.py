"""Receives the inspecting process's messages in a capture process, beside OpenCV's blocking calls.

Promise: when the socket ends, the process ends within `_EXIT_S`, whatever a call of OpenCV does.
"""

from __future__ import annotations

import mmap
import os
import threading
from typing import TYPE_CHECKING, Final

from agent.video.capture_protocol import CaptureProtocolError, FrameRequest, FrameSlot, receive, send

if TYPE_CHECKING:
    import socket

    from agent.video.capture_protocol import CaptureMessage

_EXIT_S: Final = 1.0  # to release the camera


class Mailbox(threading.Thread):
    """The parent's messages, received by a thread of its own: the loop may block in OpenCV for long."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(name="mailbox", daemon=True)
        self._connection = connection
        self._changed = threading.Condition()
        self._slots: dict[int, mmap.mmap] = {}
        self._want: int | None = None
        self.ended: Final = threading.Event()

    def run(self) -> None:
        """Receive until the parent is gone."""
        try:
            while (received := receive(self._connection)) is not None:
                self._take(*received)
        except CaptureProtocolError:
            pass  # an invalid message: end
        finally:
            with self._changed:
                self.ended.set()
                self._changed.notify_all()

    def _take(self, message: CaptureMessage, descriptors: list[int]) -> None:
        with self._changed:
            if isinstance(message, FrameSlot) and descriptors:
                self._slots[message.slot] = mmap.mmap(descriptors[0], message.bytes)
            elif isinstance(message, FrameRequest):
                self._want = message.slot
            self._changed.notify_all()
        for descriptor in descriptors:
            os.close(descriptor)

    def wait_requested_slot(self, timeout_s: float = 0.0) -> int | None:
        """Return the slot that is requested within `timeout_s`; None when none is."""
        with self._changed:
            if timeout_s:
                self._changed.wait_for(lambda: self._want is not None or self.ended.is_set(), timeout_s)
            want, self._want = self._want, None
            return want

    def slot_memory(self, slot: int) -> mmap.mmap:
        """Return the memory of a slot."""
        return self._slots[slot]

    def send(self, message: CaptureMessage) -> None:
        """Send a message to the parent; `run` notices one that is gone."""
        try:
            send(self._connection, message)
        except OSError:
            self.ended.set()


def end_after(mailbox: Mailbox) -> None:
    """Wait for the parent's end, then end this process soon."""
    mailbox.ended.wait()
    threading.Event().wait(_EXIT_S)
    os._exit(0)
