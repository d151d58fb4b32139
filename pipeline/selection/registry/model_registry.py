"""Stores candidates in a folder or a bucket, with the same files in both.

SageMaker's registry mirrors the status.

    NAME/VERSION/release/...            the release folder, written first
    NAME/VERSION/card.md, card.html     for people
    NAME/VERSION/record.json            written once; it marks the candidate as complete
    NAME/VERSION/history/000001.json    one file a change, created exclusively: of two writers one gets an error
    NAME/choices/DIGEST.json            a choice with the lineage and reasons of every candidate

Promise: nothing is ever changed in place or removed; a status changes along `STATUS_TRANSITIONS` only, with who, when
and why; a candidate that a choice refused cannot be approved; a registered candidate is complete, and registering it
again changes nothing.
"""

from __future__ import annotations

import hashlib
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from agent.errors import IntegrityError, KensaError, UsageError
from pipeline.cloud.storage import ObjectMissingError
from pipeline.comparison.comparison_result import CandidateChoice
from pipeline.selection.candidate_record import (
    STATUS_TRANSITIONS,
    CandidateRecord,
    CandidateStatus,
    RegistryEntry,
    ReleaseArtifact,
    StatusChange,
)
from pipeline.strict_json import parse_json, to_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.cloud.storage import Storage

RECORD_NAME: Final = "record.json"
CARD_MARKDOWN: Final = "card.md"
CARD_HTML: Final = "card.html"
_RELEASE: Final = "release"
_CHOICES: Final = "choices"  # not a version: those begin with a number
_MAX_RECORD_BYTES: Final = 4 * 1024 * 1024


class RegistryError(KensaError):
    """The registry refuses: no such candidate, its name is taken, or its status forbids the change."""

    exit_code = 5


class ModelRegistry(Protocol):
    """Candidates with their history. Methods raise RegistryError, and StorageError where the storage fails."""

    def register(
        self, record: CandidateRecord, release: Path, *, by: str, why: str, cards: dict[str, str] | None = None
    ) -> RegistryEntry:
        """Store a candidate with its release folder, Pending; registering it again returns the existing entry.

        `cards` are pages for people, by file name. Raises IntegrityError when the folder does not hold what the record
        lists.
        """

    def list(self, name: str | None = None) -> list[RegistryEntry]:
        """All candidates, or those of one model, in the order of names and versions."""

    def get(self, name: str, version: str) -> RegistryEntry:
        """One candidate."""

    def set_status(self, name: str, version: str, status: CandidateStatus, *, by: str, why: str) -> RegistryEntry:
        """Append to the history. Setting the current status changes nothing."""

    def record_choice(self, choice: CandidateChoice) -> None:
        """Store a choice, whatever its outcome; the same one again changes nothing."""

    def list_choices(self, name: str) -> tuple[CandidateChoice, ...]:
        """All choices of one model, the latest last."""

    def download(self, name: str, version: str, into: Path) -> Path:
        """Write the release folder as `into`, with every file verified; returns it. Raises IntegrityError."""


