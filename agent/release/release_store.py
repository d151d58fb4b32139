"""The store of releases: `models/<inspection>/releases/<sha256 of the manifest>/`.

Promise: a folder appears complete and read-only (it is synced, then renamed from `staging`); `verified_dir` reads every
byte again and compares it with the manifest, and the manifest with the digest that the journal holds, before each load;
and `sweep` removes nothing that it must keep. `staging/` holds what is still being fetched, one folder a release, so
that a download can be resumed.

On the way from fetch to slot, the next module is `agent.children.selftest_client`, behind `agent.ports.SelfTester`.
"""

from __future__ import annotations

import logging
import shutil
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from agent.durable import sha256_of, sync_directory, sync_file
from agent.errors import IntegrityError, ReleaseError, StateDirError
from agent.release import manifest as manifests
from agent.release.installed_release import InstalledRelease
from agent.release_records import ReleaseRef

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from agent.durable import Checkpoint
    from agent.release.manifest import Manifest
    from agent.release_records import FetchedRelease, SelfTestResult

_NAMES: Final = frozenset({manifests.MANIFEST_NAME, manifests.MODEL_NAME, manifests.GOLDEN_NAME})
_FOLDER_MODE: Final = 0o555
_FILE_MODE: Final = 0o444
_log = logging.getLogger(__name__)


@contextmanager
def _as_state_dir_error(path: Path) -> Iterator[None]:
    """Translate OSError into StateDirError."""
    try:
        yield
    except OSError as error:
        raise StateDirError(
            f"The store of releases {path} cannot be written: {error.strerror}. Free disk space, or give this user the "
            "right to write there; until then the line continues with the model it has."
        ) from error


