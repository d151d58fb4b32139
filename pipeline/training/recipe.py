"""Inputs and outputs of a training recipe: the seam between data, training and export.

Three recipes exist: `training_loop.train_classifier` (class scores only), `tiled_evidence.train_tiled_evidence` and
`whole_evidence.train_whole_evidence` (evidence maps). Each takes a `TrainingTask` and returns a `TrainedNetwork`;
export, quantisation, threshold and evaluation are shared. Nothing here needs torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from agent.records import Geometry
    from pipeline.dataset_reader import Sample
    from pipeline.progress import Progress


@dataclass(frozen=True, slots=True)
class TrainingParameters:
    """The user's settings, recorded in the lineage. A recipe's own constants belong to its code version."""

    net: str = "small"  # a name in pipeline.training.network.BACKBONES
    epochs: int = 40
    batch: int = 32
    learning_rate: float = 4e-3  # peak of the one cycle
    weight_decay: float = 0.05
    label_smoothing: float = 0.05
    top_fraction: float | None = None  # of the evidence cells whose mean is the part's score; None: the recipe's own
    teachers: int | None = None  # evidence map on tiles: networks trained first to teach it; None: the recipe's own
    seed: int = 0
    threads: int = 2  # of torch; equal results need an equal number


@dataclass(frozen=True, slots=True)
class TrainingTask:
    """The task of a training. `classes` is the order of the model's scores; the good classes come first."""

    train: tuple[Sample, ...]
    val: tuple[Sample, ...]  # to report progress; never to learn from
    classes: tuple[str, ...]
    defects: frozenset[str]
    geometry: Geometry
    parameters: TrainingParameters


@dataclass(frozen=True, slots=True)
class TrainedNetwork:
    """A trained network and how its outputs are interpreted."""

    net: Any  # pipeline.training.network.Net in eval mode, with the weights to export
    score: Literal["classes", "evidence"] = "classes"
    aggregation: Literal["max", "top_mean"] = "max"
    top_fraction: float = 0.2


class Recipe(Protocol):
    """Learn the task. Same task, CPU type and library versions give the same weights, bit for bit."""

    def __call__(self, task: TrainingTask, *, progress: Progress) -> TrainedNetwork:
        """Raises OperatorError when the data do not suit the recipe."""
