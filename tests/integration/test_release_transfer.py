"""Releases on a disk for an air-gapped site are trusted as they are over a network."""

from __future__ import annotations

import datetime as dt
import json
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from agent.durable import replace_durably
from agent.errors import FetchError
from agent.timing.clock import NS_PER_S, SystemClock
from pipeline.repository import release_cli, release_transfer
from pipeline.repository.release_transfer import INDEX_NAME, ReleaseTransferError, export_release, import_releases
from simulator.doubles.clocks.manual_clock import ManualClock
from simulator.doubles.servers.release_server import ReleaseServer
from tests.kits.cloud.tuf_repository import OTHER_SITE, RELEASE, SITE, Device, Publisher

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    publisher = Publisher.start(tmp_path / "publisher")
    publisher.release()
    return publisher


@dataclass(frozen=True, slots=True)
class Made:
    """An export that tests take copies of."""

    root: Path
    stick: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    base = tmp_path_factory.mktemp("made")
    publisher = Publisher.start(base)
    publisher.release()
    export_release(str(publisher.repository), base / "stick", SITE, RELEASE)
    return Made(publisher.root, base / "stick")


@pytest.fixture
def copied(made: Made, stick: Path) -> Path:
    """A stick with the release of `made`."""
    shutil.copytree(made.stick, stick)
    return stick


@pytest.fixture
def stick(tmp_path: Path) -> Path:
    return tmp_path / "stick" / "kensa"


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    return tmp_path / "site" / "releases"


def device(tmp_path: Path, publisher: Publisher, mirror: Path, name: str = "device", site: str = SITE) -> Device:
    return Device(tmp_path / name, publisher.root, str(mirror), site=site)


def contents(folder: Path) -> dict[str, bytes]:
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    return {name: data for name, data in found.items() if not name.startswith(".")}


def test_a_device_takes_a_release_from_the_mirror_that_a_disk_filled(
    publisher: Publisher, stick: Path, mirror: Path, tmp_path: Path
) -> None:
    steps: list[tuple[int, int]] = []
    exported = export_release(
        str(publisher.repository), stick, SITE, RELEASE, progress=lambda done, total: steps.append((done, total))
    )
    brought = import_releases(stick, mirror, publisher.root)
    fetched = device(tmp_path, publisher, mirror).fetch()

    assert steps[-1][0] == steps[-1][1] > 0
    assert (exported.site, exported.release) == (SITE, RELEASE)
    assert [(b.site, b.release, b.digest) for b in brought] == [(SITE, RELEASE, fetched.ref.digest)]
    assert (tmp_path / "device" / "into" / "model.onnx").is_file()
    assert not any(name.startswith(".kensa-incoming") for name in contents(stick))
    assert not list((stick / ".kensa-incoming").glob("*"))


def test_the_disk_holds_one_site_and_one_release_and_every_root(publisher: Publisher, stick: Path) -> None:
    publisher.release("1.1.0")
    publisher.release("1.0.0", site=OTHER_SITE, images=4)
    publisher.open().rotate(["root"], {})
    publisher.open().rotate(["timestamp", "snapshot"], {})

    export_release(str(publisher.repository), stick, SITE, "spots/1.1.0")

    names = set(contents(stick))
    assert {"metadata/1.root.json", "metadata/2.root.json", "metadata/3.root.json"} <= names
    assert not [name for name in names if OTHER_SITE in name or "1.0.0" in name]
    assert len([name for name in names if name.startswith("files/")]) == 2
    assert all(contents(publisher.repository)[name] == contents(stick)[name] for name in names - {INDEX_NAME})


def test_the_disk_itself_is_a_repository_and_so_is_a_mirror_behind_a_web_server(
    publisher: Publisher, stick: Path, mirror: Path, tmp_path: Path
) -> None:
    with ReleaseServer(publisher.repository) as server:
        export_release(server.url, stick, SITE, RELEASE)
    import_releases(stick, mirror, publisher.root)
    assert device(tmp_path, publisher, stick, "by-stick").fetch().ref.release_id == RELEASE
    with ReleaseServer(mirror) as server:
        assert Device(tmp_path / "by-http", publisher.root, server.url).fetch().ref.release_id == RELEASE


