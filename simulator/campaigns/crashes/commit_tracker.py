"""Compares the verdicts that were reported as committed with those on disk."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agent.outbox import Outbox
from agent.timing.clock import NS_PER_S, SystemClock
from agent.wire import DecodedVerdicts, Gap, decode
from simulator.campaigns.crashes.outbox_victim import LIMITS
from simulator.doubles.network.memory_transport import MemoryTransport

if TYPE_CHECKING:
    from pathlib import Path

_DRAIN_NS = 60 * NS_PER_S


@dataclass(frozen=True, slots=True)
class OutboxCheck:
    """One comparison."""

    committed: int  # verdicts that were reported as committed
    lost: int  # of them, how many neither arrived nor are in a gap
    gapped: int  # of them, how many a gap names
    stale_epochs: int  # boot epochs that were reported and that the file has forgotten


@dataclass(slots=True)
class CommitTracker:
    """Promises by boot epoch, and what arrived."""

    committed_below: dict[int, int] = field(default_factory=dict)  # epoch -> verdicts with seq below are committed
    repeated_epochs: int = 0

    def record_start(self, epoch: int) -> None:
        """Note a start; an epoch that was there before is a fault."""
        self.repeated_epochs += epoch in self.committed_below
        self.committed_below.setdefault(epoch, 0)

    def record_commit(self, epoch: int, below: int) -> None:
        """Note a report."""
        self.committed_below[epoch] = max(self.committed_below.get(epoch, 0), below)

    def check(self, state_dir: Path) -> OutboxCheck:
        """Deliver all that the outbox in `state_dir` holds, and compare."""
        transport = MemoryTransport()
        clock = SystemClock()
        outbox = Outbox(state_dir=state_dir, transport=transport, clock=clock, limits=LIMITS)
        outbox.start()
        while not outbox.stats().connected:
            outbox.publish_now("kensa/thing/heartbeat", ())
        outbox.close(clock.monotonic_ns() + _DRAIN_NS)
        arrived: dict[int, set[int]] = {}
        gapped: dict[int, set[int]] = {}
        for message in transport.delivered:
            match decode(message.payload):
                case DecodedVerdicts(found, _):
                    for verdict in found:
                        arrived.setdefault(verdict.origin.boot_epoch, set()).add(verdict.seq)
                case Gap() as gap:
                    for first, last in gap.ranges:
                        gapped.setdefault(gap.boot_epoch, set()).update(range(first, last + 1))
                case _:
                    pass
        committed = lost = in_gaps = 0
        for epoch, below in self.committed_below.items():
            missing = set(range(below)) - arrived.get(epoch, set())
            named = missing & gapped.get(epoch, set())
            committed += below
            lost += len(missing - named)
            in_gaps += len(named)
        kept = int((state_dir / "boot_epoch").read_text())
        return OutboxCheck(committed, lost, in_gaps, sum(epoch > kept for epoch in self.committed_below))
