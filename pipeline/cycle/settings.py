"""Settings of the cycle, read from the environment variables that all functions of the stack share.

Promise: a missing or wrong variable is refused with its name, its value and the allowed values; nothing is read from
anywhere else.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

from pydantic import Field, StringConstraints, ValidationError

from agent.errors import OperatorError
from agent.strict import Strict

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX: Final = "KENSA_"
_DAY_S: Final = 86_400

Uri = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
Arn = Annotated[str, StringConstraints(pattern=r"^arn:[a-z-]+:[a-z]+:.+$")]


class CycleConfigError(OperatorError):
    """The environment of a step is refused; the text names the variable."""


class CycleSettings(Strict):
    """KENSA_* variables. Durations in seconds, shares in [0, 1]."""

    data: Uri  # folder or s3://bucket: collected/, labels/, datasets/, training/, registry/, fleet/, cycle/
    publisher: Uri  # the publisher's private folder, see pipeline.cycle.deployment.publisher
    canary_target: Arn  # thing group that gets a release first
    fleet_target: Arn  # thing group of all devices, which gets it next
    topic: Arn | None = None  # of SNS; None: no notifications, only the record in data/cycle
    state_machine: Arn | None = None  # for the commands
    approval: Literal["auto", "manual"] = "manual"  # auto: a clean choice needs no person
    approval_s: int = Field(default=3 * _DAY_S, ge=1, le=30 * _DAY_S)  # until an unanswered request counts as denied
    training_role: Arn
    training_image: Uri  # a stock PyTorch training image of the region
    training_source: Uri  # the source bundle, s3://..., see pipeline.sagemaker.source_bundle
    training_instance: str = "ml.c6i.xlarge"
    training_spot: bool = False
    training_s: int = Field(default=4 * 3600, ge=60, le=5 * _DAY_S)  # of one job
    training_key: Arn | None = None  # of KMS, for the volumes and outputs of the jobs
    canary_timeout_s: int = Field(default=_DAY_S, ge=1, le=30 * _DAY_S)  # by which the canary must have committed
    soak_s: int = Field(default=4 * 3600, ge=0, le=30 * _DAY_S)  # for which the whole canary must have stayed committed
    fleet_timeout_s: int = Field(default=7 * _DAY_S, ge=1, le=90 * _DAY_S)  # for which the fleet is monitored
    poll_interval_s: int = Field(default=300, ge=1, le=_DAY_S)  # between two evaluations of the reports
    canary_quorum: float = Field(default=0.5, gt=0.0, le=1.0)  # share that must have committed when the rest is silent
    fleet_tolerance: float = Field(default=0.1, ge=0.0, lt=1.0)  # share of the fleet that may refuse the release
    per_minute: int = Field(default=10, ge=1, le=1000)  # things of the fleet that start in a minute
    abort_percent: float = Field(default=10.0, gt=0.0, le=100.0)  # share of failed deployments that stops the rest
    abort_after: int = Field(default=5, ge=1)  # finished deployments before that share counts
    timeout_min: int = Field(default=90, ge=1, le=10_080)  # of one thing's deployment
    validate_s: int = Field(default=60, ge=1, le=3_600)  # for a device to fetch and self-test the release
    notify_s: int = Field(default=60, ge=1, le=86_400)  # for a component to respond to its update

    @classmethod
    def read(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Read the variables that are set. Raises CycleConfigError."""
        names = {name: f"{PREFIX}{name.upper()}" for name in cls.model_fields}
        given: dict[str, Any] = {name: environment[env] for name, env in names.items() if environment.get(env)}
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            lines = [f"  {PREFIX}{str(e['loc'][0]).upper()}: {e['msg']}" for e in error.errors(include_url=False)]
            raise CycleConfigError("the environment of the cycle is refused:\n" + "\n".join(lines)) from error

    def environment(self) -> dict[str, str]:
        """The variables from which `read` restores these settings."""
        values = self.model_dump(mode="json", exclude_none=True)
        return {f"{PREFIX}{name.upper()}": str(value) for name, value in values.items()}
