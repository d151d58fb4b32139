"""`kensa bench ...`: runs one benchmark and prints its table, or its figures as JSON.

`simulator.bench.bench_options` holds the options and names each benchmark's module. Such a module has `run_command`
(arguments, say) -> BenchReport and, where `--only` selects among parts of the benchmark, their names in `SECTIONS`.
"""

from __future__ import annotations

import importlib
import json
import sys
from typing import TYPE_CHECKING

from rich.console import Console

from agent.errors import MissingExtraError
from simulator.bench.bench_options import BENCHMARKS, make_parser

if TYPE_CHECKING:
    from simulator.bench.bench_report import BenchReport


def _report_progress(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def main(argv: list[str]) -> int:
    """Run one benchmark; 0 when it ran, whatever it measured."""
    parser = make_parser()
    arguments = parser.parse_args(argv)
    try:
        module = importlib.import_module(BENCHMARKS[arguments.what])
        known: tuple[str, ...] = getattr(module, "SECTIONS", ())
        if unknown := [name for name in arguments.only or () if name not in known]:
            parser.error(f"--only {unknown[0]}: {arguments.what} has {', '.join(known) or 'no such parts'}")
        report: BenchReport = module.run_command(arguments, report=_report_progress)
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"kensa bench {arguments.what} cannot run here: the package {error.name!r} is missing. "
            f"Run scripts/bench {arguments.what}, which installs it"
        ) from error
    Console(stderr=arguments.json).print(report.table)
    if arguments.json:
        print(json.dumps(report.figures))
    return 0
