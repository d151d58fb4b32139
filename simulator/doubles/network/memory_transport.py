"""A broker in memory: the transport port with planned faults, for tests and benchmarks.

It acknowledges, loses, delays, doubles and reorders as a seeded plan says, and can be connected and disconnected at any
moment. What it delivered is what a subscriber would have seen; `send` is what somebody else publishes to the agent.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.errors import TransportError
from agent.records import Outgoing, TransportStats

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


@dataclass(frozen=True, slots=True)
class DeliveryFaults:
    """Probabilities, each for one publish; all 0 is a perfect broker."""

    refuse: float = 0.0  # TransportError
    lose: float = 0.0  # neither delivered nor acknowledged
    lose_ack: float = 0.0  # delivered, not acknowledged
    duplicate: float = 0.0  # delivered twice


class MemoryTransport:
    """A `ports.Transport` without a network. With `auto_ack` off, acknowledgements wait for `acknowledge`."""

    def __init__(
        self,
        *,
        max_in_flight: int = 32,
        auto_ack: bool = True,
        connected: bool = True,
        faults: DeliveryFaults | None = None,
        seed: int = 0, rejects: Iterable[str] = (), hangs_up_on: Iterable[str] = (),
    ) -> None:  # fmt: skip
        """Nothing is published yet; a test may change the sets of topics.

        Args:
            max_in_flight: Messages without acknowledgement that are allowed.
            auto_ack: Whether each message is acknowledged at once.
            connected: Whether `start` finds the broker up.
            faults: Planned losses and duplicates; None: none.
            seed: Of the planned faults.
            rejects: Topics on which a publish is refused by an answer.
            hangs_up_on: Topics on which a publish ends the connection until `set_connected`.

        """
        self._max_in_flight = max_in_flight
        self._auto_ack = auto_ack
        self._connected = connected
        self._faults = faults or DeliveryFaults()
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._waiting: deque[int] = deque()
        self._on_ack: Callable[[int], None] = _ignore_ack
        self._on_reject: Callable[[int, str], None] = _ignore_reject
        self._on_connection: Callable[[bool, str], None] = _ignore_connection
        self._subscriptions: dict[str, Callable[[str, bytes], None]] = {}
        self.rejects = set(rejects)
        self.disconnect_topics = set(hangs_up_on)
        self.delivered: list[Outgoing] = []

    @property
    def max_in_flight(self) -> int:
        """See `ports.Transport.max_in_flight`."""
        return self._max_in_flight

    @property
    def stats(self) -> TransportStats:
        """See `ports.Transport.figures`."""
        return TransportStats({}, {})

    def start(
        self,
        *,
        on_ack: Callable[[int], None],
        on_reject: Callable[[int, str], None],
        on_connection: Callable[[bool, str], None],
    ) -> None:
        """See `ports.Transport.start`."""
        self._on_ack = on_ack
        self._on_reject = on_reject
        self._on_connection = on_connection
        on_connection(self._connected, "started")

    def subscribe(self, topic: str, on_message: Callable[[str, bytes], None]) -> None:
        """See `ports.Transport.subscribe`."""
        self._subscriptions[topic] = on_message

    def publish_to_agent(self, topic: str, payload: bytes) -> bool:
        """Let a message arrive at the agent; False when it is away or nobody subscribed to `topic`."""
        on_message = self._subscriptions.get(topic)
        if on_message is None or not self._connected:
            return False
        on_message(topic, payload)
        return True

    def publish(self, token: int, topic: str, payload: bytes) -> None:
        """See `ports.Transport.publish`."""
        with self._lock:
            if not self._connected:
                raise TransportError("the memory broker is away")
            if self._random.random() < self._faults.refuse:
                raise TransportError("the memory broker refused by plan")
            is_rejected, hangs_up = topic in self.rejects, topic in self.disconnect_topics
            if hangs_up:
                self._connected = False
                self._waiting.clear()
            is_answered = not hangs_up and (is_rejected or self._accept(Outgoing(token, topic, payload)))
        if hangs_up:
            self._on_connection(False, "the memory broker hung up")  # noqa: FBT003 - the port's signature
        elif is_rejected:
            self._on_reject(token, "not authorized by plan")
        elif is_answered:
            self._on_ack(token)

    def _accept(self, message: Outgoing) -> bool:
        """Take one publish, with the lock held; whether it is acknowledged at once."""
        faults, draw = self._faults, self._random.random
        if draw() < faults.lose:
            return False
        self.delivered.append(message)
        if draw() < faults.duplicate:
            self.delivered.append(message)
        if draw() < faults.lose_ack:
            return False
        if not self._auto_ack:
            self._waiting.append(message.token)
        return self._auto_ack

    def acknowledge(self, count: int, *, shuffled: bool = False) -> int:
        """Acknowledge up to `count` messages, the oldest first or in a seeded disorder; return how many."""
        with self._lock:
            if shuffled:
                self._random.shuffle(self._waiting)
            tokens = [self._waiting.popleft() for _ in range(min(count, len(self._waiting)))]
        for token in tokens:
            self._on_ack(token)
        return len(tokens)

    @property
    def is_connected(self) -> bool:
        """Whether the broker is up; it hangs up by itself on a topic of `disconnect_topics`."""
        return self._connected

    def set_connected(self, up: bool) -> None:  # noqa: FBT001  reads as a sentence
        """Lose or find the broker; what was not acknowledged is forgotten with the connection."""
        with self._lock:
            if up == self._connected:
                return
            self._connected = up
            self._waiting.clear()
        self._on_connection(up, "connected by plan" if up else "cut by plan")

    def close(self, *, timeout_s: float) -> None:
        """See `ports.Transport.close`."""
        with self._lock:
            self._connected = False


def _ignore_ack(_token: int) -> None:
    """Nobody listens yet."""


def _ignore_reject(_token: int, _reason: str) -> None:
    """Nobody listens yet."""


def _ignore_connection(_up: bool, _reason: str) -> None:  # noqa: FBT001  the port's signature
    """Nobody listens yet."""
