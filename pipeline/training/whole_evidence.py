"""The recipe for whole parts with masks: an evidence map over an image of the entire part.

A defect covers a few of tens of thousands of pixels, so training concentrates on defects: most crops of a batch lie
around marked defects, the rest on good parts, and cells that a defect touches weigh more. Nothing is pasted: the normal
appearance of a hole or an edge must be learnt in place. Crops are small, because many defects in a step teach more than
a large surrounding of one. The part's score is its strongest cell. For crops of larger images with few defects see
`tiled_evidence`.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch.nn import functional

from agent.errors import OperatorError
from pipeline.model_inputs import load_inputs, load_masks
from pipeline.training.network import to_input
from pipeline.training.recipe import TrainedNetwork
from pipeline.training.tiled_evidence import init_stem_with_cosines
from pipeline.training.training_loop import Optimiser, deterministic, make_net, prefetch, recalibrate_batch_norm

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from agent.records import Floats, Geometry, Pixels
    from pipeline.dataset_reader import Sample
    from pipeline.progress import Progress
    from pipeline.training.recipe import TrainingTask

TOUCHED: Final = 16  # least mask of a pixel, of 255, that counts as marked
CLEAR_PX: Final = 2.0  # of a cell's pixels on the defect call the cell defective,
CLEAR_SHARE: Final = 0.7  # or this share of the most that any cell of a small defect has
TOUCHED_WEIGHT: Final = 8.0  # of such a cell's loss; a good one's is 1
PART_WEIGHT: Final = 0.01  # of the strongest cell's loss: it decides, but teaches little
EMA_DECAY: Final = 0.998
CROP_PX: Final = 96  # side of a training crop
MARGIN_PX: Final = 8  # least distance of the marked pixel that a crop is cut around from the crop's border
MARKED_SHARE: Final = 0.6  # of a batch
FEW_PICTURES: Final = 4000  # with fewer, crops are flipped; pose and light of a part are fixed, so flips cost accuracy
CONTRAST: Final = 0.15  # largest relative change
BRIGHTNESS: Final = 8.0  # largest shift, grey levels
NOISE: Final = 0.8  # largest standard deviation, grey levels: half a pixel of a thin scratch must stay visible
NOISE_SIDE_PX: Final = 512  # of the bank that noise is cut from
GREY_SHARE: Final = 0.2  # of the crops of colour images lose their colour, so that a release serves mono cameras too
_BGR_TO_GREY: Final = np.array([0.114, 0.587, 0.299], np.float32)  # ITU-R BT.601, as the preprocessing does it
BATCH_NORM_BATCHES: Final = 64
REPORT_EVERY: Final = 100  # steps between two calls of `progress`


def cell_targets(masks: torch.Tensor, cells: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Masks [N, H, W] uint8 -> targets of the cells [N, h, w], 1.0 at a defect, and their weights.

    A cell is at the defect when CLEAR_PX of it lie there, or nearly as much as in the cell with most of a small one.
    Cells that are merely grazed weigh nothing: to call either name would be wrong.
    """
    height, width = masks.shape[1] // cells[0], masks.shape[2] // cells[1]
    blocks = masks.reshape(len(masks), cells[0], height, cells[1], width)
    covered = blocks.float().sum((2, 4)) / 255.0
    enough = (covered.flatten(1).amax(1) * CLEAR_SHARE).clamp(max=CLEAR_PX)[:, None, None]
    touched = (blocks.amax((2, 4)) >= TOUCHED) & (covered >= enough)
    weights = torch.where(touched, TOUCHED_WEIGHT, torch.where(covered > 0.0, 0.0, 1.0))
    return touched.float(), weights