class ReleaseStore:
    """The folders of one inspection. One thread uses it."""

    def __init__(self, folder: Path, *, checkpoint: Checkpoint) -> None:
        """`folder` need not exist yet."""
        self._folder = folder
        self._releases = folder / "releases"
        self._staging = folder / "staging"
        self._optimised = folder / "optimised"
        self._checkpoint = checkpoint

    def staging_dir(self, release_id: str) -> Path:
        """Return the folder to fetch `release_id` into; it may hold some of its bytes. Raises StateDirError."""
        path = self._staging / release_id.replace("/", "--")
        with _as_state_dir_error(path):
            path.mkdir(parents=True, exist_ok=True)
        return path

    def release_dir(self, ref: ReleaseRef) -> Path:
        """Return the folder of `ref`, which need not exist."""
        return self._releases / ref.digest

    def adopt(self, fetched: FetchedRelease) -> None:
        """Verify a fetched release and move it into the store, unless it is there. Raises IntegrityError.

        One rename moves it, so that a kill leaves the release in one place or the other. Raises StateDirError, and it
        can be tried again.
        """
        ref = fetched.ref
        if self.contains(ref):
            return
        _check(fetched.folder, ref)
        final = self.release_dir(ref)
        with _as_state_dir_error(final):
            for path in _children(fetched.folder):
                if path.name in _NAMES:
                    sync_file(path)
                    path.chmod(_FILE_MODE)
                else:
                    _remove(path)  # what a fetcher needs to resume
            sync_directory(fetched.folder)
            self._checkpoint("store: synced")
            _remove(final)  # damaged, or `contains` would have found it
            self._releases.mkdir(exist_ok=True)
            fetched.folder.replace(final)
            self._checkpoint("store: moved")
            final.chmod(_FOLDER_MODE)
            sync_directory(self._releases)
            self._checkpoint("store: adopted")

    def contains(self, ref: ReleaseRef) -> bool:
        """Whether `ref` is there and undamaged."""
        try:
            _check(self.release_dir(ref), ref)
        except ReleaseError:
            return False
        return True

    def discard_staging(self, release_id: str) -> None:
        """Remove what was fetched of `release_id`; the next fetch starts anew."""
        path = self._staging / release_id.replace("/", "--")
        if path.exists():
            _try_remove(path)

    def verified_dir(self, ref: ReleaseRef) -> Path:
        """Return the folder of `ref`, after comparing every byte. Raises IntegrityError."""
        folder = self.release_dir(ref)
        _check(folder, ref)
        return folder

    def manifest(self, ref: ReleaseRef) -> Manifest:
        """Return the verified release's manifest. Raises ReleaseError."""
        return manifests.read_manifest(self.verified_dir(ref))

    def add_optimised(self, ref: ReleaseRef, result: SelfTestResult) -> InstalledRelease:
        """Store the graph file that the self-test made of `ref`, if it made one. Raises StateDirError."""
        source, sha256 = result.optimised, result.optimised_sha256
        if source is None or sha256 is None:
            return InstalledRelease(ref)
        path = self._optimised / ref.digest / source.name
        with _as_state_dir_error(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if source != path:
                shutil.move(source, path)
            sync_file(path)
            sync_directory(path.parent)
        return InstalledRelease(ref, path.name, sha256)

    def find_optimised(self, installed: InstalledRelease) -> Path | None:
        """Return the undamaged graph file that this machine made; without it (None) the loader uses the original."""
        if installed.optimised is None or installed.optimised_sha256 is None:
            return None
        path = self._optimised / installed.ref.digest / installed.optimised
        try:
            return path if sha256_of(path) == installed.optimised_sha256 else None
        except OSError:
            return None

    def sweep(self, *, keep: set[str], staging: str | None) -> int:
        """Remove all releases but those whose digest is in `keep`, and all staging but that of `staging`.

        Returns how many were removed. A folder that cannot be removed is left for the next sweep.
        """
        removed = 0
        for folder in (self._releases, self._optimised):
            for path in _children(folder):
                if path.name not in keep:
                    removed += _try_remove(path)
        kept = None if staging is None else staging.replace("/", "--")
        for path in _children(self._staging):
            if path.name != kept:
                removed += _try_remove(path)
        return removed


def matches_manifest(manifest: Manifest, ref: ReleaseRef) -> bool:
    """Whether the manifest agrees with the signed metadata of the release."""
    stated = (manifest.name, manifest.version, manifest.counter, manifest.files[manifests.MODEL_NAME].sha256)
    return stated == (ref.name, ref.version, ref.counter, ref.model_sha256)


def read_ref(folder: Path) -> ReleaseRef:
    """Return the reference that the release in `folder` states. Raises ReleaseError."""
    manifest = manifests.read_manifest(folder)
    digest = sha256_of(folder / manifests.MANIFEST_NAME)
    model = manifest.files[manifests.MODEL_NAME].sha256
    return ReleaseRef(manifest.name, manifest.version, manifest.counter, digest, model)


def _check(folder: Path, ref: ReleaseRef) -> None:
    """Compare every byte in `folder` with `ref`. Raises IntegrityError."""
    try:
        if sha256_of(folder / manifests.MANIFEST_NAME) != ref.digest:
            raise IntegrityError(f"{folder}: manifest.json is not the one that was signed; fetch the release again")
        manifest = manifests.read_manifest(folder)
        if not matches_manifest(manifest, ref):
            raise IntegrityError(f"{folder}: manifest.json describes another release than {ref.release_id}")
        for name, entry in manifest.files.items():
            path = folder / name
            if path.is_symlink() or path.stat().st_size != entry.length_bytes or sha256_of(path) != entry.sha256:
                raise IntegrityError(f"{path} is not the file that the manifest names; fetch the release again")
    except OSError as error:
        raise IntegrityError(f"{folder}: {error.strerror}; the release is incomplete, fetch it again") from error


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _remove(path: Path) -> None:
    """Remove a folder, read-only or not; nothing to do when it is not there. Raises OSError."""
    if path.is_dir() and not path.is_symlink():
        path.chmod(0o755)
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _try_remove(path: Path) -> bool:
    with suppress(OSError):
        _remove(path)
        return True
    _log.warning("%s cannot be removed; it is tried again later", path)
    return False
