from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from agent.errors import OperatorError
from agent.records import Geometry
from pipeline.dataset_reader import Dataset
from pipeline.training.recipe import TrainingParameters, TrainingTask

torch = pytest.importorskip("torch", reason="the recipe needs the extra `train`")

from pipeline.training.training_loop import prefetch  # noqa: E402
from pipeline.training.whole_evidence import (  # noqa: E402
    TOUCHED_WEIGHT,
    cell_targets,
    load_crops,
    train_whole_evidence,
    whole_evidence_loss,
)

if TYPE_CHECKING:
    from pathlib import Path

SIDE = 128
WHOLE = Geometry("whole", SIDE, SIDE, 3)


def write_part(root: Path, class_name: str, number: int, *, marked: bool = True) -> None:
    """A part of 128x128 px in colour, with a dark spot of 12 px if it is to be defective."""
    random = np.random.default_rng([number, len(class_name)])
    picture = random.integers(90, 130, (SIDE, SIDE, 3)).astype(np.uint8)
    name = f"{class_name}{number}.png"
    if class_name != "ok":
        y, x = (int(v) for v in random.integers(8, SIDE - 20, 2))
        mask = np.zeros((SIDE, SIDE), np.uint8)
        mask[y : y + 12, x : x + 12] = 255
        picture[mask > 0] = 20
        if marked:
            (root / "masks").mkdir(exist_ok=True)
            cv2.imwrite(str(root / "masks" / name), mask)
    (root / "train" / class_name).mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(root / "train" / class_name / name), picture)


def make_task(root: Path, *, seed: int = 0, epochs: int = 1) -> TrainingTask:
    data = Dataset.load(root)
    parameters = TrainingParameters(net="tiny", epochs=epochs, batch=10, seed=seed, threads=1)
    return TrainingTask(data.split("train"), (), data.classes, data.defects, WHOLE, parameters)


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    for number in range(8):
        write_part(tmp_path, "ok", number)
        write_part(tmp_path, "spot", number)
    return tmp_path


def silent(step: str, done: int, total: int, note: str = "") -> None:  # noqa: ARG001 - a `Progress`
    return


def test_a_batch_depends_on_the_seed_and_its_number_only(parts: Path) -> None:
    first, again, other = (load_crops(make_task(parts, seed=seed)) for seed in (3, 3, 4))
    late = [first.batch(number) for number in (5, 0)]
    for number, batch in zip((5, 0), late, strict=True):
        assert np.array_equal(batch.pixels, again.batch(number).pixels)
        assert np.array_equal(batch.masks, again.batch(number).masks)
        assert np.array_equal(batch.labels, again.batch(number).labels)
    assert not np.array_equal(late[0].pixels, late[1].pixels)
    assert not np.array_equal(late[1].pixels, other.batch(0).pixels)


def test_crops_of_defective_parts_hold_their_defect_and_masks_lie_on_it(parts: Path) -> None:
    batch = load_crops(make_task(parts)).batch(0)
    assert batch.pixels.shape == (10, 96, 96, 3)
    assert np.array_equal(batch.labels > 0, batch.masks.any((1, 2)))
    assert (batch.labels > 0).sum() == 6
    for crop, mask in zip(batch.pixels, batch.masks, strict=True):
        dark = crop.max(2) < 60
        assert np.array_equal(dark, mask == 255)


def test_a_defective_part_that_nobody_marked_is_left_alone(parts: Path) -> None:
    write_part(parts, "spot", 99, marked=False)
    crops = load_crops(make_task(parts))
    assert len(crops.labels) == 17
    assert len(crops.defect_pixels) == 8
    for number in range(20):
        batch = crops.batch(number)
        assert batch.masks[batch.labels > 0].any((1, 2)).all()


def test_training_without_good_parts_is_refused_with_the_remedy(tmp_path: Path) -> None:
    for number in range(3):
        write_part(tmp_path, "spot", number)
    with pytest.raises(OperatorError, match="good images"):
        train_whole_evidence(make_task(tmp_path), progress=silent)


def test_a_cell_counts_as_defective_by_what_lies_in_it_and_a_grazed_one_not_at_all() -> None:
    masks = torch.zeros(3, 16, 24, dtype=torch.uint8)
    masks[0, 2:6, 6:10] = 255  # 8 px in each of two cells
    masks[1, 0, 0:9] = 255  # 8 px in the first, 1 in the second
    masks[2, 15, 23] = 100  # less than a pixel, yet the most there is
    targets, weights = cell_targets(masks, (2, 3))
    assert targets[0].tolist() == [[1, 1, 0], [0, 0, 0]]
    assert targets[1].tolist() == [[1, 0, 0], [0, 0, 0]]
    assert targets[2].tolist() == [[0, 0, 0], [0, 0, 1]]
    assert weights[0].tolist() == [[TOUCHED_WEIGHT, TOUCHED_WEIGHT, 1], [1, 1, 1]]
    assert weights[1].tolist() == [[TOUCHED_WEIGHT, 0, 1], [1, 1, 1]]
    assert weights[2].tolist() == [[1, 1, 1], [1, 1, TOUCHED_WEIGHT]]


def test_the_loss_pulls_marked_cells_up_in_their_own_class_and_all_others_down() -> None:
    logits = torch.zeros(1, 3, 2, 2, requires_grad=True)
    masks = torch.zeros(1, 16, 16, dtype=torch.uint8)
    masks[0, :8, :8] = 255
    whole_evidence_loss(logits, masks, torch.tensor([2]), smoothing=0.0).backward()
    assert logits.grad is not None
    pulled_up = (logits.grad[0] < 0).int()
    assert pulled_up.flatten(1).tolist() == [[1, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]]


def test_what_is_made_ahead_comes_in_order_and_a_failure_reaches_the_caller() -> None:
    assert list(prefetch(lambda number: number * number, range(20))) == [number * number for number in range(20)]

    def fails(number: int) -> int:
        return 1 // (3 - number)

    with pytest.raises(ZeroDivisionError):
        list(prefetch(fails, range(10)))


@pytest.mark.train
def test_equal_seeds_give_equal_weights(parts: Path) -> None:
    first, second, other = (
        train_whole_evidence(make_task(parts, seed=seed), progress=silent).net.state_dict() for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)
