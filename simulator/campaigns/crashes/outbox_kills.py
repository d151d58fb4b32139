"""kill -9 in the middle of commits, again and again on the same state directory."""

from __future__ import annotations

import contextlib
import multiprocessing
import random
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from simulator.campaigns.crashes.commit_tracker import CommitTracker
from simulator.campaigns.crashes.outbox_victim import REPORT, run_outbox

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.context import ForkServerContext

_ROUNDS_PER_CHECK: Final = 20
_MAX_WAIT_S: Final = 0.03  # between the first commit of a victim and its death
_START_TIMEOUT_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class OutboxKills:
    """What came of it."""

    kills: int
    committed: int
    lost: int
    repeated_epochs: int


def forkserver_context() -> ForkServerContext:
    """Return where victims come from: a server that has imported everything and forks in milliseconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["simulator.campaigns.crashes.outbox_victim"])
    return context


def run_outbox_kills(*, kills: int, seed: int, work_dir: Path | None = None) -> OutboxKills:
    """Kill `kills` victims in the middle of their work and count what is missing afterwards.

    `work_dir` is where the state directory is made; the system's temporary directory by default.
    """
    source = random.Random(seed)
    context = forkserver_context()
    committed = lost = repeated = done = 0
    while done < kills:
        state_dir = Path(tempfile.mkdtemp(prefix="kensa-kills-", dir=work_dir))
        ledger = CommitTracker()
        for _ in range(min(_ROUNDS_PER_CHECK, kills - done)):
            _kill_one(context, state_dir, source, ledger)
            done += 1
        check = ledger.check(state_dir)
        committed += check.committed
        lost += check.lost
        repeated += ledger.repeated_epochs + check.stale_epochs
        shutil.rmtree(state_dir)
    return OutboxKills(kills, committed, lost, repeated)


def _kill_one(context: ForkServerContext, state_dir: Path, source: random.Random, ledger: CommitTracker) -> None:
    ours, theirs = context.Pipe(duplex=False)
    victim = context.Process(target=run_outbox, args=(state_dir, source.getrandbits(32), theirs), daemon=True)
    victim.start()
    theirs.close()
    try:
        if not ours.poll(_START_TIMEOUT_S):
            raise TimeoutError("the process that is to be killed did not start")
        ledger.record_start(REPORT.unpack(ours.recv_bytes())[0])
        if source.random() < 0.8:  # noqa: PLR2004  the others die while they start
            ours.poll(_START_TIMEOUT_S)
        time.sleep(source.random() * _MAX_WAIT_S)
    finally:
        victim.kill()
        victim.join()
    read_reports(ours, ledger)
    ours.close()


def read_reports(reports: Connection, ledger: CommitTracker) -> None:
    """Take in what has been reported by now."""
    with contextlib.suppress(EOFError):
        while reports.poll():
            ledger.record_commit(*REPORT.unpack(reports.recv_bytes()))
