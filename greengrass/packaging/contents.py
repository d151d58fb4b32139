"""Collects an archive's content besides the wheels: a factory release, or a signed release.

Everything is read once, when the plan is made, so that all archives of a version have the same content. Only the
presence of the files is checked, so that a build fails instead of a deployment: a device does not trust content because
it came with a component.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from typing import TYPE_CHECKING, Any, Final

from agent.errors import ReleaseError
from agent.release import manifest
from greengrass.packaging.archive import ArchiveEntry
from greengrass.packaging.lock import PackagingError

if TYPE_CHECKING:
    from pathlib import Path

_MIN_VALIDITY: Final = dt.timedelta(hours=1)


def factory_release(folder: Path) -> list[ArchiveEntry]:
    """Return the files of a release folder that its manifest lists, below `release/`. Raises PackagingError."""
    try:
        listed = manifest.read_manifest(folder).files
    except ReleaseError as error:
        raise PackagingError(f"{folder} is no release folder: {error}") from error
    entries = [_read(folder, name, below="release") for name in (manifest.MANIFEST_NAME, *listed)]
    for entry, promised in zip(entries[1:], listed.values(), strict=True):
        if hashlib.sha256(entry.content).hexdigest() != promised.sha256:
            raise PackagingError(f"{folder}: {entry.name} is not the file that the manifest lists")
    return entries


def trust_anchor(path: Path) -> ArchiveEntry:
    """Return a repository's 1.root.json. Raises PackagingError."""
    if _read_signed(path).get("_type") != "root":
        raise PackagingError(f"{path} is no root metadata; give the repository's metadata/1.root.json")
    return ArchiveEntry("1.root.json", path.read_bytes())


def signed_release(repository: Path, *, site: str, release_id: str, now: dt.datetime) -> list[ArchiveEntry]:
    """Return what a device needs to fetch and verify `release_id` of `site`, below `repository/`.

    Raises PackagingError where a file is missing, or where a signature expires within an hour of `now`.
    """
    metadata = repository / "metadata"
    taken = [path.name for path in sorted(metadata.glob("*.root.json"))]
    timestamp = _read_unexpired(metadata / "timestamp.json", now)
    snapshot_name = f"{timestamp['meta']['snapshot.json']['version']}.snapshot.json"
    snapshot = _read_unexpired(metadata / snapshot_name, now)
    role_name = f"site-{site}.json"
    if role_name not in snapshot["meta"]:
        raise PackagingError(f"{repository} has no site {site!r}")
    versions = {name: f"{snapshot['meta'][name]['version']}.{name}" for name in ("targets.json", role_name)}
    _read_unexpired(metadata / versions["targets.json"], now)
    targets = _read_unexpired(metadata / versions[role_name], now)["targets"]
    manifest_path = f"{site}/{release_id}/{manifest.MANIFEST_NAME}"
    if manifest_path not in targets:
        known = ", ".join(sorted(t.split("/", 1)[1].rpartition("/")[0] for t in targets if t.count("/") > 1))
        raise PackagingError(f"{repository} has no release {release_id} for {site}; there are: {known or 'none'}")
    taken += ["timestamp.json", snapshot_name, *versions.values()]
    paths = [f"metadata/{name}" for name in taken]
    paths += [_target_path(path, targets[path]) for path in (manifest_path, f"{site}/revoked.json") if path in targets]
    listed = manifest.parse_manifest(
        (repository / _target_path(manifest_path, targets[manifest_path])).read_bytes()
    ).files
    paths += [f"files/{entry.sha256}" for entry in listed.values()]
    return [_read(repository, path, below="repository") for path in paths]


def _read(folder: Path, name: str, *, below: str) -> ArchiveEntry:
    try:
        return ArchiveEntry(f"{below}/{name}", (folder / name).read_bytes())
    except OSError as error:
        raise PackagingError(f"{folder / name}: {error.strerror}") from error


def _target_path(path: str, target: dict[str, Any]) -> str:
    folder, _, name = path.rpartition("/")
    return f"targets/{folder}/{target['hashes']['sha256']}.{name}"


def _read_signed(path: Path) -> dict[str, Any]:
    try:
        signed: dict[str, Any] = json.loads(path.read_bytes())["signed"]
    except OSError as error:
        raise PackagingError(f"{path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise PackagingError(f"{path} is no signed metadata") from error
    return signed


def _read_unexpired(path: Path, now: dt.datetime) -> dict[str, Any]:
    signed = _read_signed(path)
    expires = dt.datetime.fromisoformat(str(signed["expires"]))
    if expires < now + _MIN_VALIDITY:
        raise PackagingError(
            f"{path} expires {expires:%Y-%m-%d %H:%M} UTC and would be refused then. kensa release publish --refresh "
            "signs it again; the timestamp's life must cover the rollout (kensa release init --timestamp-days)"
        )
    return signed
