from __future__ import annotations

import io
import time
from pathlib import Path

import numpy as np
import pytest

from agent.errors import OperatorError
from agent.records import Scores
from pipeline import release_writer
from pipeline.dataset_reader import Dataset
from tests.kits.cloud.training import write_parts


def golden(seed: int = 0) -> bytes:
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    result = Scores(random.random((4, 3), np.float32), random.random((4, 2, 2), np.float32))
    return release_writer.encode_golden_set(images, result, np.arange(4))


def test_the_golden_set_has_equal_bytes_whenever_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    first = golden()
    monkeypatch.setattr(time, "time", lambda: 2_000_000_000.0)
    assert golden() == first
    assert golden(1) != first


def test_the_golden_set_is_read_without_pickle() -> None:
    with np.load(io.BytesIO(golden()), allow_pickle=False) as arrays:
        assert sorted(arrays) == ["evidence", "images", "labels", "scores"]
        assert arrays["images"].dtype == np.uint8
        assert arrays["scores"].shape == (4, 3)


def test_golden_rows_take_the_classes_in_turn_and_stay_bounded() -> None:
    labels = np.array([0] * 500 + [1] * 3 + [2] * 40)
    rows = release_writer.choose_golden_rows(labels, 1000)
    assert len(rows) == release_writer.MAX_GOLDEN_IMAGES
    assert np.bincount(labels[rows]).tolist() == [77, 3, 40]
    assert len(release_writer.choose_golden_rows(labels, release_writer.MAX_GOLDEN_BYTES // 5)) == 5
    assert len(release_writer.choose_golden_rows(labels[:2], 1)) == 2


def test_a_folder_that_is_no_release_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(OperatorError, match="is not a release folder"):
        release_writer.check_output_folder(tmp_path)
    with pytest.raises(OperatorError, match="is not a release folder"):
        release_writer.check_output_folder(tmp_path / "thesis.txt")
    release_writer.check_output_folder(tmp_path / "new")


def test_the_code_version_names_the_sources() -> None:
    assert release_writer.code_version() == release_writer.code_version()
    assert release_writer.code_version().startswith("kensa 0.")


def test_the_code_version_covers_the_recipes_and_the_judging() -> None:
    root = Path(release_writer.__file__).parent.parent
    assert all((root / name).is_file() for name in release_writer._SOURCES)
    assert len(list(root.glob(release_writer._TRAINING_SOURCES))) > 5


def test_what_the_data_sets_digest_leaves_out_has_a_digest_of_its_own(tmp_path: Path) -> None:
    write_parts(tmp_path, train=2, val=1, masks=True)
    first = release_writer.labels_sha256(Dataset.load(tmp_path).samples)
    assert release_writer.labels_sha256(Dataset.load(tmp_path).samples) == first
    mask = next((tmp_path / "masks").iterdir())
    mask.write_bytes((tmp_path / "train" / "ok" / "train_ok_0.png").read_bytes())
    assert release_writer.labels_sha256(Dataset.load(tmp_path).samples) != first
