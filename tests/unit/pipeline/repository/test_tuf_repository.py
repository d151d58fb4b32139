"""The publisher: keys, counters, write order, revocations, rotations and commands."""

from __future__ import annotations

import datetime as dt
import json
import stat
from typing import TYPE_CHECKING, Any

import pytest
from securesystemslib.signer import CryptoSigner

from agent.errors import IntegrityError, KensaError, OperatorError, UsageError
from pipeline.repository.release_cli import main
from pipeline.repository.signing_keys import KeyEntry, KeyRing
from pipeline.repository.tuf_repository import Repository
from simulator.doubles.servers.s3_server import S3Server
from tests.kits.cloud.tuf_repository import SITE, Publisher
from tests.kits.releases import spot_model, write_release

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    return Publisher.start(tmp_path)


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    folder = tmp_path / "s3"
    folder.mkdir()
    with S3Server(folder) as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        yield server


def metadata(publisher: Publisher, name: str) -> dict[str, Any]:
    signed: dict[str, Any] = json.loads((publisher.repository / "metadata" / name).read_bytes())["signed"]
    return signed


def test_no_private_key_lands_in_the_repository_and_keys_are_their_owners_only(publisher: Publisher) -> None:
    publisher.release()
    publisher.open().rotate(["root", "targets", SITE], {})

    keys = sorted(publisher.keys.rglob("*.pem"))
    secrets = [path.read_bytes().split(b"\n")[1] for path in keys]
    published = [path.read_bytes() for path in publisher.repository.rglob("*") if path.is_file()]

    assert len(keys) == 8 + 5
    assert {stat.S_IMODE(path.stat().st_mode) for path in [*keys, publisher.keys / "keys.json"]} == {0o600}
    assert not any(secret in data or b"PRIVATE" in data for secret in secrets for data in published)


def test_two_of_three_offline_keys_sign_the_root_and_one_online_key_each_other_role(publisher: Publisher) -> None:
    root = metadata(publisher, "1.root.json")

    assert {name: (role["threshold"], len(role["keyids"])) for name, role in root["roles"].items()} == {
        "root": (2, 3),
        "targets": (1, 1),
        "snapshot": (1, 1),
        "timestamp": (1, 1),
    }
    assert len({keyid for role in root["roles"].values() for keyid in role["keyids"]}) == 6


def test_the_lives_of_signatures_are_a_year_90_days_a_week_and_a_day(publisher: Publisher) -> None:
    now = dt.datetime.now(dt.UTC)
    lives = {}
    for name in ("1.root.json", "1.targets.json", f"1.site-{SITE}.json", "1.snapshot.json", "timestamp.json"):
        expires = dt.datetime.fromisoformat(metadata(publisher, name)["expires"])
        lives[name] = round((expires - now) / dt.timedelta(days=1))

    assert list(lives.values()) == [365, 90, 90, 7, 1]


def test_counters_grow_by_one_for_each_release_of_a_site(publisher: Publisher, tmp_path: Path) -> None:
    folders = [write_release(tmp_path / version, version=version) for version in ("1.0.0", "1.1.0", "1.2.0")]
    repository = publisher.open()

    staged = [repository.add(folder, SITE).manifest.counter for folder in folders[:2]]
    repository.publish()
    later = publisher.open().add(folders[2], SITE).manifest.counter
    other = publisher.open().add(folders[0], "plant-b").manifest.counter

    assert (staged, later, other) == ([1, 2], 3, 1)


def test_old_bytes_get_a_new_counter_and_other_bytes_need_a_new_version(publisher: Publisher, tmp_path: Path) -> None:
    first = publisher.release("1.0.0")
    publisher.release("1.1.0")

    again = publisher.release("1.0.0")

    assert again != first
    assert metadata(publisher, f"4.site-{SITE}.json")["targets"][f"{SITE}/spots/1.0.0/manifest.json"]["custom"][
        "earlier"
    ] == [first]
    model = spot_model()
    model.doc_string = "another model"
    other = write_release(tmp_path / "other", model=model.SerializeToString(), version="1.0.0")
    with pytest.raises(OperatorError, match="give the release a new version"):
        publisher.open().add(other, SITE)


def test_a_damaged_release_is_not_staged(publisher: Publisher, tmp_path: Path) -> None:
    folder = write_release(tmp_path / "release")
    with (folder / "golden.npz").open("ab") as file:
        file.write(b"x")

    with pytest.raises(IntegrityError, match=r"golden\.npz is not the file"):
        publisher.open().add(folder, SITE)

    assert publisher.open().staging.all() == []


def test_files_are_written_before_what_names_them_and_the_timestamp_last(s3: S3Server, tmp_path: Path) -> None:
    publisher = Publisher.start(tmp_path, where="s3://bucket/releases")
    s3.requests.clear()

    publisher.release()

    kinds = [request.path.split("/")[3] for request in s3.requests]
    names = [
        request.path.rpartition("/")[2].lstrip("0123456789.") for request in s3.requests if "metadata" in request.path
    ]
    assert kinds == sorted(kinds, key=["files", "targets", "metadata"].index)
    assert names[-2:] == ["snapshot.json", "timestamp.json"]