def whole_evidence_loss(
    logits: torch.Tensor, masks: torch.Tensor, labels: torch.Tensor, *, smoothing: float
) -> torch.Tensor:
    """Loss of logits [N, 1 + defects, h, w] for masks [N, H, W], labels [N] (0: good, 1 + i: defect i)."""
    entropy = functional.binary_cross_entropy_with_logits
    touched, weights = cell_targets(masks, (logits.shape[2], logits.shape[3]))
    which = functional.one_hot(labels, logits.shape[1])[:, 1:, None, None].float()
    targets = torch.cat((touched[:, None], touched[:, None] * which), 1)
    cells = (entropy(logits, targets, reduction="none") * weights[:, None]).sum() / weights.sum()
    defective = touched.flatten(1).amax(1) * (1.0 - smoothing) + smoothing / 2
    return cells / 3.0 + PART_WEIGHT * entropy(logits[:, 0].flatten(1).amax(1), defective)


@dataclass(frozen=True, slots=True, eq=False)
class CropBatch:
    """Crops as the network sees them, with their masks and labels."""

    pixels: Pixels  # [n, h, w, C]
    masks: Pixels  # [n, h, w], the share of each pixel that is defect, of 255
    labels: npt.NDArray[np.int64]  # [n], 0 or 1 + i for the i-th defect class


@dataclass(frozen=True, slots=True, eq=False)
class CropDataset:
    """Cuts batches around defects and out of good parts. A batch follows from the seed and its number alone."""

    pixels: Pixels  # [N, H, W, C]
    masks: Pixels  # [N, H, W]
    labels: npt.NDArray[np.int64]  # [N]
    defect_pixels: dict[int, npt.NDArray[np.int64]]  # image with a marked defect -> its marked pixels [K, 2]
    noise: Floats  # [NOISE_SIDE_PX, NOISE_SIDE_PX, C], standard normal
    size: int  # crops in a batch
    seed: int

    def batch(self, number: int) -> CropBatch:
        """Make batch `number` (0, 1, ...)."""
        random = np.random.default_rng([self.seed, 1, number])
        defects = round(self.size * MARKED_SHARE)
        marked, good = np.fromiter(self.defect_pixels, np.int64), np.flatnonzero(self.labels == 0)
        chosen = np.concatenate((random.choice(marked, defects), random.choice(good, self.size - defects)))
        height, width = (min(side, CROP_PX) for side in self.masks.shape[1:])
        pixels = np.empty((self.size, height, width, self.pixels.shape[3]), np.uint8)
        masks = np.empty((self.size, height, width), np.uint8)
        for row, picture in enumerate(chosen.tolist()):
            y, x = self._corner(picture, height, width, random)
            crop, mask = (a[picture, y : y + height, x : x + width] for a in (self.pixels, self.masks))
            if len(self.labels) < FEW_PICTURES:
                down, across = random.choice((-1, 1), 2)
                crop, mask = crop[::down, ::across], mask[::down, ::across]
            pixels[row], masks[row] = self._relight(crop, random), mask
        return CropBatch(pixels, masks, self.labels[chosen])

    def _corner(self, picture: int, height: int, width: int, random: np.random.Generator) -> tuple[int, int]:
        """Top left of a crop: somewhere on a good part, around a marked pixel on a defective one."""
        room = (self.masks.shape[1] - height, self.masks.shape[2] - width)
        spots = self.defect_pixels.get(picture)
        if spots is None:
            return int(random.integers(room[0] + 1)), int(random.integers(room[1] + 1))
        y, x = (int(v) for v in spots[random.integers(len(spots))])
        y -= int(random.integers(MARGIN_PX, height - MARGIN_PX))
        x -= int(random.integers(MARGIN_PX, width - MARGIN_PX))
        return min(max(y, 0), room[0]), min(max(x, 0), room[1])

    def _relight(self, crop: Pixels, random: np.random.Generator) -> Pixels:
        """Change contrast, brightness, sometimes colour, and noise; clip to bytes as a camera does."""
        lit = crop.astype(np.float32)
        if crop.shape[2] > 1 and random.random() < GREY_SHARE:
            lit[:] = (lit @ _BGR_TO_GREY)[:, :, None]
        contrast, brightness = random.uniform(1.0 - CONTRAST, 1.0 + CONTRAST), random.uniform(-BRIGHTNESS, BRIGHTNESS)
        lit = (lit - np.float32(128.0)) * np.float32(contrast) + np.float32(128.0 + brightness)
        y = int(random.integers(NOISE_SIDE_PX - crop.shape[0] + 1))
        x = int(random.integers(NOISE_SIDE_PX - crop.shape[1] + 1))
        noise = self.noise[y : y + crop.shape[0], x : x + crop.shape[1]]
        lit += noise * np.float32(random.uniform(0.0, NOISE))
        np.rint(lit, out=lit)
        return np.clip(lit, 0.0, 255.0, out=lit).astype(np.uint8)


