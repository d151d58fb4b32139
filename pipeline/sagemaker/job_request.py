"""Builds requests for sagemaker:CreateTrainingJob from a plan and the account's settings.

The same dict goes to boto3 and to the state machine's `sagemaker:createTrainingJob.sync`, whose names are equal. Equal
inputs give equal job names: a state machine that repeats a request gets one job (SageMaker refuses the second by name).
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, Final

from pydantic import Field, model_validator

from pipeline.sagemaker.job_layout import ANCHOR_PREFIX, CANDIDATES_CHANNEL, CHAMPION_CHANNEL, TRAINING_CHANNEL
from pipeline.strict_json import StrictJson

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    from pipeline.comparison.selection_policy import SelectionPolicy
    from pipeline.selection.training_plan import TrainingPlan

PROGRAM_NAME: Final = "kensa_job.py"  # in the root of the source bundle
METRIC_PREFIX: Final = "kensa metric"  # of a line of the log: `kensa metric accuracy=0.98`
REPORTED_METRICS: Final = (
    "accuracy",
    "macro_f1",
    "auroc",
    "escape_rate",
    "false_reject_rate",
    "localisation_hit_rate",
    "int8_agreement",
    "objective",
    "loss",
)
_MAX_NAME: Final = 63
_DIGITS: Final = 16


class JobSettings(StrictJson):
    """Settings of an account for its jobs."""

    role_arn: str = Field(pattern=r"^arn:[a-z0-9-]+:iam::\d{12}:role/.+$")
    image_uri: str  # a stock PyTorch training image of the region
    source_uri: str = Field(pattern=r"^s3://")  # of the source bundle
    output_uri: str = Field(pattern=r"^s3://")  # below it each job writes NAME/output/model.tar.gz
    region: str
    instance_type: str = "ml.c6i.xlarge"
    volume_gb: int = Field(default=30, ge=1, le=16_384)
    max_runtime_s: int = Field(default=4 * 3600, ge=60, le=432_000)
    spot: bool = False
    max_wait_s: int | None = Field(default=None, ge=60, le=432_000)  # of a spot job, including the wait for a machine
    kms_key: str | None = None  # for volume and output
    subnets: tuple[str, ...] = ()
    security_groups: tuple[str, ...] = ()
    tags: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _waits_at_least_as_long_as_it_runs(self) -> Self:
        if self.max_wait_s is not None and self.max_wait_s < self.max_runtime_s:
            raise ValueError(f"max_wait_s {self.max_wait_s} is less than max_runtime_s {self.max_runtime_s}")
        return self


def training_request(plan: TrainingPlan, settings: JobSettings, *, data_uri: str, cycle: str = "") -> dict[str, Any]:
    """A job that trains one plan on the data set version at `data_uri`; `cycle` names the requesting execution."""
    return _request(
        f"kensa-train-{plan.name}",
        plan.digest + cycle,
        settings,
        {"step": "train", **plan.hyperparameters()},
        {TRAINING_CHANNEL: data_uri},
    )


def choice_request(
    policy: SelectionPolicy,
    settings: JobSettings,
    *,
    data_uri: str,
    candidates_uri: str,
    champion_uri: str | None,
    anchor_uris: Sequence[str] = (),
    cycle: str = "",
) -> dict[str, Any]:
    """A job that chooses among the candidates in the model.tar.gz below `candidates_uri`."""
    channels = {TRAINING_CHANNEL: data_uri, CANDIDATES_CHANNEL: candidates_uri}
    if champion_uri:
        channels[CHAMPION_CHANNEL] = champion_uri
    channels |= {f"{ANCHOR_PREFIX}{i}": uri for i, uri in enumerate(anchor_uris)}
    hyperparameters = {"step": "choose", "policy": json.dumps(policy.model_dump(mode="json"), sort_keys=True)}
    return _request("kensa-choose", json.dumps(channels, sort_keys=True) + cycle, settings, hyperparameters, channels)


def _request(
    base: str, identity: str, settings: JobSettings, hyperparameters: Mapping[str, str], channels: Mapping[str, str]
) -> dict[str, Any]:
    digest = hashlib.sha256((identity + settings.source_uri).encode()).hexdigest()[:_DIGITS]
    name = f"{base.replace('_', '-')[: _MAX_NAME - 1 - _DIGITS]}-{digest}"
    encryption = {"KmsKeyId": settings.kms_key} if settings.kms_key else {}
    volume_key = {"VolumeKmsKeyId": settings.kms_key} if settings.kms_key else {}
    request: dict[str, Any] = {
        "TrainingJobName": name,
        "RoleArn": settings.role_arn,
        "AlgorithmSpecification": {
            "TrainingImage": settings.image_uri,
            "TrainingInputMode": "File",
            "MetricDefinitions": metric_definitions(),
        },
        "HyperParameters": {
            **hyperparameters,
            # For script mode: the image unpacks the bundle, installs its requirements.txt and runs the program.
            "sagemaker_program": PROGRAM_NAME,
            "sagemaker_submit_directory": settings.source_uri,
            "sagemaker_region": settings.region,
        },
        "InputDataConfig": [_channel(channel, uri) for channel, uri in sorted(channels.items())],
        "OutputDataConfig": {"S3OutputPath": settings.output_uri, **encryption},
        "ResourceConfig": {
            "InstanceType": settings.instance_type,
            "InstanceCount": 1,
            "VolumeSizeInGB": settings.volume_gb,
            **volume_key,
        },
        "StoppingCondition": {"MaxRuntimeInSeconds": settings.max_runtime_s},
        "EnableManagedSpotTraining": settings.spot,
        "Tags": [{"Key": key, "Value": value} for key, value in sorted(settings.tags.items())],
    }
    if settings.spot:
        wait = settings.max_wait_s or min(432_000, 2 * settings.max_runtime_s)
        request["StoppingCondition"]["MaxWaitTimeInSeconds"] = wait
        request["CheckpointConfig"] = {"S3Uri": f"{settings.output_uri.rstrip('/')}/checkpoints/{name}"}
    if settings.subnets:
        request["VpcConfig"] = {"Subnets": [*settings.subnets], "SecurityGroupIds": [*settings.security_groups]}
    return request


def _channel(name: str, uri: str) -> dict[str, Any]:
    source = {"S3DataType": "S3Prefix", "S3Uri": uri.rstrip("/") + "/", "S3DataDistributionType": "FullyReplicated"}
    return {"ChannelName": name, "DataSource": {"S3DataSource": source}}


def metric_definitions() -> list[dict[str, str]]:
    """The metrics that SageMaker reads from the log."""
    return [{"Name": f"val:{name}", "Regex": f"{METRIC_PREFIX} {name}=([-+0-9.eE]+)"} for name in REPORTED_METRICS]
