"""Changes the metadata of all roles, signs them, and writes them to the repository in a safe order.

Promise: a device that reads during a `publish` sees the state before or after it, because files are written before the
metadata that name them, and `timestamp.json` last. Signed metadata are saved in the private folder before the first
upload, so the next publish completes an interrupted one, with higher versions.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from typing import TYPE_CHECKING, Any, Final

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization.json import JSONSerializer

from agent.errors import OperatorError
from agent.release.manifest import MANIFEST_NAME
from pipeline.repository.repository_store import open_repository_store, write_private
from pipeline.repository.signing_keys import SITE_ROLE, TOP_ROLES
from pipeline.repository.staging import FILES, Staging, check_release

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from pipeline.repository.repository_store import RepositoryStore
    from pipeline.repository.signing_keys import KeyRing
    from pipeline.repository.staging import StagedRelease

UTC_FORMAT: Final = "%Y-%m-%dT%H:%M:%SZ"  # as agent.fetch.tuf_client reads signed_utc
_RENEWAL_SHARE: Final = 1 / 3  # of a role's lifetime: with less left, `publish` renews its signature
_ALGORITHM: Final = ["sha256"]


def utc_now() -> dt.datetime:
    """The current time in UTC."""
    return dt.datetime.now(dt.UTC)


class Repository:
    """One repository and its keys. Methods raise OperatorError and ReleaseError that name the remedy."""

    def __init__(
        self, keys: KeyRing, *, now: Callable[[], dt.datetime] = utc_now, store: RepositoryStore | None = None
    ) -> None:
        """Open the repository of `keys`. `store` replaces the store that the repository's address selects."""
        self.keys = keys
        self._now = now
        self._store = store or open_repository_store(keys.file.repository)
        self._folder = keys.folder / "metadata"
        self.staging = Staging(keys.folder / "staged")
        self._loaded: dict[str, Metadata[Any]] = {}
        self._changed: list[str] = []

    # --- queries ------------------------------------------------------------------------------------------------------

    def role(self, name: str) -> Metadata[Any]:
        """The newest metadata of a role, which may be changed in place and then `_sign`ed."""
        if name not in self._loaded:
            path = self._folder / f"{name}.json"
            try:
                self._loaded[name] = Metadata.from_bytes(path.read_bytes())
            except (OSError, RepositoryError) as error:
                raise OperatorError(
                    f"{path} cannot be read: {error}. It belongs to the private folder: restore it from a backup"
                ) from error
        return self._loaded[name]

    def _site(self, site: str) -> Targets:
        role = SITE_ROLE + site
        self.keys.public(role)  # the error for an unknown site lists the known ones
        signed: Targets = self.role(role).signed
        return signed

    def published(self, site: str) -> dict[str, TargetFile]:
        """Release id -> its manifest's target."""
        end = f"/{MANIFEST_NAME}"
        return {
            path.removeprefix(f"{site}/").removesuffix(end): target
            for path, target in self._site(site).targets.items()
            if path.endswith(end)
        }

    def revoked(self, site: str) -> list[dict[str, str]]:
        """The revoked releases: release_id, digest, why, utc."""
        path = self._folder / f"{site}.revoked.json"
        try:
            entries: list[dict[str, str]] = json.loads(path.read_bytes())["revoked"]
        except (OSError, ValueError, KeyError) as error:
            raise OperatorError(
                f"{path} cannot be read: {error}. Restore the private folder from its backup"
            ) from error
        return entries

    # --- changes ------------------------------------------------------------------------------------------------------

    def create(self, sites: Iterable[str], uris: dict[str, list[str]]) -> None:
        """Create keys for every role, sign the first metadata and write them. `uris`: external signers by role."""
        if (self._folder / "root.json").exists():
            raise OperatorError(f"{self._folder} already holds a repository")
        for role in TOP_ROLES:
            self.keys.renew(role, uris=uris.get(role))
        root = Root(consistent_snapshot=True)
        for role in TOP_ROLES:
            self.keys.authorise(root, role)
        targets = Targets(delegations=Delegations({}, {}))
        for signed in (root, targets, Snapshot(), Timestamp()):
            self._add_role(signed.type, signed)
        self._sign("root")
        self._add_sites(sites, uris)
        self._sign("targets")
        self.keys.save()
        self._write([])

    def add_sites(self, sites: Iterable[str], uris: dict[str, list[str]]) -> list[str]:
        """Add delegations for new sites; returns their names."""
        new = [site for site in sites if site not in self.keys.sites()]
        if new:
            self._add_sites(new, uris)
            self._sign("targets")
            self.keys.save()
            self._write([])
        return new

    def _add_sites(self, sites: Iterable[str], uris: dict[str, list[str]]) -> None:
        for site in sites:
            role = SITE_ROLE + site
            self.keys.renew(role, uris=uris.get(site))
            self._delegate(site)
            self._add_role(role, Targets())
            self._set_revoked(site, [])
            self._sign(role)

    def _add_role(self, role: str, signed: Root | Targets | Snapshot | Timestamp) -> None:
        signed.version = 0  # signing increments it to 1
        self._loaded[role] = Metadata(signed)

    def _delegate(self, site: str) -> None:
        """Authorise exactly the site's current keys to sign for its paths."""
        role = SITE_ROLE + site
        targets: Targets = self.role("targets").signed
        if targets.delegations is None or targets.delegations.roles is None:
            raise OperatorError("the targets role delegates nothing; restore the private folder from its backup")
        old = targets.delegations.roles.get(role)
        for keyid in [] if old is None else list(old.keyids):
            targets.revoke_key(keyid, role)
        paths = [f"{site}/revoked.json", f"{site}/*/*/{MANIFEST_NAME}"]
        targets.delegations.roles[role] = DelegatedRole(role, [], self.keys.threshold(role), True, paths)  # noqa: FBT003
        for key in self.keys.public(role):
            targets.add_key(key, role)

    def add(self, release: Path, site: str) -> StagedRelease:
        """Check a release folder, assign the site's next counter, and stage it."""
        manifest = check_release(release)
        published = self.published(site)
        release_id = f"{manifest.name}/{manifest.version}"
        before = published.get(release_id)
        sha256 = manifest.files["model.onnx"].sha256
        other = None if before is None else str(_custom(before)["model_sha256"])
        if other is not None and other != sha256:
            raise OperatorError(
                f"{release_id} is already published for {site} with another model ({other[:12]}..., here "
                f"{sha256[:12]}...): give the release a new version"
            )
        counters = [int(_custom(target)["counter"]) for target in published.values()]
        counters += [staged.manifest.counter for staged in self.staging.all() if staged.site == site]
        return self.staging.add(release, manifest, site=site, counter=max(counters, default=0) + 1)

    def publish(
        self, *, refresh: bool = False, say: Callable[[str, int, int], None] | None = None
    ) -> list[StagedRelease]:
        """Sign and write staged releases and expiring metadata; `refresh` signs only timestamp and snapshot."""
        staged = [] if refresh else self.staging.all()
        for release in staged:
            self._add_target(release)
        if not refresh:
            roles = {SITE_ROLE + release.site for release in staged}
            everything = ("targets", *(SITE_ROLE + site for site in self.keys.sites()))
            for role in sorted(roles | {role for role in everything if self._expires_soon(role)}):
                self._sign(role)
        self._write(staged, say=say)
        for release in staged:
            self.staging.remove(release)
        return staged

    def _add_target(self, release: StagedRelease) -> None:
        path = f"{release.site}/{release.release_id}/{MANIFEST_NAME}"
        targets = self._site(release.site).targets
        target = TargetFile.from_data(path, release.data, _ALGORITHM)
        before = targets.get(path)
        earlier = [] if before is None else [*_custom(before)["earlier"], before.hashes["sha256"]]
        target.unrecognized_fields["custom"] = {
            "counter": release.manifest.counter,
            "model_sha256": release.manifest.files["model.onnx"].sha256,
            "earlier": earlier,  # the same bytes under lower counters
            "added_utc": self._now().strftime(UTC_FORMAT),
        }
        targets[path] = target

    def revoke(self, release_id: str, site: str, why: str) -> list[str]:
        """Revoke a release at once; returns its digests. Devices leave it at their next poll."""
        target = self.published(site).get(release_id)
        if target is None:
            raise OperatorError(
                f"{release_id} is not published for {site}; there are {', '.join(self.published(site)) or 'none'}"
            )
        digests = [*_custom(target)["earlier"], target.hashes["sha256"]]
        entries = self.revoked(site)
        known = {entry["digest"] for entry in entries}
        utc = self._now().strftime(UTC_FORMAT)
        entries += [
            {"release_id": release_id, "digest": digest, "why": why, "utc": utc}
            for digest in digests
            if digest not in known
        ]
        self._set_revoked(site, entries)
        self._sign(SITE_ROLE + site)
        self._write([])
        return digests

    def _set_revoked(self, site: str, entries: list[dict[str, str]]) -> None:
        data = (json.dumps({"schema_version": 1, "revoked": entries}, indent=1) + "\n").encode()
        write_private(self._folder / f"{site}.revoked.json", data)
        path = f"{site}/revoked.json"
        self._site(site).targets[path] = TargetFile.from_data(path, data, _ALGORITHM)

    def rotate(self, roles: Iterable[str], uris: dict[str, list[str]]) -> None:
        """Replace all keys of top-level roles or sites and sign with the new ones, which invalidates stolen keys.

        The old root keys sign the new root, too, so that devices accept it. Rotating `snapshot` and `timestamp`
        together also resets version numbers that an attacker raised.
        """
        roles = list(dict.fromkeys(roles))
        old_root = self.keys.signers("root") if set(roles) & set(TOP_ROLES) else []
        for role in roles:
            name = role if role in TOP_ROLES else SITE_ROLE + role
            self.keys.public(name)
            self.keys.renew(name, uris=uris.get(role))
            if role in TOP_ROLES:
                self.keys.authorise(self.role("root").signed, role)
            else:
                self._delegate(role)
                self._sign(name)
        if old_root:
            self._sign("root", also=old_root)
        if set(roles) - {"root", "snapshot", "timestamp"}:
            self._sign("targets")
        self.keys.save()
        self._write([])

    # --- signing and writing ------------------------------------------------------------------------------------------

    def _lifetime(self, role: str) -> dt.timedelta:
        expiry = self.keys.file.expiry_days
        days: float = getattr(expiry, role if role in TOP_ROLES else "targets")
        return dt.timedelta(days=days)

    def _expires_soon(self, role: str) -> bool:
        left: dt.timedelta = self.role(role).signed.expires - self._now()
        return left < self._lifetime(role) * _RENEWAL_SHARE

    def root_days_left(self) -> float:
        """Days until the root expires, after which devices accept no updates."""
        left: dt.timedelta = self.role("root").signed.expires - self._now()
        return left / dt.timedelta(days=1)

    def _sign(self, role: str, *, also: Iterable[Any] = ()) -> None:
        metadata = self.role(role)
        metadata.signed.version += 1
        metadata.signed.expires = (self._now() + self._lifetime(role)).replace(microsecond=0)
        metadata.signatures.clear()
        try:
            for signer in (*self.keys.signers(role), *also):
                metadata.sign(signer, append=True)
        except RepositoryError as error:
            raise OperatorError(f"a key of {role} does not sign: {error}. {error.__cause__ or ''}".rstrip()) from error
        if role not in self._changed:
            self._changed.append(role)

    def _write(self, staged: list[StagedRelease], *, say: Callable[[str, int, int], None] | None = None) -> None:
        """Sign snapshot and timestamp, save all metadata, then write: files, targets, snapshot, timestamp."""
        targets = ["targets", *(SITE_ROLE + site for site in self.keys.sites())]
        snapshot: Snapshot = self.role("snapshot").signed
        for role in targets:
            data = self._serialise(role)
            snapshot.meta[f"{role}.json"] = MetaFile.from_data(self.role(role).signed.version, data, _ALGORITHM)
        self._sign("snapshot")
        timestamp: Timestamp = self.role("timestamp").signed
        timestamp.snapshot_meta = MetaFile.from_data(snapshot.version, self._serialise("snapshot"), _ALGORITHM)
        timestamp.unrecognized_fields["signed_utc"] = self._now().strftime(UTC_FORMAT)
        self._sign("timestamp")
        for role in self._changed:
            write_private(self._folder / f"{role}.json", self._serialise(role))
            if role == "root":
                write_private(self._folder / f"{self.role(role).signed.version}.root.json", self._serialise(role))
        self._upload(self._plan(staged, targets), say)
        self._changed.clear()

    def _plan(self, staged: list[StagedRelease], targets: list[str]) -> list[tuple[str, bytes | Path]]:
        """All files in writing order. Existing metadata are written again, because they may have been lost."""
        plan: list[tuple[str, bytes | Path]] = []
        for release in staged:
            for name in FILES:
                entry = release.manifest.files[name]
                plan.append((f"files/{entry.sha256}", release.folder / name))
            plan.append((f"targets/{release.site}/{release.release_id}/{release.digest}.{MANIFEST_NAME}", release.data))
        for site in self.keys.sites():
            data = (self._folder / f"{site}.revoked.json").read_bytes()
            plan.append((f"targets/{site}/{hashlib.sha256(data).hexdigest()}.revoked.json", data))
        roots = [f"{version}.root.json" for version in range(1, self.role("root").signed.version + 1)]
        plan += [(f"metadata/{name}", (self._folder / name).read_bytes()) for name in roots]
        plan += [
            (f"metadata/{self.role(role).signed.version}.{role}.json", self._serialise(role))
            for role in (*targets, "snapshot")
        ]
        plan.append(("metadata/timestamp.json", self._serialise("timestamp")))
        return plan

    def _upload(self, plan: list[tuple[str, bytes | Path]], say: Callable[[str, int, int], None] | None) -> None:
        for i, (path, content) in enumerate(plan):
            if isinstance(content, bytes):
                self._store.put(path, content)
            elif not self._store.has(path, content.stat().st_size):
                self._store.put(path, content.read_bytes())
            if say is not None:
                say("publish", i + 1, len(plan))

    def _serialise(self, role: str) -> bytes:
        return self.role(role).to_bytes(JSONSerializer(compact=True))


def _custom(target: TargetFile) -> dict[str, Any]:
    """The fields that `_add_target` adds to a target."""
    custom: dict[str, Any] = target.custom
    return custom
