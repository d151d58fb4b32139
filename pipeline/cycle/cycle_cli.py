"""`kensa cloud cycle`: start, show, approve and stop cycles; upload the publisher's folder.

Typical: `kensa cloud cycle --stack kensa-plant-a status`, then `... approve NAME --why "the card is good"`.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict
from getpass import getuser
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pipeline.cloud import aws_clients
from pipeline.cycle import operations
from pipeline.cycle.deployment.publisher import Publisher
from pipeline.cycle.settings import CycleSettings
from pipeline.cycle.steps.approval import decide
from pipeline.sagemaker.source_bundle import bundle_name, make_bundle

if TYPE_CHECKING:
    from collections.abc import Callable


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="kensa cloud cycle", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stack", help="name of the CloudFormation stack (default: KENSA_* of the environment)")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text)

    start = command("start", "start a cycle")
    for name in ("site", "model", "inspection"):
        start.add_argument(f"--{name}", required=True)
    command("status", "list the newest executions and those that wait for a decision")
    for name, text in (("approve", "release the candidate"), ("deny", "do not release it")):
        decision = command(name, f"answer an approval request: {text}")
        decision.add_argument("execution", help="its name")
        decision.add_argument("--why", required=True, help="one sentence, for the registry")
        decision.add_argument("--by", default=getuser(), help="who decides (default: you)")
    stop = command("stop", "stop an execution and roll back a rollout in progress")
    stop.add_argument("execution", help="its name")
    stop.add_argument("--why", required=True, help="one sentence")
    stop.add_argument("--by", default=getuser(), help="who stops it (default: you)")
    publisher = command("publisher", "upload the private folder of `kensa release init`, without its root keys")
    publisher.add_argument("--push", type=Path, required=True, metavar="FOLDER")
    bundle = command("bundle", "pack the sources of training jobs; prints the bundle's name, a digest of its content")
    bundle.add_argument(
        "--to", metavar="URI", help="also upload it there, below code/: a folder, or the stack's s3://bucket"
    )
    return parser.parse_args(argv)


def _settings(arguments: argparse.Namespace) -> CycleSettings:
    stack = operations.stack_environment(arguments.stack) if arguments.stack else {}
    return CycleSettings.read({**os.environ, **stack})


def _start(arguments: argparse.Namespace) -> dict[str, Any]:
    request = {name: str(getattr(arguments, name)) for name in ("site", "model", "inspection")}
    return {"started": operations.start(_settings(arguments), request)}


def _status(arguments: argparse.Namespace) -> dict[str, Any]:
    return {"executions": [asdict(line) for line in operations.status(_settings(arguments))]}


def _decide(arguments: argparse.Namespace) -> dict[str, Any]:
    execution = operations.find_execution(_settings(arguments), arguments.execution)
    return decide(execution, approved=arguments.command == "approve", by=arguments.by, why=arguments.why)


def _stop(arguments: argparse.Namespace) -> dict[str, Any]:
    return operations.stop(
        operations.find_execution(_settings(arguments), arguments.execution), by=arguments.by, why=arguments.why
    )


def _push_publisher(arguments: argparse.Namespace) -> dict[str, Any]:
    settings = _settings(arguments)
    return {
        "publisher": settings.publisher,
        "files": Publisher(aws_clients.storage(settings.publisher)).push(arguments.push),
    }


def _bundle(arguments: argparse.Namespace) -> dict[str, Any]:
    data = make_bundle()
    name = bundle_name(data)
    if arguments.to is None:
        return {"bundle": name}
    aws_clients.storage(arguments.to).write(f"code/{name}", data)
    return {"bundle": name, "brought_to": f"{arguments.to.rstrip('/')}/code/{name}"}


_COMMANDS: Final[dict[str, Callable[[argparse.Namespace], dict[str, Any]]]] = {
    "start": _start,
    "status": _status,
    "approve": _decide,
    "deny": _decide,
    "stop": _stop,
    "publisher": _push_publisher,
    "bundle": _bundle,
}


def main(argv: list[str]) -> int:
    """Run one command. Raises KensaError, which `kensa cloud` prints."""
    arguments = _arguments(argv)
    answer = _COMMANDS[arguments.command](arguments)
    if arguments.json:
        print(json.dumps(answer))
    elif arguments.command == "status":
        _print_executions(answer["executions"])
    else:
        for key, value in answer.items():
            print(f"{key}: {', '.join(value) if isinstance(value, list) else value}")
    return 0


def _print_executions(lines: list[dict[str, str]]) -> None:
    if not lines:
        print("no cycle has been started yet")
    for line in lines:
        doing = line["state"] or line["result"]
        asks = f"  waits for approval of {line['waits_for']}" if line["waits_for"] else ""
        print(f"{line['started']}  {line['status']:<10} {line['name']:<44} {doing}{asks}")
