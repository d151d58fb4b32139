"""`kensa release`: maintain a repository of signed releases for devices.

Typical: `init /srv/releases --keys ~/release-keys --site plant-a`, copy metadata/1.root.json to each device, then for
every release `add releases/surface-1.2.0 --site plant-a` and `publish`; run `publish --refresh` twice a day.
An air-gapped site gets its releases on a disk: `export` here, `import` there (docs/datasets.md).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agent.errors import MissingExtraError, OperatorError, UsageError
from pipeline.progress import ProgressDisplay

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.repository.tuf_repository import Repository

_KEYS_VARIABLE: Final = "KENSA_RELEASE_KEYS"
_ROOT_WARNING_DAYS: Final = 60.0


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="kensa release", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.add_argument("--keys", type=Path, help=f"the publisher's private folder (or set {_KEYS_VARIABLE})")
        made.add_argument("--json", action="store_true", help="one JSON object on standard output")
        return made

    signer = "ROLE=URI: an external key, such as targets=awskms:alias/kensa-targets; repeatable"
    init = command("init", "create a repository, or add sites to one")
    init.add_argument("repository", help="a folder, or s3://bucket/prefix")
    init.add_argument("--site", action="append", default=[], help="site or line with its own key; repeatable")
    init.add_argument("--signer", action="append", default=[], metavar="ROLE=URI", help=signer)
    for role, days in (("root", 365), ("targets", 90), ("snapshot", 7), ("timestamp", 1)):
        init.add_argument(f"--{role}-days", type=float, default=days, help=f"lifetime of a signature (default {days})")
    add = command("add", "check a release and stage it for a site")
    add.add_argument("release", type=Path, help="release folder of kensa train")
    add.add_argument("--site", required=True)
    publish = command("publish", "sign and write staged releases and expiring metadata")
    publish.add_argument("--refresh", action="store_true", help="renew only the signatures of timestamp and snapshot")
    revoke = command("revoke", "revoke a release at once")
    revoke.add_argument("release_id", help="NAME/VERSION")
    revoke.add_argument("--site", required=True)
    revoke.add_argument("--why", required=True, help="one sentence for the people who run it")
    rotate = command("rotate-keys", "replace the keys of roles, at once")
    rotate.add_argument("role", nargs="+", help="root, targets, snapshot, timestamp, or a site's name")
    rotate.add_argument("--signer", action="append", default=[], metavar="ROLE=URI", help=signer)
    command("show", "roles, keys, sites and releases")
    export = command("export", "write a release to a disk for an air-gapped site; needs no keys")
    export.add_argument("release_id", nargs="?", help="NAME/VERSION; without it only the list of revoked releases")
    export.add_argument("--to", type=Path, required=True, metavar="DISK", help="a folder on the disk")
    export.add_argument("--site", required=True)
    export.add_argument("--from", dest="repository", help="folder, http(s):// or s3:// (default: that of --keys)")
    export.add_argument("--root", type=Path, help="trusted 1.root.json (default: that of the repository)")
    bring = command("import", "copy the releases on a disk to the folder that the site's devices read; needs no keys")
    bring.add_argument("--from", dest="disk", type=Path, required=True, metavar="DISK", help="a folder on the disk")
    bring.add_argument("--to", type=Path, required=True, metavar="MIRROR", help="the devices' updates.repository")
    bring.add_argument("--root", type=Path, required=True, help="the 1.root.json of the devices")
    return parser.parse_args(argv)


def _keys_folder(given: Path | None) -> Path:
    found = given or os.environ.get(_KEYS_VARIABLE)
    if not found:
        raise UsageError(f"give the publisher's private folder with --keys, or set {_KEYS_VARIABLE}")
    return Path(found).absolute()


def _uris(given: list[str]) -> dict[str, list[str]]:
    uris: dict[str, list[str]] = {}
    for item in given:
        role, equals, uri = item.partition("=")
        if not equals or ":" not in uri:
            raise UsageError(f"--signer {item!r}: write ROLE=URI, such as targets=awskms:alias/kensa-targets")
        uris.setdefault(role, []).append(uri)
    return uris


def _open(arguments: argparse.Namespace) -> Repository:
    from pipeline.repository.signing_keys import KeyRing  # noqa: PLC0415 - tuf and cryptography: after the arguments
    from pipeline.repository.tuf_repository import Repository  # noqa: PLC0415

    return Repository(KeyRing.load(_keys_folder(arguments.keys)))


def _init(arguments: argparse.Namespace) -> dict[str, Any]:
    from pydantic import TypeAdapter, ValidationError  # noqa: PLC0415

    from pipeline.repository.signing_keys import Expiry, KeyRing, SiteName  # noqa: PLC0415
    from pipeline.repository.tuf_repository import Repository  # noqa: PLC0415

    keys, uris = _keys_folder(arguments.keys), _uris(arguments.signer)
    where = arguments.repository if "://" in arguments.repository else str(Path(arguments.repository).absolute())
    if "://" not in where and keys.resolve().is_relative_to(Path(where).resolve()):
        raise UsageError(f"the private folder {keys} is inside the repository {where}, which everybody can read")
    try:
        names: list[str] = TypeAdapter(list[SiteName]).validate_python(arguments.site)
        expiry = Expiry(
            root=arguments.root_days,
            targets=arguments.targets_days,
            snapshot=arguments.snapshot_days,
            timestamp=arguments.timestamp_days,
        )
    except ValidationError as error:
        raise UsageError(f"sites match [A-Za-z0-9_-]{{1,64}}, lifetimes are 0 to 3650 days: {error}") from error
    if (keys / "keys.json").exists():
        ring = KeyRing.load(keys)
        if ring.file.repository != where:
            raise OperatorError(f"{keys} holds the keys of {ring.file.repository}; {where} needs its own folder")
        repository = Repository(ring)
        added = repository.add_sites(names, uris)
        return {"repository": where, "added_sites": added, "sites": ring.sites()}
    ring = KeyRing.create(keys, repository=where, expiry=expiry)
    Repository(ring).create(names, uris)
    root = keys / "1.root.json"
    shutil.copy(keys / "metadata" / "1.root.json", root)
    return {"repository": where, "root": str(root), "added_sites": names, "sites": ring.sites()}


def _add(arguments: argparse.Namespace) -> dict[str, Any]:
    staged = _open(arguments).add(arguments.release, arguments.site)
    counter = staged.manifest.counter
    return {"staged": staged.release_id, "site": staged.site, "counter": counter, "digest": staged.digest}


def _publish(arguments: argparse.Namespace) -> dict[str, Any]:
    repository = _open(arguments)
    with ProgressDisplay(quiet=arguments.json) as display:
        staged = repository.publish(refresh=arguments.refresh, say=display)
    published = [
        {"release": s.release_id, "site": s.site, "counter": s.manifest.counter, "digest": s.digest} for s in staged
    ]
    days = repository.root_days_left()
    answer: dict[str, Any] = {"published": published, "root_days_left": round(days, 1)}
    if days < _ROOT_WARNING_DAYS:
        answer["warning"] = f"the root expires in {days:.0f} days: insert the root keys and run rotate-keys root"
    return answer


def _revoke(arguments: argparse.Namespace) -> dict[str, Any]:
    digests = _open(arguments).revoke(arguments.release_id, arguments.site, arguments.why)
    return {"revoked": arguments.release_id, "site": arguments.site, "digests": digests}


def _rotate(arguments: argparse.Namespace) -> dict[str, Any]:
    repository = _open(arguments)
    repository.rotate(arguments.role, _uris(arguments.signer))
    return {"rotated": arguments.role, "root_version": repository.role("root").signed.version}


def _show(arguments: argparse.Namespace) -> dict[str, Any]:
    repository = _open(arguments)
    ring = repository.keys
    roles = {
        role: {
            "version": repository.role(role).signed.version,
            "expires": repository.role(role).signed.expires.isoformat(),
            "threshold": keys.threshold,
            "keys": [entry.uri for entry in keys.keys],
        }
        for role, keys in ring.file.roles.items()
    }
    sites = {
        site: {
            "releases": {
                release_id: {"counter": target.custom["counter"], "digest": target.hashes["sha256"]}
                for release_id, target in repository.published(site).items()
                if target.custom
            },
            "revoked": repository.revoked(site),
        }
        for site in ring.sites()
    }
    staged = [f"{s.site}: {s.release_id} (counter {s.manifest.counter})" for s in repository.staging.all()]
    return {"repository": ring.file.repository, "roles": roles, "sites": sites, "staged": staged}


def _export(arguments: argparse.Namespace) -> dict[str, Any]:
    from agent.timing.clock import SystemClock  # noqa: PLC0415
    from pipeline.repository import release_transfer  # noqa: PLC0415
    from pipeline.repository.signing_keys import KeyRing  # noqa: PLC0415

    repository = arguments.repository or KeyRing.load(_keys_folder(arguments.keys)).file.repository
    with ProgressDisplay(quiet=arguments.json) as display:
        exported = release_transfer.export_release(
            repository,
            arguments.to,
            arguments.site,
            arguments.release_id,
            root=arguments.root,
            progress=lambda done, total: display("export", done, total),
        )
    answer = {"disk": str(arguments.to), **exported.model_dump(mode="json")}
    if release_transfer.expires_soon(exported, SystemClock()):
        answer["warning"] = "devices accept nothing from this disk after good_until: deliver it before"
    return answer


def _import(arguments: argparse.Namespace) -> dict[str, Any]:
    from pipeline.repository import release_transfer  # noqa: PLC0415

    with ProgressDisplay(quiet=arguments.json) as display:
        brought = release_transfer.import_releases(
            arguments.disk,
            arguments.to,
            arguments.root,
            progress=lambda done, total: display("import", done, total),
        )
    return {"mirror": str(arguments.to), "brought": [asdict(item) for item in brought]}


def _print(value: Any, indent: str = "") -> None:
    """Print the content of `--json` as indented lines."""
    for key, entry in value.items() if isinstance(value, dict) else ((None, item) for item in value):
        name = f"{key}:" if key is not None else "-"
        if isinstance(entry, dict | list):
            print(f"{indent}{name}" if entry else f"{indent}{name} none")
            _print(entry, indent + "  ")
        else:
            print(f"{indent}{name} {entry}")


_COMMANDS: Final[dict[str, Callable[[argparse.Namespace], dict[str, Any]]]] = {
    "init": _init,
    "add": _add,
    "publish": _publish,
    "revoke": _revoke,
    "rotate-keys": _rotate,
    "show": _show,
    "export": _export,
    "import": _import,
}


def main(argv: list[str]) -> int:
    """Run one command. Raises KensaError, which `agent.cli` prints."""
    arguments = _arguments(argv)
    try:
        answer = _COMMANDS[arguments.command](arguments)
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"kensa release needs the package {error.name!r}: reinstall Kensa with its requirements"
        ) from error
    if arguments.json:
        print(json.dumps(answer))
    else:
        _print(answer)
    return 0
