"""`kensa doctor [CONFIG]`: look at everything that a line needs, and say what to do about what is missing.

Without a configuration only the machine is looked at. 0: the line can run (warnings included), 2: something must be
mended first.
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
from agent.commands.examine import collecting, greengrass, line, machine, passwords, releases, state, topics, updates
from agent.commands.examine.finding import Finding, Status, fail, ok
from agent.errors import ConfigError, ControlError

if TYPE_CHECKING:
    from collections.abc import Iterator

EXIT_MENDING: Final = 2
_MARKS: Final = {Status.OK: "OK", Status.WARN: "WARN", Status.FAIL: "FAIL"}
_COLOURS: Final = {Status.OK: "32", Status.WARN: "33", Status.FAIL: "31"}
_WIDTH: Final = 118


def examine(path: Path | None) -> Iterator[Finding]:
    """Every finding, in the order in which things need each other."""
    yield from machine.examine()
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
    holder = state.running_agent(config.state_dir)
    yield from state.examine(config, running=holder is not None)
    yield from greengrass.examine(config.state_dir)
    yield from releases.examine(config)
    yield from updates.examine(config, running=holder is not None)
    yield from collecting.examine(config)
    yield from line.examine_certificates(config)
    yield from passwords.examine(config)
    if holder is None:
        yield from line.examine_cameras(config)
        broker = line.examine_broker(config)
        yield broker
        if broker.status is Status.OK:
            yield from topics.examine(config, running=False)
    else:
        yield from _ask_agent(config, holder)
        yield from topics.examine(config, running=True)


def _ask_agent(config: configuration.Config, holder: int) -> Iterator[Finding]:
    yield ok("agent", f"runs on this state directory as process {holder}")
    try:
        yield from line.from_agent(control.request(config.state_dir, "status"))
    except ControlError as error:
        yield fail("agent answers", str(error), "ask as the user who runs it; if it hangs, restart it")


def main(argv: list[str]) -> int:
    """Print the findings, for people or with --json for machines."""
    parser = argparse.ArgumentParser(prog="kensa doctor", description=__doc__)
    parser.add_argument("config", type=Path, metavar="CONFIG", nargs="?", help="see docs/config.example.yaml")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    arguments = parser.parse_args(argv)
    findings = []
    for finding in examine(arguments.config):
        findings.append(finding)
        if not arguments.json:  # as they come: a camera may take ten seconds
            print(as_text(finding, colour=sys.stdout.isatty()), flush=True)
    failed = sum(finding.status is Status.FAIL for finding in findings)
    warned = sum(finding.status is Status.WARN for finding in findings)
    if arguments.json:
        print(json.dumps({"ok": not failed, "findings": [_as_dict(finding) for finding in findings]}))
    else:
        verdict = f"{failed} to mend before the line can run" if failed else "the line can run"
        print(f"\n{len(findings)} checks: {verdict}, {warned} warning(s)")
    return EXIT_MENDING if failed else 0


def _as_dict(finding: Finding) -> dict[str, str | None]:
    return {"check": finding.check, "status": finding.status, "seen": finding.seen, "remedy": finding.remedy}


def as_text(finding: Finding, *, colour: bool) -> str:
    """One finding in aligned lines, the remedy below what was seen."""
    mark = f"{_MARKS[finding.status]:<4}"
    if colour:
        mark = f"\x1b[{_COLOURS[finding.status]}m{mark}\x1b[0m"
    indent = " " * 6
    head = f"{finding.check}: "
    lines = []
    for number, text in enumerate(finding.seen.splitlines() or [""]):
        start = head if number == 0 else "  "
        lines += textwrap.wrap(start + text, _WIDTH - 6, subsequent_indent="  ", break_on_hyphens=False)
    if finding.remedy:
        lines += textwrap.wrap(f"-> {finding.remedy}", _WIDTH - 6, subsequent_indent="   ", break_on_hyphens=False)
    return f"{mark}  " + f"\n{indent}".join(lines)
