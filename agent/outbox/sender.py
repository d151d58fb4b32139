"""The sender thread: publishes rows and forgets each only once it is acknowledged.

Promise: a message that was just committed goes before the backlog, which is marked as a replay, and a defect before
`ok` verdicts; at most the smaller of two bounds is in flight; a refused publish is tried again after a jittered,
doubling wait; without a connection nothing is polled and every row returns to the backlog. Delivery is at least once:
consumers drop duplicates by the verdict's key. A topic that the broker refuses holds back its own messages only; see
`topic_gate`.
"""

from __future__ import annotations

import itertools
import logging
from collections import deque
from typing import TYPE_CHECKING, Final

from agent.condition_log import ConditionLog
from agent.counters import LossCounters
from agent.errors import TransportError
from agent.outbox.in_flight import InFlightMessage, InFlightMessages
from agent.outbox.outbox_records import Priority
from agent.outbox.topic_gate import TopicChange, TopicGate
from agent.timing.backoff import Backoff, FailureCounter
from agent.timing.clock import NS_PER_S
from agent.wire import mark_replay

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

    from agent.outbox.handoff import WriterSenderQueues
    from agent.outbox.outbox_records import OutboxLimits
    from agent.outbox.topic_gate import HeldTopic
    from agent.ports import Transport
    from agent.timing.clock import Clock

_IDLE_S: Final = 5.0  # nothing to do: something wakes the sender
_UNREPORTED_REFUSALS: Final = 3  # in a row, together about a second
_log = logging.getLogger(__name__)


