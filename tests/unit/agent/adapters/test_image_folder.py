"""A folder of images as a camera."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from agent.adapters.image_folder import ImageFolderSource
from agent.errors import CameraError, FrameError, SourceEndedError
from agent.records import DropReason
from agent.timing.clock import SystemClock
from tests.kits.requirements import real_data

if TYPE_CHECKING:
    from pathlib import Path

    from agent.records import Grab

CLOCK = SystemClock()


def picture(level: int) -> np.ndarray:
    return np.full((24, 32, 3), level, np.uint8)


def write(folder: Path, **levels: int) -> None:
    """Write a PNG for each name; double underscores stand for subfolders."""
    for name, level in levels.items():
        file = folder / f"{name.replace('__', '/')}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), picture(level))


def read_all(source: ImageFolderSource) -> list[Grab]:
    grabs: list[Grab] = []
    source.open()
    while True:
        try:
            grab = source.read(timeout_s=1.0, buffer=None)
        except SourceEndedError:
            source.close()
            return grabs
        assert grab is not None
        grabs.append(grab)


def test_pictures_of_all_levels_come_once_and_sorted(tmp_path: Path) -> None:
    write(tmp_path, b=2, a=1, sub__c=3)
    (tmp_path / "notes.txt").write_text("no picture")
    grabs = read_all(ImageFolderSource(path=tmp_path, clock=CLOCK))
    assert [grab.part_id for grab in grabs] == ["a.png", "b.png", "sub/c.png"]
    assert [int(grab.pixels[0, 0, 0]) for grab in grabs] == [1, 2, 3]


def test_a_manifest_gives_order_and_split(tmp_path: Path) -> None:
    write(tmp_path, a=1, b=2, c=3)
    (tmp_path / "manifest.csv").write_text("path,split\nc.png,val\nb.png,train\na.png,val\n")
    assert [grab.part_id for grab in read_all(ImageFolderSource(path=tmp_path, clock=CLOCK, split="val"))] == [
        "c.png",
        "a.png",
    ]
    by_file = ImageFolderSource(path=tmp_path / "manifest.csv", clock=CLOCK)
    assert [grab.part_id for grab in read_all(by_file)] == ["c.png", "b.png", "a.png"]


def test_a_looped_folder_starts_over(tmp_path: Path) -> None:
    write(tmp_path, a=1, b=2)
    source = ImageFolderSource(path=tmp_path, clock=CLOCK, loop=True)
    source.open()
    grabs = [source.read(timeout_s=1.0, buffer=None) for _ in range(5)]
    assert [grab.part_id for grab in grabs if grab] == ["a.png", "b.png", "a.png", "b.png", "a.png"]
    source.close()


def test_pacing_keeps_the_grid_and_a_short_read_comes_back_empty(tmp_path: Path) -> None:
    write(tmp_path, a=1, b=2, c=3)
    source = ImageFolderSource(path=tmp_path, clock=CLOCK, fps=20.0)
    source.open()
    first = source.read(timeout_s=1.0, buffer=None)
    assert source.read(timeout_s=0.001, buffer=None) is None
    second = source.read(timeout_s=1.0, buffer=None)
    assert first is not None
    assert second is not None
    assert second.due_ns - first.due_ns == 50_000_000
    source.close()


def test_it_decodes_into_the_buffer_that_is_handed_in(tmp_path: Path) -> None:
    write(tmp_path, a=5)
    source = ImageFolderSource(path=tmp_path, clock=CLOCK)
    source.open()
    buffer = np.empty((24, 32, 3), np.uint8)
    grab = source.read(timeout_s=1.0, buffer=buffer)
    assert grab is not None
    assert grab.pixels is buffer
    assert (buffer == 5).all()
    source.close()


def test_a_bad_picture_is_one_frame_error_with_its_name_and_the_next_one_comes(tmp_path: Path) -> None:
    write(tmp_path, a=1, c=3)
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:-20])
    (tmp_path / "manifest.csv").write_text("path\na.png\nb.png\ngone.png\nc.png\n")
    source = ImageFolderSource(path=tmp_path, clock=CLOCK)
    source.open()
    assert source.read(timeout_s=1.0, buffer=None)
    for name in ("b.png", "gone.png"):
        with pytest.raises(FrameError, match=name) as caught:
            source.read(timeout_s=1.0, buffer=None)
        assert caught.value.reason == DropReason.CORRUPT
        assert (caught.value.name, caught.value.part_id) == (name, name)
    last = source.read(timeout_s=1.0, buffer=None)
    assert last is not None
    assert last.part_id == "c.png"
    source.close()


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(1 << 30)
    source = ImageFolderSource(path=tmp_path, clock=CLOCK)
    source.open()
    with pytest.raises(FrameError, match="at most") as caught:
        source.read(timeout_s=1.0, buffer=None)
    assert caught.value.reason == DropReason.SIZE
    source.close()


@pytest.mark.parametrize(("name", "count"), [("xsdd", 208), ("magtile", 191)])
def test_real_pictures_are_all_read(name: str, count: int) -> None:
    grabs = read_all(ImageFolderSource(path=real_data(name), clock=CLOCK, split="val"))
    assert len(grabs) == count
    assert len({grab.part_id for grab in grabs}) == count


@pytest.mark.parametrize(
    ("manifest", "split", "said"),
    [
        (None, None, "holds no pictures"),
        (None, "val", "no manifest.csv"),
        ("name,split\na.png,val\n", None, "needs the column path; it has name, split"),
        ("path\na.png\n", "val", "needs the column split; it has path"),
        ("path,split\na.png,train\n", "val", "no pictures of split 'val': its splits are train"),
        ("", None, "needs the column path; it has none"),
        ("path\n../outside.png\n", None, "line 2: path '../outside.png' must be relative"),
        ("path\n/etc/passwd\n", None, "must be relative"),
        ("path\n\xff\xfe\n", None, "not a CSV file in UTF-8"),
    ],
)
def test_a_folder_that_cannot_be_a_camera_says_why(
    tmp_path: Path, manifest: str | None, split: str | None, said: str
) -> None:
    if manifest is not None:
        (tmp_path / "manifest.csv").write_bytes(manifest.encode("latin-1"))
    with pytest.raises(CameraError, match=said):
        ImageFolderSource(path=tmp_path, clock=CLOCK, split=split).open()


def test_a_missing_folder_and_a_wrong_file_say_so(tmp_path: Path) -> None:
    with pytest.raises(CameraError, match="does not exist"):
        ImageFolderSource(path=tmp_path / "nowhere", clock=CLOCK).open()
    write(tmp_path, a=1)
    with pytest.raises(CameraError, match=r"neither a folder nor a \.csv"):
        ImageFolderSource(path=tmp_path / "a.png", clock=CLOCK).open()


def test_pictures_of_other_kinds_are_counted_and_named(tmp_path: Path) -> None:
    write(tmp_path, a=1, sub__b=2)
    for name in ("1.tif", "2.TIF", "sub/3.tiff", "4.webp", "5.heic", "notes.txt", "thumbs.db"):
        (tmp_path / name).write_bytes(b"II*")
    source = ImageFolderSource(path=tmp_path, clock=CLOCK)
    assert len(read_all(source)) == 2
    assert source.skipped_files == (
        "5 pictures of other kinds passed over: 2 .tif, 1 .heic, 1 .tiff, 1 .webp (1.tif, 2.TIF, 4.webp, ...); "
        "read are .bmp, .jpeg, .jpg, .png"
    )
    for path in tmp_path.rglob("*.[tTwh][iIe]*"):
        path.unlink()
    assert len(read_all(source)) == 2
    assert not source.skipped_files


def test_a_folder_of_other_kinds_only_says_which(tmp_path: Path) -> None:
    (tmp_path / "1.tif").write_bytes(b"II*")
    with pytest.raises(CameraError, match=r"holds no pictures: .* in any level; 1 picture of other kinds .* 1 \.tif"):
        ImageFolderSource(path=tmp_path, clock=CLOCK).open()


def test_pictures_that_vanish_while_they_are_read_keep_their_parts(tmp_path: Path) -> None:
    write(tmp_path, a=1, b=2, c=3)
    source = ImageFolderSource(path=tmp_path, clock=CLOCK)
    source.open()
    assert source.read(timeout_s=1.0, buffer=None)
    for path in tmp_path.glob("*.png"):
        path.unlink()
    tmp_path.rmdir()
    for name in ("b.png", "c.png"):
        with pytest.raises(FrameError, match="No such file") as caught:
            source.read(timeout_s=1.0, buffer=None)
        assert caught.value.part_id == name
    with pytest.raises(SourceEndedError):
        source.read(timeout_s=1.0, buffer=None)
    source.close()


def test_a_row_of_the_manifest_without_a_file_and_one_of_another_kind_keep_their_parts(tmp_path: Path) -> None:
    write(tmp_path, a=1)
    (tmp_path / "b.tif").write_bytes(b"II*\0")
    (tmp_path / "manifest.csv").write_text("path\nb.tif\ngone.png\na.png\n")
    source = ImageFolderSource(path=tmp_path, clock=CLOCK)
    source.open()
    for name in ("b.tif", "gone.png"):
        with pytest.raises(FrameError) as caught:
            source.read(timeout_s=1.0, buffer=None)
        assert caught.value.part_id == name
    assert source.read(timeout_s=1.0, buffer=None)
    source.close()
