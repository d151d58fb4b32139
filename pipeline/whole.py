"""The recipe for whole parts with masks: an evidence map over a picture that shows all of the part.

A defect covers a few of tens of thousands of pixels, so learning looks where it is: three quarters of a batch are crops
around marked defects, the rest crops of good parts, and cells that a defect touches weigh more. Nothing is pasted: what
is normal at a hole or an edge must be learnt where it is. The part's score is its strongest cell.
For crops of larger pictures with few defects see `pipeline.dense`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch.nn import functional

from agent.errors import OperatorError
from pipeline.dense import spread_stem
from pipeline.images import load_inputs, load_masks
from pipeline.network import to_input
from pipeline.recipe import Trained
from pipeline.training import Light, Optimiser, Photometric, deterministic, flipped, make_generator, make_net, settle

if TYPE_CHECKING:
    from pipeline.recipe import Progress, Task

TOUCHED: Final = 16  # least mask in a cell, of 255 for one whole input pixel, that calls the cell defective
TOUCHED_WEIGHT: Final = 8.0  # of such a cell's loss; the others' is 1
PART_WEIGHT: Final = 0.01  # of the strongest cell's loss: what the decision reads, but a poor teacher at the start
CROP_PX: Final = 128  # side of a training crop
MARGIN_PX: Final = 8  # least distance of the marked pixel that a crop is cut around from the crop's border
MARKED_SHARE: Final = 0.75  # of a batch
LIGHT: Final = Light(contrast=0.15, brightness=0.08, noise=0.015)  # half a pixel of a thin scratch must outlive it
GREY_SHARE: Final = 0.2  # of the crops of colour pictures lose their colour
_BGR_TO_GREY: Final = (0.114, 0.587, 0.299)  # ITU-R BT.601, as the preprocessing does it
SETTLE_BATCHES: Final = 64
REPORT_EVERY: Final = 20  # steps between two calls of `progress`


def cell_targets(masks: torch.Tensor, cells: tuple[int, int]) -> torch.Tensor:
    """Masks [N, H, W] uint8 -> [N, h, w], 1.0 where a defect touches the cell, else 0.0."""
    height, width = masks.shape[1] // cells[0], masks.shape[2] // cells[1]
    blocks = masks.reshape(len(masks), cells[0], height, cells[1], width)
    return (blocks.amax((2, 4)) >= TOUCHED).float()


def map_loss(logits: torch.Tensor, masks: torch.Tensor, labels: torch.Tensor, *, smoothing: float) -> torch.Tensor:
    """Loss of logits [N, 1 + defects, h, w] for masks [N, H, W], labels [N] (0: good, 1 + i: defect i)."""
    entropy = functional.binary_cross_entropy_with_logits
    touched = cell_targets(masks, (logits.shape[2], logits.shape[3]))
    which = functional.one_hot(labels, logits.shape[1])[:, 1:, None, None].float()
    targets = torch.cat((touched[:, None], touched[:, None] * which), 1)
    weights = 1.0 + (TOUCHED_WEIGHT - 1.0) * touched[:, None]
    cells = (entropy(logits, targets, reduction="none") * weights).sum() / weights.sum()
    defective = touched.flatten(1).amax(1) * (1.0 - smoothing) + smoothing / 2
    return cells / 3.0 + PART_WEIGHT * entropy(logits[:, 0].flatten(1).amax(1), defective)


@dataclass(frozen=True, slots=True)
class _Crops:
    """Cuts batches around defects and out of good parts; every draw comes from `generator`."""

    pixels: torch.Tensor  # [N, H, W, C] uint8
    masks: torch.Tensor  # [N, H, W] uint8
    labels: torch.Tensor  # [N]
    marked: torch.Tensor  # indices of pictures with a marked defect
    good: torch.Tensor
    spots: dict[int, torch.Tensor]  # marked picture -> its marked pixels [K, 2]
    size: int  # crops in a batch
    generator: torch.Generator

    def draw(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return pixels [n, h, w, C], masks [n, h, w] and labels [n] of one batch."""
        defects = round(self.size * MARKED_SHARE)
        chosen = torch.cat((self._pick(self.marked, defects), self._pick(self.good, self.size - defects))).tolist()
        height, width = (min(side, CROP_PX) for side in self.masks.shape[1:])
        cuts = [(i, *self._corner(i, height, width)) for i in chosen]
        return (
            torch.stack([self.pixels[i, y : y + height, x : x + width] for i, y, x in cuts]),
            torch.stack([self.masks[i, y : y + height, x : x + width] for i, y, x in cuts]),
            self.labels[chosen],
        )

    def _pick(self, indices: torch.Tensor, count: int) -> torch.Tensor:
        return indices[torch.randint(len(indices), (count,), generator=self.generator)]

    def _corner(self, picture: int, height: int, width: int) -> tuple[int, int]:
        """Top left of a crop: somewhere on a good part, around a marked pixel on a defective one."""
        room = (self.masks.shape[1] - height, self.masks.shape[2] - width)
        spots = self.spots.get(picture)
        if spots is None:
            return self._integer(0, room[0]), self._integer(0, room[1])
        spot = spots[self._integer(0, len(spots) - 1)].tolist()
        inside = (self._integer(MARGIN_PX, height - MARGIN_PX), self._integer(MARGIN_PX, width - MARGIN_PX))
        return min(max(spot[0] - inside[0], 0), room[0]), min(max(spot[1] - inside[1], 0), room[1])

    def _integer(self, low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (1,), generator=self.generator))


