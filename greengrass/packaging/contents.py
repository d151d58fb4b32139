"""What an archive holds beside the wheels: a factory release and the trust anchor, or one release with its metadata.

Nothing is judged here: the device trusts nothing that comes with a component, and judges the release as it judges any
other. What is checked is only that the files are there, so that a build fails instead of a deployment.
"""

from __future__ import annotations

import datetime as dt
import json
from typing import TYPE_CHECKING, Any, Final

from agent.errors import ReleaseError
from agent.model import manifest
from greengrass.packaging.archive import Entry
from greengrass.packaging.lock import PackagingError
from greengrass.packaging.wheels import sha256_of

if TYPE_CHECKING:
    from pathlib import Path

_SOON: Final = dt.timedelta(hours=1)
_REPOSITORY: Final = "repository"  # folder in the archive


def factory_release(folder: Path) -> list[Entry]:
    """The files of a release folder that its manifest lists, below `release/`. Raises PackagingError."""
    try:
        listed = manifest.read(folder).files
    except ReleaseError as error:
        raise PackagingError(f"{folder} is no release folder: {error}") from error
    for name, entry in listed.items():
        path = folder / name
        if not path.is_file() or sha256_of(path) != entry.sha256:
            raise PackagingError(f"{path} is not the file that {folder / manifest.MANIFEST_NAME} lists")
    return [Entry(f"release/{name}", folder / name) for name in (manifest.MANIFEST_NAME, *listed)]


def anchor(path: Path) -> Entry:
    """A repository's 1.root.json. Raises PackagingError."""
    if _signed(path).get("_type") != "root":
        raise PackagingError(f"{path} is no root metadata; give the repository's metadata/1.root.json")
    return Entry("1.root.json", path)


def signed_release(repository: Path, *, site: str, release_id: str, now: dt.datetime) -> list[Entry]:
    """A repository of one release below `repository/`: what a device needs to fetch and judge `release_id` of `site`.

    Raises PackagingError where a file is missing, or where a signature expires within an hour of `now`.
    """
    metadata = repository / "metadata"
    taken = [path.name for path in sorted(metadata.glob("*.root.json"))]
    timestamp = _current(metadata / "timestamp.json", now)
    snapshot_name = f"{timestamp['meta']['snapshot.json']['version']}.snapshot.json"
    snapshot = _current(metadata / snapshot_name, now)
    role_name = f"site-{site}.json"
    if role_name not in snapshot["meta"]:
        raise PackagingError(f"{repository} has no site {site!r}")
    versions = {name: f"{snapshot['meta'][name]['version']}.{name}" for name in ("targets.json", role_name)}
    _current(metadata / versions["targets.json"], now)
    targets = _current(metadata / versions[role_name], now)["targets"]
    wanted = f"{site}/{release_id}/{manifest.MANIFEST_NAME}"
    if wanted not in targets:
        known = ", ".join(sorted(t.split("/", 1)[1].rpartition("/")[0] for t in targets if t.count("/") > 1))
        raise PackagingError(f"{repository} has no release {release_id} for {site}; there are: {known or 'none'}")
    taken += ["timestamp.json", snapshot_name, *versions.values()]
    paths = [f"metadata/{name}" for name in taken]
    paths += [_target_path(path, targets[path]) for path in (wanted, f"{site}/revoked.json") if path in targets]
    listed = manifest.parse((repository / _target_path(wanted, targets[wanted])).read_bytes()).files
    paths += [f"files/{entry.sha256}" for entry in listed.values()]
    if missing := [path for path in paths if not (repository / path).is_file()]:
        raise PackagingError(f"{repository} lacks {', '.join(missing)}; publish the release again")
    return [Entry(f"{_REPOSITORY}/{path}", repository / path) for path in paths]


def _target_path(path: str, target: dict[str, Any]) -> str:
    folder, _, name = path.rpartition("/")
    return f"targets/{folder}/{target['hashes']['sha256']}.{name}"


def _signed(path: Path) -> dict[str, Any]:
    try:
        signed: dict[str, Any] = json.loads(path.read_bytes())["signed"]
    except OSError as error:
        raise PackagingError(f"{path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise PackagingError(f"{path} is no signed metadata") from error
    return signed


def _current(path: Path, now: dt.datetime) -> dict[str, Any]:
    signed = _signed(path)
    expires = dt.datetime.fromisoformat(str(signed["expires"]))
    if expires < now + _SOON:
        raise PackagingError(
            f"{path} expires {expires:%Y-%m-%d %H:%M} UTC, and devices would refuse it. kensa release publish "
            "--refresh signs it again; the timestamp's life must cover the rollout (kensa release init --timestamp-days)"
        )
    return signed
