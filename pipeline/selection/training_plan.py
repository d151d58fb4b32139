"""A training as data: planned by a search, read by a job, kept in a registry's record.

Promise: equal plans have equal digests, on every machine; a plan holds every input of a training. Hyperparameters of
SageMaker are strings with at most 2,500 characters each: each field of a plan is written there as JSON of its own, so
that the console shows and sorts them.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields
from typing import TYPE_CHECKING, Final, Literal, Self

from pydantic import Field, field_validator

from agent.release.manifest import Name, SemVer, Sha256, Unit  # noqa: TC001 - pydantic reads the annotations
from pipeline.strict_json import StrictJson, json_or_text, validate
from pipeline.training.recipe import TrainingParameters

if TYPE_CHECKING:
    from collections.abc import Mapping

Scalar = bool | int | float | str | None
_OWN: Final = frozenset({"name", "version", "dataset_digest", "geometry", "head", "target_cpu", "false_rejects"})
_DIGITS: Final = 16  # of a digest, where it names a folder or a job


class TrainingPlan(StrictJson):
    """One training. `parameters` are `pipeline.training.recipe.TrainingParameters`; absent ones have its defaults."""

    name: Name  # of the release's model
    version: SemVer  # of the release
    dataset_digest: Sha256 | None = None  # of the data set's samples; None: any
    parameters: dict[str, Scalar] = Field(default_factory=dict)
    geometry: str | None = None  # as `kensa train --geometry`; None: follows from the data, as do the next two
    head: Literal["classifier", "evidence"] | None = None
    target_cpu: Literal["any", "avx2", "vnni"] = "any"
    false_rejects: Unit | None = None

    @field_validator("parameters")
    @classmethod
    def _parameters_are_known(cls, given: dict[str, Scalar]) -> dict[str, Scalar]:
        known = {field.name for field in fields(TrainingParameters)}
        if unknown := sorted(set(given) - known):
            raise ValueError(f"there is no parameter {', '.join(unknown)}; there are {', '.join(sorted(known))}")
        return given

    def canonical(self) -> bytes:
        """JSON with sorted keys and no spaces."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":")).encode()

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON; finished trainings are found by it."""
        return hashlib.sha256(self.canonical()).hexdigest()

    @property
    def label(self) -> str:
        """The beginning of the digest, which names folders."""
        return self.digest[:_DIGITS]

    @property
    def seed(self) -> int:
        """Of the training."""
        return int(self.parameters.get("seed") or 0)

    def training_parameters(self) -> TrainingParameters:
        """The training's parameters as a recipe takes them."""
        return TrainingParameters(**self.parameters)  # type: ignore[arg-type] # checked above, and by the recipe

    def hyperparameters(self) -> dict[str, str]:
        """The hyperparameters of SageMaker: each field and each parameter as a JSON text."""
        own = self.model_dump(mode="json", exclude={"parameters"})
        return {key: json.dumps(value) for key, value in sorted({**own, **self.parameters}.items())}

    @classmethod
    def from_hyperparameters(cls, given: Mapping[str, str]) -> Self:
        """Read what `hyperparameters` wrote; values that are no JSON are text. Raises PlanError."""
        values = {key: json_or_text(value) for key, value in given.items()}
        own = {key: value for key, value in values.items() if key in _OWN}
        parameters = {key: value for key, value in values.items() if key not in _OWN}
        return validate(cls, {**own, "parameters": parameters}, "the hyperparameters")


def next_version(version: str) -> str:
    """The next minor version: 1.2.3 -> 1.3.0, 1.3.0-rc -> 1.4.0. The default version of a retrained model."""
    major, minor, _ = version.split("-", 1)[0].split(".")
    return f"{major}.{int(minor) + 1}.0"
