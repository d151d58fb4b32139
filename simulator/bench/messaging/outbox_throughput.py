"""`kensa bench outbox`: verdicts a second through disk and broker, and the cost of each.

Sustained: verdicts are handed over as fast as `append` takes them, one defect in two hundred, on a real file with
synchronous=FULL, delivered to a broker in memory that acknowledges at once, until all are acknowledged. Paced: at a
line's rate, what a verdict costs in CPU time over all threads, and how long a defect takes from `append` to its commit.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agent.outbox import Outbox, OutboxLimits
from agent.records import Judgement, ModelIdentity, Origin, Outcome, Verdict
from agent.timing.clock import NS_PER_S, SystemClock
from simulator.bench.bench_report import BenchReport, ResultTable
from simulator.doubles.network.memory_transport import MemoryTransport

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

_BATCH: Final = 8  # verdicts a worker hands over at once
_DEFECT_EVERY: Final = 200
_DRAIN_NS: Final = 60 * NS_PER_S
_LEAST_PER_S: Final = 5_000


@dataclass(frozen=True, slots=True)
class OutboxRound:
    """One round."""

    verdicts: int
    seconds: float  # until the last one was acknowledged
    verdicts_per_s: float
    cpu_us_per_verdict: float  # all threads: hand-over, writer, sender, broker in memory
    append_us_per_verdict: float  # of it, in the worker's thread
    commits: int
    messages: int
    commit_p50_ms: float  # of defects, from `append` to their commit
    commit_p99_ms: float


@dataclass(frozen=True, slots=True)
class OutboxResult:
    """All rounds, and the medians."""

    sustained: tuple[OutboxRound, ...]
    paced: tuple[OutboxRound, ...]
    paced_per_s: float
    verdicts_per_s: float  # median of the sustained rounds
    cpu_us_per_verdict: float  # median of the paced rounds
    commit_p99_ms: float  # median of the paced rounds

    def to_json(self) -> dict[str, Any]:
        """Return plain values for `json.dumps`."""
        return asdict(self)


def run_outbox(
    *, rounds: int = 5, verdicts: int = 50_000, paced_per_s: float = 950.0, paced_s: float = 4.0,
    work_dir: Path | None = None,
) -> OutboxResult:  # fmt: skip
    """Measure `rounds` rounds of each kind, interleaved; `work_dir` should lie on the disk that counts."""
    sustained: list[OutboxRound] = []
    paced: list[OutboxRound] = []
    for _ in range(rounds):
        sustained.append(_round(verdicts, None, work_dir))
        paced.append(_round(int(paced_per_s * paced_s), paced_per_s, work_dir))
    return OutboxResult(
        sustained=tuple(sustained),
        paced=tuple(paced),
        paced_per_s=paced_per_s,
        verdicts_per_s=statistics.median(result.verdicts_per_s for result in sustained),
        cpu_us_per_verdict=statistics.median(result.cpu_us_per_verdict for result in paced),
        commit_p99_ms=statistics.median(result.commit_p99_ms for result in paced),
    )


def _verdicts(count: int) -> list[Verdict]:
    model = ModelIdentity("default", "1.0.0", "0123456789abcdef" * 4)
    origin = Origin("thing", "line1", "top", "cam1", 1, "0" * 16, "1" * 16, model, ("good", "scratch"))
    good = Judgement(Outcome.OK, "good", 0.0123, (0.9877, 0.0123))
    defect = Judgement(Outcome.DEFECT, "scratch", 0.9712, (0.0288, 0.9712), (100, 200, 30, 40))
    start_ns = time.time_ns()
    return [
        Verdict(origin, seq, start_ns + seq * 1_052_631, defect if seq % _DEFECT_EVERY == 0 else good, 2_000 + seq % 97)
        for seq in range(count)
    ]


def _round(count: int, per_s: float | None, work_dir: Path | None) -> OutboxRound:
    made = _verdicts(count)
    state_dir = Path(tempfile.mkdtemp(prefix="kensa-bench-", dir=work_dir))
    appended_ns: dict[int, int] = {}
    commit_ms: list[float] = []

    def on_commit(verdicts: Sequence[Verdict], now_ns: int) -> None:
        commit_ms.extend((now_ns - appended_ns[verdict.seq]) / 1e6 for verdict in verdicts)

    transport, clock = MemoryTransport(), SystemClock()
    outbox = Outbox(
        state_dir=state_dir, transport=transport, clock=clock, limits=OutboxLimits(seal_s=0.5), on_commit=on_commit
    )
    outbox.start()
    start, cpu_start, append_cpu = time.perf_counter(), time.process_time(), 0.0
    for first in range(0, count, _BATCH):
        if per_s is not None:
            time.sleep(max(0.0, start + first / per_s - time.perf_counter()))
        batch = made[first : first + _BATCH]
        before = time.thread_time()
        appended_ns.update((verdict.seq, time.monotonic_ns()) for verdict in batch if verdict.seq % _DEFECT_EVERY == 0)
        outbox.append(batch)
        append_cpu += time.thread_time() - before
    stats = outbox.close(clock.monotonic_ns() + _DRAIN_NS)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu_start
    shutil.rmtree(state_dir)
    commit_ms.sort()
    return OutboxRound(
        verdicts=stats.delivered,
        seconds=round(seconds, 3),
        verdicts_per_s=round(stats.delivered / seconds, 1),
        cpu_us_per_verdict=round(cpu / count * 1e6, 2),
        append_us_per_verdict=round(append_cpu / count * 1e6, 2),
        commits=stats.commits,
        messages=len(transport.delivered),
        commit_p50_ms=round(commit_ms[len(commit_ms) // 2], 3),
        commit_p99_ms=round(commit_ms[len(commit_ms) * 99 // 100], 3),
    )


def run_command(arguments: argparse.Namespace, *, report: Callable[[str], None]) -> BenchReport:
    """`kensa bench outbox`."""
    report("ok verdicts with a few defects, SQLite with synchronous=FULL, a broker in memory")
    result = run_outbox(rounds=arguments.rounds)
    table = ResultTable("kensa bench outbox", "median")
    name, met = "sustained verdicts/s, committed and delivered", result.verdicts_per_s >= _LEAST_PER_S
    table.add_result(name, f">= {_LEAST_PER_S:,}", f"{result.verdicts_per_s:,.0f}", met=met)
    return BenchReport(table, result.to_json())
