from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from agent.errors import OperatorError
from agent.preprocess import Preprocessor
from agent.records import Geometry
from pipeline.dataset_reader import Dataset
from pipeline.model_inputs import prepare
from pipeline.training.recipe import TrainedNetwork, TrainingParameters, TrainingTask

torch = pytest.importorskip("torch", reason="the recipe needs the extra `train`")

from pipeline.training.crop_augmentation import AugmentedBatch  # noqa: E402
from pipeline.training.network import to_input  # noqa: E402
from pipeline.training.release_builder import TrainingRequest, build_release  # noqa: E402
from pipeline.training.tiled_evidence import (  # noqa: E402
    distillation_loss,
    evidence_loss,
    init_stem_with_cosines,
    load_training_images,
    marked_cells,
    step_count,
    top_mean,
    train_tiled_evidence,
    whole_geometry,
)

if TYPE_CHECKING:
    from pathlib import Path

    from agent.records import Pixels
    from pipeline.progress import Progress

TILES = Geometry("tiles", 64, 64, 1, 2, 16)


def silent(step: str, done: int, total: int, note: str = "") -> None:  # noqa: ARG001 - a `Progress`
    return


def write_part(root: Path, split: str, class_name: str, number: int, *, marked: bool = True) -> None:
    """A grey part of 150x170 px, with a dark spot of 16 px if it is to be defective."""
    random = np.random.default_rng([number, len(class_name), len(split)])
    picture = random.integers(90, 130, (150, 170)).astype(np.uint8)
    name = f"{class_name}{number}_{split}.png"
    if class_name != "ok":
        y, x = (int(v) for v in random.integers(8, 120, 2))
        mask = np.zeros_like(picture)
        mask[y : y + 16, x : x + 16] = 255
        picture[mask > 0] = 20
        if marked:
            (root / "masks").mkdir(exist_ok=True)
            cv2.imwrite(str(root / "masks" / name), mask)
    (root / split / class_name).mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(root / split / class_name / name), picture)


def make_task(
    root: Path, *, epochs: int = 1, geometry: Geometry = TILES, seed: int = 0, teachers: int | None = 0
) -> TrainingTask:
    data = Dataset.load(root)
    parameters = TrainingParameters(net="tiny", epochs=epochs, batch=8, seed=seed, threads=1, teachers=teachers)
    return TrainingTask(data.split("train"), (), data.classes, data.defects, geometry, parameters)


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    for number in range(6):
        write_part(tmp_path, "train", "ok", number)
        write_part(tmp_path, "train", "spot", number)
    return tmp_path


@pytest.mark.parametrize(
    "geometry",
    [
        TILES,
        Geometry("tiles", 64, 96, 3, 4, 8),
        Geometry("tiles", 32, 32, 1, 1, 8, (5, 7, 101, 77)),
        Geometry("whole", 64, 64, 1),
    ],
)
def test_crops_come_from_the_bytes_that_the_device_cuts_its_tiles_from(geometry: Geometry) -> None:
    frame: Pixels = np.random.default_rng(0).integers(0, 256, (151, 173), dtype=np.uint8)
    tiles, plan = prepare(Preprocessor(geometry), frame)
    whole = prepare(Preprocessor(whole_geometry(geometry, *frame.shape)), frame)[0]
    assert len(whole) == 1
    for pixels, tile in zip(tiles, plan.tiles, strict=True):
        cut = whole[0, tile.y : tile.y + geometry.height, tile.x : tile.x + geometry.width]
        assert np.array_equal(pixels, cut)


def test_every_pixel_that_a_defect_falls_into_is_marked(parts: Path) -> None:
    task = make_task(parts)
    for picture, sample in zip(load_training_images(task), task.train, strict=True):
        assert picture.mask is not None
        assert picture.label == (1 if sample.class_name == "spot" else 0)
        assert (picture.mask[picture.pixels[..., 0] < 50] == 1).all()
        assert int(picture.mask.sum()) <= 9 * 9 * picture.label


def test_a_defective_picture_without_a_mask_still_teaches_that_it_is_defective(parts: Path) -> None:
    write_part(parts, "train", "spot", 99, marked=False)
    pictures = load_training_images(make_task(parts))
    assert [p.label for p in pictures if p.mask is None] == [1]


def test_a_mask_of_another_size_is_refused_by_name(parts: Path) -> None:
    cv2.imwrite(str(parts / "masks" / "spot3_train.png"), np.full((10, 20), 255, np.uint8))
    with pytest.raises(OperatorError, match=r"spot3_train\.png.*20x10.*170x150"):
        load_training_images(make_task(parts))


def test_training_without_good_pictures_is_refused_with_the_remedy(tmp_path: Path) -> None:
    for number in range(3):
        write_part(tmp_path, "train", "spot", number)
    with pytest.raises(OperatorError, match="good images"):
        train_tiled_evidence(make_task(tmp_path), progress=silent)


def test_the_crops_score_is_the_mean_of_the_strongest_cells() -> None:
    cells = torch.arange(20.0).reshape(1, 4, 5)
    assert top_mean(cells, 0.2).tolist() == [(19 + 18 + 17 + 16) / 4]


