"""`kensa doctor [CONFIG]` checks everything that a line needs, and prints a remedy for each problem.

Without a configuration only the machine is checked. Exit code 0: the line can run, perhaps with warnings; 2: a problem
must be fixed first.
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent import config as configuration
from agent import control
from agent.commands.doctor.check_context import CheckContext
from agent.commands.doctor.check_result import CheckResult, CheckStatus, fail, ok
from agent.commands.doctor.check_table import MACHINE_CHECKS, SITE_CHECKS
from agent.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

EXIT_NOT_READY: Final = 2
_MARKS: Final = {CheckStatus.OK: "OK", CheckStatus.WARN: "WARN", CheckStatus.FAIL: "FAIL"}
_COLOURS: Final = {CheckStatus.OK: "32", CheckStatus.WARN: "33", CheckStatus.FAIL: "31"}
_WIDTH: Final = 118


def run_checks(path: Path | None) -> Iterator[CheckResult]:
    """Run every check, in the order in which they depend on each other."""
    yield from (run_check() for run_check in MACHINE_CHECKS)
    if path is None:
        return
    try:
        config = configuration.load(path)
    except ConfigError as error:
        yield fail("configuration", str(error), "correct these keys; docs/config.example.yaml explains each")
        return
    cameras = sum(len(inspection.cameras) for inspection in config.inspections.values())
    seen = f"{path}: {len(config.inspections)} inspection(s), {cameras} camera(s), digest {config.digest()[:12]}"
    yield ok("configuration", seen)
    context = CheckContext(config, control.running_agent(config.state_dir))
    for run_check in SITE_CHECKS:
        for result in run_check(context):
            context.results.append(result)
            yield result


def main(argv: list[str]) -> int:
    """Print the results, for people or with --json for machines."""
    parser = argparse.ArgumentParser(prog="kensa doctor", description=__doc__)
    parser.add_argument("config", type=Path, metavar="CONFIG", nargs="?", help="see docs/config.example.yaml")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    arguments = parser.parse_args(argv)
    results = []
    for result in run_checks(arguments.config):
        results.append(result)
        if not arguments.json:  # one by one: a camera may take ten seconds
            print(as_text(result, colour=sys.stdout.isatty()), flush=True)
    failed = sum(result.status is CheckStatus.FAIL for result in results)
    warned = sum(result.status is CheckStatus.WARN for result in results)
    if arguments.json:
        print(json.dumps({"ok": not failed, "findings": [_as_dict(result) for result in results]}))
    else:
        summary = f"{failed} to fix before the line can run" if failed else "the line can run"
        print(f"\n{len(results)} checks: {summary}, {warned} warning(s)")
    return EXIT_NOT_READY if failed else 0


def _as_dict(result: CheckResult) -> dict[str, str | None]:
    return {"check": result.check, "status": result.status, "seen": result.seen, "remedy": result.remedy}


def as_text(result: CheckResult, *, colour: bool) -> str:
    """Format one result in aligned lines, the remedy below what was found."""
    mark = f"{_MARKS[result.status]:<4}"
    if colour:
        mark = f"\x1b[{_COLOURS[result.status]}m{mark}\x1b[0m"
    indent = " " * 6
    head = f"{result.check}: "
    lines = []
    for number, text in enumerate(result.seen.splitlines() or [""]):
        start = head if number == 0 else "  "
        lines += textwrap.wrap(start + text, _WIDTH - 6, subsequent_indent="  ", break_on_hyphens=False)
    if result.remedy:
        lines += textwrap.wrap(f"-> {result.remedy}", _WIDTH - 6, subsequent_indent="   ", break_on_hyphens=False)
    return f"{mark}  " + f"\n{indent}".join(lines)
