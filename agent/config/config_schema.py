"""The configuration tree: inspections, rollout limits, updates, transport, outbox and the rest."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path  # noqa: TC003 - pydantic reads the annotations
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from agent.config.camera_schema import CameraConfig  # noqa: TC001 - pydantic reads the annotations
from agent.config.collection_schema import CollectionConfig  # noqa: TC001 - likewise
from agent.config.config_section import ConfigSection, Fraction, Name, Region, redacted

# --- inspections ------------------------------------------------------------------------------------------------------


class IntakeConfig(ConfigSection):
    """Treatment of frames that arrive faster than they are inspected."""

    policy: Literal["newest", "wait"] = "newest"  # newest: the oldest waiting frame is dropped and counted (`overrun`)
    capacity: int = Field(default=8, ge=1, le=1_024)  # waiting frames a camera


class RolloutLimits(ConfigSection):
    """Limits on the rollout policy of a signed release: the site has the last word."""

    min_shadow_parts: int = Field(
        default=300, ge=0, le=1_000_000
    )  # live parts in shadow deployment before it gets a share
    min_trial_parts: int = Field(default=1_000, ge=0, le=1_000_000)  # parts inspected by both before it is committed
    max_disagreement: Fraction = 0.03  # of shadow outcomes, from which a release is refused
    max_latency_ratio: float = Field(default=2.0, ge=1.0, le=100.0, allow_inf_nan=False)  # to the running model
    max_extra_memory_bytes: int = Field(default=256 * 1024**2, ge=1024**2, le=1024**4)
    deadline_ms: float = Field(
        default=200.0, gt=0.0, le=60_000.0, allow_inf_nan=False
    )  # due time to decision, in a trial
    shadow_max_fps: float = Field(
        default=30.0, gt=0.0, le=10_000.0, allow_inf_nan=False
    )  # parts a second that it is shown
    max_error_rate: Annotated[float, Field(ge=1e-4, le=0.05, allow_inf_nan=False)] = (
        0.01  # of parts without its judgement, and of late ones, in a trial
    )
    max_e_value: Annotated[float, Field(ge=20.0, le=10_000.0, allow_inf_nan=False)] = (
        1_000.0  # of one-sided disagreement
    )
    max_psi: Annotated[float, Field(ge=0.01, le=1.0, allow_inf_nan=False)] = 0.25  # drift of its scores
    max_psi_window: int = Field(default=5_000, ge=1_000, le=100_000)  # parts before drift is evaluated
    max_golden_difference: Fraction = 0.1  # of a score on the release's own golden set from its reference
    min_golden_agreement: Fraction = 0.98  # share of that set with the outcome of the place where it was made
    min_golden_recall: Fraction = 0.5  # share of that set's labelled parts that must get the right outcome
    allow_reject_more: bool = True  # whether a release may announce it: then only more parts stop, never fewer
    allow_pass_more: bool = (
        False  # likewise that it passes more; only labelled parts can then distinguish it from a blind model
    )
    acceptance_recall: Fraction = 1.0  # share of the site's own labelled parts with the labelled outcome
    max_hours: float = Field(default=24.0, gt=0.0, le=8_760.0, allow_inf_nan=False)  # for shadow and trial together
    probation_s: float = Field(default=600.0, ge=0.0, le=86_400.0)  # the old model stays loaded so long after a commit
    cool_down_s: float = Field(default=600.0, ge=0.0, le=86_400.0)  # after an automatic rollback
    max_rollbacks_per_day: int = Field(default=3, ge=1, le=1_000)  # automatic ones; then a person must act


def _check_repository(repository: str) -> str:
    """Refuse a relative folder: it would be relative to the fetch child's working directory."""
    if not repository.startswith(("/", "http://", "https://", "s3://")):
        msg = (
            f"given {redacted(repository)}; write an absolute path such as /media/releases, or a URL: "
            "http(s)://host/path or s3://bucket/prefix"
        )
        raise ValueError(msg)
    return repository


class UpdatesConfig(ConfigSection):
    """Where new releases come from. Without this the release of the configuration is the only one."""

    repository: Annotated[
        str, StringConstraints(min_length=1, max_length=1024), AfterValidator(_check_repository)
    ]  # absolute folder, http(s)://, s3://bucket/prefix
    root: Path  # 1.root.json, the trust anchor, brought to the device by hand or with the component
    site: Name  # whose delegation this device follows
    shadow: bool = True  # follow and report to the named shadow `kensa` over MQTT; else only the control socket is used
    max_release_bytes: int = Field(default=512 * 1024**2, ge=1024, le=1024**4)
    fetch_timeout_s: float = Field(default=900.0, ge=1.0, le=86_400.0)
    check_hours: float = Field(default=6.0, ge=0.1, le=168.0)  # between two polls for revocations
    limits: RolloutLimits = RolloutLimits()


class InspectionConfig(ConfigSection):
    """Cameras that are inspected by one model."""

    release: Path  # a release folder: the factory release where there are updates
    cameras: dict[Name, CameraConfig] = Field(min_length=1, max_length=64)
    roi: Region | None = None  # [x, y, width, height]; overrides the manifest's
    thresholds: dict[Name, Fraction] = Field(default_factory=dict)  # defect class -> score; overrides the manifest's
    unsure_band: Fraction | None = None  # overrides the manifest's
    check_pictures: bool = True  # an image without light or contrast is `unknown`; compared with the golden set
    intake: IntakeConfig = IntakeConfig()
    # at_once: each verdict in a message of its own, `ok` too, for a machine that waits for it; one commit
    # for each
    publish: Literal["packed", "at_once"] = "packed"


