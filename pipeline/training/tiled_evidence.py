"""The recipe for tiles with masks: learns an evidence map, cell by cell.

Each crop teaches three things. Its cells: defect or not, from the mask. The whole crop: the mean of its strongest
cells shows whether it contains a defect; this also uses defective images without a mask. The class channels:
which defect, in the cells of the mask and in the crop.

Where images are few, networks of different seeds disagree about anomalies, and their mean is better than each of them.
So `teachers` networks are trained first, and the exported one learns their mean map besides the masks: it gets most of
the gain of the mean at no cost for the device.

Crops are cut from the whole preprocessed image, so tiles' borders fall anywhere; good crops get defects pasted
(`crop_augmentation`). They are made ahead by one thread; since a batch depends on seed and number only, the
weights do not depend on its speed. The constants were tuned on the validation split of the magnetic tiles: metrics on
that split are slightly optimistic.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch.nn import functional

from agent.errors import OperatorError
from agent.preprocess import Preprocessor
from pipeline.model_inputs import prepare, read_image, read_mask
from pipeline.training.crop_augmentation import AugmentationSettings, CropSampler, TrainingImage
from pipeline.training.network import to_input
from pipeline.training.recipe import TrainedNetwork
from pipeline.training.training_loop import Optimiser, deterministic, make_net, prefetch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agent.records import Geometry, Pixels
    from pipeline.dataset_reader import Sample
    from pipeline.progress import Progress
    from pipeline.training.crop_augmentation import AugmentedBatch
    from pipeline.training.network import Net
    from pipeline.training.recipe import TrainingTask

    StepProgress = Callable[[int, int, str], None]  # steps done, steps in all, note

TOP_FRACTION: Final = 0.02  # of the part's cells: their mean is its score; unless the parameters say another
CROP_FRACTION: Final = 0.2  # of a crop's cells: their mean learns whether the crop is defective
EMA_DECAY: Final = 0.998  # images are few: a long average is steadier
CLEAR_PX: Final = 8.0  # of a cell's pixels on the defect call the cell defective,
CLEAR_SHARE: Final = 0.7  # or this share of the most that any cell of a small defect has
MIN_DEFECT_SHARE: Final = 0.1  # of a crop's cell loss goes to its defect, however small that is
CLASS_WEIGHT: Final = 0.5  # of the class channels' loss
_COLOUR_AXES: Final = np.array([[1, 1, 1], [1, 0, -1], [-1, 2, -1]]) / np.sqrt([[3], [2], [6]])  # lightness, two hues
_COLOUR_RANK: Final = 2  # hues count as this many frequencies above lightness
CROP_PX: Final = 160  # longest side of a training crop
PASTE_SHARE: Final = 0.5  # of the good crops get a defect pasted
FEW_DEFECTS: Final = 250  # marked images; with more of them less is pasted
DEFAULT_TEACHERS: Final = 2  # networks trained first; unless the parameters say another number
MASKS_WEIGHT: Final = 0.3  # of the masks' loss where there are teachers
DISTILLATION_WEIGHT: Final = 2.0  # of theirs
DISTILLATION_FRACTION: Final = 0.05  # of a crop's cells: their mean should be as high as the teachers'
SEED_STEP: Final = 1 << 20  # from a network's seed to that of its teachers: beyond any seed in use
REPORT_EVERY: Final = 20  # steps between two calls of `progress`


def whole_geometry(geometry: Geometry, height: int, width: int) -> Geometry:
    """Return the geometry whose only tile is the whole reduced image of a `height` x `width` px frame.

    Its bytes are those that the tiles of `geometry` are cut from.
    """
    if geometry.mode == "whole":
        return geometry
    if geometry.roi is not None:
        width, height = geometry.roi[2:]
    rows = max(height // geometry.reduction, geometry.height)
    columns = max(width // geometry.reduction, geometry.width)
    return replace(geometry, height=rows, width=columns, overlap_px=0)


def load_training_images(task: TrainingTask) -> list[TrainingImage]:
    """Read and preprocess the training samples whole, with their masks. Raises DatasetError."""
    defects = [name for name in task.classes if name in task.defects]
    label_of = {name: 1 + i for i, name in enumerate(defects)}
    return [_load_training_image(sample, task.geometry, label_of.get(sample.class_name, 0)) for sample in task.train]


def _load_training_image(sample: Sample, geometry: Geometry, label: int) -> TrainingImage:
    frame = read_image(sample.path)
    whole = whole_geometry(geometry, *frame.shape[:2])
    pixels = prepare(Preprocessor(whole), frame)[0][0]
    if label == 0:
        return TrainingImage(pixels, np.zeros(pixels.shape[:2], np.uint8), label)
    return TrainingImage(pixels, _mask(sample, whole, frame.shape[:2]), label)


def _mask(sample: Sample, whole: Geometry, shape: tuple[int, ...]) -> Pixels | None:
    """Return the preprocessed mask, 1 in every pixel that any of the defect fell into; None when it is empty."""
    mask = read_mask(sample)
    if mask is None:
        return None
    if mask.shape != shape:
        raise OperatorError(
            f"{sample.mask_path}: mask of {mask.shape[1]}x{mask.shape[0]} px, image of {shape[1]}x{shape[0]} px; "
            "give both the same size."
        )
    share = prepare(Preprocessor(replace(whole, channels=1)), mask)[0][0, :, :, 0]
    return (share > 0).astype(np.uint8) if share.any() else None


def top_mean(cells: torch.Tensor, fraction: float) -> torch.Tensor:
    """Mean of the strongest `fraction` of each row's cells: [N, h, w] -> [N], as `agent.decision` takes it."""
    flat = cells.flatten(1)
    return flat.topk(max(1, round(flat.shape[1] * fraction)), dim=1).values.mean(1)