def test_cells_without_a_known_mask_teach_through_the_crop_only() -> None:
    logits = torch.zeros(1, 2, 4, 4, requires_grad=True)
    masks, pixels = np.zeros((1, 64, 64), np.uint8), np.zeros((1, 64, 64, 1), np.uint8)
    batch = AugmentedBatch(pixels, masks, np.array([1]), np.zeros(1, np.float32))
    evidence_loss(logits, batch, smoothing=0.0).backward()
    assert logits.grad is not None
    assert (logits.grad <= 0).all()  # everything pulls towards "defect": the empty mask is not believed


def test_cells_that_a_defect_merely_grazes_are_called_neither_good_nor_defective() -> None:
    masks = torch.zeros(2, 32, 48, dtype=torch.uint8)
    masks[0, 4:12, 8:18] = 1  # 64 px in the first cell, 16 in the second
    masks[0, 15:17, 0:2] = 1  # and 2 in the one below
    masks[1, 31, 45:48] = 1  # a speck of 3 px is all there is
    marked, clear = marked_cells(masks, (2, 3))
    assert marked[:, 0].tolist() == [[[1, 1, 0], [0, 0, 0]], [[0, 0, 0], [0, 0, 1]]]
    assert clear[:, 0].tolist() == [[[1, 1, 1], [0, 1, 1]], [[1, 1, 1], [1, 1, 1]]]


def test_nothing_is_left_to_learn_from_teachers_whose_map_is_reached() -> None:
    taught = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1
    reached, other = torch.logit(taught).requires_grad_(), torch.zeros_like(taught)
    loss = distillation_loss(reached, taught)
    loss.backward()
    assert reached.grad is not None
    assert reached.grad.abs().max() < 1e-6
    assert loss < distillation_loss(other, taught)


@pytest.mark.parametrize(("geometry", "head"), [("whole:64x64x1", None), (None, "classifier")])
def test_teachers_are_refused_where_nothing_learns_from_them(parts: Path, geometry: str | None, head: Any) -> None:
    write_part(parts, "val", "ok", 0)
    request = TrainingRequest(
        data=parts,
        name="parts",
        version="0.1.0",
        parameters=TrainingParameters(teachers=2),
        geometry=geometry or "tiles:64x64x1",
        head=head,
    )
    with pytest.raises(OperatorError, match="--teachers 2: only an evidence map on tiles learns from teachers"):
        build_release(request, progress=silent)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_stem_starts_with_pairs_that_tell_every_frequency_apart(channels: int) -> None:
    torch.manual_seed(0)
    weight = torch.empty(32, channels, 4, 4)
    init_stem_with_cosines(weight)
    assert (weight[:16] + weight[16:]).abs().max() < 0.2
    assert int(torch.linalg.matrix_rank(weight[:16].flatten(1))) == 16
    brightness = weight.sum((1, 2, 3)).abs()
    assert int((brightness > 1.0).sum()) == 2  # one pair sees brightness, the others detail


def train(task: TrainingTask, *, progress: Progress = silent) -> TrainedNetwork:
    before = torch.get_num_threads()
    try:
        return train_tiled_evidence(task, progress=progress)
    finally:
        torch.set_num_threads(before)
        torch.use_deterministic_algorithms(mode=False)


@pytest.mark.train
def test_equal_seeds_give_equal_weights(parts: Path) -> None:
    first, second, other = (train(make_task(parts, seed=seed)).net.state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.train
def test_two_teachers_are_trained_first_and_their_steps_count(parts: Path) -> None:
    told: list[tuple[int, int]] = []
    task = make_task(parts, epochs=12, teachers=None)

    def progress(step: str, done: int, total: int, note: str = "") -> None:  # noqa: ARG001 - a `Progress`
        told.append((done, total))

    taught = train(task, progress=progress).net.state_dict()

    steps = step_count(task, load_training_images(task))
    assert told == sorted(told)
    assert told[-1] == (3 * steps, 3 * steps)
    alone, again = (train(make_task(parts, epochs=12, teachers=count)).net.state_dict() for count in (0, 2))
    assert all(torch.equal(taught[name], again[name]) for name in taught)
    assert not all(torch.equal(taught[name], alone[name]) for name in taught)


@pytest.mark.train
def test_an_unseen_defect_is_found_where_it_is(parts: Path) -> None:
    for number in range(8):
        write_part(parts, "val", "ok", number)
        write_part(parts, "val", "spot", number)
    trained = train(make_task(parts, epochs=60))
    held = Dataset.load(parts).split("val")
    pictures = load_training_images(
        TrainingTask(held, (), ("ok", "spot"), frozenset({"spot"}), TILES, TrainingParameters())
    )
    peaks: dict[int, list[float]] = {0: [], 1: []}
    for picture in pictures:
        size = [side // 16 * 16 for side in picture.pixels.shape[:2]]
        with torch.no_grad():
            logits = trained.net(to_input(torch.from_numpy(picture.pixels[None, : size[0], : size[1]])))[0, 0]
        peaks[picture.label].append(float(logits.max()))
        if picture.label and picture.mask is not None:
            row, column = divmod(int(logits.argmax()), logits.shape[1])
            around = picture.mask[max(0, row * 16 - 8) : row * 16 + 24, max(0, column * 16 - 8) : column * 16 + 24]
            assert around.any()
    assert min(peaks[1]) > max(peaks[0])
