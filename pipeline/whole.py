"""The recipe for whole parts with masks: an evidence map over a picture that shows all of the part.

Every cell learns from the mask whether a defect touches it, and which; the strongest cells together learn whether the
part is defective, because their mean is what the decision compares with the threshold. A defect's place on the part
matters (a chip is at the edge), so nothing is cut or pasted: flips, light and noise only. For crops of larger pictures
see `pipeline.dense`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch.nn import functional

from agent.errors import OperatorError
from pipeline.images import load_inputs, load_masks
from pipeline.network import to_input
from pipeline.recipe import Trained
from pipeline.training import Optimiser, Photometric, batches, deterministic, flipped, make_generator, make_net, settle

if TYPE_CHECKING:
    from pipeline.recipe import Progress, Task

CELL_WEIGHT: Final = 4.0  # of the cells' losses, which are sums over a picture divided by the root of its cells
TOUCHED: Final = 16  # least mask in a cell, of 255 for one whole input pixel, that calls the cell defective


def cell_targets(masks: torch.Tensor, cells: tuple[int, int]) -> torch.Tensor:
    """Masks [N, H, W] uint8 -> [N, h, w], 1.0 where a defect touches the cell, else 0.0."""
    height, width = masks.shape[1] // cells[0], masks.shape[2] // cells[1]
    blocks = masks.reshape(len(masks), cells[0], height, cells[1], width)
    return (blocks.amax((2, 4)) >= TOUCHED).float()


def map_loss(
    logits: torch.Tensor, masks: torch.Tensor, labels: torch.Tensor, *, smoothing: float, strongest: int
) -> torch.Tensor:
    """Loss of logits [N, 1 + defects, h, w] for masks [N, H, W], labels [N] (0: good, 1 + i: defect i)."""
    touched = cell_targets(masks, (logits.shape[2], logits.shape[3]))
    which = functional.one_hot(labels, logits.shape[1])[:, 1:, None, None].float()
    targets = torch.cat((touched[:, None], touched[:, None] * which), 1)
    scale = CELL_WEIGHT / float(logits.shape[2] * logits.shape[3]) ** 0.5
    cells = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum((1, 2, 3)).mean() * scale
    part = logits[:, 0].flatten(1).topk(strongest, dim=1).values.mean(1)
    defective = (labels > 0).float() * (1.0 - smoothing) + smoothing / 2
    return cells / logits.shape[1] + functional.binary_cross_entropy_with_logits(part, defective)


@deterministic
def train_whole(task: Task, *, progress: Progress) -> Trained:
    """Learn the evidence map. See `recipe.Recipe`. Raises OperatorError when no training picture has a mask."""
    parameters = task.parameters
    generator = make_generator(parameters)
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
    pixels = torch.from_numpy(load_inputs([task.train[i] for i in usable], task.geometry).pixels)
    masks, labels = masks[torch.from_numpy(usable)], torch.from_numpy(numbers[usable])
    net = make_net(task, head="evidence").train()
    cells = (task.geometry.height // net.body.stride) * (task.geometry.width // net.body.stride)
    fraction = parameters.top_fraction or 1.0 / cells
    strongest = max(1, round(cells * fraction))
    steps = parameters.epochs * max(1, len(labels) // parameters.batch)
    optimiser = Optimiser(net, parameters, steps=steps)
    light = Photometric(generator)

    def augmented(chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        batch, mask = flipped((to_input(pixels[chosen]), masks[chosen]), generator)
        return light(batch), mask

    for epoch in range(parameters.epochs):
        total, count = 0.0, 0
        for chosen in batches(len(labels), parameters.batch, generator):
            batch, mask = augmented(chosen)
            loss = map_loss(net(batch), mask, labels[chosen], smoothing=parameters.label_smoothing, strongest=strongest)
            optimiser.step(loss)
            total, count = total + loss.item(), count + 1
        progress("train", epoch + 1, parameters.epochs, f"loss {total / count:.3f}")
    averaged = optimiser.averaged.net
    settle(averaged, (augmented(chosen)[0] for chosen in batches(len(labels), parameters.batch, generator)))
    return Trained(averaged, score="evidence", aggregation="top_mean", top_fraction=fraction)
