"""Plans the trainings of a search: configurations times seeds, with successive halving.

The grid of `vary` times `seeds` on top of `base`, in a fixed order. Halving (K. Jamieson and A. Talwalkar,
Non-stochastic Best Arm Identification and Hyperparameter Optimization, AISTATS 2016) trains all of them for few epochs,
keeps the best 1 / eta by the objective on the validation split, trains those eta times longer, and so on up to all
epochs. The learning rate's one cycle has the length of the training and cannot be extended: each round trains anew,
costs about as much as the last one, and a survivor is an ordinary training.

In the cloud all trainings run at once on machines of their own: `plan_trainings` gives all of them at full length.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final, Literal

import yaml
from pydantic import Field, field_validator, model_validator

from agent.release.manifest import Name, SemVer, Sha256, Unit  # noqa: TC001 - pydantic reads the annotations
from pipeline.comparison.selection_policy import SelectionPolicy
from pipeline.selection.training_plan import Scalar, TrainingPlan
from pipeline.strict_json import PlanError, StrictJson, validate
from pipeline.training.recipe import TrainingParameters

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self

MAX_TRAININGS: Final = 256
MAX_FILE_BYTES: Final = 256 * 1024


class HalvingSettings(StrictJson):
    """Settings of successive halving, which shortens a local search."""

    eta: int = Field(default=3, ge=2, le=10)
    finalists: int = Field(default=2, ge=1, le=64)  # at least this many are trained for all epochs
    min_epochs: int = Field(default=2, ge=1)


class SearchSettings(StrictJson):
    """A search file. Parameters are those of `pipeline.training.recipe.TrainingParameters`."""

    name: Name = "model"
    version: SemVer = "0.1.0"
    dataset_digest: Sha256 | None = None
    base: dict[str, Scalar] = Field(default_factory=dict)
    vary: dict[str, tuple[Scalar, ...]] = Field(default_factory=dict)
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    geometry: str | None = None
    head: Literal["classifier", "evidence"] | None = None
    target_cpu: Literal["any", "avx2", "vnni"] = "any"
    false_rejects: Unit | None = None
    halving: HalvingSettings | None = HalvingSettings()
    workers: int = Field(default=1, ge=1, le=64)  # trainings at once; each takes the parameter `threads` of cores
    timeout_s: float = Field(default=6 * 3600.0, gt=0.0)  # of one training
    policy: SelectionPolicy = SelectionPolicy()

    @field_validator("base", "vary")
    @classmethod
    def _names_are_known(cls, given: dict[str, Any]) -> dict[str, Any]:
        known = {field.name for field in fields(TrainingParameters)} - {"seed"}
        if unknown := sorted(set(given) - known):
            raise ValueError(f"there is no parameter {', '.join(unknown)}; there are {', '.join(sorted(known))}")
        return given

    @model_validator(mode="after")
    def _is_bounded(self) -> Self:
        count = len(self.seeds)
        for name, values in self.vary.items():
            if not values:
                raise ValueError(f"vary.{name} has no values")
            count *= len(values)
        if count > MAX_TRAININGS:
            raise ValueError(f"{count} trainings are requested; at most {MAX_TRAININGS} are allowed")
        return self

    @property
    def epochs(self) -> int:
        """Of a whole training."""
        return int(self.base.get("epochs") or TrainingParameters().epochs)


def read_settings(path: Path) -> SearchSettings:
    """Read a search file, YAML. Raises PlanError naming the key, its value and what is allowed."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise PlanError(f"{path} has more than {MAX_FILE_BYTES:,} bytes.")
        return validate(SearchSettings, yaml.safe_load(data) or {}, str(path))
    except OSError as error:
        raise PlanError(f"{path} cannot be read: {error.strerror}.") from error
    except yaml.YAMLError as error:
        raise PlanError(f"{path} is not YAML: {error}") from error


def default_settings() -> SearchSettings:
    """The search without a file: three learning rates, two seeds each."""
    return SearchSettings(vary={"learning_rate": (2e-3, 4e-3, 8e-3)}, seeds=(0, 1))


def plan_trainings(settings: SearchSettings) -> list[TrainingPlan]:
    """All trainings at full length: seeds vary fastest, then the last of `vary`'s keys in the order of their names."""
    names = sorted(settings.vary)
    plans = []
    for values in itertools.product(*(settings.vary[name] for name in names)):
        for seed in settings.seeds:
            parameters = {**settings.base, **dict(zip(names, values, strict=True)), "seed": seed}
            plans.append(
                TrainingPlan(
                    name=settings.name,
                    version=settings.version,
                    dataset_digest=settings.dataset_digest,
                    parameters=parameters,
                    geometry=settings.geometry,
                    head=settings.head,
                    target_cpu=settings.target_cpu,
                    false_rejects=settings.false_rejects,
                )
            )
    return list({made.digest: made for made in plans}.values())


@dataclass(frozen=True, slots=True)
class Rung:
    """One round of halving."""

    trainings: int
    share: float  # of each training's epochs
    min_epochs: int

    def shorten(self, whole: TrainingPlan) -> TrainingPlan:
        """The same training with this round's epochs."""
        epochs = int(whole.parameters.get("epochs") or TrainingParameters().epochs)
        short = min(epochs, max(self.min_epochs, round(epochs * self.share)))
        return whole.model_copy(update={"parameters": {**whole.parameters, "epochs": short}})


def halving_rungs(trainings: int, halving: HalvingSettings | None) -> tuple[Rung, ...]:
    """The rounds for a number of trainings; the last one has all epochs. One round without halving."""
    if halving is None:
        return (Rung(trainings, 1.0, 1),)
    counts = [trainings]
    while counts[-1] > halving.finalists:
        counts.append(max(halving.finalists, -(-counts[-1] // halving.eta)))
    last = len(counts) - 1
    return tuple(Rung(n, halving.eta ** float(i - last), halving.min_epochs) for i, n in enumerate(counts))
