"""The outbox as the agent uses it: takes verdicts by `append` and delivers them over the transport.

Start order: files, then the threads, then the transport. Stop order: commit all, drain while the transport is up, then
the transport, then the files.
"""

from __future__ import annotations

import logging
import random
import threading
from typing import TYPE_CHECKING, Self

from agent.durable import usable_directory
from agent.errors import OutboxError
from agent.outbox.handoff import WriterSenderQueues
from agent.outbox.outbox_records import OutboxLimits, OutboxStats, Stream
from agent.outbox.replay import read_page
from agent.outbox.sender import OutboxSender
from agent.outbox.storage import verdict_lookup
from agent.outbox.writer import OutboxWriter
from agent.supervision import RESTART, STOP_AGENT, ThreadSupervisor
from agent.timing.clock import NS_PER_S
from agent.wire import HeldTopicHealth

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from agent.outbox.replay import ReplayCursor, ReplayPage, ReplayRange
    from agent.outbox.topic_gate import HeldTopic
    from agent.ports import Transport
    from agent.records import Verdict
    from agent.supervision import Fault, RestartPolicy, SupervisedThread
    from agent.timing.clock import Clock

_POLL_S = 0.01
_MAX_RESENDS = 256  # messages in memory, about 1 MB
_MIN_CLOSE_NS = NS_PER_S // 2  # for the transport's disconnect, whatever the deadline


