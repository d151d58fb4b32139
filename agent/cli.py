"""The `kensa` command: finds subcommands, shows tracebacks for bugs only, defines the exit codes.

0 done · 1 the thing asked for failed · 2 configuration, disk or camera: the operator must act · 3 a release is
refused · 4 the broker · 5 no running agent, or it refused ·
64 wrong usage · 70 a bug ended the agent.
"""

from __future__ import annotations

import logging
import sys
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Final

import agent
from agent.errors import KensaError, MissingExtraError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


_ARGPARSE_USAGE: Final = 2  # argparse ends with this; in Kensa 2 means that the operator must act

# Those of the device wheel; modules are imported when they are asked for, which keeps `kensa run` quick to start.
_OWN: Final = {
    "run": ("agent.commands.run", "inspect a line: kensa run CONFIG"),
    "doctor": ("agent.commands.doctor.command", "check camera, broker, model, disk and clock, and name remedies"),
    "explain": ("agent.commands.explain", "show why a part got its verdict: kensa explain VERDICT_KEY"),
    "resend": ("agent.commands.resend", "send verdicts of the history again: kensa resend CAMERA FROM-TO"),
    "apply": ("agent.commands.apply", "change a running agent's configuration: kensa apply CONFIG"),
    "status": ("agent.commands.status", "show the state of a running agent"),
    "model": ("agent.commands.model", "show, request, roll back and compare releases: kensa model show CONFIG"),
}
# Those that run from a checkout, found through the entry-point group `kensa.commands`.
_OTHERS: Final = {
    "demo": "watch a simulated line being inspected",
    "train": "train and quantise a model from a folder of images",
    "evaluate": "measure a release on labelled images",
    "release": "keep a repository of signed releases: init, add, publish, revoke, rotate-keys, show",
    "cloud": "the improvement cycle, step by step: labels, data sets, candidates, questions: kensa cloud --help",
    "bench": "measure the loop, updates, faults, collecting, analytics and Greengrass on this machine",
}


def _usage() -> str:
    known = {**{name: text for name, (_, text) in _OWN.items()}, **_OTHERS}
    for point in entry_points(group="kensa.commands"):
        known.setdefault(point.name, "")
    lines = [f"  {name:<10} {text}" for name, text in known.items()]
    return "\n".join(
        [
            f"kensa {agent.__version__}: edge inspection. Frames in, verdicts out.",
            "",
            "usage: kensa COMMAND [ARGUMENTS]      kensa COMMAND --help",
            "",
            *lines,
        ]
    )


def _find(name: str) -> Callable[[list[str]], int]:
    """The command's callable. Raises UsageError or MissingExtraError with the remedy."""
    if name in _OWN:
        main: Callable[[list[str]], int] = import_module(_OWN[name][0]).main
        return main
    found = [point for point in entry_points(group="kensa.commands") if point.name == name]
    if not found:
        raise UsageError(f"there is no command {name!r}\n\n{_usage()}")
    try:
        command: Callable[[list[str]], int] = found[0].load()
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        if missing in {"simulator", "pipeline"}:
            remedy = (
                "it is not part of the device package: run it from a checkout, where scripts/demo sets everything up"
            )
        else:
            extras = {"demo": "sim", "bench": "sim", "train": "train", "evaluate": "pipeline", "release": "aws"}
            extras["cloud"] = "cloud"
            extra = extras.get(name, "dev")
            remedy = f"the package {error.name!r} is missing: pip install -e '.[{extra}]', or run scripts/{name}"
        raise MissingExtraError(f"kensa {name} cannot run here: {remedy}") from error
    return command


def _run(name: str, arguments: list[str]) -> int:
    """Run one command; what can be expected to go wrong becomes a sentence and an exit code."""
    try:
        return _find(name)(arguments)
    except KensaError as error:
        print(f"kensa {name}: {error}", file=sys.stderr)
        return error.exit_code
    except SystemExit as stopped:
        return UsageError.exit_code if stopped.code == _ARGPARSE_USAGE else int(stopped.code or 0)
    except BrokenPipeError:  # `kensa ... | head`
        sys.stderr.close()
        return 0
    except KeyboardInterrupt:
        return 130  # as the shell reports a program ended by SIGINT


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in {"-h", "--help", "help"}:
        print(_usage())
        return 0 if arguments else UsageError.exit_code
    if arguments[0] in {"-V", "--version", "version"}:
        print(agent.__version__)
        return 0
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S"
    )
    return _run(arguments[0], arguments[1:])
