"""Every attack of the Uptane list, from the network or with stolen keys, is refused with its reason."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from securesystemslib.signer import CryptoSigner

from agent.children.fetch_protocol import FetchReason
from agent.errors import FetchError, ReleaseRefusedError
from pipeline.repository.signing_keys import KeyRing
from simulator.doubles.servers.release_server import ReleaseServer
from tests.kits.cloud.tuf_repository import HASTY, OTHER_SITE, PATIENT, RELEASE, SITE, Device, Publisher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

TIMESTAMP = "/metadata/timestamp.json"
FAR = 2_000_000_000


@dataclass
class World:
    """What an attacker has to do with. The device has fetched 1.0.0; 1.1.0 is published and wanted now."""

    publisher: Publisher
    server: ReleaseServer
    device: Device
    old: dict[str, bytes]  # metadata of the time of 1.0.0, by file name
    trusted_utc_s: float = 0.0
    wanted: str = "spots/1.1.0"
    stolen: dict[str, list[Any]] = field(default_factory=dict)

    def metadata(self, role: str) -> str:
        """The URL's path of the role's present file."""
        return f"/metadata/{self.publisher.version(role)}.{role}.json"

    def fetch(self) -> Any:
        return self.device.fetch(self.wanted, trusted_utc_s=self.trusted_utc_s)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A publisher with 1.0.0 and a device that has it, to be copied for each test."""
    base = tmp_path_factory.mktemp("template")
    publisher = Publisher.start(base)
    publisher.release("1.0.0")
    device = Device(base / "device", publisher.root, str(publisher.repository))
    assert device.fetch("spots/1.0.0").ref.counter == 1
    shutil.copytree(publisher.repository / "metadata", base / "old")
    publisher.release("1.1.0")
    return base


@pytest.fixture
def world(template: Path, tmp_path: Path) -> Iterator[World]:
    base = tmp_path / "world"
    shutil.copytree(template, base, symlinks=True)
    publisher = Publisher(base)
    ring = KeyRing.load(publisher.keys)
    ring.file.repository = str(publisher.repository)
    ring.save()
    old = {path.name: path.read_bytes() for path in (base / "old").iterdir()}
    stolen: dict[str, list[Any]] = {role: ring.signers(role) for role in ring.file.roles}
    with ReleaseServer(publisher.repository) as server:
        yield World(publisher, server, Device(base / "device", publisher.root, server.url), old, stolen=stolen)


# --- the attacks ------------------------------------------------------------------------------------------------------