def test_an_interrupted_publish_is_finished_by_the_next_one(s3: S3Server, tmp_path: Path) -> None:
    publisher = Publisher.start(tmp_path, where="s3://bucket/releases")
    s3.failing("*timestamp.json", status=403)
    with pytest.raises(OperatorError, match=r"timestamp\.json"):
        publisher.release()
    s3.clear_faults()

    published = publisher.open().publish()

    assert [release.release_id for release in published] == ["spots/1.0.0"]
    timestamp = json.loads((s3.folder / "bucket/releases/metadata/timestamp.json").read_bytes())["signed"]
    assert timestamp["version"] == 3
    assert publisher.open().staging.all() == []


def test_a_refresh_signs_timestamp_and_snapshot_and_nothing_else(publisher: Publisher) -> None:
    roles = ("root", "targets", f"site-{SITE}", "snapshot", "timestamp")

    publisher.open().publish(refresh=True)

    assert [publisher.version(role) for role in roles] == [1, 1, 1, 2, 2]


def test_publishing_renews_what_expires_soon(publisher: Publisher) -> None:
    later = dt.datetime.now(dt.UTC) + dt.timedelta(days=70)

    Repository(KeyRing.load(publisher.keys), now=lambda: later).publish()

    assert publisher.version("targets") == 2
    assert publisher.version(f"site-{SITE}") == 2


def test_without_the_offline_keys_publishing_works_and_rotating_says_what_to_bring(publisher: Publisher) -> None:
    (publisher.keys / "root").rename(publisher.base / "in the safe")

    publisher.release()
    with pytest.raises(OperatorError, match="Insert the offline medium"):
        publisher.open().rotate(["timestamp"], {})

    assert publisher.version("root") == 1


def test_one_lost_root_key_does_not_stop_a_rotation(publisher: Publisher) -> None:
    next((publisher.keys / "root").iterdir()).unlink()

    publisher.open().rotate(["root"], {})

    assert publisher.version("root") == 2


def test_a_key_may_lie_elsewhere_by_its_uri(publisher: Publisher, tmp_path: Path) -> None:
    medium = tmp_path / "medium"
    medium.mkdir()
    signer = CryptoSigner.generate_ed25519()
    (medium / "site.pem").write_bytes(signer.private_bytes)
    ring = KeyRing.load(publisher.keys)
    entry = KeyEntry(
        uri=f"file2:{medium / 'site.pem'}", keyid=signer.public_key.keyid, public=signer.public_key.to_dict()
    )
    ring.file.roles[f"site-{SITE}"].keys[0] = entry
    ring.save()

    assert [s.public_key.keyid for s in KeyRing.load(publisher.keys).signers(f"site-{SITE}")] == [entry.keyid]


# --- the commands -----------------------------------------------------------------------------------------------------


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main([*arguments, "--json"]) == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def test_the_commands_in_a_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KENSA_RELEASE_KEYS", str(tmp_path / "keys"))
    release = str(write_release(tmp_path / "release"))
    repository = str(tmp_path / "repository")

    made = run(capsys, "init", repository, "--site", "plant-a")
    more = run(capsys, "init", repository, "--site", "plant-a", "--site", "plant-b")
    staged = run(capsys, "add", release, "--site", "plant-a")
    published = run(capsys, "publish")
    revoked = run(capsys, "revoke", "spots/1.0.0", "--site", "plant-a", "--why", "misses scratches")
    rotated = run(capsys, "rotate-keys", "timestamp", "plant-b")
    shown = run(capsys, "show")

    assert made["added_sites"] == ["plant-a"]
    assert json.loads((tmp_path / "keys" / "1.root.json").read_bytes())["signed"]["version"] == 1
    assert more == {"repository": repository, "added_sites": ["plant-b"], "sites": ["plant-a", "plant-b"]}
    assert (staged["staged"], staged["counter"]) == ("spots/1.0.0", 1)
    assert published["published"][0]["digest"] == staged["digest"] == revoked["digests"][0]
    assert rotated["root_version"] == 2
    assert shown["sites"]["plant-a"]["revoked"][0]["why"] == "misses scratches"
    assert shown["roles"]["root"]["threshold"] == 2
    assert main(["show"]) == 0
    assert "spots/1.0.0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        (["show"], UsageError, "KENSA_RELEASE_KEYS"),
        (["show", "--keys", "nowhere"], OperatorError, "kensa release init"),
        (["init", "repo", "--keys", "repo/keys"], UsageError, "everybody can read"),
        (["init", "repo", "--keys", "k", "--site", "a/b"], UsageError, "A-Za-z0-9"),
        (["init", "repo", "--keys", "k", "--timestamp-days", "0"], UsageError, "0 to 3650"),
        (["init", "repo", "--keys", "k", "--signer", "targets"], UsageError, "ROLE=URI"),
        (["init", "repo", "--keys", "k", "--signer", "targets=hsm:1"], OperatorError, "keys.json"),
        (["init", "http://host/x", "--keys", "k"], OperatorError, "s3://bucket/prefix"),
    ],
)
def test_wrong_usage_ends_in_a_sentence_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], kind: type[KensaError], text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KENSA_RELEASE_KEYS", raising=False)

    with pytest.raises(kind, match=text):
        main(arguments)


def test_unknown_sites_and_releases_name_what_there_is(publisher: Publisher, tmp_path: Path) -> None:
    publisher.release()
    folder = write_release(tmp_path / "release", version="2.0.0")

    with pytest.raises(OperatorError, match="there are plant-a, plant-b"):
        publisher.open().add(folder, "plant-c")
    with pytest.raises(OperatorError, match=r"there are spots/1\.0\.0"):
        publisher.open().revoke("spots/3.0.0", SITE, "never was")