# --- transport, outbox, the rest --------------------------------------------------------------------------------------


class TlsConfig(ConfigSection):
    """TLS towards the broker: mutual with a certificate and its key, else only the broker is authenticated."""

    ca: Path
    certificate: Path | None = None
    key: Path | None = None
    alpn: Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]{1,64}$")] | None = (
        None  # IoT Core on 443: x-amzn-mqtt-ca
    )

    @model_validator(mode="after")
    def _a_certificate_has_its_key(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            msg = "certificate and key belong together: give both, or neither for a broker that asks for a password"
            raise ValueError(msg)
        return self


class MqttConfig(ConfigSection):
    """An MQTT broker: mosquitto, AWS IoT Core or any other."""

    kind: Literal["mqtt"]
    host: Annotated[str, StringConstraints(min_length=1, max_length=253)]
    port: int = Field(default=8883, ge=1, le=65_535)
    protocol: Literal["3.1.1", "5"] = "5"
    client_id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_:-]{1,128}$")] | None = (
        None  # None: the thing's name
    )
    username: str | None = Field(default=None, max_length=256)
    password_file: Path | None = None
    tls: TlsConfig | None = None
    keepalive_s: int = Field(default=30, ge=5, le=1_200)
    max_in_flight: int = Field(default=32, ge=1, le=100)  # IoT Core allows 100 unacknowledged publishes

    @model_validator(mode="after")
    def _a_password_has_a_user(self) -> Self:
        if self.password_file is not None and self.username is None:
            msg = "password_file is given without username"
            raise ValueError(msg)
        return self


class NoTransportConfig(ConfigSection):
    """Verdicts stay in the local outbox: for experiments."""

    kind: Literal["none"]


class OutboxConfig(ConfigSection):
    """Bounds of the storage for messages, before and after their delivery."""

    max_bytes: int = Field(
        default=512 * 1024 * 1024, ge=1024 * 1024, le=1024**4
    )  # oldest ok verdicts go first beyond this
    commit_ms: int = Field(default=250, ge=10, le=10_000)  # longest wait of an ok verdict before it is on disk
    history_days: float = Field(default=7.0, gt=0.0, le=3_650.0)
    history_bytes: int = Field(default=256 * 1024 * 1024, ge=1024 * 1024, le=1024**4)


class FrameRecorderConfig(ConfigSection):
    """Frames of defect and unsure parts that `kensa explain` shows."""

    frames: int = Field(default=500, ge=0, le=1_000_000)  # newest kept; 0 keeps none
    max_bytes: int = Field(default=2 * 1024**3, ge=1024 * 1024, le=1024**4)
    max_per_s: float = Field(default=1.0, gt=0.0, le=1_000.0, allow_inf_nan=False)  # sustained; bursts of 10
    jpeg_quality: int = Field(default=95, ge=50, le=100)


class MetricsConfig(ConfigSection):
    """Prometheus endpoint on 127.0.0.1."""

    port: int = Field(ge=0, le=65_535)  # 0: any free port, named in `kensa doctor` and the log


class Config(ConfigSection):
    """The whole file."""

    thing: Name  # the IoT thing name: first part of every topic
    line: Name
    state_dir: Path
    inspections: dict[Name, InspectionConfig] = Field(min_length=1, max_length=64)
    transport: Annotated[MqttConfig | NoTransportConfig, Field(discriminator="kind")]
    outbox: OutboxConfig = OutboxConfig()
    keep: FrameRecorderConfig = FrameRecorderConfig()
    collect: CollectionConfig | None = None
    updates: UpdatesConfig | None = None
    metrics: MetricsConfig | None = None
    heartbeat_s: float = Field(default=10.0, ge=0.5, le=3_600.0)
    workers: int | None = Field(default=None, ge=1, le=64)  # None: one a core that this process may use
    max_batch: int = Field(default=8, ge=1, le=256)  # largest number of model inputs (frames, or tiles) in one batch
    drain_s: float = Field(default=5.0, ge=0.1, le=300.0)  # bound of draining at stop

    @model_validator(mode="after")
    def _camera_names_are_unique(self) -> Self:
        owner: dict[str, str] = {}
        for name, inspection in self.inspections.items():
            for camera in inspection.cameras:
                if camera in owner:
                    msg = f"camera {camera!r} is in inspections {owner[camera]!r} and {name!r}; they must differ"
                    raise ValueError(msg)
                owner[camera] = name
        return self

    def at_once_inspections(self) -> frozenset[str]:
        """The inspections whose verdicts are published alone and at once."""
        return frozenset(name for name, inspection in self.inspections.items() if inspection.publish == "at_once")

    def digest(self) -> str:
        """SHA-256 (hex) of the whole configuration; passwords and certificates count as paths, not contents."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()

    def worker_count(self) -> int:
        """Workers to start: as configured, else one for each core of this process's affinity mask."""
        return self.workers or len(os.sched_getaffinity(0))
