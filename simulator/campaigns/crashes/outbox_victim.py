"""A process that commits verdicts and reports each commit until it is killed.

Each report is a pair: boot epoch, and the highest sequence number below which everything is committed.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Final

from agent.outbox import Outbox, OutboxLimits, next_boot_epoch
from agent.records import Judgement, ModelIdentity, Origin, Outcome, Verdict
from agent.timing.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection
    from pathlib import Path

LINE: Final = "line1"
CAMERA: Final = "cam1"
LIMITS: Final = OutboxLimits(max_bytes=16 * 1024 * 1024, commit_s=0.0, seal_s=0.2)  # each step commits all


def verdicts(epoch: int, seed: int) -> Iterator[list[Verdict]]:
    """Yield batches of 1 to 12 verdicts without end: nine in ten are ok."""
    source = random.Random(seed)
    origin = Origin(
        "thing", LINE, "top", CAMERA, epoch, "0" * 16, "1" * 16, ModelIdentity("m", "1.0.0", "2" * 64), ("good", "bad")
    )
    seq = 0
    while True:
        batch = []
        for _ in range(source.randint(1, 12)):
            outcome = Outcome.OK if source.random() < 0.9 else source.choice(list(Outcome))  # noqa: PLR2004  nine in ten
            judgement = Judgement(outcome, "good" if outcome is Outcome.OK else "bad", 0.5, (0.5, 0.5))
            batch.append(Verdict(origin, seq, 1_790_000_000_000_000_000 + seq * 1_000_000, judgement, 1_000))
            seq += 1
        yield batch


def run_outbox(state_dir: Path, seed: int, reports: Connection) -> None:
    """Commit and report until killed."""
    epoch = next_boot_epoch(state_dir, utc_s=time.time())
    reports.send((epoch, 0))
    outbox = Outbox(state_dir=state_dir, transport=None, clock=SystemClock(), limits=LIMITS)
    for batch in verdicts(epoch, seed):
        outbox.append(batch)
        outbox.writer.step()
        if outbox.writer.waiting == 0:
            reports.send((epoch, batch[-1].seq + 1))
