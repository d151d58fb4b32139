"""The signing keys of a repository, as `keys.json` of the publisher's private folder lists them.

    KEYS/keys.json            roles, public keys, and a securesystemslib signer URI for each private key
    KEYS/root/*.pem           2 of these 3 sign a new root; keep them offline except for `rotate-keys`
    KEYS/*.pem                online keys, one for each role and site (mode 0600); none for awskms:..., hsm:... URIs
    KEYS/metadata/            the authoritative metadata
    KEYS/staged/              releases for the next `publish`

A `file2:` URI is relative to KEYS. Private keys are written nowhere else.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field, StringConstraints, ValidationError
from securesystemslib.exceptions import Error as SigningError
from securesystemslib.exceptions import UnsupportedLibraryError
from securesystemslib.signer import AWSSigner, CryptoSigner, Key, Signer

from agent.errors import OperatorError
from agent.strict import Strict
from pipeline.repository.repository_store import write_private

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tuf.api.metadata import Root

TOP_ROLES: Final = ("root", "targets", "snapshot", "timestamp")
SITE_ROLE: Final = "site-"  # + the site's name
_FILE: Final = "file2:"
_PREFIX_VARIABLE: Final = "CRYPTO_SIGNER_PATH_PREFIX"  # securesystemslib's; what file2: paths are relative to

Days = Annotated[float, Field(gt=0, le=3650, allow_inf_nan=False)]
SiteName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class Expiry(Strict):
    """Lifetime of signatures in days. The shorter, the sooner a device notices that updates are withheld."""

    root: Days = 365
    targets: Days = 90  # and the sites' delegations
    snapshot: Days = 7
    timestamp: Days = 1


class KeyEntry(Strict):
    """One key of a role."""

    uri: str  # of the private key, for securesystemslib
    keyid: str
    public: dict[str, Any]


class RoleKeys(Strict):
    """The keys of a role and how many of them must sign."""

    threshold: int = Field(ge=1)
    keys: list[KeyEntry] = Field(min_length=1)


class KeyFile(Strict):
    """The content of `keys.json`."""

    model_config = ConfigDict(frozen=False)  # the state of a KeyRing

    schema_version: Literal[1] = 1
    repository: str
    expiry_days: Expiry = Expiry()
    roles: dict[str, RoleKeys] = Field(default_factory=dict)


def signer_errors() -> tuple[type[Exception], ...]:
    """The exceptions of signers, with those of boto3 if it is installed."""
    errors: tuple[type[Exception], ...] = (OSError, ValueError, TypeError, SigningError, UnsupportedLibraryError)
    with contextlib.suppress(ModuleNotFoundError):
        import botocore.exceptions  # noqa: PLC0415 - optional

        errors += (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError)
    return errors


class KeyRing:
    """The keys of one repository. Methods raise OperatorError, naming the key and the remedy."""

    def __init__(self, folder: Path, file: KeyFile) -> None:
        """Call `load` or `create` instead."""
        self.folder = folder
        self.file = file

    @classmethod
    def create(cls, folder: Path, *, repository: str, expiry: Expiry) -> KeyRing:
        """Create a key ring; nothing is written before `save`."""
        if (folder / "keys.json").exists():
            raise OperatorError(f"{folder} already holds keys.json; use another folder for another repository")
        return cls(folder, KeyFile(repository=repository, expiry_days=expiry))

    @classmethod
    def load(cls, folder: Path) -> KeyRing:
        """Read `keys.json`."""
        path = folder / "keys.json"
        try:
            return cls(folder, KeyFile.model_validate_json(path.read_bytes()))
        except OSError as error:
            raise OperatorError(
                f"{path}: {error.strerror}. Give the folder of `kensa release init` with --keys, or set "
                "KENSA_RELEASE_KEYS"
            ) from error
        except ValidationError as error:
            raise OperatorError(f"{path} is refused: {error}") from error

    def save(self) -> None:
        """Write `keys.json`, readable by its owner only."""
        write_private(self.folder / "keys.json", (self.file.model_dump_json(indent=2) + "\n").encode())

    def sites(self) -> list[str]:
        """Names of the sites, sorted."""
        return sorted(role.removeprefix(SITE_ROLE) for role in self.file.roles if role.startswith(SITE_ROLE))

    def renew(self, role: str, *, uris: list[str] | None = None) -> None:
        """Give the role the keys at `uris`, or new ones: 3 files with a threshold of 2 for the root, else one."""
        entries = [self._imported(uri) for uri in uris or []]
        if not entries:
            entries = [self._generated(role) for _ in range(3 if role == "root" else 1)]
        threshold = len(entries) // 2 + 1 if role == "root" else 1
        self.file.roles[role] = RoleKeys(threshold=threshold, keys=entries)

    def _generated(self, role: str) -> KeyEntry:
        signer = CryptoSigner.generate_ed25519()
        key = signer.public_key
        name = f"{role}-{key.keyid[:12]}.pem"
        relative = f"root/{name}" if role == "root" else name
        write_private(self.folder / relative, signer.private_bytes)
        return KeyEntry(uri=_FILE + relative, keyid=key.keyid, public=key.to_dict())

    def _imported(self, uri: str) -> KeyEntry:
        scheme, _, name = uri.partition(":")
        if scheme != AWSSigner.SCHEME:
            raise OperatorError(
                f"{uri!r} cannot be imported, only awskms:KEY-ID. For other signers of securesystemslib write the uri "
                f"and the public key into {self.folder / 'keys.json'}"
            )
        try:
            found, key = AWSSigner.import_(name)
        except signer_errors() as error:
            raise OperatorError(
                f"the key {uri} cannot be read: {error}. It needs pip install 'kensa[aws]', a region, and the "
                "permissions kms:GetPublicKey and kms:Sign"
            ) from error
        return KeyEntry(uri=found, keyid=key.keyid, public=key.to_dict())

    def public(self, role: str) -> list[Key]:
        """The role's public keys."""
        return [Key.from_dict(entry.keyid, dict(entry.public)) for entry in self._role(role).keys]

    def threshold(self, role: str) -> int:
        """Number of the role's keys that must sign."""
        return self._role(role).threshold

    def signers(self, role: str) -> list[Signer]:
        """The available signers, at least the threshold."""
        found, missing = [], []
        for entry in self._role(role).keys:
            try:
                with self._in_key_folder():
                    found.append(Signer.from_priv_key_uri(entry.uri, Key.from_dict(entry.keyid, dict(entry.public))))
            except signer_errors() as error:
                missing.append(f"{entry.uri}: {error}")
        if len(found) < self.threshold(role):
            raise OperatorError(
                f"{self.threshold(role)} keys must sign for {role}, and {len(found)} are available in {self.folder}. "
                "Insert the offline medium, or fix:\n  " + "\n  ".join(missing)
            )
        return found

    def authorise(self, root: Root, role: str) -> None:
        """Authorise exactly the role's keys to sign for a top-level role."""
        for keyid in list(root.roles[role].keyids):
            root.revoke_key(keyid, role)
        for key in self.public(role):
            root.add_key(key, role)
        root.roles[role].threshold = self.threshold(role)

    def _role(self, role: str) -> RoleKeys:
        try:
            return self.file.roles[role]
        except KeyError:
            name = role.removeprefix(SITE_ROLE)
            raise OperatorError(
                f"there is no site {name!r}; there are {', '.join(self.sites()) or 'none'}. "
                f"`kensa release init REPOSITORY --keys {self.folder} --site {name}` adds it"
            ) from None

    @contextlib.contextmanager
    def _in_key_folder(self) -> Iterator[None]:
        before = os.environ.get(_PREFIX_VARIABLE)
        os.environ[_PREFIX_VARIABLE] = str(self.folder)
        try:
            yield
        finally:
            del os.environ[_PREFIX_VARIABLE]
            if before is not None:
                os.environ[_PREFIX_VARIABLE] = before
