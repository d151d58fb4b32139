"""Transport, outbox and shadow before a broker that misbehaves by choice: nothing is lost, nothing stalls."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Literal, Self

import pytest

from agent.adapters.shadow import ShadowDesiredState
from agent.app.presence import announce
from agent.clock import SystemClock
from agent.outbox import Outbox, OutboxLimits
from agent.records import Outcome
from simulator.nasty_broker import BEHAVIOURS, NastyBroker
from tests import status_kit
from tests.mqtt_kit import transport_to, wait_for
from tests.outbox_kit import make_verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

THING = "thing-1"
COUNT = 50
PROTOCOLS: tuple[Literal["3.1.1", "5"], ...] = ("3.1.1", "5")


class Parts:
    """Outbox, MQTT transport, shadow adapter and status, as an agent composes them."""

    def __init__(self, broker: NastyBroker, state_dir: Path, *, protocol: Literal["3.1.1", "5"]) -> None:
        clock = SystemClock()
        self.clock = clock
        self.transport = transport_to(
            broker.port, protocol=protocol, thing=THING, client_id=THING, timeout_s=0.7, state_dir=state_dir
        )
        self.outbox = Outbox(
            state_dir=state_dir,
            transport=self.transport,
            clock=clock,
            limits=OutboxLimits(commit_s=0.01, seal_s=0.01, retry_s=0.05, retry_max_s=0.5),
        )
        announce(self.transport, thing=THING, line="line-1", boot_epoch=1, clock=clock)
        self.shadow = ShadowDesiredState(
            thing=THING,
            inspections=["surface"],
            transport=self.transport,
            publish_now=self.outbox.publish_now,
            watch_connection=self.outbox.watch_connection,
            clock=clock,
        )
        self.shadow.report(status_kit.status())

    def __enter__(self) -> Self:
        self.outbox.start()
        self.shadow.start(on_desired=lambda *_: None)
        return self

    def __exit__(self, *_: object) -> None:
        self.shadow.close()
        self.outbox.close(self.clock.monotonic_ns())

    def send(self, numbers: range, *, pause_s: float = 0.004) -> None:
        """Defects: each is a message of its own."""
        for number in numbers:
            self.outbox.append([make_verdict(number, Outcome.DEFECT)])
            time.sleep(pause_s)


def numbers(messages: list[tuple[str, bytes]]) -> Iterator[int]:
    for topic, payload in messages:
        if "/verdicts/" in topic:
            yield json.loads(payload)["seq"]


def both(check: Callable[[Literal["3.1.1", "5"]], None]) -> None:
    """Run `check` for both protocols at once: most of it is waiting."""
    with ThreadPoolExecutor(len(PROTOCOLS)) as pool:
        list(pool.map(check, PROTOCOLS))


@pytest.mark.parametrize("behaviour", list(BEHAVIOURS))
def test_no_verdict_is_let_go_of_without_its_own_acknowledgement(behaviour: str, tmp_path: Path) -> None:
    def check(protocol: Literal["3.1.1", "5"]) -> None:
        with NastyBroker(behaviour) as broker, Parts(broker, tmp_path / protocol, protocol=protocol) as parts:
            parts.send(range(COUNT))
            wait_for(lambda: parts.outbox.stats().rows == 0 and parts.outbox.is_drained, "every verdict")
            assert set(numbers(broker.record.taken())) >= set(range(COUNT)), "what is gone here arrived there"
            assert parts.outbox.stats().gaps == 0

    both(check)
