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
from agent.commands.doctor.check_result import CheckResult, CheckStatus, fail, ok
from agent.commands.doctor.checks import (
    broker_topics,
    camera_passwords,
    collection_target,
    connectivity,
    greengrass_component,
    machine,
    releases,
    state_dir,
    update_source,
)
from agent.errors import ConfigError, ControlError

if TYPE_CHECKING:
    from collections.abc import Iterator

EXIT_NOT_READY: Final = 2
_MARKS: Final = {CheckStatus.OK: "OK", CheckStatus.WARN: "WARN", CheckStatus.FAIL: "FAIL"}
_COLOURS: Final = {CheckStatus.OK: "32", CheckStatus.WARN: "33", CheckStatus.FAIL: "31"}
_WIDTH: Final = 118


def run_checks(path: Path | None) -> Iterator[CheckResult]:
    """Every finding, in the order in which things need each other."""
    yield from machine.run_checks()
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
    holder = state_dir.running_agent(config.state_dir)
    yield from state_dir.run_checks(config, running=holder is not None)
    yield from greengrass_component.run_checks(config.state_dir)
    yield from releases.run_checks(config)
    yield from update_source.run_checks(config, running=holder is not None)
    yield from collection_target.run_checks(config)
    yield from connectivity.check_certificates(config)
    yield from camera_passwords.run_checks(config)
    if holder is None:
        yield from connectivity.check_cameras(config)
        broker = connectivity.check_broker(config)
        yield broker
        if broker.status is CheckStatus.OK:
            yield from broker_topics.run_checks(config, running=False)
    else:
        yield from _check_running_agent(config, holder)
        yield from broker_topics.run_checks(config, running=True)


def _check_running_agent(config: configuration.Config, holder: int) -> Iterator[CheckResult]:
    yield ok("agent", f"runs on this state directory as process {holder}")
    try:
        yield from connectivity.results_from_agent(control.request(config.state_dir, "status"))
    except ControlError as error:
        yield fail("agent answers", str(error), "ask as the user who runs it; if it hangs, restart it")


def main(argv: list[str]) -> int:
    """Print the findings, for people or with --json for machines."""
    parser = argparse.ArgumentParser(prog="kensa doctor", description=__doc__)
    parser.add_argument("config", type=Path, metavar="CONFIG", nargs="?", help="see docs/config.example.yaml")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    arguments = parser.parse_args(argv)
    findings = []
    for finding in run_checks(arguments.config):
        findings.append(finding)
        if not arguments.json:  # as they come: a camera may take ten seconds
            print(as_text(finding, colour=sys.stdout.isatty()), flush=True)
    failed = sum(finding.status is CheckStatus.FAIL for finding in findings)
    warned = sum(finding.status is CheckStatus.WARN for finding in findings)
    if arguments.json:
        print(json.dumps({"ok": not failed, "findings": [_as_dict(finding) for finding in findings]}))
    else:
        verdict = f"{failed} to mend before the line can run" if failed else "the line can run"
        print(f"\n{len(findings)} checks: {verdict}, {warned} warning(s)")
    return EXIT_NOT_READY if failed else 0


def _as_dict(finding: CheckResult) -> dict[str, str | None]:
    return {"check": finding.check, "status": finding.status, "seen": finding.seen, "remedy": finding.remedy}


def as_text(finding: CheckResult, *, colour: bool) -> str:
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
