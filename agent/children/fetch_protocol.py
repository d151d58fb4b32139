"""Messages between the agent and its fetch child: a request, events, and reason codes.

Which errors a fetch ends in, and what follows from each:

ReleaseRefusedError  The named release itself is bad, whoever serves it: it was revoked, its signed manifest cannot
be used
              here, or it is larger than the site allows. It goes on the deny list.
FetchError    Everything else, tried again later. That holds for attacks on the repository too: an altered file, old or
              expired metadata, a foreign key say that somebody between publisher and device misbehaves, and nothing
              about the release, which must stay installable once the honest repository answers again.

Invariant: whatever the reason, nothing that signed metadata does not vouch for is handed over.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, StringConstraints

from agent.strict import Strict
from agent.wire.model_report import ReleaseId

MAX_EVENT_BYTES: Final = 2 * 1024 * 1024  # of one line; 10,000 revoked digests take 0.7 MB
MAX_REVOKED: Final = 10_000
_MAX_TEXT: Final = 4_096

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class FetchReason(StrEnum):
    """Stable codes; the first three groups end in FetchError, the last in ReleaseRefusedError."""

    # this machine
    STOPPED = "stopped"  # by request
    TIMEOUT = "timeout"  # the whole fetch took longer than the site allows
    NO_SPACE = "no_space"  # the disk has not enough room, checked before the first byte
    STORAGE = "storage"  # the state directory cannot be read or written
    BUSY = "busy"  # another fetch holds the trust folder
    ROOT_UNUSABLE = "root_unusable"  # 1.root.json of the configuration cannot be read, or is none
    MISSING_PACKAGE = "missing_package"  # boto3 for s3://
    REQUEST = "request"  # what should be fetched has no valid name
    CRASHED = "fetcher_crashed"  # the child ended without an answer
    # the way to the repository
    UNREACHABLE = "unreachable"  # no connection, no folder, a server's error, a cut answer; after several tries
    MISSING_FILE = "missing_file"  # the repository lacks a file that its metadata name
    TARGET_UNKNOWN = "target_unknown"  # no such release for this site (yet)
    # attacks on the repository (or a broken one)
    ARBITRARY_SOFTWARE = "arbitrary_software"  # bytes are not those that were signed
    METADATA_ROLLBACK = "metadata_rollback"  # older metadata than this device has seen
    METADATA_EXPIRED = "metadata_expired"  # freeze: nothing newer arrives
    MIX_AND_MATCH = "mix_and_match"  # metadata that never belonged together
    ENDLESS_DATA = "endless_data"  # more bytes than announced
    FAST_FORWARD = "fast_forward"  # version numbers that leave no room for the next
    KEY_COMPROMISE = "key_compromise"  # a wrong or withdrawn key, or too few signatures
    SLOW_RETRIEVAL = "slow_retrieval"  # bytes arrive slower than the bound
    METADATA_INVALID = "metadata_invalid"  # not metadata at all
    # the release itself
    TARGET_REVOKED = "target_revoked"  # its publisher revoked it (gate `revoked`)
    TOO_LARGE = "too_large"  # more bytes than the site allows (gate `fetch`)
    MANIFEST_REFUSED = "manifest_refused"  # signed, but this Kensa cannot use it (gate `contract`)
    NAME_DIFFERS = "name_differs"  # the manifest names another release (gate `contract`)
    COUNTER_MISSING = "counter_missing"  # no release counter, so no protection from downgrades (gate `contract`)


class FetchLimits(Strict):
    """Limits of a fetch besides the site's `max_release_bytes` and wall time."""

    stall_s: float = Field(default=10.0, gt=0, le=600)  # for each 16 KiB: at least 1.6 KB/s
    attempts: int = Field(default=4, ge=1, le=20)  # in a row without a byte of progress
    backoff_s: float = Field(default=0.3, ge=0, le=60)  # before the second attempt; doubles
    reserve_bytes: int = Field(default=32 * 1024**2, ge=0)  # of disk that stay free for the outbox
    memory_bytes: int = Field(default=2 * 1024**3, ge=256 * 1024**2)  # address space of the child
    cpu_s: int = Field(default=300, ge=1)


class _RepositoryRequest(Strict):
    """The repository, the site and the trust anchor."""

    repository: str = Field(min_length=1, max_length=1024)  # folder, http(s)://, s3://bucket/prefix
    root: Path
    site: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    trust_dir: Path
    reference_utc_s: float  # expiry is checked at this time
    max_release_bytes: int = Field(ge=1)
    limits: FetchLimits = FetchLimits()


class FetchRequest(_RepositoryRequest):
    """Fetch a release."""

    kind: Literal["fetch"] = "fetch"
    release_id: ReleaseId
    into: Path


class RefreshRequest(_RepositoryRequest):
    """Refresh the metadata and report revocations."""

    kind: Literal["refresh"] = "refresh"


class FetchRequestLine(Strict):
    """One line on the child's standard input; its end of file ends the child."""

    body: Annotated[FetchRequest | RefreshRequest, Field(discriminator="kind")]


class FetchProgress(Strict):
    """Bytes of the release's files that lie on this disk, checked or about to be."""

    event: Literal["progress"] = "progress"
    done: int
    total: int


class FetchDone(Strict):
    """The release lies in `into`."""

    event: Literal["done"] = "done"
    name: str
    version: str
    counter: int = Field(ge=1)
    digest: Sha256
    model_sha256: Sha256
    signed_utc_s: float
    revoked: Annotated[tuple[Sha256, ...], Field(max_length=MAX_REVOKED)] = ()


class RefreshDone(Strict):
    """The metadata are up to date."""

    event: Literal["refreshed"] = "refreshed"
    signed_utc_s: float
    root_expires_utc_s: float
    revoked: Annotated[tuple[Sha256, ...], Field(max_length=MAX_REVOKED)] = ()


class FetchFailed(Strict):
    """Why the fetch failed. With a `gate` the release is refused for good, else the fetch is tried again."""

    event: Literal["failed"] = "failed"
    reason: FetchReason
    text: str
    gate: Literal["fetch", "contract", "revoked"] | None = None
    digest: Sha256 | None = None  # of the signed manifest, where it is known
    figures: dict[str, float] = Field(default_factory=dict)
    limits: dict[str, float] = Field(default_factory=dict)


class FetchEventLine(Strict):
    """One line of the child's standard output."""

    body: Annotated[FetchProgress | FetchDone | RefreshDone | FetchFailed, Field(discriminator="event")]


def shorten(text: str) -> str:
    """Shorten `text` to what an event may hold."""
    return text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 3] + "..."
