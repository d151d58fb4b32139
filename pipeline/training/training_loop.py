"""The parts of the training loop that all recipes share, and the recipe for class scores.

AdamW, one learning-rate cycle, an exponential moving average of all weights, label smoothing; flips, small shifts,
brightness, contrast and noise on the bytes that the device's preprocessing wrote. Deterministic: a recipe's decorator
fixes seed, threads and algorithms, and every random draw comes from generators that follow from the seed.
"""

from __future__ import annotations

import copy
import functools
import queue
import threading
from typing import TYPE_CHECKING, Final, TypeVar

import torch
from torch import nn
from torch.nn import functional

from agent.errors import OperatorError
from pipeline.model_inputs import load_inputs
from pipeline.training.network import BACKBONES, Net, to_input
from pipeline.training.recipe import TrainedNetwork, TrainingParameters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from pipeline.progress import Progress
    from pipeline.training.recipe import Recipe, TrainingTask

T = TypeVar("T")

EMA_DECAY: Final = 0.99  # of the weights, a step; starts faster
WARM_UP: Final = 0.25  # share of the steps in which the learning rate rises
CONTRAST: Final = 0.2  # largest relative change
BRIGHTNESS: Final = 0.15  # largest shift, of half a byte's range
NOISE: Final = 0.015  # largest standard deviation, likewise
NOISE_BANK: Final = 1 << 22  # numbers
SHIFT: Final = 1 / 16  # largest shift of the image, of its side
PREFETCH_BATCHES: Final = 4  # batches made before they are needed


def deterministic(recipe: Recipe) -> Recipe:
    """Make a recipe repeatable: fixed seed, threads and algorithms while it runs; earlier settings are restored."""

    @functools.wraps(recipe)
    def run(task: TrainingTask, *, progress: Progress) -> TrainedNetwork:
        threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
        torch.use_deterministic_algorithms(mode=True)
        torch.set_num_threads(task.parameters.threads)
        torch.set_flush_denormal(True)  # vanishing weights would slow every product tenfold
        torch.manual_seed(task.parameters.seed)
        try:
            return recipe(task, progress=progress)
        finally:
            torch.set_flush_denormal(False)
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(mode=strict)

    return run


def make_generator(parameters: TrainingParameters) -> torch.Generator:
    """Return the generator for batches and augmentation; torch's global one is for weights."""
    return torch.Generator().manual_seed(parameters.seed + 1)


def make_net(task: TrainingTask, *, head: str) -> Net:
    """Build the network that the task's parameters name. Raises OperatorError listing the names."""
    body = BACKBONES.get(task.parameters.net)
    if body is None:
        raise OperatorError(f"--net {task.parameters.net!r} is not known; choose one of {', '.join(BACKBONES)}.")
    geometry = task.geometry
    if geometry.height % body.stride or geometry.width % body.stride:
        raise OperatorError(
            f"--geometry {geometry.height}x{geometry.width}: both sides must be multiples of {body.stride} for --net "
            f"{task.parameters.net}."
        )
    return Net(
        body=body,
        head="evidence" if head == "evidence" else "classifier",
        channels=geometry.channels,
        classes=task.classes,
        defects=task.defects,
    ).to(memory_format=torch.channels_last)


class WeightAverage:
    """The exponential moving average of a network, which is exported."""

    def __init__(self, net: Net, *, decay: float = EMA_DECAY) -> None:
        """Start from the weights of `net`; `decay` is the share of the average that a step keeps."""
        self.net = copy.deepcopy(net).eval()
        self._decay = decay
        self._steps = 0

    @torch.no_grad()
    def update(self, net: Net) -> None:
        """Take one step towards `net`; the first steps are larger, so that the initial weights lose their influence."""
        self._steps += 1
        decay = min(self._decay, self._steps / (self._steps + 10))
        for mine, new in zip(self.net.state_dict().values(), net.state_dict().values(), strict=True):
            if mine.is_floating_point():
                mine.lerp_(new, 1.0 - decay)
            else:
                mine.copy_(new)


@torch.no_grad()
def recalibrate_batch_norm(net: Net, batches_of: Iterable[torch.Tensor]) -> None:
    """Recompute the batch norms' statistics on inputs [N, C, H, W]: the old ones do not fit averaged weights."""
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over all batches
    net.train()
    for batch in batches_of:
        net(batch)
    net.eval()


