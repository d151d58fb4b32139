"""Cases run in a worker process, which is replaced when a case ends it or hangs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from simulator.campaigns.forkserver import start_child

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection
    from multiprocessing.context import ForkServerContext

CRASHED: Final = "crashed"
HUNG: Final = "hung"


def run_in_workers(
    context: ForkServerContext,
    run_cases: Callable[..., None],
    *arguments: Any,
    cases: int,
    case_s: float,
    cases_per_worker: int | None = None,
) -> Iterator[tuple[int, str]]:
    """Yield each case and its outcome, in order.

    A worker calls `run_cases(*arguments, range of cases, pipe)`, which sends the outcome of each case before it begins
    the next. A worker that died, or took longer than `case_s` for a case, is dead when that case is yielded as
    `crashed` or `hung`; a new one goes on with the next case.
    """
    at = 0
    while at < cases:
        stop = cases if cases_per_worker is None else min(at + cases_per_worker, cases)
        worker, reports = start_child(context, run_cases, *arguments, range(at, stop))
        try:
            outcome = ""
            while at < stop and outcome not in {CRASHED, HUNG}:
                outcome = _receive(reports, case_s)
                if outcome in {CRASHED, HUNG}:
                    worker.kill()
                    worker.join()
                yield at, outcome
                at += 1
        finally:
            worker.kill()
            worker.join()
            reports.close()


def _receive(reports: Connection, case_s: float) -> str:
    try:
        return str(reports.recv()) if reports.poll(case_s) else HUNG
    except EOFError:
        return CRASHED
