"""Maps errors of tuf to the attack they indicate, by exception type and the file being read."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
    UnsignedMetadataError,
)
from tuf.api.serialization import DeserializationError

from agent.children.fetch_protocol import FetchReason
from agent.errors import FetchError

if TYPE_CHECKING:
    from collections.abc import Iterator

_BY_TYPE: Final = (  # the first that fits
    (DownloadError, FetchReason.UNREACHABLE),
    (ExpiredMetadataError, FetchReason.METADATA_EXPIRED),
    (UnsignedMetadataError, FetchReason.KEY_COMPROMISE),
    (DeserializationError, FetchReason.METADATA_INVALID),
)
_REMEDY: Final = {
    FetchReason.UNREACHABLE: "It is tried again",
    FetchReason.METADATA_EXPIRED: (
        "Either nobody has signed for too long (`kensa release publish --refresh`), or somebody holds newer metadata "
        "back, or this machine's clock is wrong"
    ),
    FetchReason.KEY_COMPROMISE: (
        "It is not signed by enough of the keys that this device trusts: a wrong or withdrawn key, or another "
        "repository than that of updates.root"
    ),
    FetchReason.METADATA_INVALID: "These are not the metadata that were signed; publish them again",
    FetchReason.METADATA_ROLLBACK: (
        "This device has accepted newer ones: somebody replays old metadata, or the repository was restored from a "
        "backup (then rotate the keys of timestamp and snapshot)"
    ),
    FetchReason.MIX_AND_MATCH: "Metadata of different times are mixed; an interrupted copy of a repository looks the "
    "same",
}


@dataclass(slots=True)
class LastRead:
    """The metadata file that was read last."""

    path: str = ""
    data: bytes = b""

    def claimed_version(self) -> str | None:
        """Return the version that it claims; None when it is no metadata."""
        try:
            return str(int(json.loads(self.data)["signed"]["version"]))
        except (ValueError, KeyError, TypeError, RecursionError):
            return None


def fetch_reason(error: RepositoryError | DownloadError, last: LastRead) -> FetchReason:
    """Return the reason code of the attack."""
    for kind, reason in _BY_TYPE:
        if isinstance(error, kind):
            return reason
    number, _, role = last.path.rpartition("/")[2].partition(".")  # N.role.json, or timestamp.json
    claimed = last.claimed_version()
    if isinstance(error, BadVersionNumberError):
        is_first_hand = role in {"json", "root.json"}  # no other file vouches for its version
        return FetchReason.METADATA_ROLLBACK if is_first_hand or claimed == number else FetchReason.MIX_AND_MATCH
    if isinstance(error, LengthOrHashMismatchError):
        return FetchReason.METADATA_INVALID if claimed in {None, number} else FetchReason.MIX_AND_MATCH
    return FetchReason.MIX_AND_MATCH if role == "snapshot.json" else FetchReason.METADATA_INVALID  # it lacks a role


@contextmanager
def translate_tuf_errors(last: LastRead) -> Iterator[None]:
    """Raise FetchError for what tuf raises."""
    try:
        yield
    except (RepositoryError, DownloadError) as error:
        reason = fetch_reason(error, last)
        raise FetchError(reason, f"{last.path or 'the repository'}: {error}. {_REMEDY[reason]}") from error
