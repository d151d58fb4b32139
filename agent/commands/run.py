"""`kensa run CONFIG`: inspect until told to stop, or until every finite camera has ended."""

from __future__ import annotations

import argparse
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent import app, config
from agent.app import footprint

if TYPE_CHECKING:
    from types import FrameType

_SETTLED_S: Final = 5.0  # by then the first parts are judged and what only the start needed is known
_AGAIN_S: Final = 600.0  # a model that was exchanged and paths that are rarely taken leave memory behind as well


def main(argv: list[str]) -> int:
    """Run an agent; 0 when all that was captured is judged or counted, 1 when the drain had to abandon something."""
    parser = argparse.ArgumentParser(prog="kensa run", description=__doc__)
    parser.add_argument("config", type=Path, metavar="CONFIG", help="see docs/config.example.yaml")
    arguments = parser.parse_args(argv)
    agent = app.build(config.load(arguments.config))

    def ask_stop(_number: int, _frame: FrameType | None) -> None:
        agent.ask_stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ask_stop)
    agent.start()
    try:
        wait_s = _SETTLED_S
        while not agent.wait(wait_s):
            footprint.give_back()
            wait_s = _AGAIN_S
    finally:
        clean = agent.stop()
    return 0 if clean else 1