def test_what_was_taken_back_reaches_the_site_without_a_release(
    publisher: Publisher, stick: Path, mirror: Path, tmp_path: Path
) -> None:
    digest = publisher.open().published(SITE)[RELEASE].hashes["sha256"]
    publisher.open().revoke(RELEASE, SITE, "it misses scratches")

    export_release(str(publisher.repository), stick, SITE, None)
    (brought,) = import_releases(stick, mirror, publisher.root)

    assert brought.release is None
    assert device(tmp_path, publisher, mirror).refresh().revoked == {digest}
    with pytest.raises(ReleaseTransferError, match="revoked"):
        export_release(str(publisher.repository), stick, SITE, RELEASE)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("files/*", "is not the .* that was signed"),
        ("targets/*/*/*/*.manifest.json", "is not the file that was signed"),
        ("targets/*/*.revoked.json", "is not the file that was signed"),
        ("metadata/timestamp.json", "not signed by enough"),
        ("metadata/*.site-*.json", "metadata"),
    ],
)
def test_a_disk_that_was_tampered_with_is_refused_and_nothing_is_brought(
    made: Made, copied: Path, mirror: Path, pattern: str, text: str
) -> None:
    for path in copied.glob(pattern):
        data = bytearray(path.read_bytes())
        at = data.find(b'"sig"') + 10 if b'"sig"' in data else len(data) // 2
        data[at] ^= 0x01
        path.write_bytes(data)

    with pytest.raises(ReleaseTransferError, match=text) as refused:
        import_releases(copied, mirror, made.root)

    assert str(copied) in str(refused.value)
    assert contents(mirror) == {}


def test_a_disk_of_another_publisher_is_refused(
    publisher: Publisher, stick: Path, mirror: Path, tmp_path: Path
) -> None:
    thief = Publisher.start(tmp_path / "thief")
    thief.release()
    export_release(str(thief.repository), stick, SITE, RELEASE)

    with pytest.raises(ReleaseTransferError, match="not signed by enough of the keys"):
        import_releases(stick, mirror, publisher.root)
    assert contents(mirror) == {}
    with pytest.raises(ReleaseTransferError, match="another repository"):
        export_release(str(publisher.repository), stick, SITE, RELEASE)


@pytest.mark.parametrize("gone", ["files/*", "targets/*/*/*/*", "metadata/*.snapshot.json"])
def test_a_disk_that_is_not_whole_is_refused_with_the_remedy(made: Made, copied: Path, mirror: Path, gone: str) -> None:
    for path in copied.glob(gone):
        path.unlink()

    with pytest.raises(ReleaseTransferError, match=r"run `kensa release export` again"):
        import_releases(copied, mirror, made.root)
    assert contents(mirror) == {}


def test_an_export_that_was_cut_leaves_no_index_and_goes_on_where_it_stopped(
    publisher: Publisher, stick: Path, mirror: Path, tmp_path: Path
) -> None:
    publisher.release("2.0.0", images=1_000)
    with ReleaseServer(publisher.repository) as server:
        server.truncated("*/files/*", after=300_000, times=2)
        server.failing("*/files/*", status=503)
        with pytest.raises(ReleaseTransferError, match="answered 503"):
            export_release(server.url, stick, SITE, "spots/2.0.0")
        server.clear_faults()
        with pytest.raises(ReleaseTransferError, match="export is incomplete"):
            import_releases(stick, mirror, publisher.root)
        before = server.sent("/files/*")
        export_release(server.url, stick, SITE, "spots/2.0.0")
        sent = server.sent("/files/*") - before
    import_releases(stick, mirror, publisher.root)

    fetched = device(tmp_path, publisher, mirror).fetch("spots/2.0.0")
    total = sum(entry.stat().st_size for entry in (fetched.folder / "golden.npz", fetched.folder / "model.onnx"))
    assert sent < total


