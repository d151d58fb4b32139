"""`kensa bench analytics`: time and memory of each analytics query on a large history.

Each query runs in a process of its own, with DuckDB's threads and memory as they are given, so that its peak memory is
its own; the figure of a query is the median over the rounds. The history is written first unless one is given.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agent.errors import KensaError
from pipeline.analytics.duckdb_engine import DuckDbEngine, EngineLimits
from pipeline.analytics.queries import catalogue, get_query
from simulator.bench.bench_report import BenchReport, ResultTable
from simulator.history.generate import generate_history
from simulator.history.timeline import HistorySettings
from simulator.paths import ROOT

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

TARGET_S: Final = 5.0
_CHILD_TIMEOUT_S: Final = 600.0
_PEAK: Final = "VmHWM:"


@dataclass(frozen=True, slots=True)
class AnalyticsSettings:
    """What is measured."""

    rows: int = 10_000_000
    days: int = 90
    rounds: int = 3
    limits: EngineLimits = field(default_factory=EngineLimits)
    data: Path | None = None  # a history to take; None writes one and removes it


@dataclass(frozen=True, slots=True)
class QueryCost:
    """One query; medians over the rounds."""

    query: str
    answer_rows: int
    seconds: float  # that DuckDB took
    cpu_s: float  # of its threads, over the same time
    peak_mb: float  # the process's most resident memory, interpreter and DuckDB included


@dataclass(frozen=True, slots=True)
class AnalyticsResult:
    """All queries, and what they were asked of."""

    rows: int
    parquet_mb: float
    generate_s: float | None  # None for a history that was there
    threads: int
    memory_limit_mb: int
    spill_limit_mb: int
    queries: tuple[QueryCost, ...]
    slowest_s: float
    peak_mb: float

    def to_json(self) -> dict[str, Any]:
        """Return plain values for `json.dumps`."""
        return asdict(self)


def run_analytics(settings: AnalyticsSettings, *, report: Callable[[str], None]) -> AnalyticsResult:
    """Measure all queries. Raises KensaError where one fails."""
    if settings.data is not None:
        return _measure(settings.data, None, settings, report)
    with tempfile.TemporaryDirectory(prefix="kensa-bench-") as name:
        folder = Path(name)
        report(f"writing {settings.rows:,} verdicts of {settings.days} days")
        begin = time.perf_counter()
        generate_history(
            folder, HistorySettings(rows=settings.rows, days=settings.days), threads=settings.limits.threads
        )
        return _measure(folder, time.perf_counter() - begin, settings, report)


def _measure(
    folder: Path, generate_s: float | None, settings: AnalyticsSettings, report: Callable[[str], None]
) -> AnalyticsResult:
    files = list((folder / "verdicts").rglob("*.parquet"))
    costs = []
    for name in catalogue():
        rounds = [_run_in_child(folder, name, settings.limits) for _ in range(settings.rounds)]
        cost = QueryCost(
            query=name,
            answer_rows=rounds[0].answer_rows,
            seconds=round(statistics.median(r.seconds for r in rounds), 3),
            cpu_s=round(statistics.median(r.cpu_s for r in rounds), 3),
            peak_mb=round(statistics.median(r.peak_mb for r in rounds), 1),
        )
        report(f"{name}: {cost.seconds:.2f} s, {cost.peak_mb:,.0f} MB")
        costs.append(cost)
    return AnalyticsResult(
        rows=_count_verdicts(folder),
        parquet_mb=round(sum(path.stat().st_size for path in files) / 1e6, 1),
        generate_s=None if generate_s is None else round(generate_s, 1),
        threads=settings.limits.threads,
        memory_limit_mb=settings.limits.memory_mb,
        spill_limit_mb=settings.limits.spill_mb,
        queries=tuple(costs),
        slowest_s=max(cost.seconds for cost in costs),
        peak_mb=max(cost.peak_mb for cost in costs),
    )


def _count_verdicts(folder: Path) -> int:
    """Verdicts, each once, as a query counts them."""
    with DuckDbEngine(folder) as lake:
        return sum(
            int(row["arrived"]) for row in lake.execute(get_query("loss")).records() if isinstance(row["arrived"], int)
        )


def _run_in_child(folder: Path, name: str, limits: EngineLimits) -> QueryCost:
    """Ask in a process of its own. Raises KensaError."""
    order = json.dumps({"folder": str(folder), "query": name, "limits": asdict(limits)})
    done = subprocess.run(
        [sys.executable, "-m", "simulator.bench.query_cost", order],
        capture_output=True,
        text=True,
        timeout=_CHILD_TIMEOUT_S,
        check=False,
        cwd=ROOT,
    )
    if done.returncode:
        raise KensaError(f"{name} failed in the benchmark: {done.stderr[-2_000:]}")
    return QueryCost(**json.loads(done.stdout))


def _run_query(order: dict[str, Any]) -> QueryCost:
    with DuckDbEngine(Path(order["folder"]), limits=EngineLimits(**order["limits"])) as lake:
        cpu = time.process_time()
        answer = lake.execute(get_query(order["query"]))
        cpu = time.process_time() - cpu
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak_kb = next(int(line.split()[1]) for line in status.splitlines() if line.startswith(_PEAK))
    return QueryCost(order["query"], len(answer.rows), answer.seconds, cpu, peak_kb / 1e3)


def run_command(arguments: argparse.Namespace, *, report: Callable[[str], None]) -> BenchReport:
    """`kensa bench analytics`."""
    settings = AnalyticsSettings(
        rows=arguments.rows // 100 if arguments.quick else arguments.rows,
        days=12 if arguments.quick else 90,
        rounds=arguments.rounds,
        limits=EngineLimits(threads=arguments.threads, memory_mb=arguments.memory_mb),
        data=arguments.data,
    )
    result = run_analytics(settings, report=report)
    title = f"kensa bench analytics · {result.rows:,} verdicts, {result.threads} threads, {result.memory_limit_mb} MB"
    table = ResultTable(title, "median", what="query")
    for cost in result.queries:
        figure = f"{cost.seconds:.2f} s ({cost.cpu_s:.1f} s of CPU, {cost.peak_mb:,.0f} MB)"
        table.add_result(cost.query, f"<= {TARGET_S:g} s", figure, met=cost.seconds <= TARGET_S)
    return BenchReport(table, result.to_json())


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(_run_query(json.loads(sys.argv[1])))) + "\n")
