"""Objects in a folder and in a bucket keep the same promises and errors."""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from hypothesis import given
from hypothesis import strategies as st
from moto import mock_aws

from agent.errors import KensaError, UsageError
from pipeline.cloud.storage import (
    FolderStorage,
    ObjectMissingError,
    ObjectTooLargeError,
    Storage,
    StorageError,
    open_storage,
    validate_key,
)
from simulator.doubles.servers.s3_server import S3Server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client; the bucket `plant` is there."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        client = boto3.client("s3")
        client.create_bucket(Bucket="plant", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
        yield client


@pytest.fixture(params=["folder", "s3", "s3-root"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "folder":
        return open_storage(tmp_path / "objects")
    request.getfixturevalue("bucket")
    return open_storage("s3://plant/kensa/" if request.param == "s3" else "s3://plant")


def keys(storage: Storage, prefix: str = "") -> list[str]:
    return [stored.key for stored in storage.list(prefix)]


def test_what_was_written_is_read_listed_and_deleted(storage: Storage) -> None:
    storage.write("a/b.json", b"one")
    storage.write("a/b.json", b"three")

    assert storage.read("a/b.json") == b"three"
    assert storage.exists("a/b.json")
    assert not storage.exists("a")
    assert [(s.key, s.length_bytes) for s in storage.list()] == [("a/b.json", 5)]
    storage.delete("a/b.json")
    storage.delete("a/b.json")
    assert not storage.exists("a/b.json")


def test_both_places_list_in_the_order_of_bytes_and_by_any_prefix(storage: Storage) -> None:
    names = ["a", "a-b/x", "a.b", "ab/c/d", "a0", "ab/c.d", "ä/x", "z"]
    for name in reversed(names):
        storage.write(name if name != "a" else "a/x", b"")

    expected = sorted(("a/x" if name == "a" else name for name in names), key=str.encode)
    assert keys(storage) == expected
    assert keys(storage, "ab/") == ["ab/c.d", "ab/c/d"]
    assert keys(storage, "ab/c/") == ["ab/c/d"]
    assert keys(storage, "a") == [key for key in expected if key.startswith("a")]
    assert keys(storage, "none/") == []


def test_a_listing_goes_on_after_a_thousand_objects(bucket: Any) -> None:
    for i in range(1_003):
        bucket.put_object(Bucket="plant", Key=f"p/{i:05}", Body=b"")
    bucket.put_object(Bucket="plant", Key="p/", Body=b"")  # a console's empty folder

    assert len(keys(open_storage("s3://plant/p"))) == 1_003


def test_a_key_is_created_once(storage: Storage) -> None:
    assert storage.create("lock", b"first")
    assert not storage.create("lock", b"second")
    assert storage.read("lock") == b"first"
    storage.delete("lock")
    assert storage.create("lock", b"third")


def test_a_key_is_created_once_where_there_are_no_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    storage = open_storage(tmp_path)
    assert storage.create("lock", b"first")
    assert not storage.create("lock", b"second")
    assert storage.read("lock") == b"first"


def test_of_many_writers_one_creates(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    won: list[int] = []
    threads = [
        threading.Thread(target=lambda i=i: won.append(i) if storage.create("lock", b"%d" % i) else None, name=f"w{i}")
        for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert storage.read("lock") == b"%d" % won[0]
    assert len(won) == 1
    assert keys(storage) == ["lock"]


def test_a_read_is_bounded(storage: Storage) -> None:
    storage.write("long", b"x" * 1_000)

    assert len(storage.read("long", limit=1_000)) == 1_000
    with pytest.raises(ObjectTooLargeError, match="999 bytes"):
        storage.read("long", limit=999)


def test_a_missing_object_is_named(storage: Storage) -> None:
    storage.write("here", b"")
    with pytest.raises(ObjectMissingError, match=r"gone\.json does not exist"):
        storage.read("a/gone.json")
    with pytest.raises(ObjectMissingError):
        storage.read("here/below")


@pytest.mark.parametrize(
    "key", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/", "./a", "a\0b", "a\nb", "x" * 256, "y/" * 600 + "z"]
)
def test_a_key_that_leaves_is_refused(storage: Storage, key: str) -> None:
    for call in (storage.read, storage.exists, storage.delete):
        with pytest.raises(UsageError, match="is not a key"):
            call(key)
    for put in (storage.write, storage.create):
        with pytest.raises(UsageError, match="is not a key"):
            put(key, b"")


@given(st.text(max_size=40))
def test_a_key_that_is_accepted_stays_inside(key: str) -> None:
    try:
        validate_key(key)
    except UsageError:
        return
    assert os.path.normpath("/base/" + key) == "/base/" + key


def test_links_are_neither_listed_nor_followed_out(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(b"s")
    base = tmp_path / "base"
    base.mkdir()
    (base / "file").symlink_to(tmp_path / "outside" / "secret")
    (base / "folder").symlink_to(tmp_path / "outside")
    os.mkfifo(base / "pipe")
    storage = FolderStorage(base)

    assert keys(storage) == []
    for key in ("file", "folder/secret", "pipe"):
        with pytest.raises(StorageError):
            storage.read(key)
    assert not storage.exists("file")


def test_the_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="is the medium inserted"):
        keys(open_storage(tmp_path / "usb"))


def test_a_full_disk_leaves_the_old_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = open_storage(tmp_path)
    storage.write("a", b"old")

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="Free some space"):
        storage.write("a", b"new")
    monkeypatch.undo()
    assert storage.read("a") == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.fixture
def flaky(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """A bucket `plant` with the object `a` of 100 kB, whose server can be told to misbehave."""
    (tmp_path / "s3" / "plant").mkdir(parents=True)
    (tmp_path / "s3" / "plant" / "a").write_bytes(b"x" * 100_000)
    with S3Server(tmp_path / "s3") as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        yield server


def test_a_cut_answer_is_asked_for_again(flaky: S3Server) -> None:
    flaky.truncated("/plant/a", after=30_000, times=2)
    assert open_storage("s3://plant").read("a") == b"x" * 100_000


def test_an_answer_that_is_always_cut_is_told(flaky: S3Server) -> None:
    flaky.truncated("/plant/a", after=30_000)
    with pytest.raises(StorageError, match="Check network"):
        open_storage("s3://plant").read("a")


def test_a_throttled_call_is_made_again(flaky: S3Server) -> None:
    flaky.failing("/plant/a", status=503, times=2)
    assert len(open_storage("s3://plant").read("a")) == 100_000


@pytest.mark.parametrize("uri", ["http://host/x", "s3://", "s3://bucket/x?versionId=1", "file:///tmp"])
def test_another_address_is_refused(uri: str) -> None:
    with pytest.raises(UsageError, match="give a folder or s3://"):
        open_storage(uri)


@pytest.mark.usefixtures("bucket")
def test_a_bucket_that_does_not_exist_is_told() -> None:
    storage = open_storage("s3://elsewhere/x")
    with pytest.raises(StorageError, match="no such bucket"):
        keys(storage)
    with pytest.raises(StorageError, match="s3://elsewhere/x/k"):
        storage.write("k", b"")


def test_without_credentials_the_text_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    with pytest.raises(KensaError, match="credentials"):
        open_storage("s3://plant").read("x")