def test_an_older_disk_than_the_last_is_refused(
    publisher: Publisher, stick: Path, mirror: Path, tmp_path: Path
) -> None:
    export_release(str(publisher.repository), stick, SITE, RELEASE)
    old = tmp_path / "old-stick"
    shutil.copytree(stick, old)
    publisher.release("1.1.0")
    export_release(str(publisher.repository), stick, SITE, "spots/1.1.0")
    import_releases(stick, mirror, publisher.root)
    before = contents(mirror)

    with pytest.raises(ReleaseTransferError, match="older than an earlier import"):
        import_releases(old, mirror, publisher.root)
    assert contents(mirror) == before


def test_a_disk_that_travelled_too_long_is_refused_with_the_remedy(made: Made, copied: Path, mirror: Path) -> None:
    clock = ManualClock(utc_offset_ns=SystemClock().utc_ns() + 3 * 86_400 * NS_PER_S)

    (exported,) = release_transfer.read_index(copied)
    assert release_transfer.expires_soon(exported, clock)
    with pytest.raises(ReleaseTransferError, match="--timestamp-days"):
        import_releases(copied, mirror, made.root, clock=clock)


def test_two_sites_and_a_later_release_share_a_disk(
    publisher: Publisher, stick: Path, mirror: Path, tmp_path: Path
) -> None:
    publisher.release(site=OTHER_SITE)
    export_release(str(publisher.repository), stick, SITE, RELEASE)
    publisher.release("1.1.0", site=OTHER_SITE)
    publisher.release("1.2.0", site=SITE)
    export_release(str(publisher.repository), stick, OTHER_SITE, "spots/1.1.0")

    brought = import_releases(stick, mirror, publisher.root)

    assert {(b.site, b.release) for b in brought} == {(SITE, RELEASE), (OTHER_SITE, "spots/1.1.0")}
    assert device(tmp_path, publisher, mirror, "a").fetch().ref.release_id == RELEASE
    assert device(tmp_path, publisher, mirror, "b", OTHER_SITE).fetch("spots/1.1.0").ref.version == "1.1.0"
    with pytest.raises(FetchError, match="lacks"):
        device(tmp_path, publisher, mirror, "c").fetch("spots/1.2.0")
    publisher.open().revoke(RELEASE, SITE, "bad")
    export_release(str(publisher.repository), stick, OTHER_SITE, "spots/1.1.0")
    assert [e.site for e in release_transfer.read_index(stick)] == [OTHER_SITE]


