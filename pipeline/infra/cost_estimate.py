"""`kensa cloud cost`: estimates the monthly cost of a plant's stack.

    kensa cloud cost --lines 4 --parts-per-day 50000 --prices pipeline/infra/prices.yaml

Every amount is the product of a printed usage and a price from the file. Not included: free tiers, taxes, support,
storage beyond the first month (give --months), and traffic of people.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Self

import yaml
from pydantic import Field, ValidationError

from agent.errors import OperatorError
from agent.strict import Strict

if TYPE_CHECKING:
    from collections.abc import Sequence

PRICES_PATH: Final = Path(__file__).parent / "prices.yaml"
_DAYS: Final = 30.4
_HOURS: Final = 24 * _DAYS
_HEARTBEAT_S: Final = 10.0  # as the component's default configuration has it
_ENVELOPE_ROWS: Final = 32  # ok verdicts in a message, at least, on lines fast enough to fill one
_FIREHOSE_KB: Final = 5.0  # billed minimum of a record
_ROW_BYTES: Final = 25.0  # of a verdict in Parquet with its share of the other tables, of generated months
_KB_PER_GB: Final = 1024.0**2
_TRANSITIONS: Final = 60  # of an execution, without the monitoring
_ROLLOUT_POLLS: Final = 600  # of an execution: every 5 minutes for a day of canary and two of the fleet
_FUNCTION_GB_S: Final = 900.0  # of an execution: the data set's function takes most of it
_ALARMS: Final = 9

Price = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


class Prices(Strict):
    """A price file; see pipeline/infra/prices.yaml for the units."""

    noted: str
    region: str
    currency: str
    iot_million_messages: Price
    iot_million_rules: Price
    iot_million_actions: Price
    iot_million_connection_minutes: Price
    greengrass_device: Price
    firehose_gb: Price
    firehose_conversion_gb: Price
    firehose_partitioning_gb: Price
    s3_gb: Price
    s3_thousand_puts: Price
    s3_thousand_gets: Price
    lambda_million_requests: Price
    lambda_gb_s: Price
    states_thousand_transitions: Price
    training_hour: Price
    athena_tb: Price
    kms_key: Price
    kms_thousand_requests: Price
    logs_gb: Price
    alarm: Price
    transfer_gb: Price
    kinesis_hour: Price
    kinesis_gb: Price
    opensearch_hour: Price
    opensearch_gb: Price


@dataclass(frozen=True, slots=True, kw_only=True)
class CostInputs:
    """The billed quantities of a plant. A line has one device.

    Args:
        lines: production lines.
        parts_per_day: of one line.
        defect_share: share of defect and unsure parts; each is a message of its own.
        kept_mb_per_day: collected frames of one line, the collector's budget.
        picture_kb: size of a collected frame.
        cycles: improvement cycles in a month.
        trainings: of one cycle.
        training_hours: of one training.
        months: of rows and frames that S3 stores.
        live: whether the live view is enabled.

    """

    lines: int = 1
    parts_per_day: float = 50_000.0
    defect_share: float = 0.01
    kept_mb_per_day: float = 200.0
    picture_kb: float = 150.0
    cycles: float = 4.0  # a month
    trainings: int = 6  # a cycle
    training_hours: float = 1.0  # of each
    months: float = 1.0
    live: bool = False


@dataclass(frozen=True, slots=True)
class CostItem:
    """One line of the bill: `usage` times `price`."""

    service: str
    what: str
    usage: float
    unit: str
    price: float

    @property
    def amount(self) -> float:
        """In the file's currency, a month."""
        return self.usage * self.price


