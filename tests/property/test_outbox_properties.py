"""A state machine that exposes the outbox to faults and then checks the subscriber's messages.

Checked: nothing that was committed is missing unless a gap names it; nothing arrives that was not committed; no defect
is given up while an ok verdict remains that could have gone instead.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from agent.outbox import Outbox, OutboxLimits
from agent.outbox.outbox_records import Priority
from agent.records import Outcome, Verdict
from agent.wire import Gap, decode
from simulator.doubles.clocks.manual_clock import ManualClock
from simulator.doubles.network.memory_transport import DeliveryFaults, MemoryTransport
from tests.kits.outbox import lost, make_verdict, read

LIMITS = OutboxLimits(max_bytes=192 * 1024, queue_capacity=192, in_flight=8, live_queue=16, ack_timeout_s=5.0)
TROUBLE = DeliveryFaults(refuse=0.05, lose=0.05, lose_ack=0.1, duplicate=0.1)


class OutboxMachine(RuleBasedStateMachine):
    @initialize(seed=st.integers(0, 2**32))
    def begin(self, seed: int) -> None:
        self.dir = Path(tempfile.mkdtemp(prefix="kensa-outbox-"))
        self.clock = ManualClock()
        self.transports: list[MemoryTransport] = []
        self.seed = seed
        self.seq = 0
        self.pending: dict[int, Verdict] = {}
        self.committed: dict[int, Outcome] = {}
        self.evicted: set[int] = set()
        self.outcomes: dict[int, Outcome] = {}  # of everything that was appended
        self.start(connected=True)

    def start(self, *, connected: bool, faults: DeliveryFaults = TROUBLE, auto_ack: bool = False) -> None:
        self.transport = MemoryTransport(
            max_in_flight=6, auto_ack=auto_ack, connected=connected, faults=faults, seed=self.seed
        )
        self.transports.append(self.transport)
        self.outbox = Outbox(state_dir=self.dir, transport=self.transport, clock=self.clock, limits=LIMITS)
        assert self.outbox.sender is not None
        self.sender = self.outbox.sender
        self.sender.start()
        self.sender.step()

    def step_writer(self) -> None:
        self.outbox.writer.step()
        while (
            self.outbox.writer.intake.unpacked
        ):  # more than one hand-over: commit all, so that the model knows what is safe
            self.check_evictions()  # before what comes next fits into the room that was made
            self.clock.advance(0.25)
            self.outbox.writer.step()
        left = self.outbox.writer.waiting
        for seq, verdict in list(self.pending.items()):
            if left == 0 or verdict.judgement.outcome is not Outcome.OK:
                self.committed[seq] = verdict.judgement.outcome
                del self.pending[seq]
        self.check_evictions()

    def check_evictions(self) -> None:
        now = lost(self.gaps())
        new, self.evicted = now - self.evicted, self.evicted | now
        worst = max((RANK[self.outcomes[seq]] for seq in new), default=Priority.OK)
        if worst > Priority.OK:
            held = self.outbox.writer.feed.with_sender
            rows, _ = self.outbox.writer.store.rows_after(Priority.OK, 0, 10_000)
            assert [row.id for row in rows if row.id not in held] == [], "an ok verdict outlived a better one"

    def gaps(self) -> list[Gap]:
        delivered = [gap for transport in self.transports for gap in read(transport.delivered)[1]]
        rows, _ = self.outbox.writer.store.rows_after(Priority.GAP, 0, 10_000)
        stored = [decode(row.payload) for row in rows]
        return delivered + [gap for gap in stored if isinstance(gap, Gap)]

    @rule(
        outcome=st.sampled_from([Outcome.OK, Outcome.OK, Outcome.DEFECT, Outcome.UNSURE, Outcome.UNKNOWN]),
        count=st.integers(1, 60),
        part=st.booleans(),
    )
    def append(self, outcome: Outcome, count: int, part: bool) -> None:  # noqa: FBT001  drawn
        made = [
            make_verdict(self.seq + i, outcome, part_id=f"{self.seq + i:064}" if part else None) for i in range(count)
        ]
        self.seq += count
        self.pending.update((verdict.seq, verdict) for verdict in made)
        self.outcomes.update((verdict.seq, outcome) for verdict in made)
        self.outbox.append(made)
        self.step_writer()

    @rule(seconds=st.sampled_from([0.01, 0.3, 3.0, 10.0]))
    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.step_writer()
        self.sender.step()

    @rule(count=st.integers(1, 6), shuffled=st.booleans())
    def acknowledge(self, count: int, shuffled: bool) -> None:  # noqa: FBT001  drawn
        self.sender.step()
        self.transport.acknowledge(count, shuffled=shuffled)
        self.sender.step()

    @rule(up=st.booleans())
    def change_connection(self, up: bool) -> None:  # noqa: FBT001  drawn
        self.transport.set_connected(up)
        self.sender.step()

    @rule(connected=st.booleans())
    def crash_and_restart(self, connected: bool) -> None:  # noqa: FBT001  drawn
        self.outbox.writer.close()  # without a last commit
        self.pending.clear()
        self.seed += 1
        self.start(connected=connected)
        self.check_evictions()

    @rule()
    def stop_and_restart(self) -> None:
        self.outbox.close(self.clock.monotonic_ns())
        self.committed.update((seq, verdict.judgement.outcome) for seq, verdict in self.pending.items())
        self.pending.clear()
        self.start(connected=True)
        self.check_evictions()

    @invariant()
    def the_caps_hold(self) -> None:
        if hasattr(self, "outbox"):
            writer = self.outbox.writer
            held = sum(row.size for row in writer.feed.with_sender.values())
            gaps = sum(row.size for row in writer.store.rows_after(Priority.GAP, 0, 10_000)[0])
            assert writer.store.totals.bytes <= writer.store.cap_bytes + held + gaps
            assert writer.store.totals == writer.store.read_totals()

    def teardown(self) -> None:
        if not hasattr(self, "outbox"):
            return
        self.outbox.close(self.clock.monotonic_ns())
        self.committed.update((seq, verdict.judgement.outcome) for seq, verdict in self.pending.items())
        self.start(connected=True, faults=DeliveryFaults(), auto_ack=True)
        for _ in range(2_000):
            self.clock.advance(0.25)
            self.outbox.writer.step()
            self.sender.step()
            if self.outbox.stats().rows == 0:
                break
        assert self.outbox.stats().rows == 0, "the outbox did not drain"
        arrived = {verdict.seq for transport in self.transports for verdict, _ in read(transport.delivered)[0]}
        gone = lost(self.gaps())
        assert arrived <= self.committed.keys(), "a verdict travelled before it was committed"
        assert self.committed.keys() - arrived <= gone, "a committed verdict is missing and no gap names it"
        assert gone <= self.committed.keys()
        self.outbox.close(self.clock.monotonic_ns())
        shutil.rmtree(self.dir)


RANK = {
    Outcome.OK: Priority.OK,
    Outcome.UNKNOWN: Priority.UNKNOWN,
    Outcome.UNSURE: Priority.UNSURE,
    Outcome.DEFECT: Priority.DEFECT,
}
TestOutbox = OutboxMachine.TestCase
TestOutbox.settings = settings(max_examples=15, stateful_step_count=40, deadline=None)