def test_a_full_disk_is_told_and_the_next_try_goes_on(
    publisher: Publisher, stick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = release_transfer._LIMITS.model_copy(update={"reserve_bytes": 2**60})
    monkeypatch.setattr(release_transfer, "_LIMITS", limits)
    with pytest.raises(ReleaseTransferError, match="Free some space there"):
        export_release(str(publisher.repository), stick, SITE, RELEASE)
    monkeypatch.undo()
    export_release(str(publisher.repository), stick, SITE, RELEASE)


def test_a_disk_that_fails_while_it_is_written_is_told(
    publisher: Publisher, stick: Path, mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(path: Path, content: bytes) -> None:
        if path.name == "timestamp.json":
            raise OSError(5, "Input/output error")
        replace_durably(path, content)

    monkeypatch.setattr(release_transfer, "replace_durably", broken)
    with pytest.raises(ReleaseTransferError, match=r"timestamp\.json: Input/output error"):
        export_release(str(publisher.repository), stick, SITE, RELEASE)
    monkeypatch.undo()
    with pytest.raises(ReleaseTransferError, match="is incomplete"):
        import_releases(stick, mirror, publisher.root)


def test_the_devices_keep_what_they_have_while_a_new_disk_is_brought_half(
    publisher: Publisher, stick: Path, mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_release(str(publisher.repository), stick, SITE, RELEASE)
    import_releases(stick, mirror, publisher.root)
    publisher.release("1.1.0")
    export_release(str(publisher.repository), stick, SITE, "spots/1.1.0")

    def broken(path: Path, content: bytes) -> None:
        if path.name == "timestamp.json" and mirror in path.parents:
            raise OSError(28, "No space left on device")
        replace_durably(path, content)

    monkeypatch.setattr(release_transfer, "replace_durably", broken)
    with pytest.raises(ReleaseTransferError, match="No space left"):
        import_releases(stick, mirror, publisher.root)
    assert device(tmp_path, publisher, mirror).fetch().ref.release_id == RELEASE
    monkeypatch.undo()
    import_releases(stick, mirror, publisher.root)
    assert device(tmp_path, publisher, mirror).fetch("spots/1.1.0").ref.version == "1.1.0"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("{", "damaged"),
        ('{"exported": [{"site": "../x", "release": null, "good_until": ""}]}', "damaged"),
        ('{"exported": [{"site": "a", "release": "../../x", "good_until": ""}]}', "damaged"),
        ('{"exported": 1, "more": 2}', "damaged"),
        ("x" * 5_000_000, "damaged"),
        (json.dumps({"exported": [{"site": "a", "release": None, "good_until": ""}] * 65}), "damaged"),
    ],
)
def test_a_hostile_index_is_refused(made: Made, stick: Path, mirror: Path, content: str, text: str) -> None:
    stick.mkdir(parents=True)
    (stick / INDEX_NAME).write_text(content)
    with pytest.raises(ReleaseTransferError, match=text):
        import_releases(stick, mirror, made.root)


@pytest.mark.parametrize(
    ("act", "text"),
    [
        (lambda m, s: import_releases(s / "none", s / "mirror", m.root), "inserted and mounted"),
        (lambda m, s: export_release(str(m.stick / "nowhere"), s, SITE, RELEASE), "Is this a release repository"),
        (lambda m, s: export_release(str(m.stick), s, "plant-x", RELEASE), "plant-x"),
        (lambda m, s: export_release(str(m.stick), s, SITE, "spots/9.0.0"), "has no release spots/9.0.0"),
        (lambda m, s: export_release(str(m.stick), s, SITE, "nonsense"), "is no release"),
        (lambda m, s: export_release(f"ftp:/{m.root}", s, SITE, RELEASE), "ftp"),
    ],
)
def test_what_is_wrong_is_one_sentence(made: Made, stick: Path, act: Callable[[Made, Path], Any], text: str) -> None:
    with pytest.raises(ReleaseTransferError, match=text):
        act(made, stick)


def test_the_commands_export_and_import(
    publisher: Publisher, stick: Path, mirror: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = ["--keys", str(publisher.keys), "--json"]
    assert release_cli.main(["export", RELEASE, "--to", str(stick), "--site", SITE, *keys]) == 0
    exported = json.loads(capsys.readouterr().out)
    assert exported["release"] == RELEASE
    assert "deliver it before" in exported["warning"]  # the timestamp lives for a day
    to = ["--from", str(stick), "--to", str(mirror), "--root", str(publisher.root), "--json"]
    assert release_cli.main(["import", *to]) == 0
    (brought,) = json.loads(capsys.readouterr().out)["brought"]
    assert brought["digest"] == device(tmp_path, publisher, mirror).fetch().ref.digest


def test_metadata_with_a_long_life_need_no_warning() -> None:
    exported = release_transfer.ExportedRelease(site=SITE, release=None, good_until="2026-03-01T00:00:00Z")
    now = dt.datetime(2026, 2, 1, tzinfo=dt.UTC)
    assert not release_transfer.expires_soon(exported, ManualClock(utc_offset_ns=int(now.timestamp()) * NS_PER_S))
