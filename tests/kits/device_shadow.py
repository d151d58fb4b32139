"""The shadow adapter and the simulated service in one thread; tests decide when answers come."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from agent.adapters.device_shadow import ShadowDesiredState
from agent.wire import shadow_topic
from simulator.doubles.clocks.manual_clock import ManualClock
from simulator.doubles.network.memory_transport import MemoryTransport
from simulator.doubles.servers.shadow_service import ShadowStore

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

    from agent.release_records import DesiredRelease

THING = "thing-1"
PREFIX = shadow_topic(THING, "")


class Rig:
    """One device and its shadow. `sent` waits for the service, `answers` for the device."""

    def __init__(self, inspections: Sequence[str] = ("surface", "edge")) -> None:
        self.clock = ManualClock()
        self.store = ShadowStore(utc_s=lambda: self.clock.utc_ns() / 1e9)
        self.transport = MemoryTransport()
        self.sent: list[tuple[str, bytes]] = []
        self.answers: list[tuple[str, bytes]] = []
        self.heard: list[tuple[str, DesiredRelease]] = []
        self.published = 0
        self._watchers: list[Callable[[bool], None]] = []
        self.shadow = ShadowDesiredState(
            thing=THING,
            inspections=inspections,
            transport=self.transport,
            publish_now=self._publish_now,
            add_connection_listener=self._watchers.append,
            clock=self.clock,
        )
        self.shadow._on_desired = lambda inspection, desired: self.heard.append((inspection, desired))

    def _publish_now(self, topic: str, payloads: Sequence[bytes]) -> None:
        self.sent = [item for item in self.sent if item[0] != topic]  # as the outbox does: the newest only
        self.sent += [(topic, payload) for payload in payloads]
        self.published += 1

    def connect(self, up: bool = True) -> None:  # noqa: FBT001, FBT002 - reads as a sentence
        if not up:
            self.sent.clear()
            self.answers.clear()
        for watcher in self._watchers:
            watcher(up)

    def serve(self) -> None:
        """Let the service answer all that was sent."""
        sent, self.sent = self.sent, []
        for topic, payload in sent:
            self.request(topic.removeprefix(PREFIX), payload)

    def request(self, request: str, payload: bytes) -> None:
        for answer in self.store.handle(THING, "kensa", request, payload):
            self.answers.append((PREFIX + answer.suffix, json.dumps(answer.content).encode()))

    def desire(self, inspections: dict[str, Any]) -> None:
        """Somebody in the cloud wants something."""
        self.request("update", json.dumps({"state": {"desired": {"inspections": inspections}}}).encode())

    def deliver(self, *, shuffle: random.Random | None = None) -> None:
        """Let the service's messages arrive."""
        answers, self.answers = self.answers, []
        if shuffle is not None:
            shuffle.shuffle(answers)
        for topic, payload in answers:
            self.transport.publish_to_agent(topic, payload)

    def step(self, seconds: float = 1.0) -> float:
        self.clock.advance(seconds)
        return self.shadow.step()

    def settle(self, rounds: int = 12) -> None:
        """Let everything be sent, answered and heard."""
        for _ in range(rounds):
            self.step()
            self.serve()
            self.deliver()
        self.step()

    @property
    def reported(self) -> dict[str, Any]:
        inspections: dict[str, Any] = self.store.state(THING, "kensa").get("reported", {}).get("inspections", {})
        return inspections
