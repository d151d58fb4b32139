"""The sender thread: publishes rows and lets go of them on acknowledgement only.

Promise: what was just committed goes before what waited, which is marked as a replay, and a defect before verdicts that
are `ok`; at most the smaller of two bounds is in flight; a refused publish is tried again after a jittered, doubling
wait; without a connection nothing spins and every row goes back to the log. A message may arrive twice, never not at
all: consumers drop doubles by the verdict's key.
"""

from __future__ import annotations

import itertools
import logging
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from agent.errors import TransportError
from agent.outbox.rows import Rank, Row
from agent.wire import marked_replay

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

    from agent.clock import Clock
    from agent.outbox.belt import Belt
    from agent.outbox.rows import OutboxLimits
    from agent.ports import Transport

_NS_PER_S: Final = 1_000_000_000
_IDLE_S: Final = 5.0  # nothing to do: something wakes the sender
_LOW_BACKLOG: Final = 32  # rows at hand, below which more are asked for
_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Flight:
    """A message with the transport. `row` is None for one that nobody keeps."""

    row: Row | None
    topic: str
    payload: bytes
    sent_ns: int
    tokens: list[int]  # one for each time it was published; any of them acknowledges it
    is_waiting: bool = False  # to be published again


class Sender:
    """`step` is called by one thread only; the transport's callbacks and `publish_now` by any."""

    def __init__(
        self, *, transport: Transport, belt: Belt, clock: Clock, limits: OutboxLimits, random: random.Random
    ) -> None:
        """`random` spreads the retries of many devices."""
        self._transport = transport
        self._belt = belt
        self._clock = clock
        self._limits = limits
        self._random = random
        self._acks: deque[int] = deque()
        self._rejections: deque[tuple[int, str]] = deque()
        self._changes: deque[tuple[bool, str]] = deque()
        self._newest: dict[str, Sequence[bytes]] = {}
        self._tokens = itertools.count(1)
        self._flights: dict[int, _Flight] = {}  # by token
        self._in_flight = 0
        self._again: deque[_Flight] = deque()  # not acknowledged in time
        self._loose: deque[tuple[str, bytes]] = deque()  # of `publish_now`
        self._watchers: list[Callable[[bool], None]] = []
        self._refusals = 0
        self._retry_ns = 0
        self._expire_ns = 0
        self.reason = "not started"

    # --- any thread ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Let the transport connect."""
        self._transport.start(on_ack=self._on_ack, on_reject=self._on_reject, on_connection=self._on_connection)

    def publish_now(self, topic: str, payloads: Sequence[bytes]) -> None:
        """Publish messages that only their newest version matters of: not kept, and replaced while unsent."""
        self._newest[topic] = payloads
        self._belt.wake_sender.set()

    def watch_connection(self, watcher: Callable[[bool], None]) -> None:
        """Call `watcher(up)` on each change, in the sender's thread; before `start`. It must not block."""
        self._watchers.append(watcher)

    def _on_ack(self, token: int) -> None:
        self._acks.append(token)
        self._belt.wake_sender.set()

    def _on_reject(self, token: int, reason: str) -> None:
        self._rejections.append((token, reason))
        self._belt.wake_sender.set()

    def _on_connection(self, up: bool, reason: str) -> None:  # noqa: FBT001  the port's signature
        self._changes.append((up, reason))
        self._belt.wake_sender.set()

    @property
    def in_flight(self) -> int:
        """Messages that wait for their acknowledgement."""
        return self._in_flight

    @property
    def is_idle(self) -> bool:
        """Whether the sender has nothing that the writer gave it."""
        belt = self._belt
        return not (self._in_flight or self._again or belt.live or belt.live_ok or belt.backlog)

    # --- the sender's thread ------------------------------------------------------------------------------------------

    def step(self) -> float:
        """Do what is due; return how many seconds may pass until the next step unless the belt wakes the sender."""
        now_ns = self._clock.monotonic_ns()
        belt = self._belt
        self._take_acks()
        self._take_rejections(now_ns)
        self._take_changes()
        if not belt.is_connected:
            self._release()
            return _IDLE_S
        self._expire(now_ns)
        if now_ns >= self._retry_ns:
            self._publish_all(now_ns)
        if not belt.wants_backlog and belt.backlog_rows > 0 and len(belt.backlog) < _LOW_BACKLOG:
            belt.ask_for_backlog()
        return self._wait_s(now_ns)

    def _take_acks(self) -> None:
        while self._acks:
            flight = self._flights.get(self._acks.popleft())
            if flight is None:
                continue  # of a message that was acknowledged or released before
            for token in flight.tokens:
                self._flights.pop(token, None)
            if flight.is_waiting:
                self._again.remove(flight)
            else:
                self._in_flight -= 1
            if flight.row is not None:
                self._belt.acked.append(flight.row)

    def _take_rejections(self, now_ns: int) -> None:
        while self._rejections:
            token, reason = self._rejections.popleft()
            flight = self._flights.get(token)
            if flight is None:
                continue
            for number in flight.tokens:
                self._flights.pop(number, None)
            flight.tokens.clear()
            if flight.is_waiting:
                self._again.remove(flight)
            else:
                self._in_flight -= 1
            self._refused(flight, reason, now_ns)

    def _take_changes(self) -> None:
        while self._changes:
            up, self.reason = self._changes.popleft()
            if not up:
                self._belt.is_connected = False
                self._release()
            else:
                self._belt.is_connected = True
                self._refusals = 0
                self._retry_ns = 0
            for watcher in self._watchers:
                watcher(up)

    def _release(self) -> None:
        """Give every row back: what is in flight may be lost with the connection, and is then published again."""
        flights = dict.fromkeys([*self._again, *self._flights.values()])
        self._flights.clear()
        self._again.clear()
        self._loose.clear()
        self._in_flight = 0
        rows = [flight.row for flight in flights if flight.row is not None]
        for queue in (self._belt.live, self._belt.live_ok, self._belt.backlog):
            while queue:
                rows.append(queue.popleft())
        self._belt.released.extend(rows)
        if rows:
            self._belt.wake_writer.set()

    def _expire(self, now_ns: int) -> None:
        if now_ns < self._expire_ns:
            return
        limit_ns = int(self._limits.ack_timeout_s * _NS_PER_S)
        self._expire_ns = now_ns + limit_ns // 8
        for flight in dict.fromkeys(self._flights.values()):
            if now_ns - flight.sent_ns < limit_ns or flight.is_waiting:
                continue
            self._in_flight -= 1
            if flight.row is None:
                for token in flight.tokens:
                    del self._flights[token]
            else:
                flight.is_waiting = True
                self._again.append(flight)

    def _publish_all(self, now_ns: int) -> None:
        bound = max(1, min(self._limits.in_flight, self._transport.max_in_flight))
        while self._newest:
            topic, payloads = self._newest.popitem()
            self._loose = deque([item for item in self._loose if item[0] != topic])
            self._loose.extend((topic, payload) for payload in payloads)
        while self._in_flight < bound:
            flight = self._next(now_ns)
            if flight is None:
                return
            token = next(self._tokens)
            try:
                self._transport.publish(token, flight.topic, flight.payload)
            except TransportError as error:
                self._refused(flight, str(error), now_ns)
                return
            flight.tokens.append(token)
            flight.sent_ns = now_ns
            flight.is_waiting = False
            self._flights[token] = flight
            self._in_flight += 1
            self._refusals = 0

    def _next(self, now_ns: int) -> _Flight | None:
        """Return what goes next: the agent's own state, what was not acknowledged, live rows, then the backlog."""
        if self._loose:
            topic, payload = self._loose.popleft()
            return _Flight(None, topic, payload, now_ns, [])
        if self._again:
            return self._again.popleft()
        for live in (self._belt.live, self._belt.live_ok):
            if not live:
                continue
            row = live.popleft()
            return _Flight(row, row.stream.topic, row.payload, now_ns, [])
        if self._belt.backlog:
            row = self._belt.backlog.popleft()
            payload = row.payload if row.rank is Rank.GAP else marked_replay(row.payload)
            return _Flight(row, row.stream.topic, payload, now_ns, [])
        return None

    def _refused(self, flight: _Flight, reason: str, now_ns: int) -> None:
        """Put the message back to the front and wait, longer each time."""
        if flight.row is not None:
            flight.is_waiting = True
            self._again.appendleft(flight)
        longest = min(self._limits.retry_max_s, self._limits.retry_s * 2**self._refusals)
        self._refusals = min(self._refusals + 1, 16)
        wait_s = longest * self._random.uniform(0.5, 1.0)
        self._retry_ns = now_ns + int(wait_s * _NS_PER_S)
        _log.warning("The transport refused a message (%s); next try in %.1f s.", reason, wait_s)

    def _wait_s(self, now_ns: int) -> float:
        waits = [_IDLE_S]
        belt = self._belt
        has_work = bool(self._again or belt.live or belt.live_ok or belt.backlog or self._loose)
        if has_work and now_ns < self._retry_ns:
            waits.append((self._retry_ns - now_ns) / _NS_PER_S)
        if self._in_flight:
            waits.append((self._expire_ns - now_ns) / _NS_PER_S)
        return max(0.0, min(waits))

    def close(self, *, timeout_s: float) -> None:
        """Disconnect within `timeout_s` seconds and give every row back; the thread that steps has ended."""
        self._transport.close(timeout_s=timeout_s)
        self._take_acks()
        self._belt.is_connected = False
        self._release()
