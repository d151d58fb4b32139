"""Transport, outbox and shadow at a broker that misbehaves: nothing is lost, nothing stalls."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Literal

import pytest

from agent.outbox import OutboxLimits
from simulator.campaigns.connectivity.messaging_stack import MessagingStack
from simulator.faulty_broker import BROKER_BEHAVIOURS, FaultyBroker
from tests.kits import model_status
from tests.kits.mqtt import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

COUNT = 50
PROTOCOLS: tuple[Literal["3.1.1", "5"], ...] = ("3.1.1", "5")


def agent_parts(broker: FaultyBroker, state_dir: Path, protocol: Literal["3.1.1", "5"]) -> MessagingStack:
    """With little patience, so that a test of a bad broker is quick."""
    return MessagingStack(
        port=broker.port,
        state_dir=state_dir,
        protocol=protocol,
        status=model_status.status(),
        limits=OutboxLimits(commit_s=0.01, seal_s=0.01, retry_s=0.05, retry_max_s=0.5),
        timeout_s=0.7,
        backoff_s=(0.05, 0.2),
    )


def numbers(messages: list[tuple[str, bytes]]) -> Iterator[int]:
    for topic, payload in messages:
        if "/verdicts/" in topic:
            yield json.loads(payload)["seq"]


def both(check: Callable[[Literal["3.1.1", "5"]], None]) -> None:
    """Run `check` for both protocols at once: most of it is waiting."""
    with ThreadPoolExecutor(len(PROTOCOLS)) as pool:
        list(pool.map(check, PROTOCOLS))


@pytest.mark.parametrize("behaviour", list(BROKER_BEHAVIOURS))
def test_no_verdict_is_let_go_of_without_its_own_acknowledgement(behaviour: str, tmp_path: Path) -> None:
    def check(protocol: Literal["3.1.1", "5"]) -> None:
        with FaultyBroker(behaviour) as broker, agent_parts(broker, tmp_path / protocol, protocol) as parts:
            parts.append_defects(range(COUNT), per_s=250.0)
            wait_for(lambda: parts.is_drained, "every verdict")
            assert set(numbers(broker.record.delivered())) >= set(range(COUNT)), "what is gone here arrived there"
            assert parts.outbox.stats().gaps == 0

    both(check)
