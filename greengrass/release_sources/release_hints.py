"""Messages between model component and agent: release hints, and the status that answers them.

    kensa/model/<inspection>          {"release": "parts/1.1.0", "folder": "/folder/of/its/TUF/repository"}
    kensa/model/<inspection>/status   {"state", "active", "candidate", "desired", "refused", "reason", "text"}

They travel by local publish/subscribe on this device. A hint has no authority: it names a release and the folder of
this device that holds it, and the release passes the same trust and the same gates as one from the cloud. Whoever may
publish on the topic (local accessControl) can make the agent check that folder, nothing more. The same hint may arrive
any number of times: the status is then sent again, which is how the component waits.

Promise: what arrives is treated as hostile.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agent.errors import MessageError
from agent.wire import is_release_id
from agent.wire.codec import parse_strict_json, truncate

if TYPE_CHECKING:
    from agent.release_records import ModelStatus, ReleaseRef

MAX_HINT_BYTES: Final = 4_096
_MAX_PATH: Final = 1_024
_MAX_TEXT: Final = 500


def hint_topic(inspection: str) -> str:
    """Return `kensa/model/{inspection}`."""
    return f"kensa/model/{inspection}"


def status_topic(inspection: str) -> str:
    """Return `kensa/model/{inspection}/status`."""
    return f"kensa/model/{inspection}/status"


@dataclass(frozen=True, slots=True)
class ReleaseHint:
    """A release, and the folder of this device that holds its repository."""

    release_id: str
    folder: Path

    def encode(self) -> bytes:
        """Return the message's payload."""
        return json.dumps({"release": self.release_id, "folder": str(self.folder)}).encode()


def parse_hint(payload: bytes) -> ReleaseHint:
    """Read a hint. Raises MessageError."""
    value = parse_strict_json(payload, limit=MAX_HINT_BYTES)
    if unknown := sorted(set(value) - {"release", "folder"}):
        raise MessageError(f"A release hint has the unknown key {truncate(unknown[0], 40)!r}.")
    release, folder = value.get("release"), value.get("folder")
    if not isinstance(release, str) or not is_release_id(release):
        raise MessageError(
            f"A release hint names {truncate(repr(release), 80)}, expected name/version such as parts/1.1.0."
        )
    if not isinstance(folder, str) or len(folder) > _MAX_PATH or "\0" in folder or not Path(folder).is_absolute():
        raise MessageError("A release hint names no absolute folder.")
    return ReleaseHint(release, Path(folder))


@dataclass(frozen=True, slots=True)
class ReleaseStatus:
    """State of an inspection's model, as its agent reports it to the model component."""

    state: str
    active: str | None
    candidate: str | None
    desired: str | None
    refused: str | None
    reason: str | None
    text: str | None

    @classmethod
    def from_model_status(cls, status: ModelStatus) -> ReleaseStatus:
        """Convert `status`."""
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
        """Return the message's payload."""
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
