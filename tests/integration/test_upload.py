"""Uploads are complete, happen once, resume after a cut, and keep the rate limit."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest
from moto.server import ThreadedMotoServer

from agent.errors import UploadError
from agent.upload.s3_target import S3Target
from agent.upload.target_factory import open_target
from agent.upload.throttle import Throttle
from agent.upload.upload_targets import ConflictError, FolderTarget, SpooledImageChangedError
from simulator.doubles.servers.s3_server import S3Server
from tests.kits.collection import new_item, objects, settings, spool_in
from tests.kits.requirements import require

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.collection.spool import Spool
    from agent.collection.spool_items import SpoolItem
    from agent.upload.upload_targets import UploadTarget

FREE = Throttle(None)
ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}
SMALL = b"picture" * 1_000
PART_BYTES = 100_000  # 80 times smaller than in earnest
LARGE = b"".join(hashlib.sha256(bytes([n % 256, n // 256])).digest() for n in range(8_000))  # three such parts


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.upload.s3_target.PART_BYTES", PART_BYTES)


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    (tmp_path / "s3").mkdir()
    with S3Server(tmp_path / "s3") as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = spool_in(tmp_path / "spool")
    yield spool
    spool.close()


@pytest.fixture(params=["s3", "folder"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> UploadTarget:
    if request.param == "s3":
        request.getfixturevalue("s3")
        return S3Target("data", "line", throttle=FREE)
    (tmp_path / "s3" / "data" / "line").mkdir(parents=True)
    return FolderTarget(tmp_path / "s3" / "data" / "line", throttle=FREE)


def keep(spool: Spool, seq: int, image: bytes) -> SpoolItem:
    assert spool.add(new_item(seq, image), settings=settings(), job=(1, seq + 1)) is None
    return again(spool)


def again(spool: Spool) -> SpoolItem:
    item = spool.next_item()
    assert item is not None
    return item


@pytest.mark.parametrize("image", [SMALL, LARGE], ids=["small", "large"])
def test_a_frame_arrives_under_its_key_with_its_sidecar(
    tmp_path: Path, spool: Spool, target: UploadTarget, image: bytes
) -> None:
    item = keep(spool, 7, image)
    for _ in range(2):  # doing it again changes nothing
        target.put_image(item, spool)
        target.put_sidecar(item)
    stem = "collected/v1/site=plant-a/thing=device-7/day=2026-09-21/model=default-1.2.3/top/cam1-1-7"
    found = objects(tmp_path / "s3" / "data" / "line")
    assert set(found) == {stem + ".jpg", stem + ".json"}
    assert found[stem + ".jpg"] == image
    assert json.loads(found[stem + ".json"])["image"]["sha256"] == hashlib.sha256(image).hexdigest()


@pytest.mark.parametrize("image", [SMALL, LARGE], ids=["small", "large"])
def test_something_else_under_the_key_is_never_overwritten(
    tmp_path: Path, spool: Spool, target: UploadTarget, image: bytes
) -> None:
    path = tmp_path / "s3" / "data" / "line" / keep(spool, 7, image).key
    path.parent.mkdir(parents=True)
    path.write_bytes(b"of another device with the same name")
    with pytest.raises(ConflictError, match="did another program write there"):
        target.put_image(again(spool), spool)
    assert path.read_bytes() == b"of another device with the same name"


@pytest.mark.parametrize("image", [SMALL, LARGE], ids=["small", "large"])
def test_a_picture_that_changed_on_this_disk_does_not_go_out(spool: Spool, target: UploadTarget, image: bytes) -> None:
    item = keep(spool, 7, image)
    item.path.write_bytes(image[:-1] + b"?")
    with pytest.raises(SpooledImageChangedError):
        target.put_image(item, spool)
    item.path.unlink()
    with pytest.raises(SpooledImageChangedError):
        target.put_image(item, spool)


@pytest.mark.parametrize("request_number", range(5))  # create, three parts, complete
@pytest.mark.parametrize("answer_lost", [False, True], ids=["cut on the way in", "answer lost"])
def test_an_upload_in_parts_goes_on_where_it_was_cut(
    spool: Spool, s3: S3Server, *, answer_lost: bool, request_number: int
) -> None:
    item = keep(spool, 7, LARGE)
    path = f"/data/{item.key}"
    if answer_lost:
        s3.unanswered(path, times=1, skip=request_number)
    else:
        s3.truncated(path, after=100, times=1, skip=request_number)
    with pytest.raises(UploadError, match="cannot be reached"):
        S3Target("data", "", throttle=FREE).put_image(item, spool)
    S3Target("data", "", throttle=FREE).put_image(again(spool), spool)
    assert s3.content(path) == LARGE
    assert s3.stored[path] == 1
    repeated = {number for number in (1, 2, 3) if s3.parts_received[path, number] > 1}
    assert repeated == ({request_number} & {1, 2, 3} if answer_lost else set()), "only the part whose answer was lost"


@pytest.mark.parametrize("answer_lost", [False, True], ids=["cut on the way in", "answer lost"])
def test_a_cut_of_a_small_one_is_mended_by_the_next_try(spool: Spool, s3: S3Server, *, answer_lost: bool) -> None:
    item = keep(spool, 7, SMALL)
    if answer_lost:
        s3.unanswered("*", times=1)
    else:
        s3.truncated("*", after=100, times=1)
    target = S3Target("data", "", throttle=FREE)
    with pytest.raises(UploadError, match="cannot be reached"):
        target.put_image(item, spool)
    target.put_image(item, spool)
    assert s3.content(f"/data/{item.key}") == SMALL
    assert s3.stored[f"/data/{item.key}"] == 1


@pytest.mark.parametrize("may_list", [True, False], ids=["may list", "may not list"])
def test_an_upload_that_s3_gave_up_begins_again(spool: Spool, s3: S3Server, *, may_list: bool) -> None:
    s3.shows_missing = may_list
    target = S3Target("data", "", throttle=FREE)
    keep(spool, 7, LARGE)
    spool.begin_multipart(again(spool), "long-gone")
    with pytest.raises(UploadError, match="begins again"):
        target.put_image(again(spool), spool)
    target.put_image(again(spool), spool)
    assert s3.content(f"/data/{again(spool).key}") == LARGE


@pytest.mark.parametrize("image", [SMALL, LARGE], ids=["small", "large"])
def test_expired_credentials_are_said_and_new_ones_go_on(
    spool: Spool, s3: S3Server, monkeypatch: pytest.MonkeyPatch, image: bytes
) -> None:
    item = keep(spool, 7, image)
    s3.accepted = frozenset({"NEW"})
    with pytest.raises(UploadError, match="renew the credentials") as caught:
        S3Target("data", "", throttle=FREE).put_image(item, spool)
    assert caught.value.reason == "credentials"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "NEW")
    S3Target("data", "", throttle=FREE).put_image(item, spool)
    assert s3.content(f"/data/{item.key}") == image


@pytest.mark.usefixtures("s3")
def test_without_credentials_or_network_it_says_so(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    item = keep(spool, 7, SMALL)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    with pytest.raises(UploadError, match="cannot be reached"):
        S3Target("data", "", throttle=FREE).put_image(item, spool)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(UploadError, match="credentials"):
        S3Target("data", "", throttle=FREE).put_image(item, spool)


def test_the_bandwidth_is_bounded(spool: Spool, s3: S3Server) -> None:
    item = keep(spool, 7, bytes(400_000))
    began = time.monotonic()
    S3Target("data", "", throttle=Throttle(500_000)).put_image(item, spool)
    assert time.monotonic() - began > (400_000 - 65_536) / 500_000 * 0.9
    assert s3.content(f"/data/{item.key}") == bytes(400_000)


def test_a_folder_that_is_not_there_is_never_made(tmp_path: Path, spool: Spool) -> None:
    item = keep(spool, 7, SMALL)
    target = FolderTarget(tmp_path / "disk" / "kensa", throttle=FREE)
    with pytest.raises(UploadError, match="mount the disk"):
        target.put_image(item, spool)
    assert not (tmp_path / "disk").exists()
    checked = target.check("plant-a", "device-7")
    assert not checked.usable
    (tmp_path / "disk" / "kensa").mkdir(parents=True)
    assert target.check("plant-a", "device-7").usable


def test_a_disk_that_fills_up_leaves_no_half_picture(tmp_path: Path, spool: Spool) -> None:
    require(Path("/dev/full").exists(), "/dev/full", "run on Linux")
    item = keep(spool, 7, SMALL)
    (tmp_path / "disk").mkdir()
    path = tmp_path / "disk" / item.key
    path.parent.mkdir(parents=True)
    path.with_name(path.name + ".part").symlink_to("/dev/full")
    with pytest.raises(UploadError, match="cannot be written"):
        FolderTarget(tmp_path / "disk", throttle=FREE).put_image(item, spool)
    assert objects(tmp_path / "disk") == {}
    FolderTarget(tmp_path / "disk", throttle=FREE).put_image(item, spool)
    assert objects(tmp_path / "disk") == {item.key: SMALL}


def test_the_doctors_look_changes_nothing(s3: S3Server) -> None:
    target = open_target(settings(target="s3://data/line"))
    assert target is not None
    assert target.check("plant-a", "device-7").usable
    s3.accepted = frozenset()
    checked = target.check("plant-a", "device-7")
    assert (checked.certain, "403" in checked.text) == (False, True)
    assert not s3.stored


def test_moto_takes_what_the_stand_in_takes(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second opinion on the protocol: checksums, conditions and parts as another implementation reads them."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setattr("agent.upload.s3_target.PART_BYTES", 5 * 1024**2)  # the least that S3 takes
    large = LARGE * 48  # 12 MB
    try:
        client = boto3.client("s3")
        client.create_bucket(Bucket="data")
        for seq, image in enumerate((SMALL, large)):
            item = keep(spool, seq, image)
            for _ in range(2):
                S3Target("data", "", throttle=FREE).put_image(again(spool), spool)
                S3Target("data", "", throttle=FREE).put_sidecar(again(spool))
            assert client.get_object(Bucket="data", Key=item.key)["Body"].read() == image
            spool.complete(item)
    finally:
        server.stop()
