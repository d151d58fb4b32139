"""The heartbeat message: the agent's health at regular intervals.

Promise: for every camera `captured == inspected + sum(dropped) + pending`; a heartbeat that breaks it cannot be built.
`agent.wire.heartbeat_chunks` encodes it.
"""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003  pydantic reads the annotations
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from agent.records import CameraState, DropReason, ImageFault, Outcome  # noqa: TC001  pydantic reads the annotations
from agent.wire.codec import Count, Digest, Fraction, Name, Text, WireModel
from agent.wire.collected_frame import CollectReason  # noqa: TC001  pydantic reads the annotations

Positive = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


class CameraHealth(WireModel):
    """One camera since the agent's start. `captured == inspected + sum(dropped) + pending`."""

    camera: Name
    inspection: Name
    state: CameraState
    fps: Positive
    captured: Count
    inspected: Count  # `unknown` verdicts count
    pending: Count
    dropped: Mapping[DropReason, Count] = {}  # reasons that never occurred may be omitted
    error: Text | None = None  # the last one, without credentials; kept after recovery
    outcomes: Mapping[Outcome, Count] = {}  # of `inspected`; outcomes that never occurred may be omitted
    picture_faults: Mapping[ImageFault, Count] = {}  # of `inspected`: the image was unusable, the verdict is `unknown`
    picture_alarm: Text | None = None  # why its images are not inspected now
    image_mismatch: Text | None = None  # how they differ from those that the model was trained on
    skipped_files: Text | None = None  # files that its source skips: images of a kind that is not read

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if self.captured != self.inspected + sum(self.dropped.values()) + self.pending:
            msg = f"camera {self.camera}: captured is not inspected + dropped + pending"
            raise ValueError(msg)
        return self


class RejectHealth(WireModel):
    """Raw rejects (`defect`, `unsure`) of the active model, and the state of their control chart."""

    state: Literal["learning", "steady", "high", "low", "flood"]
    parts: Count  # the last 500 to 1,000
    rejects: Count  # among them
    baseline: Fraction | None = None  # share of parts that begin a run of rejects, as learned on this line


class InspectionHealth(WireModel):
    """The model that inspects an inspection's cameras; all null while there is no usable model."""

    inspection: Name
    model: Name | None
    version: Text | None
    sha256: Digest | None
    trusted: bool  # False for an unsigned local release
    preprocess_digest: Digest | None
    state: Text | None = None  # of the model's lifecycle (docs/lifecycle.md); null without updates
    candidate: Text | None = None  # `name/version` of the release that is on its way
    alarm: Text | None = None  # why a person must check the model
    unhealthy: Text | None = None  # why its verdicts cannot be relied on now: images, reject rate
    rejects: RejectHealth | None = None  # null before the model's first part
    outcomes: Mapping[Outcome, Count] = {}  # of the active model, raw, since the agent's start
    classes: Mapping[Name, Count] = {}  # of its defect and unsure parts; the most frequent ones


class HeldTopicHealth(WireModel):
    """A topic that the broker refuses; its messages wait on the device and all others go on."""

    topic: Text
    reason: Text
    for_s: Positive  # since the first refusal


class OutboxHealth(WireModel):
    """What waits for the broker, and what was lost on this device since the agent's start."""

    rows: Count  # messages waiting
    verdicts: Count  # verdicts in them
    bytes: Count
    oldest_age_s: Positive
    evicted: Count = 0  # verdicts removed because the outbox was full
    damaged: Count = 0  # verdicts known to be lost with a damaged file
    gaps: Count = 0  # gap messages written
    storage_error: Text | None = None  # why nothing can be committed now
    held_back_topics: Count = 0  # topics that the broker refuses
    held_back: tuple[HeldTopicHealth, ...] = ()  # the first of them
    rejected: Count = 0  # messages that the broker refused by an answer; each is sent again
    resent: Count = 0  # messages of the history that were sent again on request


class BrokerHealth(WireModel):
    """Arrivals that the transport dropped since the agent's start, and features that its broker lacks."""

    dropped: Mapping[Name, Count] = {}  # `oversized`, `foreign_topic`: arrivals; `wrong_answer`: no PUBACK for QoS 1
    refused: Mapping[Name, Text] = {}  # `shadow`, `status`, `will`, `subscriptions` -> why verdicts go on without it


class CollectionHealth(WireModel):
    """Frames kept for training. Counts since the spool was created, except `skipped`."""

    kept: Mapping[CollectReason, Count] = {}
    dropped: Mapping[Name, Count] = {}  # chosen and lost, by cause: `budget`, `disk_cap`, `disk_full` ...
    skipped: Mapping[Name, Count] = {}  # chosen and not copied since the agent's start: `busy`, `rate`, `crashed`
    uploaded: Count = 0
    waiting: Count = 0  # frames on this disk
    waiting_bytes: Count = 0
    set_aside: Count = 0  # of those waiting: the target has another object under their key, or refused them
    day_bytes: Count = 0  # kept on this UTC day
    error: Text | None = None  # why nothing is kept or uploaded at the moment


class ThreadsHealth(WireModel):
    """Faults of the agent's threads since its start; the log has their traces."""

    faults: Mapping[Name, Count] = {}  # by kind of thread; kinds without any are omitted
    last: Text | None = None  # the newest


class LogHealth(WireModel):
    """Counts of the agent's log since its start."""

    warnings: Count = 0
    errors: Count = 0
    repeats: Count = 0  # lines that were omitted because they repeat the log
    active_conditions: Count = 0  # conditions that last now; `kensa status` names them


class ConfigurationHealth(WireModel):
    """The configuration in force, and the state of the newest one that the agent was given."""

    digest: Digest  # of the one in force
    refused: Text | None = None  # why the newest one is not: the key's path and what is wrong with it
    needs_restart: tuple[Text, ...] = ()  # keys of the newest one that wait for a restart


class Heartbeat(WireModel):
    """The whole message. Times since the agent's start unless said otherwise."""

    v: Literal[1] = 1
    kind: Literal["heartbeat"] = "heartbeat"
    thing: Name
    line: Name
    boot_epoch: Count
    agent_version: Text
    component_version: Text | None = None  # of the Greengrass component that it runs as
    configuration: ConfigurationHealth | None = None  # null from agents that do not report it
    utc_us: Count  # when it was made, microseconds since 1970 UTC
    uptime_s: Positive
    transport: Literal["up", "down", "none"]
    transport_reason: Text | None = None  # why it is down
    broker: BrokerHealth | None = None  # null without a transport
    latency_p50_us: Count | None  # due time to decision over the last interval; null when nothing was inspected
    latency_p99_us: Count | None
    cpu: Positive  # cores, over the last interval
    rss_bytes: Count
    temperature_c: Annotated[float, Field(allow_inf_nan=False)] | None
    memory_used: Fraction | None = None  # share of the machine's memory in use
    faults: Count = 0  # batches that the model's runtime failed on
    last_fault: Text | None = None
    frames_not_recorded: Count = 0  # of defect and unsure parts, because writing them was too slow
    threads: ThreadsHealth = ThreadsHealth()
    log: LogHealth = LogHealth()
    losses: Mapping[Name, Count] = {}  # dropped or refused, besides frames and verdicts, by kind; docs/operations.md
    outbox: OutboxHealth
    collection: CollectionHealth | None = None  # null where nothing is collected
    inspections: tuple[InspectionHealth, ...]
    cameras: tuple[CameraHealth, ...]
    chunk: Count = 1  # 1 .. chunks: which piece of a heartbeat that did not fit into one message
    chunks: Count = 1