def _load(samples: Sequence[Sample], geometry: Geometry) -> tuple[Pixels, Pixels]:
    """Read and preprocess images [N, H, W, C] and masks [N, H, W]; decoding runs in parallel threads."""
    pixels = np.empty((len(samples), geometry.height, geometry.width, geometry.channels), np.uint8)
    masks = np.zeros(pixels.shape[:3], np.uint8)

    def read(row: int) -> None:
        sample = [samples[row]]
        pixels[row] = load_inputs(sample, geometry).pixels[0]
        if sample[0].mask_path is not None:
            masks[row] = load_masks(sample, geometry)[0]

    with ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="read") as pool:
        for _ in pool.map(read, range(len(samples))):
            pass
    return pixels, masks


def load_crops(task: TrainingTask) -> CropDataset:
    """Read the training split. Raises OperatorError when there are no good or no marked images."""
    pixels, masks = _load(task.train, task.geometry)
    defects = [name for name in task.classes if name in task.defects]
    labels = np.array([defects.index(s.class_name) + 1 if s.is_defect else 0 for s in task.train], np.int64)
    # A defect without a mask would teach its cells to be sound: such images are left out.
    found = {int(i): np.argwhere(masks[i] >= TOUCHED) for i in np.flatnonzero(labels)}
    spots = {i: where for i, where in found.items() if len(where)}
    if not spots or labels.all():
        raise OperatorError(
            "an evidence map needs good images and defective ones with masks in the training split; add them or "
            "train with --head classifier."
        )
    seed = task.parameters.seed
    shape = (NOISE_SIDE_PX, NOISE_SIDE_PX, task.geometry.channels)
    noise = np.random.default_rng([seed, 0]).standard_normal(shape, dtype=np.float32)
    return CropDataset(pixels, masks, labels, spots, noise, task.parameters.batch, seed)


@deterministic
def train_whole_evidence(task: TrainingTask, *, progress: Progress) -> TrainedNetwork:
    """Learn the evidence map. See `recipe.Recipe`. Raises OperatorError when no training image has a mask."""
    parameters = task.parameters
    crops = load_crops(task)
    net = make_net(task, head="evidence").train()
    init_stem_with_cosines(net.layers[0][0].weight)
    steps = parameters.epochs * max(1, len(crops.labels) // parameters.batch)
    optimiser = Optimiser(net, parameters, steps=steps, decay=EMA_DECAY)
    total = 0.0
    for number, batch in enumerate(prefetch(crops.batch, range(steps)), start=1):
        logits = net(to_input(torch.from_numpy(batch.pixels)))
        masks, labels = torch.from_numpy(batch.masks), torch.from_numpy(batch.labels)
        loss = whole_evidence_loss(logits, masks, labels, smoothing=parameters.label_smoothing)
        optimiser.step(loss)
        total += loss.item()
        if number % REPORT_EVERY == 0 or number == steps:
            progress("train", number, steps, f"loss {total / ((number - 1) % REPORT_EVERY + 1):.4f}")
            total = 0.0
    averaged = optimiser.average.net
    recalibrate_batch_norm(averaged, _crop_inputs(crops, range(steps, steps + BATCH_NORM_BATCHES)))
    cells = (task.geometry.height // net.body.stride) * (task.geometry.width // net.body.stride)
    fraction = parameters.top_fraction or 1.0 / cells
    return TrainedNetwork(averaged, score="evidence", aggregation="top_mean", top_fraction=fraction)


def _crop_inputs(crops: CropDataset, numbers: range) -> Iterator[torch.Tensor]:
    """Yield the network's inputs of the batches `numbers`."""
    return (to_input(torch.from_numpy(crops.batch(number).pixels)) for number in numbers)