def read_prices(path: Path) -> Prices:
    """Read a price file. Raises OperatorError naming every wrong key."""
    try:
        return Prices.model_validate(yaml.safe_load(path.read_bytes()))
    except OSError as error:
        raise OperatorError(f"{path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise OperatorError(f"{path} is not YAML: {error}") from error
    except ValidationError as error:
        lines = [f"  {e['loc'][0] if e['loc'] else '(whole)'}: {e['msg']}" for e in error.errors(include_url=False)]
        raise OperatorError(f"{path} is refused:\n" + "\n".join(lines)) from error


@dataclass(frozen=True, slots=True)
class _Usage:
    """What the plant produces in a month, from which the items follow."""

    verdict_messages: float
    messages: float  # with the heartbeats
    records: float  # into Firehose: a message on verdicts goes to the streams of verdicts and of gaps
    images: float
    images_gb: float
    rows_gb: float  # as Parquet

    @classmethod
    def of(cls, plant: CostInputs) -> Self:
        """Derive the usage from the inputs."""
        parts = plant.lines * plant.parts_per_day * _DAYS
        verdicts = parts * plant.defect_share + parts * (1 - plant.defect_share) / _ENVELOPE_ROWS
        heartbeats = plant.lines * _DAYS * 86_400 / _HEARTBEAT_S
        kept_mb = plant.lines * plant.kept_mb_per_day * _DAYS
        return cls(
            verdict_messages=verdicts,
            messages=verdicts + heartbeats,
            records=2 * verdicts + heartbeats,
            images=kept_mb * 1024 / plant.picture_kb,
            images_gb=kept_mb / 1024,
            rows_gb=parts * _ROW_BYTES / 1024**3,
        )


def cost_items(plant: CostInputs, prices: Prices) -> list[CostItem]:
    """The items of a month's bill."""
    usage = _Usage.of(plant)
    return [
        *_ingest_items(plant, usage, prices),
        *_cycle_items(plant, usage, prices),
        *_operation_items(plant, usage, prices),
        *(_live_items(usage, prices) if plant.live else ()),
    ]


def _ingest_items(plant: CostInputs, usage: _Usage, p: Prices) -> list[CostItem]:
    """From the devices to the tables."""
    stream_gb = usage.records * _FIREHOSE_KB / _KB_PER_GB
    json_gb = usage.rows_gb * 10  # as JSON a row is ten times as long
    connection = plant.lines * _HOURS * 60 / 1e6
    return [
        CostItem("IoT Core", "messages", usage.messages / 1e6, "million", p.iot_million_messages),
        CostItem("IoT Core", "rules", usage.messages / 1e6, "million", p.iot_million_rules),
        CostItem("IoT Core", "actions", usage.records / 1e6, "million", p.iot_million_actions),
        CostItem("IoT Core", "connection", connection, "million min", p.iot_million_connection_minutes),
        CostItem("Greengrass", "devices", plant.lines, "devices", p.greengrass_device),
        CostItem("Firehose", "records", stream_gb, "GB", p.firehose_gb),
        CostItem("Firehose", "Parquet", json_gb, "GB", p.firehose_conversion_gb),
        CostItem("Firehose", "partitioning", json_gb, "GB", p.firehose_partitioning_gb),
    ]


def _cycle_items(plant: CostInputs, usage: _Usage, p: Prices) -> list[CostItem]:
    """Storage, functions and the improvement cycle."""
    stored_gb = (usage.images_gb + usage.rows_gb) * plant.months
    requests = usage.records / 100 + plant.cycles * _ROLLOUT_POLLS
    transitions = plant.cycles * (_TRANSITIONS + 3 * _ROLLOUT_POLLS)
    training_hours = plant.cycles * plant.trainings * plant.training_hours
    return [
        CostItem("S3", "frames and rows", stored_gb, "GB", p.s3_gb),
        CostItem("S3", "puts", 2 * usage.images / 1e3, "thousand", p.s3_thousand_puts),
        CostItem("S3", "gets", 4 * usage.images * plant.cycles / 1e3, "thousand", p.s3_thousand_gets),
        CostItem("Lambda", "rows", usage.records * 0.02, "GB s", p.lambda_gb_s),
        CostItem("Lambda", "cycle", plant.cycles * _FUNCTION_GB_S, "GB s", p.lambda_gb_s),
        CostItem("Lambda", "requests", requests / 1e6, "million", p.lambda_million_requests),
        CostItem("Step Functions", "transitions", transitions / 1e3, "thousand", p.states_thousand_transitions),
        CostItem("SageMaker", "training", training_hours, "h", p.training_hour),
    ]


def _operation_items(plant: CostInputs, usage: _Usage, p: Prices) -> list[CostItem]:
    """Queries, keys, logs, alarms and the traffic of releases."""
    kms_requests = (usage.images + usage.records / 1000) / 1e3
    return [
        CostItem("Athena", "queries", usage.rows_gb * plant.months * _DAYS / 1024, "TB", p.athena_tb),
        CostItem("KMS", "keys", 2, "keys", p.kms_key),
        CostItem("KMS", "requests", kms_requests, "thousand", p.kms_thousand_requests),
        CostItem("CloudWatch", "logs", 0.2 + usage.records / 1e6 * 0.05, "GB", p.logs_gb),
        CostItem("CloudWatch", "alarms", _ALARMS, "alarms", p.alarm),
        CostItem("Transfer", "releases", plant.lines * plant.cycles * 0.01, "GB", p.transfer_gb),
    ]


def _live_items(usage: _Usage, p: Prices) -> list[CostItem]:
    """The live view, where it is enabled."""
    return [
        CostItem("Live view", "stream", _HOURS, "h", p.kinesis_hour),
        CostItem("Live view", "records", usage.verdict_messages * _FIREHOSE_KB / _KB_PER_GB, "GB", p.kinesis_gb),
        CostItem("Live view", "domain", _HOURS, "h", p.opensearch_hour),
        CostItem("Live view", "disk", 20, "GB", p.opensearch_gb),
    ]


def cost_table(plant: CostInputs, prices: Prices) -> str:
    """The bill as a Markdown table."""
    bill = cost_items(plant, prices)
    total = sum(item.amount for item in bill)
    rows = [
        f"| {item.service} | {item.what} | {item.usage:,.3g} {item.unit} | {item.price:.4g} | {item.amount:.2f} |"
        for item in bill
    ]
    return "\n".join(
        [
            f"| service | for | usage a month | price ({prices.currency}) | a month |",
            "|---|---|---:|---:|---:|",
            *rows,
            f"| **all** | {plant.lines} lines | | | **{total:.2f}** |",
            f"| **a line** | | | | **{total / plant.lines:.2f}** |",
        ]
    )


def main(argv: Sequence[str]) -> int:
    """Run the command."""
    default = CostInputs()
    parser = argparse.ArgumentParser(
        prog="kensa cloud cost", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--prices", type=Path, default=PRICES_PATH, help="YAML (default: the examples that come with Kensa)"
    )
    parser.add_argument("--lines", type=int, default=default.lines)
    parser.add_argument("--parts-per-day", type=float, default=default.parts_per_day, help="a line")
    parser.add_argument("--defect-share", type=float, default=default.defect_share, help="defects and unsure")
    parser.add_argument("--kept-mb-per-day", type=float, default=default.kept_mb_per_day, help="a line")
    parser.add_argument("--picture-kb", type=float, default=default.picture_kb)
    parser.add_argument("--cycles", type=float, default=default.cycles, help="a month")
    parser.add_argument("--trainings", type=int, default=default.trainings, help="a cycle")
    parser.add_argument("--training-hours", type=float, default=default.training_hours, help="of each")
    parser.add_argument("--months", type=float, default=default.months, help="of stored frames and rows")
    parser.add_argument("--live", action="store_true", help="with the live view")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    given = vars(parser.parse_args(argv))
    prices, as_json = read_prices(given.pop("prices")), given.pop("json")
    if given["lines"] < 1 or not 0 <= given["defect_share"] <= 1 or given["picture_kb"] <= 0:
        raise OperatorError("lines must be 1 or more, defect-share 0 to 1, picture-kb above 0")
    plant = CostInputs(**given)
    if as_json:
        bill = cost_items(plant, prices)
        amounts = {f"{item.service}: {item.what}": round(item.amount, 4) for item in bill}
        print(json.dumps({"items": amounts, "total": round(sum(item.amount for item in bill), 2)}))  # noqa: T201
    else:
        print(f"Prices of {prices.region}, noted {prices.noted}.\n\n{cost_table(plant, prices)}")  # noqa: T201
    return 0
