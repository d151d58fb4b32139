"""Fetches a release from the folder that a release hint names, else from the configured repository.

Promise: the folders that are remembered are bounded.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import OrderedDict
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from agent.errors import FetchError, ReleaseRefusedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from agent.ports import FetchJob, ReleaseFetcher
    from agent.release_records import FetchedRelease, RepositoryStatus
    from greengrass.release_sources.release_hints import ReleaseHint

_MAX_FOLDERS: Final = 64
_LOCK_POLL_S: Final = 0.2
_log = logging.getLogger(__name__)


class FallbackFetcher:
    """A `ports.ReleaseFetcher` that tries the folder of a release hint first, then the configured repository.

    Trust is the same for both: the same root, the same site, the same record of metadata seen before. Files that a
    preflight has fetched to this disk are reused: the fetch requests what is missing, and verifies all of it.
    """

    def __init__(self, *, configured: ReleaseFetcher, in_folder: Callable[[Path], ReleaseFetcher]) -> None:
        """`in_folder` makes a fetcher for a repository that lies in a folder of this device."""
        self._configured = configured
        self._in_folder = in_folder
        self._lock = threading.Lock()
        self._fetch_lock = threading.Lock()  # one fetch at a time: they share the record of trusted metadata
        self._folders: OrderedDict[str, Path] = OrderedDict()
        self._last_fetch: tuple[str, Path] | None = None  # release and target folder

    def add_hint(self, hint: ReleaseHint) -> None:
        """Try the folder of `hint` for its release from now on."""
        with self._lock:
            self._folders[hint.release_id] = hint.folder
            self._folders.move_to_end(hint.release_id)
            while len(self._folders) > _MAX_FOLDERS:
                self._folders.popitem(last=False)

    def fetch(self, job: FetchJob) -> FetchedRelease:
        """See `ports.ReleaseFetcher`."""
        while not self._fetch_lock.acquire(timeout=_LOCK_POLL_S):
            if job.stop.is_set():
                raise FetchError("stopped", "the fetch was stopped while it waited for another one")
        try:
            self._link_last_fetch(job.release_id, job.into)
            fetched = self._fetch(job)
            self._last_fetch = (job.release_id, job.into)
        finally:
            self._fetch_lock.release()
        return fetched

    def _link_last_fetch(self, release_id: str, into: Path) -> None:
        """Link the files of the last fetch into `into`, where the fetch finds them and does not request them again."""
        known, folder = self._last_fetch or ("", into)
        if known != release_id or folder == into or not folder.is_dir():
            return
        for path in folder.iterdir():
            if path.is_file() and not path.is_symlink():
                with suppress(OSError):  # it exists, or this file system has no links: it is fetched again
                    os.link(path, into / path.name)

    def _fetch(self, job: FetchJob) -> FetchedRelease:
        with self._lock:
            folder = self._folders.get(job.release_id)
        refused: ReleaseRefusedError | None = None
        if folder is not None and folder.is_dir():
            try:
                return self._in_folder(folder).fetch(job)
            except ReleaseRefusedError as error:
                refused = error
                _log.warning("%s in %s: %s", job.release_id, folder, error)
            except FetchError as error:
                if job.stop.is_set():
                    raise
                _log.warning("%s in %s: %s; trying the configured repository", job.release_id, folder, error)
        try:
            return self._configured.fetch(job)
        except FetchError:
            if refused is not None and not job.stop.is_set():
                raise refused from None  # no other source has it: report the refusal of this one
            raise

    def refresh(self, *, trusted_utc_s: float, stop: threading.Event) -> RepositoryStatus:
        """See `ports.ReleaseFetcher`: only the configured repository knows of revocations."""
        return self._configured.refresh(trusted_utc_s=trusted_utc_s, stop=stop)
