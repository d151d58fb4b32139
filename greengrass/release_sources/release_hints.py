"""How the model component hands a release to the agent: local publish/subscribe on this device.

    kensa/model/<inspection>          {"release": "parts/1.1.0", "folder": "/where/its/TUF/repository/lies"}
    kensa/model/<inspection>/status   {"state", "active", "candidate", "desired", "refused", "reason", "text"}

A hint has no authority: it says which release to look at and where its bytes lie on this device, and what is found
there passes the same trust and the same gates as what comes from the cloud. Whoever may publish on the topic (local
accessControl) can make the agent look, nothing more. The same hint may come as often as it likes: the status is then
told again, which is how the component waits.

Promise: what arrives is judged as hostile; folders that are remembered are bounded.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from awsiot.greengrasscoreipc import model

from agent.errors import FetchError, MessageError, ReleaseRefusedError
from agent.release_records import DesiredRelease
from agent.wire import is_release_id
from agent.wire.codec import parse_strict_json, truncate
from greengrass.ipc.errors import IpcError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from agent.ports import FetchJob, ReleaseFetcher
    from agent.release_records import FetchedRelease, ModelStatus, ReleaseRef, RepositoryStatus
    from greengrass.ipc.connection import Connection

SOURCE: Final = "component"  # of what a hint desires
MAX_HINT_BYTES: Final = 4_096
_MAX_PATH: Final = 1_024
_MAX_FOLDERS: Final = 64
_MAX_TEXT: Final = 500
_LOCK_POLL_S: Final = 0.2
_log = logging.getLogger(__name__)


def hint_topic(inspection: str) -> str:
    """Return `kensa/model/{inspection}`."""
    return f"kensa/model/{inspection}"


def status_topic(inspection: str) -> str:
    """Return `kensa/model/{inspection}/status`."""
    return f"kensa/model/{inspection}/status"


@dataclass(frozen=True, slots=True)
class ReleaseHint:
    """A release and the folder of this device in which its repository lies."""

    release_id: str
    folder: Path

    def encode(self) -> bytes:
        """Return what is published."""
        return json.dumps({"release": self.release_id, "folder": str(self.folder)}).encode()


def parse_hint(payload: bytes) -> ReleaseHint:
    """Read a hint. Raises MessageError."""
    value = parse_strict_json(payload, limit=MAX_HINT_BYTES)
    if unknown := sorted(set(value) - {"release", "folder"}):
        raise MessageError(f"A hint has the unknown key {truncate(unknown[0], 40)!r}.")
    release, folder = value.get("release"), value.get("folder")
    if not isinstance(release, str) or not is_release_id(release):
        raise MessageError(f"A hint names {truncate(repr(release), 80)}, expected name/version such as parts/1.1.0.")
    if not isinstance(folder, str) or len(folder) > _MAX_PATH or "\0" in folder or not Path(folder).is_absolute():
        raise MessageError("A hint names no absolute folder.")
    return ReleaseHint(release, Path(folder))


@dataclass(frozen=True, slots=True)
class ReleaseStatus:
    """Where the inspection stands, as its agent tells the model component."""

    state: str
    active: str | None
    candidate: str | None
    desired: str | None
    refused: str | None
    reason: str | None
    text: str | None

    @classmethod
    def from_model_status(cls, status: ModelStatus) -> ReleaseStatus:
        """Return what `status` says."""
        refusal = status.refusal
        return cls(
            state=status.state,
            active=_id(status.active),
            candidate=_id(status.candidate),
            desired=None if status.desired is None else status.desired.release_id,
            refused=_id(status.refused),
            reason=None if refusal is None else f"{refusal.gate}: {refusal.reason}",
            text=None if refusal is None else truncate(refusal.text, _MAX_TEXT),
        )

    def encode(self) -> bytes:
        """Return what is published."""
        return json.dumps({name: getattr(self, name) for name in self.__slots__}).encode()


def parse_status(payload: bytes) -> ReleaseStatus:
    """Read a status. Raises MessageError."""
    value = parse_strict_json(payload, limit=MAX_HINT_BYTES)
    members: dict[str, Any] = {}
    for name in ReleaseStatus.__slots__:
        found = value.get(name)
        if found is not None and not isinstance(found, str):
            raise MessageError(f"A status has a wrong {name}.")
        members[name] = found
    if members["state"] is None:
        raise MessageError("A status has no state.")
    return ReleaseStatus(**members)


def _id(ref: ReleaseRef | None) -> str | None:
    return None if ref is None else ref.release_id


class HintReceiver:
    """The agent's side: takes hints, and tells whoever has hinted where its inspection stands."""

    def __init__(self, *, connection: Connection, inspections: Collection[str], places: FallbackFetcher | None) -> None:
        """`places` learns where the releases lie."""
        self._connection = connection
        self._inspections = tuple(inspections)
        self._fetcher = places
        self._on_desired: Callable[[str, DesiredRelease], None] | None = None
        self._statuses: dict[str, ModelStatus] = {}
        self._waiting: set[str] = set()  # inspections whose status somebody waits for

    def start(self, *, on_desired: Callable[[str, DesiredRelease], None]) -> None:
        """See `ports.DesiredState`."""
        self._on_desired = on_desired
        for inspection in self._inspections:
            topic = hint_topic(inspection)
            self._connection.subscribe(
                "subscribe_to_topic",
                model.SubscribeToTopicRequest(topic=topic),
                self._hint_handler(inspection),
                describe=f"SubscribeToTopic on {topic}",
            )

    def report(self, status: ModelStatus) -> None:
        """See `ports.DesiredState`."""
        self._statuses[status.inspection] = status
        if status.inspection in self._waiting:
            self._connection.call_soon(self._publish_status, status)

    def close(self) -> None:
        """See `ports.DesiredState`: the subscriptions end with the connection."""
        self._on_desired = None

    def _hint_handler(self, inspection: str) -> Callable[[Any], None]:
        def take(event: Any) -> None:
            """Thread ipc-events."""
            message = event.binary_message
            payload = None if message is None else message.message
            try:
                hint = parse_hint(payload or b"")
            except MessageError as error:
                self._connection.supervisor.losses.count("hints")
                _log.warning("a hint on %s is ignored: %s", hint_topic(inspection), error)
                return
            self._waiting.add(inspection)
            if self._fetcher is not None:
                self._fetcher.add_hint(hint)
            if self._on_desired is not None:
                self._on_desired(inspection, DesiredRelease(hint.release_id, source=SOURCE))
            if (status := self._statuses.get(inspection)) is not None:
                self._publish_status(status)

        return take

    def _publish_status(self, status: ModelStatus) -> None:
        try:
            publish_local(
                self._connection, status_topic(status.inspection), ReleaseStatus.from_model_status(status).encode()
            )
        except IpcError as error:
            _log.warning("the model component cannot be told: %s", error)