class OutboxSender:
    """`step` is called by one thread only; the transport's callbacks and `publish_now` by any."""

    def __init__(
        self,
        *,
        transport: Transport,
        queues: WriterSenderQueues,
        clock: Clock,
        limits: OutboxLimits,
        random: random.Random,
        conditions: ConditionLog | None = None,
        losses: LossCounters | None = None,
    ) -> None:
        """Send nothing before `start`.

        Args:
            transport: the connection to the broker.
            queues: the hand-over from and to the writer.
            clock: monotonic time.
            limits: bounds and times of the outbox.
            random: spreads the retries of many devices.
            conditions: reports a transport that takes nothing, and refused topics.
            losses: counts messages that are not stored and were not delivered.
        """
        self._losses = losses or LossCounters()
        self._transport = transport
        self._queues = queues
        self._clock = clock
        self._limits = limits
        self._conditions = conditions or ConditionLog(_log, clock)
        self._acks: deque[int] = deque()
        self._rejections: deque[tuple[int, str]] = deque()
        self._changes: deque[tuple[bool, str]] = deque()
        self._newest: dict[str, Sequence[bytes]] = {}
        self._tokens = itertools.count(1)
        self._in_flight = InFlightMessages()
        self._unstored: deque[tuple[str, bytes]] = deque()  # of `publish_now`
        self._resends: deque[tuple[str, bytes]] = deque()
        self._resends_taken = 0
        self.resent = 0  # messages of `resend` that were acknowledged
        self._connection_listeners: list[Callable[[bool], None]] = []
        self._gate = TopicGate(random=random)
        self._gate_ns = 0  # when the gate's next tick is due
        self._refusals = FailureCounter(Backoff(limits.retry_s, limits.retry_max_s), random)
        self._retry_ns = 0
        self._expire_ns = 0
        self.refused_topics: tuple[HeldTopic, ...] = ()  # for any thread
        self.reason = "not started"

    # --- any thread ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Let the transport connect."""
        self._transport.start(on_ack=self._on_ack, on_reject=self._on_reject, on_connection=self._on_connection)

    def publish_now(self, topic: str, payloads: Sequence[bytes]) -> None:
        """Publish messages of which only the newest version matters: not stored, and replaced while unsent."""
        if topic in self._newest:
            self._losses.count("unkept_messages_replaced")
        self._newest[topic] = payloads
        self._queues.wake_sender.set()

    def resend(self, topic: str, payload: bytes) -> None:
        """Publish a message of the history again, after all other messages; from one thread, not stored."""
        self._resends_taken += 1
        self._resends.append((topic, payload))
        self._queues.wake_sender.set()

    @property
    def resends_waiting(self) -> int:
        """Messages of `resend` that are not acknowledged yet."""
        return self._resends_taken - self.resent

    def add_connection_listener(self, listener: Callable[[bool], None]) -> None:
        """Call `listener(up)` on each change, in the sender's thread; before `start`. It must not block."""
        self._connection_listeners.append(listener)

    def _on_ack(self, token: int) -> None:
        self._acks.append(token)
        self._queues.wake_sender.set()

    def _on_reject(self, token: int, reason: str) -> None:
        self._rejections.append((token, reason))
        self._queues.wake_sender.set()

    def _on_connection(self, up: bool, reason: str) -> None:  # noqa: FBT001  the port's signature
        self._changes.append((up, reason))
        self._queues.wake_sender.set()

    @property
    def in_flight(self) -> int:
        """Messages that wait for their acknowledgement."""
        return self._in_flight.count

    @property
    def rejected(self) -> int:
        """Messages that the broker refused by an answer, since the start."""
        return self._gate.rejected

    @property
    def is_idle(self) -> bool:
        """Whether the sender holds no row of the writer."""
        queues = self._queues
        return not (
            self._in_flight.count or self._in_flight.has_retries or queues.live or queues.live_ok or queues.backlog
        )

    # --- the sender's thread ------------------------------------------------------------------------------------------

    def step(self) -> float:
        """Do what is due; return how many seconds may pass until the next step unless the queues wake the sender."""
        now_ns = self._clock.monotonic_ns()
        queues = self._queues
        self._take_acks(now_ns)
        self._take_rejections(now_ns)
        self._take_changes(now_ns)
        self._update_topic_gate(now_ns)
        if not queues.is_connected:
            self._release()
            return _IDLE_S
        self._expire(now_ns)
        if now_ns >= self._retry_ns:
            self._publish_all(now_ns)
        if not queues.wants_backlog and queues.backlog_rows > 0 and len(queues.backlog) < self._limits.page_rows // 2:
            queues.ask_for_backlog()
        return self._wait_s(now_ns)

    def _take_acks(self, now_ns: int) -> None:
        while self._acks:
            message = self._in_flight.pop(self._acks.popleft())
            if message is None:
                continue  # of a message that was acknowledged or released before
            self._gate.note_acknowledged(message.topic, message.sent_ns, now_ns)
            if message.row is not None:
                self._queues.acked.append(message.row)
            self.resent += message.is_resent

    def _take_rejections(self, now_ns: int) -> None:
        while self._rejections:
            token, reason = self._rejections.popleft()
            message = self._in_flight.pop(token)
            if message is None:
                continue
            self._gate.note_refused(message.topic, reason, now_ns)
            self._requeue(message)

    def _requeue(self, message: InFlightMessage) -> None:
        """Return a message that cannot be sent now to its queue; of `publish_now` only the newest counts."""
        if message.row is not None:
            self._queues.released.append(message.row)
            self._queues.wake_writer.set()
        elif message.is_resent:
            self._resends.appendleft((message.topic, message.payload))
        else:
            self._newest.setdefault(message.topic, (message.payload,))

    def _take_changes(self, now_ns: int) -> None:
        while self._changes:
            up, self.reason = self._changes.popleft()
            if up:
                self._gate.note_connected(now_ns)
                self._queues.is_connected = True
                self._refusals.reset()
                self._retry_ns = 0
            else:
                if self._queues.is_connected:
                    self._gate.note_disconnected(self._in_flight.topics(), self.reason, now_ns)
                self._queues.is_connected = False
                self._release()
            for listener in self._connection_listeners:
                listener(up)

    def _update_topic_gate(self, now_ns: int) -> None:
        """Pass the held topics to the writer, and report changes."""
        gate, queues = self._gate, self._queues
        self._gate_ns = gate.tick(now_ns)
        if queues.held_back is not gate.held_back:
            queues.held_back = gate.held_back
            queues.wake_writer.set()
        self.refused_topics = () if gate.is_open else gate.refused_topics
        while gate.changes:
            self._report_topic_changes(gate.changes.popleft(), now_ns)

    def _report_topic_changes(self, change: TopicChange, now_ns: int) -> None:
        held = change.held
        if change.is_over:
            self._conditions.clear_fault(
                f"topic {held.topic}", "is taken by the broker again; what waited for it follows,"
            )
            return
        wait_s = (held.retry_ns - now_ns) / NS_PER_S
        text = f"{held.reason}. Its messages wait on disk and all other topics go on; next try in {wait_s:.0f} s"
        self._conditions.report_fault(f"topic {held.topic}", text)

    def _release(self) -> None:
        """Release every row: those in flight may be lost with the connection and are published again."""
        messages = self._in_flight.clear()
        if unkept := len(self._unstored) + sum(f.row is None and not f.is_resent for f in messages):
            self._losses.count("unkept_messages_lost", unkept)
        self._unstored.clear()
        self._resends.extendleft((f.topic, f.payload) for f in reversed(messages) if f.is_resent)
        rows = [message.row for message in messages if message.row is not None]
        for queue in (self._queues.live, self._queues.live_ok, self._queues.backlog):
            while queue:
                rows.append(queue.popleft())
        self._queues.released.extend(rows)
        if rows:
            self._queues.wake_writer.set()

    def _expire(self, now_ns: int) -> None:
        if now_ns < self._expire_ns:
            return
        limit_ns = int(self._limits.ack_timeout_s * NS_PER_S)
        self._expire_ns = now_ns + limit_ns // 8
        if lost := self._in_flight.expire(now_ns - limit_ns):
            self._losses.count("unkept_messages_lost", lost)

    def _publish_all(self, now_ns: int) -> None:
        bound = max(1, min(self._limits.in_flight, self._transport.max_in_flight))
        gate = self._gate
        for topic in list(self._newest):
            if not gate.may_send(topic):
                continue  # only its newest version waits here
            payloads = self._newest.pop(topic)
            self._unstored = deque([item for item in self._unstored if item[0] != topic])
            self._unstored.extend((topic, payload) for payload in payloads)
        while self._in_flight.count < bound:
            message = self._next(now_ns)
            if message is None:
                return
            token = next(self._tokens)
            try:
                self._transport.publish(token, message.topic, message.payload)
            except TransportError as error:
                self._delay_retry(message, str(error), now_ns)
                return
            gate.note_sent(message.topic, now_ns)
            self._in_flight.add(message, token, now_ns)
            if self._refusals.failures:
                self._refusals.reset()
                self._conditions.clear_fault("transport", "takes messages again")

    def _next(self, now_ns: int) -> InFlightMessage | None:
        """Return the next message of the topics that may be sent; rows of the others return to the backlog."""
        gate = self._gate
        held: list[tuple[str, bytes]] = []  # resends wait here: they are stored nowhere else
        while (message := self._first(now_ns)) is not None:
            if gate.is_open or gate.may_send(message.topic):
                self._resends.extendleft(reversed(held))
                return message
            self._in_flight.forget(message)
            if message.is_resent:
                held.append((message.topic, message.payload))
            else:
                self._requeue(message)
        self._resends.extend(held)
        return None

    def _first(self, now_ns: int) -> InFlightMessage | None:
        """Take the first message: the agent's own state, retries, live rows, the backlog, then resends."""
        if self._unstored:
            topic, payload = self._unstored.popleft()
            return InFlightMessage(None, topic, payload, now_ns, [])
        if self._in_flight.has_retries:
            return self._in_flight.next_retry()
        for live in (self._queues.live, self._queues.live_ok):
            if not live:
                continue
            row = live.popleft()
            return InFlightMessage(row, row.stream.topic, row.payload, now_ns, [])
        if self._queues.backlog:
            row = self._queues.backlog.popleft()
            payload = row.payload if row.priority is Priority.GAP else mark_replay(row.payload)
            return InFlightMessage(row, row.stream.topic, payload, now_ns, [])
        if self._resends:
            topic, payload = self._resends.popleft()
            return InFlightMessage(None, topic, payload, now_ns, [], is_resent=True)
        return None

    def _delay_retry(self, message: InFlightMessage, reason: str, now_ns: int) -> None:
        """Return the message to the front and wait, longer each time: the transport takes nothing now."""
        if message.row is not None:
            self._in_flight.retry_first(message)
        elif message.is_resent:
            self._resends.appendleft((message.topic, message.payload))
        # Of `publish_now` a newer version follows soon, and one that is never taken must not block all others.
        wait_s = self._refusals.next_delay_s()
        self._retry_ns = now_ns + int(wait_s * NS_PER_S)
        # A connection that just ended, or a full transport, is not worth a report.
        if self._refusals.failures > _UNREPORTED_REFUSALS:
            self._conditions.report_fault(
                "transport", f"it takes no message now ({reason}); next try in {wait_s:.1f} s"
            )

    def _wait_s(self, now_ns: int) -> float:
        waits = [_IDLE_S]
        queues = self._queues
        has_work = bool(
            self._in_flight.has_retries
            or queues.live
            or queues.live_ok
            or queues.backlog
            or self._unstored
            or self._resends
        )
        if has_work and now_ns < self._retry_ns:
            waits.append((self._retry_ns - now_ns) / NS_PER_S)
        if self._in_flight.count:
            waits.append((self._expire_ns - now_ns) / NS_PER_S)
        waits.append((self._gate_ns - now_ns) / NS_PER_S)
        return max(0.0, min(waits))

    def close(self, *, timeout_s: float) -> None:
        """Disconnect within `timeout_s` seconds and release every row; the thread that steps has ended."""
        self._transport.close(timeout_s=timeout_s)
        self._take_acks(self._clock.monotonic_ns())
        self._queues.is_connected = False
        self._release()