def utc_now() -> str:
    """Now, to the second, with the zone."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def list_artifacts(release: Path) -> dict[str, ReleaseArtifact]:
    """Digest and length of each file of a release folder."""
    found = {}
    for path in sorted(release.iterdir()):
        if path.is_file() and not path.name.startswith("."):
            data = path.read_bytes()
            found[path.name] = ReleaseArtifact(sha256=hashlib.sha256(data).hexdigest(), length_bytes=len(data))
    return found


def _version_order(version: str) -> tuple[int, int, int, bool, str]:
    core, _, extra = version.partition("-")
    major, minor, patch = (int(part) for part in core.split("."))
    return major, minor, patch, not extra, extra


class StorageRegistry:
    """A `ModelRegistry` in a storage."""

    def __init__(self, storage: Storage, *, now: Callable[[], str] = utc_now) -> None:
        """`now` gives the times of changes, which people read."""
        self._storage = storage
        self._now = now

    def register(
        self, record: CandidateRecord, release: Path, *, by: str, why: str, cards: dict[str, str] | None = None
    ) -> RegistryEntry:
        """See `ModelRegistry.register`."""
        base = _candidate_prefix(record.name, record.version)
        kept = record.model_copy(update={"artifacts_uri": f"{self._storage.uri}/{base}/{_RELEASE}"})
        older = self._record(base)
        if older is None:
            for name, artifact in sorted(record.artifacts.items()):
                self._storage.write(f"{base}/{_RELEASE}/{name}", _read_verified(release / name, artifact))
            for name, text in sorted((cards or {}).items()):
                self._storage.write(f"{base}/{name}", text.encode())
            if not self._storage.create(f"{base}/{RECORD_NAME}", to_json(kept)):
                older = self._record(base)
        if older is not None and older.model_sha256 != record.model_sha256:
            raise RegistryError(
                f"{record.release_id} is registered already, with model.onnx {older.model_sha256[:12]}, not "
                f"{record.model_sha256[:12]}. Give the new one another version."
            )
        # Repairs a registration that was interrupted before this line.
        self._storage.create(_history_key(base, 1), to_json(self._status_change(CandidateStatus.PENDING, by, why)))
        return self.get(record.name, record.version)

    def list(self, name: str | None = None) -> list[RegistryEntry]:
        """See `ModelRegistry.list`."""
        found = []
        for stored in self._storage.list(f"{name}/" if name else ""):
            parts = stored.key.split("/")
            if len(parts) == 3 and parts[2] == RECORD_NAME:  # noqa: PLR2004 - NAME/VERSION/record.json
                found.append(self.get(parts[0], parts[1]))
        return sorted(found, key=lambda entry: (entry.record.name, _version_order(entry.record.version)))

    def get(self, name: str, version: str) -> RegistryEntry:
        """See `ModelRegistry.get`."""
        base = _candidate_prefix(name, version)
        record = self._record(base)
        if record is None:
            raise RegistryError(f"{self._storage.uri} has no {base}. See `kensa cloud registry list`.")
        history = tuple(
            parse_json(StatusChange, self._storage.read(stored.key, limit=_MAX_RECORD_BYTES), stored.key)
            for stored in self._storage.list(f"{base}/history/")
        )
        if not history:  # the process that registered it died just before
            history = (
                self._status_change(
                    CandidateStatus.PENDING, "registry", "registered; the first line of its history was lost"
                ),
            )
        return RegistryEntry(record=record, history=history)

    def set_status(self, name: str, version: str, status: CandidateStatus, *, by: str, why: str) -> RegistryEntry:
        """See `ModelRegistry.set_status`."""
        entry = self.get(name, version)
        if entry.status is status:
            return entry
        if status not in STATUS_TRANSITIONS[entry.status]:
            allowed = " or ".join(sorted(STATUS_TRANSITIONS[entry.status])) or "nothing else"
            raise RegistryError(
                f"{entry.record.release_id} is {entry.status} and cannot become {status}; it can become {allowed}."
            )
        if status is CandidateStatus.APPROVED and entry.record.decision.outcome != "proposed":
            reasons = " ".join(entry.record.decision.reasons)
            raise RegistryError(f"{entry.record.release_id} was refused and cannot be approved: {reasons}")
        place = _history_key(_candidate_prefix(name, version), len(entry.history) + 1)
        if not self._storage.create(place, to_json(self._status_change(status, by, why))):
            raise RegistryError(
                f"{entry.record.release_id} was changed by someone else just now. Read it again and retry."
            )
        return self.get(name, version)

    def record_choice(self, choice: CandidateChoice) -> None:
        """See `ModelRegistry.record_choice`."""
        data = to_json(choice)
        self._storage.create(f"{choice.assessments[0].name}/{_CHOICES}/{hashlib.sha256(data).hexdigest()}.json", data)

    def list_choices(self, name: str) -> tuple[CandidateChoice, ...]:
        """See `ModelRegistry.list_choices`."""
        found = [
            parse_json(CandidateChoice, self._storage.read(stored.key, limit=_MAX_RECORD_BYTES), stored.key)
            for stored in self._storage.list(f"{name}/{_CHOICES}/")
        ]
        return tuple(sorted(found, key=_trained_utc))

    def download(self, name: str, version: str, into: Path) -> Path:
        """See `ModelRegistry.download`."""
        if into.exists():
            raise RegistryError(f"{into} exists. Name a folder that does not, or remove it.")
        record = self.get(name, version).record
        into.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{into.name}-", dir=into.parent))
        made.chmod(0o755)
        for file, artifact in record.artifacts.items():
            key = f"{_candidate_prefix(name, version)}/{_RELEASE}/{file}"
            try:
                data = self._storage.read(key, limit=artifact.length_bytes)
            except ObjectMissingError as error:
                raise IntegrityError(f"{record.release_id}: {error} Its record lists it: restore it.") from error
            (made / file).write_bytes(_verify(data, artifact, key))
        made.rename(into)
        return into

    def _record(self, base: str) -> CandidateRecord | None:
        try:
            data = self._storage.read(f"{base}/{RECORD_NAME}", limit=_MAX_RECORD_BYTES)
        except ObjectMissingError:
            return None
        return parse_json(CandidateRecord, data, f"{self._storage.uri}/{base}/{RECORD_NAME}")

    def _status_change(self, status: CandidateStatus, by: str, why: str) -> StatusChange:
        if not by.strip() or not why.strip():
            raise UsageError("state who changes the status and why: --by NAME --why SENTENCE.")
        return StatusChange(status=status, by=by[:256], why=why[:1024], at_utc=self._now())


def _trained_utc(choice: CandidateChoice) -> str:
    return max(one.lineage.created_utc if one.lineage else "" for one in choice.assessments)


def _candidate_prefix(name: str, version: str) -> str:
    return f"{name}/{version}"


def _history_key(base: str, number: int) -> str:
    return f"{base}/history/{number:06d}.json"


def _read_verified(path: Path, artifact: ReleaseArtifact) -> bytes:
    try:
        return _verify(path.read_bytes(), artifact, str(path))
    except OSError as error:
        raise IntegrityError(f"{path}: {error.strerror}, but the record lists it.") from error


def _verify(data: bytes, artifact: ReleaseArtifact, where: str) -> bytes:
    if len(data) != artifact.length_bytes or hashlib.sha256(data).hexdigest() != artifact.sha256:
        raise IntegrityError(f"{where} is not the file that the record lists (length or sha256 differ).")
    return data
