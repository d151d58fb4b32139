"""The tables of the data lake: names, types and meanings of their columns, and their partitions.

Promise: this is the only list. The rows of pipeline/ingest, the Glue tables of pipeline/infra, the views of DuckDB and
the documentation derive from it; a test compares them. Columns are only added, at the end: files without a column read
as NULL.

A table is stored in `{table}/site=.../line=.../day=YYYY-MM-DD/*.parquet`. `day` is the UTC day of the message's
earliest row. An envelope that spans midnight is not split, so a row's own day is that of its partition or the next.
Firehose delivers at least once: a row may be present twice, and every query counts each key once.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final, Literal

ColumnType = Literal["VARCHAR", "BIGINT", "DOUBLE", "BOOLEAN", "TIMESTAMP"]

_GLUE: Final[dict[ColumnType, str]] = {
    "VARCHAR": "string",
    "BIGINT": "bigint",
    "DOUBLE": "double",
    "BOOLEAN": "boolean",
    "TIMESTAMP": "timestamp",
}


@dataclass(frozen=True, slots=True)
class Column:
    """One column, which may be NULL. TIMESTAMP is UTC, to the microsecond."""

    name: str
    type: ColumnType
    meaning: str

    @property
    def glue_type(self) -> str:
        """The type's name in Glue and Hive."""
        return _GLUE[self.type]


@dataclass(frozen=True, slots=True)
class Table:
    """One table. `columns` excludes the partitions, which are the same for all tables."""

    name: str
    meaning: str
    columns: tuple[Column, ...]

    @property
    def column_names(self) -> tuple[str, ...]:
        """The columns' names, in order."""
        return tuple(column.name for column in self.columns)


def _columns(text: str) -> tuple[Column, ...]:
    """Parse lines of the form `name TYPE meaning`."""
    found = []
    for line in text.strip().splitlines():
        name, kind, meaning = line.split(maxsplit=2)
        if kind not in _GLUE:
            raise ValueError(f"column {name} has the unknown type {kind}")
        found.append(Column(name, kind, meaning))
    return tuple(found)


PARTITIONS: Final = _columns("""
site  VARCHAR  the plant
line  VARCHAR  its production line
day   VARCHAR  UTC day of the message, YYYY-MM-DD
""")

_VERDICTS: Final = _columns("""
thing               VARCHAR    the device
camera              VARCHAR    its camera
inspection          VARCHAR    the inspection that the camera belongs to
boot_epoch          BIGINT     identifies one start of the agent, never reused
seq                 BIGINT     number of the camera's frame since the agent's start
key                 VARCHAR    line/camera/boot_epoch/seq; identifies the verdict, never reused
captured_at         TIMESTAMP  when the frame was taken
outcome             VARCHAR    ok, defect, unsure or unknown
class               VARCHAR    the defect class for defect and unsure
score               DOUBLE     the number compared with the threshold, 0 to 1
latency_us          BIGINT     from the frame's due time to the decision
model_name          VARCHAR    the champion; NULL where there was no usable model
model_version       VARCHAR    its semantic version
model_sha256        VARCHAR    digest of model.onnx
model_counter       BIGINT     its release counter; 0 for an unsigned local release
model_trusted       BOOLEAN    whether its signatures were verified
part_id             VARCHAR    of a triggered part
arm                 VARCHAR    champion or challenger, in a trial or an A/B test
challenger_outcome  VARCHAR    the challenger's own outcome; `outcome` is then the stricter one
challenger_sha256   VARCHAR    digest of the challenger's model.onnx
replay              BOOLEAN    whether the message was sent from the device's backlog
image               VARCHAR    reference of the stored frame on the device
reason              VARCHAR    why no decision was possible
box_x               BIGINT     position of the defect, pixels of the frame
box_y               BIGINT     likewise
box_width           BIGINT     likewise
box_height          BIGINT     likewise
preprocess_digest   VARCHAR    digest of the preprocessing
config_digest       VARCHAR    digest of the configuration
""")

_GAPS: Final = _columns("""
thing       VARCHAR    the device
camera      VARCHAR    its camera
inspection  VARCHAR    the inspection that the camera belongs to
boot_epoch  BIGINT     of the lost verdicts
lost_at     TIMESTAMP  when the loss was noticed
reason      VARCHAR    evicted (outbox full) or damaged (file)
lost        BIGINT     number of verdicts that will not arrive
first_seq   BIGINT     the first of them
last_seq    BIGINT     the last of them
exact       BOOLEAN    whether the message listed exactly the lost ones
""")

