"""Kills processes with SIGKILL in the middle of commits, again and again on the same state directory."""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from simulator.campaigns.crashes.commit_tracker import CommitTracker
from simulator.campaigns.crashes.outbox_victim import run_outbox
from simulator.campaigns.crashes.victim_process import Victim
from simulator.campaigns.forkserver import forkserver_context

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext

VICTIM_MODULE: Final = "simulator.campaigns.crashes.outbox_victim"
_ROUNDS_PER_CHECK: Final = 20
_MAX_WAIT_S: Final = 0.03  # between the first commit of a victim and its death


@dataclass(frozen=True, slots=True)
class OutboxKills:
    """What came of it."""

    kills: int
    committed: int
    lost: int
    repeated_epochs: int


def run_outbox_kills(*, kills: int, seed: int, work_dir: Path | None = None) -> OutboxKills:
    """Kill `kills` victims in the middle of their work and count what is missing afterwards.

    `work_dir` is where the state directory is made; the system's temporary directory by default.
    """
    source = random.Random(seed)
    context = forkserver_context(VICTIM_MODULE)
    committed = lost = repeated = done = 0
    while done < kills:
        state_dir = Path(tempfile.mkdtemp(prefix="kensa-kills-", dir=work_dir))
        tracker = CommitTracker()
        for _ in range(min(_ROUNDS_PER_CHECK, kills - done)):
            _kill_one(context, state_dir, source, tracker)
            done += 1
        check = tracker.check(state_dir)
        committed += check.committed
        lost += check.lost
        repeated += tracker.repeated_epochs + check.stale_epochs
        shutil.rmtree(state_dir)
    return OutboxKills(kills, committed, lost, repeated)


def _kill_one(context: ForkServerContext, state_dir: Path, source: random.Random, tracker: CommitTracker) -> None:
    with Victim(context, run_outbox, state_dir, source.getrandbits(32)) as victim:
        victim.wait_started()
        tracker.record_start(victim.reports.recv()[0])
        if source.random() < 0.8:  # noqa: PLR2004  the others die while they start
            victim.wait_started()
        time.sleep(source.random() * _MAX_WAIT_S)
        victim.kill()
        record_commits(victim, tracker)


def record_commits(victim: Victim, tracker: CommitTracker) -> None:
    """Note what has been reported by now."""
    for epoch, below in victim.drain():
        tracker.record_commit(epoch, below)
