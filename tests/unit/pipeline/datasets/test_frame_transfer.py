"""Collected frames on a disk arrive whole and once; damaged ones do not leave the site."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.cloud.cloud_cli import main as cloud
from pipeline.cloud.storage import Storage, StorageError, open_storage
from pipeline.dataset_reader import DatasetError
from pipeline.datasets import frame_transfer
from pipeline.datasets.collected_frames import scan_frames
from pipeline.progress import no_progress
from tests.kits.cloud.datasets import Line, label

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def plant(tmp_path: Path) -> Storage:
    return open_storage(tmp_path / "plant")


@pytest.fixture
def cloud_side(tmp_path: Path) -> Storage:
    return open_storage(tmp_path / "cloud")


@pytest.fixture
def stick(tmp_path: Path) -> Path:
    return tmp_path / "stick"


def export(plant: Storage, stick: Path, site: str | None = None) -> frame_transfer.TransferResult:
    return frame_transfer.export_frames(plant, stick, site=site, progress=no_progress)


def bring(stick: Path, cloud_side: Storage) -> frame_transfer.TransferResult:
    return frame_transfer.import_frames(stick, cloud_side, progress=no_progress)


def contents(storage: Storage) -> dict[str, bytes]:
    return {stored.key: storage.read(stored.key) for stored in storage.list()}


def test_what_left_the_plant_arrives_and_nothing_twice(plant: Storage, cloud_side: Storage, stick: Path) -> None:
    line = Line(plant)
    for seq in range(5):
        line.keep(seq, kind="jpg" if seq % 2 else "png")

    assert export(plant, stick) == frame_transfer.TransferResult(5, 5, ())
    assert bring(stick, cloud_side) == frame_transfer.TransferResult(5, 5, ())
    assert contents(cloud_side) == contents(plant)
    assert bring(stick, cloud_side).new == 0
    line.keep(5)
    assert export(plant, stick) == frame_transfer.TransferResult(6, 1, ())
    assert bring(stick, cloud_side) == frame_transfer.TransferResult(6, 1, ())
    assert len(scan_frames(cloud_side).frames) == 6


def test_one_site_leaves_the_other_where_it_is(plant: Storage, cloud_side: Storage, stick: Path) -> None:
    Line(plant).keep(1)
    Line(plant, site="plant-b").keep(1)
    export(plant, stick, site="plant-b")
    bring(stick, cloud_side)
    assert [kept.sidecar.site for kept in scan_frames(cloud_side).frames] == ["plant-b"]


def test_what_is_not_whole_stays_behind_and_is_told(plant: Storage, cloud_side: Storage, stick: Path) -> None:
    line = Line(plant)
    line.keep(1)
    line.keep(2, sha256="0" * 64)
    copied = export(plant, stick)
    assert copied.frames == 1
    assert "not the image that its sidecar names" in copied.problems[0]
    assert bring(stick, cloud_side).frames == 1


@pytest.mark.parametrize("suffix", [".png", ".json"])
def test_a_file_that_was_damaged_on_the_way_stays_behind(
    plant: Storage, cloud_side: Storage, stick: Path, suffix: str
) -> None:
    line = Line(plant)
    line.keep(1)
    line.keep(2)
    export(plant, stick)
    broken = next(path for path in stick.rglob(f"*cam-1-1{suffix}"))
    data = bytearray(broken.read_bytes())
    data[len(data) // 2] ^= 1
    broken.write_bytes(data)

    copied = bring(stick, cloud_side)

    assert copied.new == 1
    assert "the disk is damaged" in copied.problems[0]
    assert [kept.stem for kept in scan_frames(cloud_side).frames] == ["cam-1-2"]
    assert export(plant, stick).new == 1  # mends it
    assert bring(stick, cloud_side) == frame_transfer.TransferResult(2, 1, ())


def test_a_file_that_is_gone_or_grew_is_told(plant: Storage, cloud_side: Storage, stick: Path) -> None:
    line = Line(plant)
    line.keep(1)
    line.keep(2)
    export(plant, stick)
    next(stick.rglob("*cam-1-1.png")).unlink()
    next(stick.rglob("*cam-1-2.json")).write_bytes(b"x" * 20_000)
    copied = bring(stick, cloud_side)
    assert copied.new == 0
    assert all("export again" in problem for problem in copied.problems)
    assert not (stick.parent / "cloud").exists()


def test_another_frame_under_the_same_name_is_not_overwritten(plant: Storage, cloud_side: Storage, stick: Path) -> None:
    Line(plant).keep(1)
    Line(cloud_side).keep(1, score=0.5)
    before = contents(cloud_side)
    export(plant, stick)
    assert "with other content" in bring(stick, cloud_side).problems[0]
    assert contents(cloud_side) == before


def test_a_disk_that_is_pulled_out_has_no_index_and_goes_on(plant: Storage, cloud_side: Storage, stick: Path) -> None:
    line = Line(plant)
    for seq in range(6):
        line.keep(seq)
    export(plant, stick)
    line.keep(6)

    def pulled_out(step: str, done: int, total: int, note: str = "") -> None:
        if done == total:
            raise StorageError(f"Input/output error at {step} {note}")

    with pytest.raises(StorageError):
        frame_transfer.export_frames(plant, stick, site=None, progress=pulled_out)
    with pytest.raises(DatasetError, match="export was interrupted"):
        bring(stick, cloud_side)
    assert export(plant, stick) == frame_transfer.TransferResult(7, 0, ())
    assert bring(stick, cloud_side).new == 7


def test_a_disk_that_is_too_small_is_told_before_the_first_byte(
    plant: Storage, stick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Line(plant).keep(1)
    usage = namedtuple("usage", ["total", "used", "free"])  # noqa: PYI024 - as shutil's
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(10**9, 10**9, 1_000))
    with pytest.raises(DatasetError, match="1,000 bytes free; 1 frames need"):
        export(plant, stick)
    assert not list(stick.rglob("*.png"))


def entry(key: str, **changes: Any) -> dict[str, Any]:
    return {"key": key, "sha256": "0" * 64, "length_bytes": 1, **changes}


GOOD = "collected/v1/site=a/x/cam-1-1.png"


@pytest.mark.parametrize(
    "index",
    [
        "",
        "[]",
        '{"kind": "other", "files": []}',
        {"files": [entry("../../etc/passwd.png")]},
        {"files": [entry("labels/v1/x.json")]},
        {"files": [entry("collected/v1/site=a/../../../x.png"), entry("collected/v1/site=a/../../../x.json")]},
        {"files": [entry("collected/v1/site=a/x.exe")]},
        {"files": [entry(GOOD, length_bytes=10**12)]},
        {"files": [entry(GOOD, length_bytes=-1)]},
        {"files": [entry(GOOD, length_bytes="1")]},
        {"files": [entry(GOOD, length_bytes=float("nan"))]},
        {"files": [entry(GOOD, sha256="../..")]},
        {"files": [entry(GOOD, more=1)]},
        {"files": {}},
    ],
)
def test_a_hostile_index_is_refused(cloud_side: Storage, stick: Path, index: Any) -> None:
    stick.mkdir()
    text = index if isinstance(index, str) else json.dumps({"kind": "kensa-collected", **index})
    (stick / frame_transfer.INDEX).write_text(text, encoding="utf-8")
    with pytest.raises(DatasetError, match=r"kensa-collected\.json is damaged"):
        bring(stick, cloud_side)


def test_the_command_and_what_follows_from_it(
    plant: Storage, cloud_side: Storage, stick: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = Line(plant)
    for seq in range(12):
        line.keep(seq)
    assert cloud(["collected", "export", "--collected", plant.uri, "--to", str(stick), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["new"] == 12
    assert cloud(["collected", "import", "--from", str(stick), "--collected", cloud_side.uri]) == 0
    assert "12 frames, 12 of them new" in capsys.readouterr().out
    labels = tmp_path / "labels.jsonl"
    labels.write_text("".join(label(key, "spot" if i % 2 else "ok").line() + "\n" for i, key in enumerate(line.keys)))
    build = ["dataset", "build", "--collected", cloud_side.uri, "--labels", str(labels)]
    assert cloud([*build, "--out", str(tmp_path / "v1"), "--shares", "0.5,0.25,0.25"]) == 0
    assert "12 images in 12 groups" in capsys.readouterr().out
    assert cloud([*build, "--out", str(tmp_path / "v2"), "--base", str(tmp_path / "v1"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == 12
    assert cloud(["dataset", "diff", str(tmp_path / "v1"), str(tmp_path / "v2")]) == 0
    assert "the same images, classes and splits" in capsys.readouterr().out
    assert cloud(["dataset", "show", str(tmp_path / "v2")]) == 0
    assert "spot" in capsys.readouterr().out