_HEARTBEATS: Final = _columns("""
thing             VARCHAR    the device
camera            VARCHAR    the camera that the row is about
inspection        VARCHAR    the inspection that it belongs to
boot_epoch        BIGINT     identifies one start of the agent, never reused
sent_at           TIMESTAMP  when the heartbeat was created
uptime_s          DOUBLE     of the agent
agent_version     VARCHAR    of the agent
transport         VARCHAR    up, down or none
state             VARCHAR    of the camera
fps               DOUBLE     of the camera, smoothed
captured          BIGINT     frames since the agent's start
inspected         BIGINT     of them with a verdict; captured = inspected + dropped + pending
pending           BIGINT     of them not finished yet
dropped           BIGINT     of them dropped, all reasons
dropped_overrun   BIGINT     of `dropped`: a newer frame displaced it
dropped_corrupt   BIGINT     of `dropped`: could not be decoded
dropped_incomplete BIGINT    of `dropped`: data was missing
dropped_size      BIGINT     of `dropped`: unexpected size
dropped_channels  BIGINT     of `dropped`: unexpected channels
dropped_shutdown  BIGINT     of `dropped`: still waiting when the agent stopped
error             VARCHAR    the camera's last error
model_name        VARCHAR    the inspection's model; NULL where the heartbeat lists it elsewhere
model_version     VARCHAR    likewise
model_sha256      VARCHAR    likewise
model_trusted     BOOLEAN    likewise
model_state       VARCHAR    of its lifecycle
candidate         VARCHAR    name/version of the candidate release
alarm             VARCHAR    why the model needs attention
latency_p50_us    BIGINT     of the device, over the last interval
latency_p99_us    BIGINT     likewise
cpu               DOUBLE     cores in use
rss_bytes         BIGINT     memory of the agent
temperature_c     DOUBLE     of the device
faults            BIGINT     batches that failed in the model's runtime, since the start
frames_not_recorded BIGINT   defect and unsure frames that could not be written, since the start
outbox_rows       BIGINT     messages waiting for the broker
outbox_verdicts   BIGINT     verdicts in them
outbox_oldest_age_s DOUBLE   age of the oldest of them
outbox_evicted    BIGINT     verdicts of the device evicted because the outbox was full, since the start
outbox_damaged    BIGINT     verdicts of the device lost with a damaged file, since the start
""")

_MODEL_REPORTS: Final = _columns("""
thing              VARCHAR    the device
inspection         VARCHAR    the inspection of the model
boot_epoch         BIGINT     identifies one start of the agent, never reused
reported_at        TIMESTAMP  when the report was created
state              VARCHAR    of the lifecycle
since_at           TIMESTAMP  of that state
active_name        VARCHAR    the active model; NULL: the factory release, or none
active_version     VARCHAR    its semantic version
active_counter     BIGINT     its release counter
active_digest      VARCHAR    of its manifest
active_sha256      VARCHAR    of its model.onnx
previous_name      VARCHAR    the release of a rollback
previous_version   VARCHAR    likewise
previous_sha256    VARCHAR    likewise
candidate_name     VARCHAR    the candidate
candidate_version  VARCHAR    likewise
candidate_counter  BIGINT     likewise
candidate_digest   VARCHAR    likewise
candidate_sha256   VARCHAR    likewise
desired_release    VARCHAR    name/version of the desired release
desired_mode       VARCHAR    release or ab
desired_source     VARCHAR    source of the desired release
share              DOUBLE     of the parts that the candidate inspects too
refusal_gate       VARCHAR    the gate of the last refusal
refusal_reason     VARCHAR    a stable code
refusal_text       VARCHAR    explanation for people
refused_name       VARCHAR    the refused release
refused_version    VARCHAR    likewise
refused_digest     VARCHAR    likewise
alarm              VARCHAR    why the model needs attention
progress           VARCHAR    figures of the current state, as a JSON object
""")

_LABELS: Final = _columns("""
key          VARCHAR    of the verdict
camera       VARCHAR    from the key
boot_epoch   BIGINT     from the key
seq          BIGINT     from the key
label_class  VARCHAR    true class of the part
is_defect    BOOLEAN    whether that class is a defect
source       VARCHAR    source of the label: a person, a job, a test station
labelled_at  TIMESTAMP  time of the label; the latest label of a key counts
reason       VARCHAR    why the frame was collected: defect, unsure, disagreement or sample
sample_rate  DOUBLE     for `sample`: probability with which this frame was drawn
""")

TABLES: Final[dict[str, Table]] = {
    table.name: table
    for table in (
        Table("verdicts", "one row for each inspected frame", _VERDICTS),
        Table("gaps", "verdicts that a device lost, one row for each gap message", _GAPS),
        Table("heartbeats", "one row for each camera and heartbeat", _HEARTBEATS),
        Table("model_reports", "one row for each report of a model's lifecycle", _MODEL_REPORTS),
        Table("labels", "true classes of collected frames; `day` is that of the verdict", _LABELS),
    )
}


def glue_tables_json() -> str:
    """Return the tables as JSON for Glue: {table: {"Description", "Columns", "PartitionKeys"}}."""

    def listed(columns: tuple[Column, ...]) -> list[dict[str, str]]:
        return [{"Name": c.name, "Type": c.glue_type, "Comment": c.meaning} for c in columns]

    return json.dumps(
        {
            table.name: {
                "Description": table.meaning,
                "Columns": listed(table.columns),
                "PartitionKeys": listed(PARTITIONS),
            }
            for table in TABLES.values()
        },
        indent=1,
    )
