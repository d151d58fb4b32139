from __future__ import annotations

import csv
import hashlib
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from agent.errors import OperatorError
from simulator.line import LineConfig, SimulatedLine, render_dataset
from simulator.line.__main__ import main

if TYPE_CHECKING:
    from pathlib import Path

FEW = LineConfig(defect_rate=0.5, surfaces=("turned",))


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "manifest.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_dataset_holds_lossless_parts_with_masks_and_a_manifest_that_tells_the_truth(tmp_path: Path) -> None:
    done: list[int] = []
    render_dataset(tmp_path, 6, 5, "train", config=FEW, workers=1, progress=lambda count, _: done.append(count))
    line = SimulatedLine(FEW.model_copy(update={"seed": 5}))
    rows = rows_of(tmp_path)
    assert [row["group"] for row in rows] == [line.part_id(index) for index in range(6)]
    assert done == [1, 2, 3, 4, 5, 6]
    for index, row in enumerate(rows):
        truth, data = line.truth(index), (tmp_path / row["path"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == row["sha256"]
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert picture is not None
        assert np.array_equal(picture, line.render_roi(index))
        assert (row["class"], row["kind"], row["difficulty"]) == (truth.class_name, truth.kind, truth.difficulty)
        assert row["binary"] == ("defect" if truth.is_defective else "ok")
        assert (row["width"], row["height"], row["surface"]) == ("896", "896", "turned")
        assert bool(row["mask"]) == truth.is_defective
        if truth.is_defective:
            mask = cv2.imread(str(tmp_path / row["mask"]), cv2.IMREAD_GRAYSCALE)
            assert mask is not None
            assert np.array_equal(mask, line.mask_roi(index))


def test_a_second_split_joins_the_manifest_and_writing_it_again_replaces_it(tmp_path: Path) -> None:
    for split, seed, count in (("train", 1, 3), ("val", 2, 2), ("val", 2, 2)):
        render_dataset(tmp_path, count, seed, split, config=FEW, image_format="jpg", workers=1)
    assert [row["split"] for row in rows_of(tmp_path)] == ["train"] * 3 + ["val"] * 2


def test_the_same_parts_in_two_splits_are_refused(tmp_path: Path) -> None:
    render_dataset(tmp_path, 1, 1, "train", config=FEW, workers=1)
    with pytest.raises(OperatorError, match="leak"):
        render_dataset(tmp_path, 1, 1, "val", config=FEW, workers=1)


@pytest.mark.parametrize("split", ["", "../train", "a b"])
def test_a_split_that_is_no_plain_name_is_refused(tmp_path: Path, split: str) -> None:
    with pytest.raises(OperatorError, match="split"):
        render_dataset(tmp_path, 1, 1, split, config=FEW)


def test_the_command_writes_a_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--dataset", str(tmp_path), "--parts", "2", "--seed", "4", "--format", "jpg", "--workers", "1"]
    assert main(arguments) == 0
    assert len(rows_of(tmp_path)) == 2
    assert "2 of 2 parts" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [[], ["--dataset", "x", "--parts", "0"], ["--dataset", "x", "--defect-rate", "2"]]
)
def test_the_command_refuses_what_makes_no_sense(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert "error" in capsys.readouterr().err


def test_the_command_says_what_is_wrong_with_a_place_it_cannot_write(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    assert main(["--dataset", str(tmp_path / "file"), "--parts", "1"]) == 2
    assert str(tmp_path / "file") in capsys.readouterr().err


def test_several_processes_write_the_same_files_as_one(tmp_path: Path) -> None:
    for workers in (1, 2):
        render_dataset(tmp_path / str(workers), 16, 1, "train", config=FEW, image_format="jpg", workers=workers)
    assert rows_of(tmp_path / "1") == rows_of(tmp_path / "2")
