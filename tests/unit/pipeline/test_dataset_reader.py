from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from pipeline.dataset_reader import Dataset, DatasetError

if TYPE_CHECKING:
    from pathlib import Path

HEADER = "path,split,class,sha256,group,binary,mask\n"


def picture(root: Path, name: str, grey: int = 90) -> str:
    """Write one image and return its digest."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((16, 16), grey, np.uint8))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def two_parts(root: Path) -> tuple[str, str]:
    return picture(root, "train/ok/a.png", 80), picture(root, "val/scratch/b.png", 200)


def manifest(root: Path, *rows: str, header: str = HEADER) -> None:
    (root / "manifest.csv").write_text(header + "".join(f"{row}\n" for row in rows), encoding="utf-8")


def test_a_manifest_gives_samples_by_name_with_good_classes_first(tmp_path: Path) -> None:
    good, bad = two_parts(tmp_path)
    manifest(tmp_path, f"val/scratch/b.png,val,scratch,{bad},g2,defect,", f"train/ok/a.png,train,ok,{good},g1,ok,")

    data = Dataset.load(tmp_path)

    assert [s.name for s in data.samples] == ["train/ok/a.png", "val/scratch/b.png"]
    assert data.classes == ("ok", "scratch")
    assert data.defects == {"scratch"}
    assert data.split("val")[0].group == "g2"


def test_folders_are_read_without_a_manifest(tmp_path: Path) -> None:
    two_parts(tmp_path)
    picture(tmp_path, "masks/b.png", 255)

    data = Dataset.load(tmp_path)

    assert [(s.class_name, s.split, s.is_defect) for s in data.samples] == [
        ("ok", "train", False),
        ("scratch", "val", True),
    ]
    assert data.split("val")[0].mask_path == tmp_path.resolve() / "masks" / "b.png"
    assert data.has_masks


def test_pictures_of_kinds_that_are_not_read_are_counted_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    two_parts(tmp_path)
    (tmp_path / "train" / "ok" / "b.tif").write_bytes(b"II*")
    assert len(Dataset.load(tmp_path).samples) == 2
    assert "images of unsupported kinds ignored: 1 (train/ok/b.tif)" in caplog.text


def test_the_digest_depends_on_contents_and_not_on_place_or_row_order(tmp_path: Path) -> None:
    digests, rows = [], ["", ""]
    for name, turned in (("one", False), ("two", True)):
        good, bad = two_parts(tmp_path / name)
        rows = [f"train/ok/a.png,train,ok,{good},g1,ok,", f"val/scratch/b.png,val,scratch,{bad},g2,defect,"]
        manifest(tmp_path / name, *(reversed(rows) if turned else rows))
        digests.append(Dataset.load(tmp_path / name).digest)
    assert digests[0] == digests[1]

    bad = picture(tmp_path / "two", "val/scratch/b.png", 201)
    manifest(tmp_path / "two", rows[0], f"val/scratch/b.png,val,scratch,{bad},g2,defect,")
    assert Dataset.load(tmp_path / "two").digest != digests[0]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("../outside.png,train,ok,,g,ok,", "must be relative and stay in"),
        ("/etc/passwd,train,ok,,g,ok,", "must be relative and stay in"),
        ("train/../../x.png,train,ok,,g,ok,", "must be relative and stay in"),
        ("link.png,train,ok,,g,ok,", "must be relative and stay in"),
        (",train,ok,,g,ok,", "must be relative and stay in"),
        ("train/ok/none.png,train,ok,,g,ok,", "does not exist"),
        ("train/ok/a.png,holdout,ok,,g,ok,", "must be one of train, val, test"),
        ("train/ok/a.png,train,a class,,g,ok,", "class 'a class' must match"),
        ("train/ok/a.png,train,ok,,g,good,", "allowed are ok and defect"),
        ("train/ok/a.png,train,ok," + "0" * 64 + ",g,ok,", "the file was changed"),
        ("train/ok/a.png,train,ok,,g,defect,masks/none.png", "does not exist"),
        ("train/ok/a.png,train,ok,,g,defect,../m.png", "must be relative and stay in"),
        ("train/ok/a.png,train", "number of fields differs"),
        ("train/ok/a.png,train,ok,,g,ok,,more", "number of fields differs"),
    ],
)
def test_a_bad_row_is_refused_naming_line_and_reason(tmp_path: Path, row: str, expected: str) -> None:
    root = tmp_path / "data"
    two_parts(root)
    picture(tmp_path, "outside.png")
    (root / "link.png").symlink_to(tmp_path / "outside.png")
    manifest(root, row)

    with pytest.raises(DatasetError, match="line 2") as caught:
        Dataset.load(root)

    assert expected in str(caught.value)


@pytest.mark.parametrize(("text", "weight"), [("", 1.0), ("2.5", 2.5), ("1e-3", 0.001)])
def test_a_weight_is_read(tmp_path: Path, text: str, weight: float) -> None:
    picture(tmp_path, "a.png")
    (tmp_path / "manifest.csv").write_text(f"path,split,class,weight\na.png,train,ok,{text}\n", encoding="utf-8")
    assert Dataset.load(tmp_path).samples[0].weight == weight


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "heavy", "1e9"])
def test_a_weight_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    picture(tmp_path, "a.png")
    (tmp_path / "manifest.csv").write_text(f"path,split,class,weight\na.png,train,ok,{text}\n", encoding="utf-8")
    with pytest.raises(DatasetError, match="line 2: weight is"):
        Dataset.load(tmp_path)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ((), "has no rows"),
        (("train/ok/a.png,train,ok,,g1,ok,",) * 2, "listed twice"),
        (("train/ok/a.png,train,x,,g1,ok,", "val/scratch/b.png,val,x,,g2,defect,"), "both ok and defect"),
        (("train/ok/a.png,train,ok,,g1,ok,", "val/scratch/b.png,val,s,,g1,defect,"), "in the splits train and val"),
    ],
)
def test_rows_that_contradict_each_other_are_refused(tmp_path: Path, rows: tuple[str, ...], expected: str) -> None:
    two_parts(tmp_path)
    manifest(tmp_path, *rows)

    with pytest.raises(DatasetError, match=expected):
        Dataset.load(tmp_path)


def test_a_manifest_without_needed_columns_is_refused(tmp_path: Path) -> None:
    manifest(tmp_path, "a.png,train", header="path,split\n")
    with pytest.raises(DatasetError, match="columns class are missing"):
        Dataset.load(tmp_path)


def test_a_manifest_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_bytes(b"path,split,class\n\xff\xfe\x00")
    with pytest.raises(DatasetError, match="cannot be read"):
        Dataset.load(tmp_path)


def test_an_empty_folder_and_a_missing_one_say_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="holds neither manifest"):
        Dataset.load(tmp_path)
    with pytest.raises(DatasetError, match="is not a folder"):
        Dataset.load(tmp_path / "none")


def test_without_verification_the_stated_digests_are_believed(tmp_path: Path) -> None:
    two_parts(tmp_path)
    manifest(tmp_path, f"train/ok/a.png,train,ok,{'0' * 64},g,ok,")
    assert Dataset.load(tmp_path, verify=False).samples[0].sha256 == "0" * 64


def test_a_split_without_pictures_names_those_that_exist(tmp_path: Path) -> None:
    two_parts(tmp_path)
    with pytest.raises(DatasetError, match="no split 'test'; it has train, val"):
        Dataset.load(tmp_path).split("test")
