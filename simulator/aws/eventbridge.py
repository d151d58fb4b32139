"""EventBridge: targets that moto lacks (state machines, functions), and schedules fired on demand."""

from __future__ import annotations

import contextlib
import copy
import json
import time
import uuid
from typing import TYPE_CHECKING, Any
from unittest import mock

from moto.events.models import Rule
from moto.events.utils import EventTemplateParser

from simulator.aws.api_protocol import ACCOUNT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextlib.contextmanager
def patched(send: Callable[[str, Any], None]) -> Iterator[None]:
    """Let rules reach state machines and functions: `send` gets the target's ARN and the event as it arrives there."""
    original = Rule.send_to_targets

    def send_to_targets(rule: Any, original_event: Any, *, transform_input: bool = True) -> None:
        if rule.scheduled_expression and not rule.event_pattern.get_pattern():
            return  # moto would let every event through
        known = copy.copy(rule)
        known.targets = [target for target in rule.targets if not _is_local(target)]
        original(known, original_event, transform_input)
        if rule.state == "ENABLED" and rule.event_pattern.matches_event(original_event):
            _to_targets(rule, original_event, send)

    with mock.patch.object(Rule, "send_to_targets", send_to_targets):
        yield


def fire_schedule(rule: Any, send: Callable[[str, Any], None]) -> None:
    """Let a scheduled rule's time come."""
    event = {
        "version": "0",
        "id": str(uuid.uuid4()),
        "detail-type": "Scheduled Event",
        "source": "aws.events",
        "account": ACCOUNT,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "region": rule.region_name,
        "resources": [rule.arn],
        "detail": {},
        "ingestion-time": time.time(),
    }
    _to_targets(rule, event, send)


def _is_local(target: Any) -> bool:
    return ":states:" in target["Arn"] or ":lambda:" in target["Arn"]


def _to_targets(rule: Any, event: Any, send: Callable[[str, Any], None]) -> None:
    for target in filter(_is_local, rule.targets):
        if "Input" in target:
            told = json.loads(target["Input"])
        elif transformer := target.get("InputTransformer"):
            told = EventTemplateParser.parse(transformer["InputTemplate"], transformer.get("InputPathsMap", {}), event)
        else:
            told = {key: value for key, value in event.items() if key != "ingestion-time"}
        send(target["Arn"], told)
