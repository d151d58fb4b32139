"""The faulty broker's own record of what it received and sent.

No check has to rely on the client under test.

Promise: a PUBLISH counts as acknowledged only when a whole PUBACK with a good reason and its own packet id left on its
own connection after it had arrived, once. Everything else that the broker answered is a false acknowledgement.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerEvent:
    """One line of the record."""

    at_s: float  # monotonic, since the broker's start
    connection: int  # 1 for the first
    what: str  # connect, subscribe, publish, acknowledge, false_acknowledge, refuse, end
    packet_id: int = 0
    topic: str = ""
    payload: bytes = b""
    retain: bool = False
    reason: str = ""


class BrokerRecord:
    """Events in their order; safe for any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._started = time.monotonic()
        self._events: list[BrokerEvent] = []
        self._open: dict[tuple[int, int], BrokerEvent] = {}  # (connection, packet id) -> PUBLISH that is not answered
        self._acknowledged: list[BrokerEvent] = []
        self._dropped: list[BrokerEvent] = []

    def now_s(self) -> float:
        """The time on this record's clock."""
        return time.monotonic() - self._started

    def add_event(self, connection: int, what: str, **more: object) -> BrokerEvent:
        """Write one event down."""
        event = BrokerEvent(at_s=self.now_s(), connection=connection, what=what, **more)  # type: ignore[arg-type]
        with self._lock:
            self._events.append(event)
            if what == "publish" and event.packet_id:
                self._open[connection, event.packet_id] = event
        return event

    def add_answer(self, connection: int, packet_id: int, *, reason: str = "", good: bool = True) -> None:
        """Note an answer to a PUBLISH; whether it is the message's own acknowledgement is decided here."""
        with self._lock:
            published = self._open.pop((connection, packet_id), None) if good or reason else None
        if published is None:
            self.add_event(connection, "false_acknowledge", packet_id=packet_id, reason=reason)
            return
        topic, payload = published.topic, published.payload
        if not good:
            self.add_event(connection, "refuse", packet_id=packet_id, topic=topic, payload=payload, reason=reason)
            return
        self.add_event(connection, "acknowledge", packet_id=packet_id, topic=topic, payload=payload)
        with self._lock:
            self._acknowledged.append(published)

    def add_dropped(self, published: BrokerEvent) -> None:
        """Note that the broker threw away what it acknowledges."""
        with self._lock:
            self._dropped.append(published)

    @property
    def events(self) -> list[BrokerEvent]:
        """Everything so far, oldest first."""
        with self._lock:
            return list(self._events)

    def acknowledged(self) -> list[tuple[str, bytes]]:
        """Topic and payload of each message whose own PUBACK went out."""
        with self._lock:
            return [(event.topic, event.payload) for event in self._acknowledged]

    def delivered(self) -> list[tuple[str, bytes]]:
        """The same without what the broker acknowledged and dropped: what a subscriber would have received."""
        with self._lock:
            dropped = {id(event) for event in self._dropped}
            return [(event.topic, event.payload) for event in self._acknowledged if id(event) not in dropped]

    def count_by_kind(self) -> dict[str, int]:
        """How many events of each kind."""
        return dict(Counter(event.what for event in self.events))

    def write(self, path: Path) -> None:
        """Write it as JSON lines; payloads as text, with what is no UTF-8 escaped."""
        with path.open("w", encoding="utf-8") as file:
            for event in self.events:
                line = {**asdict(event), "payload": event.payload.decode("utf-8", "backslashreplace")}
                file.write(json.dumps(line) + "\n")