def _crops(task: Task, generator: torch.Generator) -> _Crops:
    masks = torch.from_numpy(load_masks(task.train, task.geometry))
    defects = [name for name in task.classes if name in task.defects]
    numbers = np.array([defects.index(s.class_name) + 1 if s.is_defect else 0 for s in task.train])
    # A defect that nobody marked would teach its cells that it is sound.
    usable = np.flatnonzero((numbers == 0) | masks.flatten(1).any(1).numpy())
    if not numbers[usable].any() or numbers[usable].all():
        raise OperatorError(
            "an evidence map needs good pictures and defective ones with masks in the training split; add them or "
            "train with --head classifier."
        )
    labels = torch.from_numpy(numbers[usable])
    masks = masks[torch.from_numpy(usable)]
    marked = torch.nonzero(labels)[:, 0]
    return _Crops(
        pixels=torch.from_numpy(load_inputs([task.train[i] for i in usable], task.geometry).pixels),
        masks=masks,
        labels=labels,
        marked=marked,
        good=torch.nonzero(labels == 0)[:, 0],
        spots={i: torch.nonzero(masks[i]) for i in marked.tolist()},
        size=task.parameters.batch,
        generator=generator,
    )


def greyed(inputs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Take the colour out of GREY_SHARE of the batch [N, C, H, W], so that a release serves mono cameras as well."""
    if inputs.shape[1] == 1:
        return inputs
    chosen = torch.rand(len(inputs), generator=generator) < GREY_SHARE
    grey = (inputs * torch.tensor(_BGR_TO_GREY)[None, :, None, None]).sum(1, keepdim=True).expand_as(inputs)
    return torch.where(chosen[:, None, None, None], grey, inputs).contiguous(memory_format=torch.channels_last)


@deterministic
def train_whole(task: Task, *, progress: Progress) -> Trained:
    """Learn the evidence map. See `recipe.Recipe`. Raises OperatorError when no training picture has a mask."""
    parameters = task.parameters
    generator = make_generator(parameters)
    crops = _crops(task, generator)
    net = make_net(task, head="evidence").train()
    spread_stem(net.layers[0][0].weight)
    steps = parameters.epochs * max(1, len(crops.labels) // parameters.batch)
    optimiser = Optimiser(net, parameters, steps=steps)
    light = Photometric(generator, LIGHT)

    def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        pixels, masks, labels = crops.draw()
        inputs, masks = flipped((to_input(pixels), masks), generator)
        return light(greyed(inputs, generator)), masks, labels

    total = 0.0
    for number in range(1, steps + 1):
        inputs, masks, labels = batch()
        loss = map_loss(net(inputs), masks, labels, smoothing=parameters.label_smoothing)
        optimiser.step(loss)
        total += loss.item()
        if number % REPORT_EVERY == 0 or number == steps:
            progress("train", number, steps, f"loss {total / ((number - 1) % REPORT_EVERY + 1):.3f}")
            total = 0.0
    averaged = optimiser.averaged.net
    settle(averaged, (batch()[0] for _ in range(SETTLE_BATCHES)))
    cells = (task.geometry.height // net.body.stride) * (task.geometry.width // net.body.stride)
    fraction = parameters.top_fraction or 1.0 / cells
    return Trained(averaged, score="evidence", aggregation="top_mean", top_fraction=fraction)
