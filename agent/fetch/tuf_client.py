"""The Update Framework on the device: verifies metadata and targets, starting from `1.root.json`.

Promise: everything that `TufClient` returns was signed by the keys that the configured root names (directly or through
the chain of newer roots), is not older than the metadata this device has accepted, has not expired at the reference
time, and is consistent. Each attack ends in a FetchError with a reason of its own; see `agent.children.fetch_protocol`.

The order of checks is the TUF specification's (5.3 to 5.6), done by `tuf.ngclient.Updater`; ours are the bounds on
bytes and time while reading, the reference time, and the bound on version numbers: a thief of the online keys who signs
version 2,000,000,000 would otherwise shut out all later honest metadata until those keys are replaced.

On the way from fetch to slot, the next module is `agent.fetch.transfer`.
"""

from __future__ import annotations

import datetime as dt
import fcntl
import json
import os
import sys
from typing import TYPE_CHECKING, Final

from agent.children.fetch_protocol import MAX_REVOKED, FetchReason
from agent.errors import FetchError
from agent.fetch.repository_sources import SourceMissingError
from agent.fetch.transfer import Transfer, call_within

_HIDES_BOTO3: Final = "boto3" not in sys.modules
# securesystemslib imports it for signing in KMS, where it is installed: 0.4 s and 26 MB for nothing here
if _HIDES_BOTO3:
    sys.modules["boto3"] = None  # type: ignore[assignment]  # documented: the import then fails
try:
    from tuf.api.exceptions import DownloadHTTPError, LengthOrHashMismatchError, RepositoryError
    from tuf.api.metadata import Metadata, Root, Timestamp
    from tuf.ngclient import Updater, UpdaterConfig
    from tuf.ngclient.fetcher import FetcherInterface

    from agent.fetch.tuf_errors import LastRead, translate_tuf_errors
finally:
    if _HIDES_BOTO3:
        del sys.modules["boto3"]

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from tuf.api.metadata import TargetFile

MAX_VERSION_STEP: Final = 1_000_000  # a publish a minute for two years
MAX_ROOT_BYTES: Final = 512 * 1024
_MAX_ROTATIONS: Final = 256
_MAX_REVOKED_BYTES: Final = 4 * 1024 * 1024
_LOCK_S: Final = 60.0
_ROLE_BYTES: Final = {"timestamp": 16 * 1024, "snapshot": 2 * 1024**2, "targets": 8 * 1024**2}
SIGNED_UTC_FIELD: Final = "signed_utc"  # of the timestamp role; the TUF specification leaves room for such fields
UTC_FORMAT: Final = "%Y-%m-%dT%H:%M:%SZ"


