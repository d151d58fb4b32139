"""Selects frames for collection and hands copies to the collecting child; the loop never waits.

`offer` decides by the verdict alone (a hash for an `ok` part: a microsecond) and, for a frame that is kept, copies it
into a free slot of shared memory: half a millisecond for 1080p, at most `max_per_s` times a second. When no slot is
free the frame is skipped and counted. Encoding, disk and network happen in a niced child process, not in a thread:
a thread of low priority that holds the interpreter's lock would hold up the workers as soon as the machine is busy.

A child that dies is started again and gets the unanswered frames again; no copied frame is lost by that, and none
is kept twice. Frames in slots are lost with this process, as are verdicts that are not committed yet.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from agent.children.collect_client import CollectClient
from agent.children.collect_protocol import (
    CollectFailed,
    CollectJob,
    CollectSetup,
    JobDone,
    SettingsUpdate,
    SpoolStatus,
    StatusUpdate,
)
from agent.collection.frame_selection import select_frame
from agent.collection.shared_frames import SharedFrame
from agent.collection.spool import SPOOL_FOLDER
from agent.errors import MessageError, UploadError
from agent.supervision import ThreadSupervisor
from agent.timing.backoff import Backoff
from agent.timing.rate import RateLimit
from agent.wire import CollectionHealth, encode_verdict
from agent.wire.collected_frame import CollectReason, collected_stem

if TYPE_CHECKING:
    from pathlib import Path

    from agent.collection.frame_selection import Selection
    from agent.config import CollectionConfig
    from agent.records import Box, Frame, Verdict
    from agent.supervision import Fault
    from agent.timing.clock import Clock

SHARED_FRAMES: Final = 6  # frames that may wait for the child: bounds memory
_RESERVED_FOR_SAMPLES: Final = 1  # of them, so that a flood of defects does not bias the random sample
_BURST: Final = 8
_TRIES: Final = 3  # of a frame with which the child died
_IDLE_S: Final = 1.0
_BACKOFF: Final = Backoff(first_s=0.5, longest_s=60.0)  # before the child is started again
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Pending:
    """A frame in a slot, until the child has answered for it."""

    number: int
    shared_frame: SharedFrame
    shape: tuple[int, ...]
    choice: Selection
    verdict: Verdict
    crop: Box | None
    site: str
    is_sent: bool = False
    tries: int = field(default=0)

    def job(self) -> CollectJob:
        """Return the order for the child."""
        return CollectJob(
            number=self.number,
            slot=self.shared_frame.index,
            shape=self.shape,
            stem=collected_stem(self.site, self.verdict),
            site=self.site,
            reason=self.choice.reason,
            sample_rate=self.choice.sample_rate,
            crop=self.crop,
            class_name=self.verdict.judgement.class_name,
            verdict=json.loads(encode_verdict(self.verdict)),
        )


class Collector:
    """Takes inspected frames from the workers; see the module. One for an agent."""

    def __init__(
        self,
        *,
        state_dir: Path,
        settings: CollectionConfig,
        boot_epoch: int,
        clock: Clock,
        supervisor: ThreadSupervisor | None = None,
    ) -> None:
        """Start nothing yet. Raises OSError where the system has no shared memory."""
        self._folder = state_dir / SPOOL_FOLDER
        self._settings = settings
        self._boot_epoch = boot_epoch
        self._clock = clock
        self._shared_frames = [SharedFrame(index) for index in range(SHARED_FRAMES)]
        self._free = list(self._shared_frames)
        self._rate = RateLimit(per_s=settings.max_per_s, burst=_BURST)
        self._sample_rate = RateLimit(per_s=settings.max_per_s, burst=_BURST)
        self._lock = threading.Lock()
        self._number = 0
        self._pending: deque[_Pending] = deque()
        self._skipped = Counter[str]()
        self._spool_status = SpoolStatus()
        self._child_error: str | None = None  # why there is no child
        self._has_new_settings = False  # settings that the child does not know yet
        self._closing = False
        self._is_closed = False
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._stopped = threading.Event()
        self._child: CollectClient | None = None
        supervisor = supervisor or ThreadSupervisor(clock=clock)
        self._conditions = supervisor.condition_log(_log)
        self._thread = supervisor.thread(self._run, kind="collector", stop=self._stopped, on_fault=self._on_fault)

    # --- the workers' side --------------------------------------------------------------------------------------------

    def offer(self, frame: Frame, verdict: Verdict, roi: Box) -> None:
        """Copy the frame if it is worth keeping; `roi` is the inspected region. From any thread, never waits."""
        settings = self._settings
        choice = select_frame(verdict, settings)
        if choice is not None:
            self._take(frame, verdict, roi, choice, settings)

    def offer_disagreement(self, frame: Frame, verdict: Verdict, roi: Box) -> None:
        """Likewise, for a frame offered before on which the challenger of a shadow deployment disagrees."""
        settings = self._settings
        choice = select_frame(verdict, settings)
        if choice is not None and select_frame(replace(verdict, challenger_outcome=None), settings) is None:
            self._take(frame, verdict, roi, choice, settings)

    def _take(self, frame: Frame, verdict: Verdict, roi: Box, choice: Selection, settings: CollectionConfig) -> None:
        is_sample = choice.reason is CollectReason.SAMPLE
        with self._lock:
            if self._closing or len(self._free) <= (0 if is_sample else _RESERVED_FOR_SAMPLES):
                self._skipped["busy"] += 1
                return
            if not (self._sample_rate if is_sample else self._rate).try_take(self._clock.monotonic_ns()):
                self._skipped["rate"] += 1
                return
            slot = self._free.pop()
        x, y, width, height = roi
        is_whole = not settings.roi_only or (height, width) == frame.pixels.shape[:2]
        pixels = frame.pixels if is_whole else frame.pixels[y : y + height, x : x + width]
        slot.fill(pixels)
        crop = None if is_whole else roi
        with self._lock:
            self._number += 1
            self._pending.append(_Pending(self._number, slot, pixels.shape, choice, verdict, crop, settings.site))
            self._wake_up()

    def _wake_up(self) -> None:
        """Wake the thread; call with the lock held."""
        if not self._is_closed:
            os.eventfd_write(self._wake, 1)

    # --- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the child."""
        self._thread.start()

    def set_settings(self, settings: CollectionConfig) -> None:
        """Use `settings` from now on; from any thread."""
        with self._lock:
            self._settings = settings
            self._rate.set_limit(per_s=settings.max_per_s, burst=_BURST)
            self._sample_rate.set_limit(per_s=settings.max_per_s, burst=_BURST)
            self._has_new_settings = True
            self._wake_up()

    def health(self) -> CollectionHealth:
        """Return the state of collecting, for the heartbeat."""
        figures = self._spool_status
        with self._lock:
            skipped = dict(self._skipped)
        error = self._child_error or figures.error
        return CollectionHealth(
            kept=figures.kept,
            dropped=figures.dropped,
            skipped=skipped,
            uploaded=figures.uploaded,
            waiting=figures.waiting,
            waiting_bytes=figures.waiting_bytes,
            set_aside=figures.set_aside,
            day_bytes=figures.day_bytes,
            error=None if error is None else error[:256],
        )

    @property
    def taken(self) -> int:
        """Frames that were copied since the start."""
        return self._number

    @property
    def settled(self) -> int:
        """How many of them, in order, are kept or dropped and counted."""
        with self._lock:
            return self._pending[0].number - 1 if self._pending else self._number

    @property
    def child_pid(self) -> int | None:
        """Process id of the child; None while there is none."""
        child = self._child
        return None if child is None else child.pid

    def close(self, timeout_s: float) -> None:
        """Take no more frames, let the child keep the accepted ones, and end it; within `timeout_s` seconds."""
        with self._lock:
            self._closing = True
            self._wake_up()
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        child = self._child
        if self._thread.is_alive() and child is not None:
            child.kill()
            self._thread.join(1.0)
        with self._lock:
            if self._pending:
                _log.warning("%d collected frames were not kept: the time to stop was over", len(self._pending))
                self._skipped["stopped"] += len(self._pending)
            if self._is_closed or self._thread.is_alive():
                return
            self._is_closed = True
            os.close(self._wake)
            for slot in self._free:  # the others are still being filled by a worker that does not stop
                slot.close()

    # --- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        failures = 0
        while True:
            before = self._spool_status
            try:
                self._run_child()
            except UploadError as error:
                self._handle_child_failure(str(error))
            else:
                return
            if self._spool_status is not before:
                failures = 0
            failures += 1
            if self._clock.wait(self._stopped, _BACKOFF.ceiling_s(failures)) and not self._pending:
                return  # otherwise one more attempt for the frames that were accepted

    def _on_fault(self, fault: Fault) -> None:
        self._child_error = f"collecting met a bug and begins again ({fault.text}); the log has its trace"

    def _run_child(self) -> None:
        """Start a child and work with it until collecting stops. Raises UploadError when the child ends before."""
        setup = CollectSetup(
            folder=self._folder.absolute(),
            settings=self._settings,
            slots=tuple(slot.fd for slot in self._shared_frames),
            boot_epoch=self._boot_epoch,
        )
        child = self._child = CollectClient(setup, pass_fds=setup.slots)
        try:
            with self._lock:
                for pending in self._pending:
                    pending.is_sent = False
            child.register(self._wake)
            while not (self._closing and not self._pending):
                for reply in child.poll(_IDLE_S):
                    self._handle_reply(reply)
                self._send_pending(child)
        finally:
            child.close()
            self._child = None

    def _send_pending(self, child: CollectClient) -> None:
        with suppress(BlockingIOError):
            os.eventfd_read(self._wake)
        with self._lock:
            news, self._has_new_settings = self._has_new_settings, False
            unsent = [pending for pending in self._pending if not pending.is_sent]
        if news:
            child.send(SettingsUpdate(settings=self._settings))
        for pending in unsent:
            try:
                child.send(pending.job())
            except MessageError as error:  # such a verdict cannot be published, either
                _log.warning("a frame is not kept: %s", error)
                with self._lock:
                    self._pending.remove(pending)
                    self._free.append(pending.shared_frame)
                    self._skipped["unencodable"] += 1
            else:
                pending.is_sent = True

    def _handle_reply(self, reply: object) -> None:
        match reply:
            case JobDone():
                self._spool_status = reply.figures
                self._clear_child_error()
                with self._lock:
                    while self._pending and self._pending[0].number <= reply.number:
                        self._free.append(self._pending.popleft().shared_frame)
            case StatusUpdate():
                self._spool_status = reply.figures
                self._clear_child_error()
            case CollectFailed():
                raise UploadError("unable", reply.text)
            case _:
                raise UploadError("crashed", "the collecting child sent a reply that was not requested")

    def _clear_child_error(self) -> None:
        if self._child_error is not None:
            self._child_error = None
            self._conditions.clear_fault("collecting", "goes on")

    def _handle_child_failure(self, text: str) -> None:
        """Report it; give up on a frame with which the child died `_TRIES` times."""
        self._conditions.report_fault("collecting", f"{text}; it goes on as soon as it can")
        self._child_error = text
        with self._lock:
            if not self._pending or not self._pending[0].is_sent:
                return
            first = self._pending[0]
            first.tries += 1
            if first.tries >= _TRIES:
                self._pending.popleft()
                self._free.append(first.shared_frame)
                self._skipped["crashed"] += 1
