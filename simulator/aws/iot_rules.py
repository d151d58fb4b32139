"""IoT Core's rules engine: applies the account's topic rules to each published message.

Rules are those that were made with CreateTopicRule. Of their SQL this much is understood, and the rest is refused with
what is: `SELECT * [, topic(N) AS name, timestamp() AS name ...] FROM 'filter' [WHERE condition [AND ...]]`, where a
condition is `member = 'text'` or `member = topic(N)`.
Actions: s3, firehose, kinesis, lambda. `${topic(2)}` and `${member}` are filled in where AWS fills them in.

Promise: an action that fails is counted by rule, as IoT Core's metrics do, and stops no other.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from moto.iot.models import iot_backends

from simulator.aws.api_protocol import ACCOUNT, REGION
from simulator.doubles.network.topic_filter import topic_matches

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_SQL = re.compile(
    r"SELECT\s+(?P<what>.+?)\s+FROM\s+'(?P<filter>[^']+)'(?:\s+WHERE\s+(?P<where>.+))?", re.IGNORECASE | re.DOTALL
)
_COLUMN = re.compile(
    r"(?P<function>topic\(\s*(?P<index>\d+)\s*\)|topic\(\)|timestamp\(\))\s+AS\s+(?P<name>\w+)", re.IGNORECASE
)
_CONDITION = re.compile(r"(?P<member>\w+)\s*=\s*(?:'(?P<text>[^']*)'|(?P<function>topic\(\s*\d+\s*\)))", re.IGNORECASE)
_FILLED = re.compile(r"\$\{\s*([^}]+?)\s*\}")
_MS: Final = 1_000
_log = logging.getLogger(__name__)


class UnknownSqlError(Exception):
    """A rule's SQL is beyond what is simulated here."""


@dataclass(frozen=True, slots=True)
class _Message:
    topic: str
    payload: dict[str, Any]

    def value(self, expression: str) -> str:
        """What `${expression}` stands for."""
        if match := re.fullmatch(r"topic\(\s*(\d*)\s*\)", expression, re.IGNORECASE):
            levels = dict(enumerate(self.topic.split("/"), start=1))
            return levels.get(int(match[1]), "undefined") if match[1] else self.topic
        if expression.lower() == "timestamp()":
            return str(int(time.time() * _MS))
        return str(self.payload.get(expression, "undefined"))

    def fill(self, text: str) -> str:
        """A template of an action's parameter."""
        return _FILLED.sub(lambda match: self.value(match[1]), text)


def select(sql: str, topic: str, payload: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a rule's SQL makes of a message; None where it does not match. Raises UnknownSqlError."""
    parsed = _SQL.fullmatch(" ".join(sql.split()))
    if parsed is None:
        raise UnknownSqlError(f"this is not simulated, only SELECT ... FROM '...' [WHERE ...] is: {sql!r}")  # noqa: S608
    conditions = re.split(r"\s+AND\s+", parsed["where"], flags=re.IGNORECASE) if parsed["where"] else []
    columns = [column.strip() for column in parsed["what"].split(",")]
    message = _Message(topic, dict(payload))
    selected: dict[str, Any] = {}
    for column in columns:
        if column == "*":
            selected.update(payload)
        elif match := _COLUMN.fullmatch(column):
            value = message.value(match["function"])
            selected[match["name"]] = int(value) if match["function"].lower().startswith("timestamp") else value
        else:
            raise UnknownSqlError(
                f"the column {column!r} is not simulated: *, topic(N) AS name, timestamp() AS name are"
            )
    holds = [_condition_is_true(condition, message) for condition in conditions]
    return selected if all(holds) and topic_matches(parsed["filter"], topic) else None


def _condition_is_true(condition: str, message: _Message) -> bool:
    match = _CONDITION.fullmatch(condition.strip())
    if match is None:
        raise UnknownSqlError(f"the condition {condition!r} is not simulated: member = 'text' and = topic(N) are")
    wanted = message.value(match["function"]) if match["function"] else match["text"]
    return bool(message.payload.get(match["member"]) == wanted)


class IotRules:
    """The rules of one account. Any thread."""

    def __init__(self, *, client: Callable[[str], Any], to_stream: Callable[[str, bytes], None]) -> None:
        """`client` makes clients of boto3 by service, `to_stream` takes a record for a Firehose stream."""
        self._client = client
        self._to_stream = to_stream
        self.failures: Counter[str] = Counter()  # by rule

    def publish(self, topic: str, payload: bytes) -> int:
        """Let the rules see a message; returns how many of them took it. What is no JSON object matches none."""
        try:
            tree = json.loads(payload)
        except ValueError:
            return 0
        if not isinstance(tree, dict):
            return 0
        taken = 0
        for rule in self._rules():
            try:
                selected = select(rule.sql, topic, tree)
                if selected is None:
                    continue
                taken += 1
                for action in rule.actions:
                    self._act(action, _Message(topic, selected))
            except Exception:  # noqa: BLE001 - whatever fails is counted, as the rules engine does
                self.failures[rule.rule_name] += 1
                _log.exception("the rule %s", rule.rule_name)
        return taken

    def _rules(self) -> Sequence[Any]:
        return [rule for rule in list(iot_backends[ACCOUNT][REGION].rules.values()) if not rule.rule_disabled]

    def _act(self, action: dict[str, Any], message: _Message) -> None:
        data = json.dumps(message.payload).encode()
        (kind, settings), *_ = action.items()
        match kind:
            case "s3":
                key = message.fill(settings["key"])
                self._client("s3").put_object(Bucket=settings["bucketName"], Key=key, Body=data)
            case "firehose":
                self._to_stream(settings["deliveryStreamName"], data + settings.get("separator", "").encode())
            case "kinesis":
                key = message.fill(settings.get("partitionKey", "${newuuid()}"))
                self._client("kinesis").put_record(StreamName=settings["streamName"], Data=data, PartitionKey=key)
            case "lambda":
                self._client("lambda").invoke(FunctionName=settings["functionArn"], Payload=data)
            case _:
                raise UnknownSqlError(f"the action {kind} is not simulated: s3, firehose, kinesis and lambda are")