class Optimiser:
    """AdamW under a one-cycle schedule; `step` does backward, update and average."""

    def __init__(self, net: Net, parameters: TrainingParameters, *, steps: int, decay: float = EMA_DECAY) -> None:
        """`steps` is the total number of calls. Biases and norms do not decay."""
        decayed = [p for p in net.parameters() if p.ndim > 1]
        others = [p for p in net.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": parameters.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self._adam = torch.optim.AdamW(groups, lr=parameters.learning_rate)
        self._cycle = torch.optim.lr_scheduler.OneCycleLR(
            self._adam, max_lr=parameters.learning_rate, total_steps=steps + 1, pct_start=WARM_UP
        )
        self._net = net
        self.average = WeightAverage(net, decay=decay)

    def step(self, loss: torch.Tensor) -> None:
        """Learn from one batch's loss."""
        self._adam.zero_grad(set_to_none=True)
        loss.backward()
        self._adam.step()
        self._cycle.step()
        self.average.update(self._net)


def index_batches(weights: torch.Tensor, size: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Yield index batches of one epoch in random order; a short last one is left out when there are others.

    `weights` [count] are the relative frequencies of the inputs; where all are equal, each is drawn once.
    """
    count = len(weights)
    if bool((weights == weights[0]).all()):
        order = torch.randperm(count, generator=generator)
    else:
        order = torch.multinomial(weights, count, replacement=True, generator=generator)
    for first in range(0, max(1, count - size + 1), size):
        yield order[first : first + size]


def prefetch(make: Callable[[int], T], numbers: Sequence[int]) -> Iterator[T]:
    """Yield `make(number)` for each of `numbers`, in order; one thread makes up to PREFETCH_BATCHES ahead.

    Where `make` depends on its number alone, the results do not depend on the threads' pace.
    """
    ready: queue.Queue[T | BaseException] = queue.Queue(PREFETCH_BATCHES)
    stopped = threading.Event()

    def put(item: T | BaseException) -> None:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=0.2)
            except queue.Full:
                continue
            return

    def work() -> None:
        try:
            for number in numbers:
                put(make(number))
                if stopped.is_set():
                    return
        except Exception as error:  # noqa: BLE001 - a thread's top: raised again by the consumer
            put(error)

    maker = threading.Thread(target=work, name="crops", daemon=True)
    maker.start()
    try:
        for _ in numbers:
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        maker.join()


def random_uniform(count: int, low: float, high: float, generator: torch.Generator) -> torch.Tensor:
    """[count, 1, 1, 1] numbers, one for each image of a batch."""
    return torch.empty(count, 1, 1, 1).uniform_(low, high, generator=generator)


class PhotometricAugmentation:
    """Changes brightness, contrast and noise of batches [N, C, H, W] in -1..1, and clips as a camera does."""

    def __init__(self, generator: torch.Generator) -> None:
        """Draw a bank of noise once: fresh noise for every batch would cost more than the network."""
        self._generator = generator
        self._bank = torch.empty(NOISE_BANK).normal_(generator=generator)

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the changed batch."""
        generator, count = self._generator, len(pixels)
        pixels = pixels * random_uniform(count, 1.0 - CONTRAST, 1.0 + CONTRAST, generator)
        pixels = pixels + random_uniform(count, -BRIGHTNESS, BRIGHTNESS, generator)
        pixels = pixels + self._noise(pixels) * random_uniform(count, 0.0, NOISE, generator)
        return pixels.clamp(-1.0, 127.0 / 128.0)

    def _noise(self, pixels: torch.Tensor) -> torch.Tensor:
        """Cut one stretch for each image from the bank; they may overlap."""
        size = pixels[0].numel()
        last = max(1, len(self._bank) - size)
        starts = torch.randint(last, (len(pixels),), generator=self._generator).tolist()
        if size > len(self._bank):
            return torch.empty(pixels.shape).normal_(generator=self._generator)
        # Filled in channels_last order, the layout of the batch.
        n, c, h, w = pixels.shape
        return torch.stack([self._bank[i : i + size] for i in starts]).view(n, h, w, c).permute(0, 3, 1, 2)


def random_flip(pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Flip each image [N, C, H, W] along height and width at random."""
    for axis in (-1, -2):
        chosen = torch.rand(len(pixels), generator=generator) < 0.5  # noqa: PLR2004 - a fair coin
        pixels = torch.where(chosen.view(-1, 1, 1, 1), pixels.flip(axis), pixels)
    return pixels


def random_shift(pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Move each image [N, C, H, W] by up to SHIFT of its side; its border is replicated."""
    for axis in (2, 3):
        side = pixels.shape[axis]
        reach = int(side * SHIFT)
        offsets = torch.randint(-reach, reach + 1, (len(pixels), 1), generator=generator)
        index = (torch.arange(side)[None] + offsets).clamp_(0, side - 1)
        shape = [len(pixels), 1, 1, 1]
        shape[axis] = side
        pixels = torch.gather(pixels, axis, index.view(shape).expand(pixels.shape))
    return pixels


@deterministic
def train_classifier(task: TrainingTask, *, progress: Progress) -> TrainedNetwork:
    """Learn class scores for whole images or tiles; a tile carries its image's class. See `recipe.Recipe`."""
    parameters = task.parameters
    generator = make_generator(parameters)
    inputs = load_inputs(task.train, task.geometry)
    pixels = torch.from_numpy(inputs.pixels)
    index = {name: i for i, name in enumerate(task.classes)}
    labels = torch.tensor([index[task.train[owner].class_name] for owner in inputs.sample_index])
    weights = torch.tensor([task.train[owner].weight for owner in inputs.sample_index])
    net = make_net(task, head="classifier").train()
    steps = parameters.epochs * sum(1 for _ in range(0, max(1, len(labels) - parameters.batch + 1), parameters.batch))
    optimiser = Optimiser(net, parameters, steps=steps)
    light = PhotometricAugmentation(generator)

    def augmented(chosen: torch.Tensor) -> torch.Tensor:
        return light(random_shift(random_flip(to_input(pixels[chosen]), generator), generator))

    for epoch in range(parameters.epochs):
        total, count = 0.0, 0
        for chosen in index_batches(weights, parameters.batch, generator):
            loss = functional.cross_entropy(
                net(augmented(chosen)), labels[chosen], label_smoothing=parameters.label_smoothing
            )
            optimiser.step(loss)
            total, count = total + loss.item(), count + 1
        progress("train", epoch + 1, parameters.epochs, f"loss {total / count:.3f}")
    recalibrate_batch_norm(
        optimiser.average.net, (augmented(chosen) for chosen in index_batches(weights, parameters.batch, generator))
    )
    return TrainedNetwork(optimiser.average.net)