def publish_local(connection: Connection, topic: str, payload: bytes) -> None:
    """Publish on this device. Raises IpcError."""
    message = model.PublishMessage(binary_message=model.BinaryMessage(message=payload))
    connection.call("publish_to_topic", model.PublishToTopicRequest(topic=topic, publish_message=message))


class FallbackFetcher:
    """A `ports.ReleaseFetcher` that looks where a hint says first, and in the configured repository then.

    Trust is the same for both: the same root, the same site, the same memory of what was seen before. Files that a
    rehearsal has brought to this disk are taken along: the fetch asks for what is missing, and checks all of it.
    """

    def __init__(self, *, configured: ReleaseFetcher, in_folder: Callable[[Path], ReleaseFetcher]) -> None:
        """`in_folder` makes a fetcher for a repository that lies in a folder of this device."""
        self._configured = configured
        self._in_folder = in_folder
        self._lock = threading.Lock()
        self._fetch_lock = threading.Lock()  # one fetch at a time: they share the memory of what was trusted
        self._folders: OrderedDict[str, Path] = OrderedDict()
        self._last_fetch: tuple[str, Path] | None = None  # what was fetched last, and where to

    def add_hint(self, hint: ReleaseHint) -> None:
        """Look there for this release from now on."""
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
        """Link the files of the last fetch where this one looks for what it need not ask for."""
        known, folder = self._last_fetch or ("", into)
        if known != release_id or folder == into or not folder.is_dir():
            return
        for path in folder.iterdir():
            if path.is_file() and not path.is_symlink():
                with suppress(OSError):  # it is there already, or this file system has no links: it travels again
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
                _log.warning("%s in %s: %s; the configured repository is asked", job.release_id, folder, error)
        try:
            return self._configured.fetch(job)
        except FetchError:
            if refused is not None and not job.stop.is_set():
                raise refused from None  # nobody else has it: what was brought here is judged
            raise

    def refresh(self, *, trusted_utc_s: float, stop: threading.Event) -> RepositoryStatus:
        """See `ports.ReleaseFetcher`: only the configured repository hears of what was taken back."""
        return self._configured.refresh(trusted_utc_s=trusted_utc_s, stop=stop)