class Outbox:
    """A `ports.VerdictSink` that stores verdicts until the broker has acknowledged them."""

    def __init__(
        self,
        *,
        state_dir: Path,
        transport: Transport | None,
        clock: Clock,
        limits: OutboxLimits | None = None,
        on_commit: Callable[[Sequence[Verdict], int], None] | None = None,
        supervisor: ThreadSupervisor | None = None,
    ) -> None:
        """Open the files in `state_dir`, whose lock the caller holds. Raises StateDirError when they cannot be used.

        Args:
            state_dir: folder of the files.
            transport: the connection to the broker; without one everything stays in the outbox.
            clock: monotonic and UTC time.
            limits: bounds and times; the defaults where None.
            on_commit: called as `on_commit(verdicts, monotonic_ns)` in the writer's thread after each commit of
                verdicts that are sent alone and at once, with those; it must be quick and not raise.
            supervisor: runs the threads; one of its own where None.
        """
        self._clock = clock
        self._state_dir = usable_directory(state_dir)
        limits = limits or OutboxLimits()
        self._queues = WriterSenderQueues(live_rows=limits.live_queue)
        self._supervisor = supervisor or ThreadSupervisor(clock=clock)
        self.writer = OutboxWriter(
            state_dir=state_dir,
            limits=limits,
            clock=clock,
            queues=self._queues,
            on_commit=on_commit,
            supervisor=self._supervisor,
        )
        self.sender: OutboxSender | None = None
        if transport is not None:
            self.sender = OutboxSender(
                transport=transport,
                queues=self._queues,
                clock=clock,
                limits=limits,
                random=random.Random(),  # noqa: S311
                conditions=self._supervisor.condition_log(logging.getLogger("agent.outbox.sender")),
                losses=self._supervisor.losses,
            )
        self._stop_writer = threading.Event()
        self._stop_sender = threading.Event()
        self._threads: list[SupervisedThread] = []
        self._failure: BaseException | None = None

    def start(self) -> None:
        """Start the threads and let the transport connect."""
        self._run("outbox-writer", self._stop_writer, self.writer.step, self._queues.wake_writer, policy=STOP_AGENT)
        if self.sender is not None:
            self._run("outbox-sender", self._stop_sender, self.sender.step, self._queues.wake_sender, policy=RESTART)
            self.sender.start()

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        """Commit everything and stop, without waiting for the broker."""
        self.close(self._clock.monotonic_ns())

    def append(self, verdicts: Sequence[Verdict]) -> None:
        """Take ownership of the verdicts; see `ports.VerdictSink`. Raises OutboxError when closed or broken."""
        if self._failure is not None:
            raise OutboxError(f"The outbox stopped: {self._failure!r}. This is a bug; the log has its trace.")
        self.writer.intake.append(verdicts)

    def set_at_once_inspections(self, inspections: frozenset[str]) -> None:
        """Send every verdict of these inspections alone and at once, `ok` too, each with a commit; from any thread."""
        self.writer.intake.set_at_once_inspections(inspections)

    def append_report(self, *, thing: str, line: str, inspection: str, boot_epoch: int, payload: bytes) -> None:
        """Store the report on an inspection's model until the broker has it; never evicted, never blocks.

        While 1,000 reports and gaps wait, a report is refused with a line in the log.
        """
        stream = Stream.of_reports(thing=thing, line=line, inspection=inspection, boot_epoch=boot_epoch)
        self.writer.intake.append_report(stream, payload)

    def resend(self, wanted: ReplayRange, place: ReplayCursor) -> ReplayPage | None:
        """Send a page of the stored range again; None while too many earlier messages still wait.

        Changes nothing in outbox and history. Called from one thread. Raises OutboxError when a file cannot be read, or
        there is no transport.
        """
        if self.sender is None:
            raise OutboxError("transport is none: there is no broker to send to.")
        if self.sender.resends_waiting >= _MAX_RESENDS:
            return None
        page = read_page(self._state_dir, wanted, place)
        for topic, payload in page.messages:
            self.sender.resend(topic, payload)
        return page

    @property
    def resends_waiting(self) -> int:
        """Messages of `resend` that the broker has not acknowledged."""
        return 0 if self.sender is None else self.sender.resends_waiting

    def add_connection_listener(self, listener: Callable[[bool], None]) -> None:
        """Call `listener(up)` whenever the transport's connection comes or goes; before `start`. It must not block."""
        if self.sender is not None:
            self.sender.add_connection_listener(listener)

    def publish_now(self, topic: str, payloads: Sequence[bytes]) -> None:
        """Publish messages of which only the newest matters, such as heartbeats: QoS 1, not stored.

        Unsent messages of a topic are replaced by the next call for it; those in flight are lost with the connection.
        """
        if self.sender is not None:
            self.sender.publish_now(topic, payloads)

    def find_verdict(self, key: str) -> verdict_lookup.StoredVerdict | None:
        """Return the committed verdict with the key `line/camera/boot_epoch/seq`, delivered or not; any thread."""
        return verdict_lookup.find_verdict(self._state_dir, key)

    def stats(self) -> OutboxStats:
        """Return the counts of this moment; any thread."""
        writer, sender = self.writer, self.sender
        totals = writer.store.totals
        return OutboxStats(
            rows=totals.rows,
            verdicts=totals.verdicts,
            bytes=totals.bytes,
            oldest_age_s=0.0 if writer.oldest_utc_s is None else max(0.0, writer.monotonic_utc_s - writer.oldest_utc_s),
            uncommitted=writer.waiting,
            in_flight=0 if sender is None else sender.in_flight,
            appended=writer.intake.appended,
            committed=writer.committed,
            delivered=writer.delivered,
            commits=writer.commits,
            evicted=writer.losses.evicted,
            damaged=writer.losses.damaged,
            gaps=writer.losses.gaps,
            connected=self._queues.is_connected,
            reason="no transport is configured" if sender is None else sender.reason,
            storage_error=writer.storage_error,
            held_back=() if sender is None else self._held_back(sender.refused_topics),
            rejected=0 if sender is None else sender.rejected,
            resent=0 if sender is None else sender.resent,
        )

    def _held_back(self, topics: Sequence[HeldTopic]) -> tuple[HeldTopicHealth, ...]:
        now_ns = self._clock.monotonic_ns()
        return tuple(
            HeldTopicHealth(
                topic=held.topic[:256], reason=held.reason[:256], for_s=max(0.0, (now_ns - held.since_ns) / NS_PER_S)
            )
            for held in topics
        )

    @property
    def is_drained(self) -> bool:
        """Whether everything that was appended is committed, and acknowledged where the transport is up.

        Messages on a topic that the broker refuses do not count: they stay for the next start.
        """
        if self.writer.waiting:
            return False
        if self.sender is None or not self._queues.is_connected:
            return True
        is_delivered = self.writer.store.totals.rows == 0 or self.writer.has_only_held_back
        return is_delivered and self.sender.is_idle

    def close(self, deadline_ns: int) -> OutboxStats:
        """Commit all, deliver as much as possible until the monotonic `deadline_ns`, stop; return the last counts.

        Undelivered messages wait for the next start. Raises OutboxError when verdicts could not be committed.
        """
        self.writer.intake.begin_closing()
        pause = threading.Event()
        while self._threads and self._failure is None and not self.is_drained:
            if self._clock.monotonic_ns() >= deadline_ns:
                break
            self._clock.wait(pause, _POLL_S)
        self._stop(self._stop_sender, "outbox-sender")
        if self.sender is not None:
            left_ns = max(_MIN_CLOSE_NS, deadline_ns - self._clock.monotonic_ns())
            self.sender.close(timeout_s=left_ns / NS_PER_S)
        self._stop(self._stop_writer, "outbox-writer")
        if self._failure is None:
            self.writer.step()
        waiting, stats = self.writer.waiting, self.stats()
        self.writer.close()
        if waiting:
            raise OutboxError(
                f"{waiting} verdicts could not be committed to {self._state_dir} before the stop: "
                f"{stats.storage_error or self._failure!r}. Free disk space or replace the disk."
            )
        return stats

    def _stop(self, stop: threading.Event, name: str) -> None:
        stop.set()
        self._queues.wake_writer.set()
        self._queues.wake_sender.set()
        for thread in self._threads:
            if thread.name == name:
                thread.join()

    def _run(
        self,
        name: str,
        stop: threading.Event,
        step: Callable[[], float],
        wake: threading.Event,
        *,
        policy: RestartPolicy,
    ) -> None:
        def run() -> None:
            while not stop.is_set():
                wake.clear()
                self._clock.wait(wake, step())

        thread = self._supervisor.thread(
            run, kind=name, name=name, policy=policy, stop=stop, on_fault=self._on_thread_fault
        )
        self._threads.append(thread)
        thread.start()

    def _on_thread_fault(self, fault: Fault) -> None:
        """Handle a fault of a thread; after a bug in the writer `append` reports it."""
        if fault.is_last:
            self._failure = fault.error
            self.writer.intake.begin_closing()  # unblocks callers in `append`, which then raise OutboxError