class _Fetcher(FetcherInterface):
    """Lets tuf read through `Transfer`; remembers the last read for the error's reason."""

    def __init__(self, transfer: Transfer, known: dict[str, int]) -> None:
        self._transfer = transfer
        self._known = known  # file name -> newest version that this device has accepted
        self.last = LastRead()

    def _fetch(self, url: str) -> Iterator[bytes]:
        raise NotImplementedError("download_bytes is the only way, because it has a limit")

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """See FetcherInterface: the whole of `url`, a path of the repository."""
        self.last.path, self.last.data = url, b""
        try:
            self.last.data = self._transfer.read_bytes(url, max_length)
        except SourceMissingError as error:
            if url.endswith(".root.json"):
                raise DownloadHTTPError(str(error), 404) from error  # the root before is the newest
            raise FetchError(FetchReason.MISSING_FILE, _missing(url, error)) from error
        self._bound_versions(self.last)
        return self.last.data

    def _bound_versions(self, last_read: LastRead) -> None:
        """Refuse numbers that leave no room for the next ones, before anything is remembered."""
        try:
            signed = json.loads(last_read.data)["signed"]
            found = {last_read.path.rpartition("/")[2].lstrip("0123456789."): signed["version"]}
            found |= {name: entry["version"] for name, entry in signed.get("meta", {}).items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return  # no metadata: tuf reports that itself
        for name, version in found.items():
            last = self._known.get(name, 0)
            if isinstance(version, int) and version > last + MAX_VERSION_STEP:
                raise FetchError(
                    FetchReason.FAST_FORWARD,
                    f"{last_read.path} names version {version:,} of {name}, {version - last:,} after the last; at most "
                    f"{MAX_VERSION_STEP:,} are accepted. Somebody may hold a signing key: check, and rotate the keys "
                    "of timestamp and snapshot",
                )


class TufClient:
    """The repository's trusted metadata; a context manager that holds the trust folder's lock."""

    def __init__(self, *, root: Path, trust_dir: Path, transfer: Transfer, reference_utc_s: float) -> None:
        """`root` is 1.root.json, `trust_dir` keeps accepted metadata, expiry is checked at `reference_utc_s`."""
        self._root, self._dir, self._transfer = root, trust_dir, transfer
        self._reference_utc_s = dt.datetime.fromtimestamp(reference_utc_s, dt.UTC)
        self._lock: int | None = None
        self._updater: Updater
        self._fetcher = _Fetcher(transfer, {})

    def __enter__(self) -> Self:
        """Take the lock and refresh the metadata. Raises FetchError."""
        self._dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = os.open(self._dir / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._take_lock(self._lock)
            self._start()
            with translate_tuf_errors(self._fetcher.last):
                self._updater.refresh()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Make the accepted metadata durable: after a power cut the device must not trust older ones."""
        if self._lock is None:
            return
        for path in (self._dir, *self._dir.glob("*.json"), *self._dir.glob("root_history/*.json")):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            os.fsync(descriptor)
            os.close(descriptor)
        os.close(self._lock)
        self._lock = None

    def _take_lock(self, lock: int) -> None:
        try:
            call_within(_LOCK_S, lambda: fcntl.flock(lock, fcntl.LOCK_EX), what=str(self._dir))
        except FetchError as error:
            raise FetchError(FetchReason.BUSY, f"another fetch has used {self._dir} for {_LOCK_S:g} s") from error

    def _start(self) -> None:
        try:
            anchor = self._root.read_bytes()
        except OSError as error:
            raise FetchError(
                FetchReason.ROOT_UNUSABLE,
                f"updates.root {self._root}: {error.strerror}. It is the repository's 1.root.json, brought here by "
                "hand or with the component",
            ) from error
        self._fetcher = _Fetcher(self._transfer, self._versions())
        config = UpdaterConfig(
            max_root_rotations=_MAX_ROTATIONS,
            root_max_length=MAX_ROOT_BYTES,
            timestamp_max_length=_ROLE_BYTES["timestamp"],
            snapshot_max_length=_ROLE_BYTES["snapshot"],
            targets_max_length=_ROLE_BYTES["targets"],
        )
        try:
            self._updater = Updater(
                str(self._dir),
                "metadata/",
                fetcher=self._fetcher,
                config=config,
                bootstrap=anchor[: MAX_ROOT_BYTES + 1],
            )
        except RepositoryError as error:
            raise FetchError(
                FetchReason.ROOT_UNUSABLE,
                f"updates.root {self._root} is no valid root: {error}. Bring 1.root.json again",
            ) from error
        # There is no public way to give the time; test_expiry_is_judged_by_the_trusted_time fails if this one goes.
        self._updater._trusted_set.reference_time = self._reference_utc_s  # noqa: SLF001

    def _versions(self) -> dict[str, int]:
        """Newest versions that were accepted, by file name; those of unreadable files are unknown."""
        known: dict[str, int] = {}
        for name in ("timestamp.json", "snapshot.json"):
            try:
                signed = json.loads((self._dir / name).read_bytes())["signed"]
                known[name] = int(signed["version"])
                known |= {file: int(entry["version"]) for file, entry in signed["meta"].items()}
            except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
                continue
        return known

    def target_info(self, path: str) -> TargetFile | None:
        """Return the entry of `path` in the site's delegation; None without one. Raises FetchError."""
        with translate_tuf_errors(self._fetcher.last):
            return self._updater.get_targetinfo(path)

    def read_target(self, target: TargetFile, limit: int) -> bytes:
        """Return the target's verified bytes, at most `limit`. Raises FetchError."""
        folder, _, name = target.path.rpartition("/")
        sha256 = target_sha256(target)
        path = f"targets/{folder}/{sha256}.{name}"
        try:
            data = self._transfer.read_bytes(path, min(limit, target.length))
        except SourceMissingError as error:
            raise FetchError(FetchReason.MISSING_FILE, _missing(path, error)) from error
        try:
            target.verify_length_and_hashes(data)
        except LengthOrHashMismatchError as error:
            raise FetchError(
                FetchReason.ARBITRARY_SOFTWARE,
                f"{path} of the repository is not the file that was signed: {error}. Nothing of it is used. Publish it "
                "again, and check who can write there",
            ) from error
        return data

    def has_site(self, site: str) -> bool:
        """Whether the repository has the site: each has a list of revocations. Raises FetchError."""
        return self.target_info(_revocation_path(site)) is not None

    def revoked_digests(self, site: str) -> tuple[str, ...]:
        """Digests of the manifests that the site's publisher revoked, sorted. Raises FetchError."""
        target = self.target_info(_revocation_path(site))
        if target is None:
            return ()
        try:
            entries = json.loads(self.read_target(target, _MAX_REVOKED_BYTES))["revoked"]
            digests = sorted({str(entry["digest"]) for entry in entries})
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise FetchError(
                FetchReason.METADATA_INVALID, f"{site}/revoked.json is signed, but it is no list of releases: {error!r}"
            ) from error
        if len(digests) > MAX_REVOKED or any(len(d) != 64 or set(d) - set("0123456789abcdef") for d in digests):  # noqa: PLR2004
            raise FetchError(
                FetchReason.METADATA_INVALID,
                f"{site}/revoked.json is signed, but it lists {len(digests):,} digests or wrong ones; at most "
                f"{MAX_REVOKED:,} SHA-256 digests are allowed",
            )
        return tuple(digests)

    def signed_utc_s(self) -> float:
        """Return when the accepted timestamp was signed; never later than the expiry of timestamp and root."""
        timestamp = Metadata[Timestamp].from_bytes((self._dir / "timestamp.json").read_bytes()).signed
        root = self._newest_root()
        text = timestamp.unrecognized_fields.get(SIGNED_UTC_FIELD)
        try:
            signed = dt.datetime.strptime(str(text), UTC_FORMAT).replace(tzinfo=dt.UTC)
        except ValueError:
            return 0.0
        return min(signed, timestamp.expires, root.expires).timestamp()

    def root_expires_utc_s(self) -> float:
        """Return when the newest root expires; a new one must be signed before."""
        return self._newest_root().expires.timestamp()

    def _newest_root(self) -> Root:
        return Metadata[Root].from_bytes((self._dir / "root.json").read_bytes()).signed


def _revocation_path(site: str) -> str:
    return f"{site}/revoked.json"


def _missing(path: str, error: SourceMissingError) -> str:
    if path == "metadata/timestamp.json":
        return f"there is no repository at updates.repository: {error}"
    return f"the repository lacks {path}: {error}. An interrupted copy looks like this; copy or publish it again"


def target_sha256(target: TargetFile) -> str:
    """Its SHA-256, lower-case hex. Raises FetchError `metadata_invalid` where it has none."""
    found = target.hashes.get("sha256", "")
    if len(found) != 64 or set(found) - set("0123456789abcdef"):  # noqa: PLR2004
        raise FetchError(FetchReason.METADATA_INVALID, f"the target {target.path} has no sha256; sign it again")
    return found