def marked_cells(masks: torch.Tensor, cells: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Masks [N, H, W] of 0 and 1 -> two [N, 1, h, w]: 1 in the cells at the defect; 1 in the unambiguous ones.

    A cell is at the defect when CLEAR_PX of it lie there, or nearly as much as in the cell with most of a small one.
    Cells that are merely grazed are no clear case: to call either name would be wrong.
    """
    height, width = masks.shape[1] // cells[0], masks.shape[2] // cells[1]
    blocks = masks.reshape(len(masks), 1, cells[0], height, cells[1], width)
    covered = blocks.float().sum((3, 5))
    enough = (covered.flatten(1).amax(1) * CLEAR_SHARE).clamp(max=CLEAR_PX)[:, None, None, None]
    marked = (covered >= enough) & (covered > 0.0)
    return marked.float(), (marked | (covered == 0.0)).float()


def evidence_loss(logits: torch.Tensor, batch: AugmentedBatch, *, smoothing: float) -> torch.Tensor:
    """The three losses of the module's description, for logits [N, 1 + defects, h, w]."""
    entropy = functional.binary_cross_entropy_with_logits
    smoothed = (smoothing / 2, 1.0 - smoothing)

    def soft(target: torch.Tensor) -> torch.Tensor:
        return smoothed[0] + target * (smoothed[1] - smoothed[0])

    marked, clear = marked_cells(torch.from_numpy(batch.masks), (logits.shape[2], logits.shape[3]))
    labels = torch.from_numpy(batch.labels)
    located = torch.from_numpy(batch.has_mask)[:, None, None, None] * clear
    which = functional.one_hot(labels, logits.shape[1])[:, 1:].float()  # [N, defects]
    balance = 1.0 + marked * (MIN_DEFECT_SHARE / marked.mean((2, 3), keepdim=True).clamp(min=1e-6) - 1.0).clamp(
        0.0, 20.0
    )
    cells = (entropy(logits[:, :1], soft(marked), reduction="none") * balance * located).mean()
    part = entropy(top_mean(logits[:, 0], CROP_FRACTION), soft((labels > 0).float()))
    classes = (entropy(logits[:, 1:], soft(marked * which[:, :, None, None]), reduction="none") * located).mean()
    naming = entropy(logits[:, 1:].amax((2, 3)), soft(which))
    return cells + part + CLASS_WEIGHT * (classes + 0.2 * naming)


def distillation_loss(logits: torch.Tensor, taught: torch.Tensor) -> torch.Tensor:
    """How far logits [N, 1 + defects, h, w] are from the teachers' mean map `taught` [the same], in [0, 1]."""
    cells = functional.binary_cross_entropy_with_logits(logits, taught)
    crop = functional.mse_loss(
        top_mean(logits[:, 0].sigmoid(), DISTILLATION_FRACTION), top_mean(taught[:, 0], DISTILLATION_FRACTION)
    )
    return cells + crop


@torch.no_grad()
def init_stem_with_cosines(weight: torch.Tensor) -> None:
    """Start the stem [out, C, k, k] from plus and minus a cosine basis of its patch, low frequencies first.

    Random kernels are all dominated by the mean of the patch: after batch normalisation a defect of a few grey levels
    drowns in brightness. Of these, each frequency gets a channel and a scale of its own.
    """
    count, colours, side, _ = weight.shape
    wave = np.cos(np.pi * (np.arange(side)[None] + 0.5) * np.arange(side)[:, None] / side)
    wave /= np.linalg.norm(wave, axis=1, keepdims=True)
    axes = np.ones((1, 1)) if colours == 1 else _COLOUR_AXES
    order = sorted(
        (y + x + (_COLOUR_RANK if axis else 0), axis, y, x)
        for axis in range(len(axes))
        for y in range(side)
        for x in range(side)
    )
    kernels = np.stack(
        [axes[axis][:, None, None] * np.outer(wave[row], wave[column]) for _, axis, row, column in order]
    )
    half = np.resize(kernels, ((count + 1) // 2, *kernels.shape[1:]))
    both = torch.from_numpy(np.concatenate([half, -half])[:count])
    weight.copy_(both + 0.02 * torch.randn(both.shape))  # equal kernels must be able to diverge


def crop_shape(geometry: Geometry) -> tuple[int, int]:
    """Height and width of the training crops: a large input needs no larger ones, the network slides over it."""
    return min(geometry.height, CROP_PX), min(geometry.width, CROP_PX)


def step_count(task: TrainingTask, pictures: list[TrainingImage]) -> int:
    """Steps in which crops cover the area of all images `epochs` times."""
    area = sum(p.pixels.shape[0] * p.pixels.shape[1] for p in pictures)
    height, width = crop_shape(task.geometry)
    return max(1, round(task.parameters.epochs * area / (height * width) / task.parameters.batch))


def _augmentation_settings(pictures: list[TrainingImage]) -> AugmentationSettings:
    """Paste the more, the scarcer real defects are."""
    marked = sum(p.label > 0 and p.mask is not None for p in pictures)
    return AugmentationSettings(paste_share=PASTE_SHARE * min(1.0, FEW_DEFECTS / marked))


@deterministic
def train_tiled_evidence(task: TrainingTask, *, progress: Progress) -> TrainedNetwork:
    """Learn the evidence map. See `recipe.Recipe`. Raises OperatorError without good or without marked images."""
    pictures = load_training_images(task)
    if not any(p.label == 0 for p in pictures) or not any(p.label and p.mask is not None for p in pictures):
        raise OperatorError(
            "the evidence map needs good images and defective ones with masks in the training split; "
            "add them or train the classifier with --head classifier."
        )
    count = DEFAULT_TEACHERS if task.parameters.teachers is None else task.parameters.teachers
    teachers: list[Net] = []
    for number in range(count):
        seed = task.parameters.seed + SEED_STEP * (number + 1)
        teachers.append(
            _train_network(
                task, pictures, seed=seed, teachers=(), report=_network_progress(progress, number, count + 1)
            )
        )
    net = _train_network(
        task,
        pictures,
        seed=task.parameters.seed,
        teachers=teachers,
        report=_network_progress(progress, count, count + 1),
    )
    fraction = task.parameters.top_fraction or TOP_FRACTION
    return TrainedNetwork(net, score="evidence", aggregation="top_mean", top_fraction=fraction)


def _network_progress(progress: Progress, number: int, networks: int) -> StepProgress:
    """Report the steps of network `number` of several as a share of all steps."""

    def report(done: int, steps: int, note: str) -> None:
        progress("train", number * steps + done, networks * steps, note)

    return report


def _train_network(
    task: TrainingTask, pictures: list[TrainingImage], *, seed: int, teachers: Sequence[Net], report: StepProgress
) -> Net:
    """Train one network on crops that follow from `seed`; returns its averaged weights."""
    parameters = task.parameters
    steps = step_count(task, pictures)
    sampler = CropSampler(
        pictures,
        crop_hw=crop_shape(task.geometry),
        batch=parameters.batch,
        seed=seed,
        settings=_augmentation_settings(pictures),
    )
    net = make_net(task, head="evidence").train()
    init_stem_with_cosines(net.layers[0][0].weight)
    optimiser = Optimiser(net, parameters, steps=steps, decay=EMA_DECAY)
    total = 0.0
    for number, batch in enumerate(prefetch(sampler.batch, range(steps)), start=1):
        inputs = to_input(torch.from_numpy(batch.pixels))
        logits = net(inputs)
        loss = evidence_loss(logits, batch, smoothing=parameters.label_smoothing)
        if teachers:
            with torch.no_grad():
                taught = torch.stack([teacher(inputs).sigmoid() for teacher in teachers]).mean(0)
            loss = MASKS_WEIGHT * loss + DISTILLATION_WEIGHT * distillation_loss(logits, taught)
        optimiser.step(loss)
        total += loss.item()
        if number % REPORT_EVERY == 0 or number == steps:
            report(number, steps, f"loss {total / ((number - 1) % REPORT_EVERY + 1):.3f}")
            total = 0.0
    return optimiser.average.net
