"""The journal: one inspection's lifecycle on disk, one frozen record that is replaced as a whole.

Promise: `save` returns once the record would survive a power cut (fsync file, rename, fsync directory), and until then
the one before it does. `load` never fails: a record carries its checksum; if it is damaged the one before it counts, if
that is damaged too the lifecycle starts from the factory release, with an alarm. The counter floor has a file of its
own as well, written after the record, so that it does not fall with a damaged journal.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Final

from pydantic import TypeAdapter

from agent.durable import Checkpoint, replace_durably, sync_directory
from agent.errors import StateDirError
from agent.lifecycle.state.transitions import LifecycleState
from agent.release.installed_release import InstalledRelease  # noqa: TC001 - likewise
from agent.release_records import DesiredRelease, Refusal, ReleaseRef  # noqa: TC001 - pydantic reads the record's types

if TYPE_CHECKING:
    from pathlib import Path

JOURNAL_NAME: Final = "journal.json"
PREVIOUS_NAME: Final = "journal.prev.json"
FLOOR_NAME: Final = "counter_floor"
MAX_DENY_LIST: Final = 256
MAX_HISTORY: Final = 100
_MAX_BYTES: Final = 8 * 1024 * 1024
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DenyListEntry:
    """A release that is not tried again until a person allows it."""

    release_id: str
    digest: str | None  # None when it was refused before its manifest could be trusted
    refusal: Refusal
    utc_s: float


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One entry of the history."""

    utc_s: float
    state: LifecycleState
    event: str
    after: LifecycleState
    release_id: str | None  # the release that it was about
    note: str | None = None  # gate and reason of a refusal


@dataclass(frozen=True, slots=True)
class LifecycleRecord:
    """Everything that must survive. `active` None is the factory release; so is `previous` None."""

    state: LifecycleState = LifecycleState.IDLE
    since_utc_s: float = 0.0
    active: InstalledRelease | None = None
    previous: InstalledRelease | None = None
    candidate: InstalledRelease | None = None
    desired: DesiredRelease | None = None
    wanted: bool = False  # the desired release was neither reached nor refused yet
    step: int = 0  # of the trial
    attempts: int = 0  # at the candidate, counted before the risk
    unfinished_boots: int = 0  # starts that did not live long enough to be called healthy
    hops: int = 0  # changes of state since the last rest
    counter_floor: int = 0  # highest counter that was ever committed
    floor_digest: str | None = None  # of the release that was: it may come back
    signed_utc_s: float = 0.0  # newest signing time seen
    deny_list: tuple[DenyListEntry, ...] = ()  # oldest first
    refusal: Refusal | None = None  # the last one
    refused: ReleaseRef | None = None
    rollbacks_utc_s: tuple[float, ...] = ()  # automatic ones of the last day
    cool_down_until_utc_s: float = 0.0
    halted: bool = False  # too many automatic rollbacks: a person must say `retry`
    history: tuple[HistoryEntry, ...] = ()


_RECORD: Final = TypeAdapter(LifecycleRecord)


def encode(record: LifecycleRecord) -> bytes:
    """Return the file's bytes: JSON with the SHA-256 of the record's own JSON."""
    body = json.dumps(asdict(record), separators=(",", ":"))
    return f'{{"sha256":"{hashlib.sha256(body.encode()).hexdigest()}","record":{body}}}\n'.encode()


def decode(data: bytes) -> LifecycleRecord:
    """Return the record. Raises ValueError when the bytes are not what `encode` wrote."""
    head, middle, tail = b'{"sha256":"', b'","record":', b"}\n"
    digest_at = len(head)
    body_at = digest_at + 64 + len(middle)
    if not (data.startswith(head) and data[digest_at + 64 : body_at] == middle and data.endswith(tail)):
        raise ValueError("it is not a journal")
    body = data[body_at : -len(tail)]
    if hashlib.sha256(body).hexdigest().encode() != data[digest_at : digest_at + 64]:
        raise ValueError("its checksum does not fit")
    return _RECORD.validate_json(body)  # a ValidationError is a ValueError


