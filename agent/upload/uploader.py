"""The thread that uploads the spool to the target, the oldest frame first.

A failure is followed by a pause that doubles, up to two minutes, with a third of jitter so that the devices of a plant
do not come back all at once; credentials are read anew each time. Nothing leaves the spool before the target has
acknowledged it, and a step that is repeated after a kill changes nothing there.
"""

from __future__ import annotations

import logging
import random
import sqlite3
import threading
from typing import TYPE_CHECKING, Final

from agent.collection.spool_items import UploadState
from agent.errors import UploadError
from agent.supervision import ThreadSupervisor
from agent.timing.backoff import Backoff, FailureCounter
from agent.upload.target_factory import open_target
from agent.upload.upload_targets import ConflictError, SpooledImageChangedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.children.collect_protocol import SpoolStatus
    from agent.collection.spool import Spool
    from agent.collection.spool_items import SpoolItem
    from agent.config import CollectionConfig
    from agent.supervision import Fault
    from agent.timing.clock import Clock
    from agent.upload.upload_targets import UploadTarget

_BACKOFF: Final = Backoff(first_s=1.0, longest_s=120.0, jitter=(0.67, 1.33))
_IDLE_S: Final = 5.0
_MAX_REFUSALS: Final = 5  # of one frame in a row, then it is set aside
_log = logging.getLogger(__name__)


class Uploader:
    """See the module."""

    def __init__(
        self, *, spool: Spool, settings: CollectionConfig, clock: Clock, moved: Callable[[SpoolStatus], None]
    ) -> None:
        """`moved` is called with a changed status, on the uploader's thread."""
        self._spool = spool
        self._settings = settings
        self._clock = clock
        self._on_figures = moved
        self._error: str | None = None
        self._refusals = 0
        self._failures = FailureCounter(_BACKOFF, random.Random())  # noqa: S311 - spreads retries, guards nothing
        self._changed = threading.Event()
        supervisor = ThreadSupervisor(clock=clock)
        self._conditions = supervisor.condition_log(_log)
        self._thread = supervisor.thread(self._run, kind="upload", on_fault=self._failed)

    def start(self) -> None:
        """Start; the thread ends with the process."""
        self._thread.start()

    def reconfigure(self, settings: CollectionConfig) -> None:
        """Use `settings`, after the frame that is being uploaded."""
        self._settings = settings
        self._changed.set()
        self._spool.added.set()

    def figures(self) -> SpoolStatus:
        """Return the status of the spool and of this thread."""
        return self._spool.status(error=self._error)

    def _run(self) -> None:
        target: UploadTarget | None = None
        opened: CollectionConfig | None = None
        while True:
            try:
                if opened is not self._settings or target is None:
                    opened = self._settings
                    target = open_target(opened)
                    self._spool.set_target(opened.target or "")
                item = None if target is None else self._spool.next_item()
                if target is None or item is None:
                    self._spool.added.wait(_IDLE_S)
                    self._spool.added.clear()
                    continue
                self._upload(item, target)
            except (UploadError, OSError, sqlite3.Error) as error:
                target = None  # the next one reads credentials anew
                self._spool.release_item()
                self._wait(str(error))
            else:
                if self._error is not None:
                    self._conditions.clear_fault("upload of collected frames", "goes on")
                self._error = None
                self._failures.reset()
                self._on_figures(self.figures())

    def _failed(self, fault: Fault) -> None:
        """Uploading met a bug: the spool keeps its frames, and the thread starts again."""
        self._spool.release_item()
        self._error = f"uploading met a bug and begins again ({fault.text}); the log has its trace"
        self._on_figures(self.figures())

    def _upload(self, item: SpoolItem, target: UploadTarget) -> None:
        try:
            if item.state is UploadState.WAITING:
                target.put_image(item, self._spool)
                self._spool.mark_image_uploaded(item)
            target.put_sidecar(item)
        except ConflictError as error:
            _log.warning("%s", error)
            self._spool.set_aside(item)
        except SpooledImageChangedError as error:
            _log.warning("%s", error)
            self._spool.mark_missing(item)
        except UploadError as error:
            self._refusals = self._refusals + 1 if error.reason == "refused" else 0
            if self._refusals < _MAX_REFUSALS:
                raise
            _log.warning("%s is set aside, so that the others go on: %s", item.key, error)
            self._spool.set_aside(item)
        else:
            self._spool.complete(item)
        self._refusals = 0

    def _wait(self, text: str) -> None:
        self._conditions.report_fault("upload of collected frames", f"they wait: {text}")
        if text != self._error:
            self._error = text
            self._on_figures(self.figures())
        self._changed.clear()
        self._clock.wait(self._changed, self._failures.next_delay_s())
