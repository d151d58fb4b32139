"""`kensa run CONFIG`: inspect until told to stop, or until every finite camera has ended.

SIGTERM and SIGINT drain and end, and so does a terminal that is closed; any other SIGHUP reads CONFIG again and goes on
with it, as `kensa apply` does.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent import app, config
from agent.app import footprint
from agent.clock import NS_PER_S
from agent.errors import KensaError

if TYPE_CHECKING:
    from types import FrameType

_SETTLED_S: Final = 5.0  # by then the first parts are judged and what only the start needed is known
_AGAIN_S: Final = 600.0  # a model that was exchanged and paths that are rarely taken leave memory behind as well
_LOOK_S: Final = 1.0  # how soon SIGHUP is seen
_STDERR: Final = 2
_log = logging.getLogger(__name__)


def main(argv: list[str]) -> int:
    """Run an agent.

    0 when all that was captured is judged or counted, whether every finite camera ended or somebody stopped it; 1 when
    the drain had to abandon something; 2 when verdicts could not be committed to the disk; 70 after a bug without which
    the agent cannot go on.
    """
    parser = argparse.ArgumentParser(prog="kensa run", description=__doc__)
    parser.add_argument("config", type=Path, metavar="CONFIG", help="see docs/config.example.yaml")
    arguments = parser.parse_args(argv)
    agent = app.build(config.load(arguments.config))
    reread = threading.Event()
    has_terminal = os.isatty(_STDERR)

    def ask_stop(_number: int, _frame: FrameType | None) -> None:
        agent.ask_stop()

    def ask_reread(_number: int, _frame: FrameType | None) -> None:
        if has_terminal and not os.isatty(_STDERR):  # it hung up
            agent.ask_stop()
        reread.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ask_stop)
    signal.signal(signal.SIGHUP, ask_reread)
    agent.start()
    try:
        due_ns = agent.clock.monotonic_ns() + round(_SETTLED_S * NS_PER_S)
        while not agent.wait(_LOOK_S):
            if reread.is_set():
                reread.clear()
                _reread(agent, arguments.config)
            if agent.clock.monotonic_ns() >= due_ns:
                footprint.give_back()
                due_ns = agent.clock.monotonic_ns() + round(_AGAIN_S * NS_PER_S)
    finally:
        clean = agent.stop()
    if agent.supervisor.failure is not None:  # of the stop; one before it was raised by `wait`
        raise agent.supervisor.failure
    return 0 if clean else 1


def _reread(agent: app.Agent, path: Path) -> None:
    """Apply the file as it is now; what is wrong with it is a line in the log, and the agent goes on as it was."""
    try:
        if not agent.apply(config.load(path)).changed:
            _log.info("%s has not changed", path)
    except KensaError as error:
        _log.error("%s is not applied: %s", path, error)