class Journal:
    """Stores the record on disk. One thread uses it."""

    def __init__(self, folder: Path, *, checkpoint: Checkpoint, sets_aside: bool = True) -> None:
        """`folder` need not exist yet. A damaged file is renamed, so that it is not lost, if `sets_aside`."""
        self._folder = folder
        self._checkpoint = checkpoint
        self._sets_aside = sets_aside

    def load(self) -> tuple[LifecycleRecord, str | None]:
        """Return the newest intact record, and an alarm when that is not the one that was written last."""
        current, damage = self._read(JOURNAL_NAME)
        if current is not None:
            return self._with_floor(current), None
        previous, older_damage = self._read(PREVIOUS_NAME)
        if previous is not None:
            alarm = None if damage is None else f"The journal {damage}; the one before it counts."
            return self._with_floor(previous), alarm
        if damage is None and older_damage is None:
            return self._with_floor(LifecycleRecord()), None
        alarm = f"The journal {damage or older_damage}, and so was the one before it; the factory release is active."
        return self._with_floor(LifecycleRecord()), alarm

    def save(self, record: LifecycleRecord) -> None:
        """Make `record` the newest. Raises StateDirError when the disk does not take it: the one before it stays."""
        path = self._folder / JOURNAL_NAME
        try:
            self._checkpoint("journal: before")
            self._replace(path, encode(record))
        except OSError as error:
            raise StateDirError(
                f"The lifecycle cannot keep its journal {path}: {error.strerror}. Free disk space, or give this user "
                "the right to write there; until then the line continues with the model it has."
            ) from error
        self._keep_floor(record.counter_floor)
        self._checkpoint("journal: after")

    def _keep_floor(self, floor: int) -> None:
        """Write the second copy; the record with it is on disk already, so a failure is only logged."""
        if floor <= self._floor():
            return
        try:
            self._checkpoint("journal: floor")
            replace_durably(self._folder / FLOOR_NAME, str(floor).encode())
        except OSError as error:
            _log.warning("the second copy of the counter floor cannot be kept: %s", error)

    def _replace(self, path: Path, content: bytes) -> None:
        """As `durable.replace_durably`, but the previous file is kept beside it."""
        self._folder.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(path.name + ".new")
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        self._checkpoint("journal: beside")
        if path.exists():
            path.replace(self._folder / PREVIOUS_NAME)
            self._checkpoint("journal: between")
        beside.replace(path)
        sync_directory(self._folder)

    def _read(self, name: str) -> tuple[LifecycleRecord | None, str | None]:
        """Return the record of one file, or None and what is wrong with it (None when it is not there)."""
        path = self._folder / name
        try:
            with path.open("rb") as file:
                return decode(file.read(_MAX_BYTES)), None
        except FileNotFoundError:
            return None, None
        except OSError as error:
            _log.error("%s cannot be read: %s", path, error)
            return None, f"cannot be read ({error.strerror})"
        except ValueError as error:
            _log.error("%s is damaged: %s", path, str(error).splitlines()[0])
            if self._sets_aside:
                with suppress(OSError):
                    path.replace(path.with_name(name + ".damaged"))
            return None, "was damaged"

    def _floor(self) -> int:
        try:
            return int((self._folder / FLOOR_NAME).read_bytes()[:20])
        except (OSError, ValueError):
            return 0

    def _with_floor(self, record: LifecycleRecord) -> LifecycleRecord:
        return replace(record, counter_floor=max(record.counter_floor, self._floor()))


def load_read_only(folder: Path) -> tuple[LifecycleRecord, str | None]:
    """As `Journal.load`, for a process that does not own the folder: nothing on disk changes."""
    return Journal(folder, checkpoint=lambda _: None, sets_aside=False).load()