def altered_model(world: World) -> None:
    manifest = json.loads(world.publisher.file(f"targets/{SITE}/spots/1.1.0/*.manifest.json").read_bytes())
    entry = manifest["files"]["model.onnx"]
    path = f"/files/{entry['sha256']}"
    data = bytearray((world.publisher.repository / path[1:]).read_bytes())
    data[len(data) // 2] ^= 1
    world.server.substitute(path, bytes(data))
    (world.device.into / "model.onnx").unlink()  # the same bytes as those of 1.0.0


def altered_manifest(world: World) -> None:
    file = world.publisher.file(f"targets/{SITE}/spots/1.1.0/*.manifest.json")
    path = "/" + str(file.relative_to(world.publisher.repository))
    world.server.substitute(path, file.read_bytes().replace(b'"unsure_band": 0.1', b'"unsure_band": 0.0'))


def replayed_timestamp(world: World) -> None:
    world.device.fetch(world.wanted)
    world.server.substitute(TIMESTAMP, world.old["timestamp.json"])


def timestamp_names_an_older_snapshot(world: World) -> None:
    world.device.fetch(world.wanted)

    def back(signed: Any) -> None:
        signed.version += 1
        signed.snapshot_meta.version = 1

    world.server.substitute(TIMESTAMP, world.publisher.forged("timestamp", back))


def snapshot_names_an_older_site_role(world: World) -> None:
    world.device.fetch(world.wanted)

    def back(signed: Any) -> None:
        signed.version += 1
        signed.meta[f"site-{SITE}.json"].version = 1

    snapshot = world.publisher.forged("snapshot", back)
    serve_snapshot(world, snapshot, world.publisher.version("snapshot") + 1)


def serve_snapshot(world: World, snapshot: bytes, version: int) -> None:
    """Serve it with a timestamp that fits, signed with the stolen key."""

    def name_it(signed: Any) -> None:
        signed.version += 1
        meta = signed.snapshot_meta
        meta.version, meta.length, meta.hashes = version, len(snapshot), {"sha256": sha256(snapshot)}

    world.server.substitute(f"/metadata/{version}.snapshot.json", snapshot)
    world.server.substitute(TIMESTAMP, world.publisher.forged("timestamp", name_it))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def frozen(world: World) -> None:
    world.trusted_utc_s = time.time() + 2 * 86_400


def older_snapshot_under_the_new_name(world: World) -> None:
    world.server.substitute(world.metadata("snapshot"), world.old["2.snapshot.json"])


def older_site_role_under_the_new_name(world: World) -> None:
    world.server.substitute(world.metadata(f"site-{SITE}"), world.old[f"2.site-{SITE}.json"])


def snapshot_lacks_the_site(world: World) -> None:
    def lose(signed: Any) -> None:
        signed.version += 1
        del signed.meta[f"site-{SITE}.json"]

    serve_snapshot(world, world.publisher.forged("snapshot", lose), world.publisher.version("snapshot") + 1)


def endless_timestamp(world: World) -> None:
    world.server.endless("*timestamp.json")


def endless_file(world: World) -> None:
    world.server.endless("/files/*")
    for name in ("model.onnx", "golden.npz"):
        (world.device.into / name).unlink()


def far_timestamp(world: World) -> None:
    world.server.substitute(TIMESTAMP, world.publisher.forged("timestamp", lambda s: setattr(s, "version", FAR)))


def far_site_role(world: World) -> None:
    def jump(signed: Any) -> None:
        signed.version += 1
        signed.meta[f"site-{SITE}.json"].version = FAR

    serve_snapshot(world, world.publisher.forged("snapshot", jump), world.publisher.version("snapshot") + 1)


def foreign_key(world: World) -> None:
    signers = [CryptoSigner.generate_ed25519()]
    world.server.substitute(TIMESTAMP, world.publisher.forged("timestamp", bump, signers=signers))


def bump(signed: Any) -> None:
    signed.version += 1


def withdrawn_key(world: World) -> None:
    world.publisher.open().rotate(["timestamp"], {})
    signers = world.stolen["timestamp"]
    world.server.substitute(TIMESTAMP, world.publisher.forged("timestamp", bump, signers=signers))


def root_below_its_threshold(world: World) -> None:
    root = world.publisher.forged("root", bump, signers=world.stolen["root"][:1])
    world.server.substitute("/metadata/2.root.json", root)


def site_role_signed_by_the_other_site(world: World) -> None:
    role = f"site-{SITE}"
    data = world.publisher.forged(role, bump, signers=world.stolen[f"site-{OTHER_SITE}"])
    version = world.publisher.version(role) + 1

    def name_it(signed: Any) -> None:
        signed.version += 1
        meta = signed.meta[f"{role}.json"]
        meta.version, meta.length, meta.hashes = version, len(data), {"sha256": sha256(data)}

    world.server.substitute(f"/metadata/{version}.{role}.json", data)
    serve_snapshot(world, world.publisher.forged("snapshot", name_it), world.publisher.version("snapshot") + 1)


def dripping_file(world: World) -> None:
    world.device.limits = HASTY
    world.server.slow("/files/*", bytes_per_s=200)
    for name in ("model.onnx", "golden.npz"):
        (world.device.into / name).unlink()


def silent_server(world: World) -> None:
    world.device.limits = HASTY
    world.server.silent("*timestamp.json")


def nonsense(world: World) -> None:
    world.server.substitute(TIMESTAMP, b"<html>Please log in to the plant's guest network</html>")


def deep_nonsense(world: World) -> None:
    world.server.substitute(TIMESTAMP, b"[" * 16_000)


ATTACKS: list[tuple[Callable[[World], None], FetchReason]] = [
    (altered_model, FetchReason.ARBITRARY_SOFTWARE),
    (altered_manifest, FetchReason.ARBITRARY_SOFTWARE),
    (replayed_timestamp, FetchReason.METADATA_ROLLBACK),
    (timestamp_names_an_older_snapshot, FetchReason.METADATA_ROLLBACK),
    (snapshot_names_an_older_site_role, FetchReason.METADATA_ROLLBACK),
    (frozen, FetchReason.METADATA_EXPIRED),
    (older_snapshot_under_the_new_name, FetchReason.MIX_AND_MATCH),
    (older_site_role_under_the_new_name, FetchReason.MIX_AND_MATCH),
    (snapshot_lacks_the_site, FetchReason.MIX_AND_MATCH),
    (endless_timestamp, FetchReason.ENDLESS_DATA),
    (endless_file, FetchReason.ENDLESS_DATA),
    (far_timestamp, FetchReason.FAST_FORWARD),
    (far_site_role, FetchReason.FAST_FORWARD),
    (foreign_key, FetchReason.KEY_COMPROMISE),
    (withdrawn_key, FetchReason.KEY_COMPROMISE),
    (root_below_its_threshold, FetchReason.KEY_COMPROMISE),
    (site_role_signed_by_the_other_site, FetchReason.KEY_COMPROMISE),
    (dripping_file, FetchReason.SLOW_RETRIEVAL),
    (silent_server, FetchReason.SLOW_RETRIEVAL),
    (nonsense, FetchReason.METADATA_INVALID),
    (deep_nonsense, FetchReason.METADATA_INVALID),
]

WITH_ONLINE_KEYS = {
    timestamp_names_an_older_snapshot,
    snapshot_names_an_older_site_role,
    snapshot_lacks_the_site,
    far_site_role,
    site_role_signed_by_the_other_site,
}


@pytest.mark.parametrize(("attack", "reason"), ATTACKS, ids=lambda value: getattr(value, "__name__", str(value)))
def test_an_attack_has_its_reason_and_the_honest_release_stays_installable(
    world: World, attack: Callable[[World], None], reason: FetchReason
) -> None:
    attack(world)

    with pytest.raises(FetchError) as refused:
        world.fetch()

    assert refused.value.reason == reason, str(refused.value)
    assert not (world.device.into / "manifest.json").exists() or is_whole(world.device)
    world.server.clear_faults()
    world.device.limits, world.trusted_utc_s = PATIENT, 0.0
    if attack in WITH_ONLINE_KEYS:  # the device may believe what was signed with them, until they are worth nothing
        world.publisher.open().rotate(["snapshot", "timestamp"], {})
    assert world.fetch().ref.release_id == world.wanted


def is_whole(device: Device) -> bool:
    """Does the folder hold every file that its manifest lists?"""
    files = json.loads((device.into / "manifest.json").read_bytes())["files"]
    return all(sha256((device.into / name).read_bytes()) == entry["sha256"] for name, entry in files.items())


def test_the_other_sites_key_cannot_sign_for_this_site(world: World) -> None:
    repository = world.publisher.open()
    role = repository.role(f"site-{OTHER_SITE}").signed
    mine = repository.role(f"site-{SITE}").signed.targets[f"{SITE}/spots/1.1.0/manifest.json"]
    path = f"{SITE}/spots/9.9.9/manifest.json"
    role.targets[path] = type(mine).from_dict({**mine.to_dict()}, path)
    repository._sign(f"site-{OTHER_SITE}")
    repository._write([])
    world.wanted = "spots/9.9.9"

    with pytest.raises(FetchError) as refused:
        world.fetch()

    assert refused.value.reason == FetchReason.TARGET_UNKNOWN


def test_a_device_that_believed_a_fast_forward_recovers_when_the_keys_are_rotated(world: World) -> None:
    def jump(signed: Any) -> None:
        signed.version += 900_000

    world.server.substitute(TIMESTAMP, world.publisher.forged("timestamp", jump))
    world.fetch()
    world.server.clear_faults()
    with pytest.raises(FetchError) as refused:
        world.fetch()
    assert refused.value.reason == FetchReason.METADATA_ROLLBACK

    world.publisher.open().rotate(["snapshot", "timestamp"], {})

    assert world.fetch().ref.release_id == world.wanted


def test_devices_follow_a_chain_of_rotated_roots_from_the_first_one(world: World, tmp_path: Path) -> None:
    for _ in range(3):
        world.publisher.open().rotate(["root"], {})
    world.publisher.open().rotate(["targets", "timestamp", SITE], {})
    fresh = Device(tmp_path / "fresh", world.publisher.root, world.server.url)

    assert world.fetch().ref.release_id == world.wanted
    assert fresh.fetch(world.wanted).ref.release_id == world.wanted
    assert world.publisher.version("root") == 5


def test_expiry_is_judged_by_the_trusted_time_when_the_clock_is_behind(world: World) -> None:
    assert world.fetch().signed_utc_s == pytest.approx(time.time(), abs=120)
    world.trusted_utc_s = time.time() + 400 * 86_400  # a device that has seen a later signature

    with pytest.raises(FetchError) as refused:
        world.fetch()

    assert refused.value.reason == FetchReason.METADATA_EXPIRED


# --- releases that are bad themselves ---------------------------------------------------------------------------------


def test_a_revoked_release_is_refused_for_good_and_its_digest_is_told(world: World) -> None:
    digests = world.publisher.open().revoke(world.wanted, SITE, "misses scratches")

    with pytest.raises(ReleaseRefusedError) as refused:
        world.fetch()

    assert (refused.value.gate, refused.value.reason) == ("revoked", FetchReason.TARGET_REVOKED)
    assert refused.value.digest == digests[0]
    world.wanted = RELEASE
    assert world.fetch().revoked == frozenset(digests)


def test_a_release_over_the_sites_limit_is_refused_with_its_figures(world: World) -> None:
    world.device.max_release_bytes = 10_000

    with pytest.raises(ReleaseRefusedError) as refused:
        world.fetch()

    assert (refused.value.gate, refused.value.reason) == ("fetch", FetchReason.TOO_LARGE)
    assert refused.value.figures["release_bytes"] > refused.value.limits["release_bytes"] == 10_000


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"counter": 0}, FetchReason.COUNTER_MISSING),
        ({"name": "stains"}, FetchReason.NAME_DIFFERS),
        ({"surprise": 1}, FetchReason.MANIFEST_REFUSED),
    ],
)
def test_a_signed_manifest_that_cannot_be_used_is_refused_for_good(
    world: World, change: dict[str, Any], reason: FetchReason
) -> None:
    repository = world.publisher.open()
    path = f"{SITE}/{world.wanted}/manifest.json"
    targets = repository.role(f"site-{SITE}").signed.targets
    file = world.publisher.file(f"targets/{SITE}/{world.wanted}/*.manifest.json")
    data = json.dumps({**json.loads(file.read_bytes()), **change}).encode()
    custom = targets[path].custom
    targets[path] = type(targets[path]).from_data(path, data, ["sha256"])
    targets[path].unrecognized_fields["custom"] = custom
    (file.parent / f"{sha256(data)}.manifest.json").write_bytes(data)
    repository._sign(f"site-{SITE}")
    repository._write([])

    with pytest.raises(ReleaseRefusedError) as refused:
        world.fetch()

    assert (refused.value.gate, refused.value.reason) == ("contract", reason)
    assert refused.value.digest == sha256(data)
