"""`kensa run CONFIG` inspects until stopped, or until all finite cameras have ended.

SIGTERM and SIGINT drain and end, and so does closing the terminal; any other SIGHUP reads CONFIG again and applies it,
as `kensa apply` does.
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
from agent.app.results_file import ResultsFile
from agent.app.run_summary import RunSummary
from agent.errors import KensaError, OperatorError
from agent.health import memory_trim, open_files
from agent.supervision import ThreadSupervisor
from agent.timing.clock import NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

    from agent.records import DroppedFrames, Verdict

_STABLE_S: Final = 5.0  # by then the first parts are inspected, and memory that only the start needed is free
_RETRY_S: Final = 600.0  # a replaced model and rare code paths leave free memory behind, too
_POLL_S: Final = 1.0  # how soon SIGHUP is handled
_STDERR: Final = 2
_log = logging.getLogger(__name__)


def main(argv: list[str]) -> int:
    """Run an agent.

    Returns 0 when every captured frame was inspected or counted, whether all finite cameras ended or it was stopped; 1
    when the drain had to abandon something; 2 when verdicts could not be committed to the disk, or rows of --results
    are missing; 70 after a bug without which the agent cannot go on.
    """
    parser = argparse.ArgumentParser(prog="kensa run", description=__doc__)
    parser.add_argument("config", type=Path, metavar="CONFIG", help="see docs/config.example.yaml")
    parser.add_argument(
        "--results",
        type=Path,
        metavar="FILE",
        help="write every verdict, and every frame without one, to this new file: FILE.csv or FILE.jsonl",
    )
    arguments = parser.parse_args(argv)
    given = config.load(arguments.config)
    open_files.raise_open_file_limit()
    record = _RunResults(given, arguments.results)
    agent = app.build(given, observe=record.verdicts, on_drop=record.dropped, supervisor=record.supervisor)
    reread = threading.Event()
    _install_signal_handlers(agent, reread)
    try:
        agent.start()
    except BaseException:
        record.discard()
        raise
    end: app.StopReason | None = None
    try:
        end = _wait_for_end(agent, reread, arguments.config)
    finally:
        clean = agent.stop()
        record.close(is_wanted=end is app.StopReason.FINISHED or arguments.results is not None)
    if agent.supervisor.failure is not None:  # of the stop; one before it was raised by `wait`
        raise agent.supervisor.failure
    record.check()
    return 0 if clean else 1


class _RunResults:
    """Results of a run: the table that is printed at its end, and the rows of --results."""

    def __init__(self, given: config.Config, path: Path | None) -> None:
        """Make the file. Raises UsageError and OperatorError."""
        self.supervisor = ThreadSupervisor()
        cameras = {camera: name for name, inspection in given.inspections.items() for camera in inspection.cameras}
        self._tally = RunSummary(cameras)
        self._results = None if path is None else ResultsFile(path, inspections=cameras, supervisor=self.supervisor)
        self._problem: OperatorError | None = None

    def verdicts(self, verdicts: Sequence[Verdict]) -> None:
        """Add verdicts; workers' threads."""
        self._tally.add_verdicts(verdicts)
        if self._results is not None:
            self._results.add_verdicts(verdicts)

    def dropped(self, dropped: DroppedFrames) -> None:
        """Add frames without a verdict; any thread."""
        self._tally.add_dropped(dropped)
        if self._results is not None:
            self._results.add_dropped(dropped)

    def discard(self) -> None:
        """Delete the empty file of an agent that did not start."""
        if self._results is not None:
            self._results.close()
            self._results.path.unlink(missing_ok=True)

    def close(self, *, is_wanted: bool) -> None:
        """Complete the file and print the table where it `is_wanted`; see `check`."""
        if self._results is not None:
            try:
                self._results.close()
            except OperatorError as error:
                self._problem = error
        if is_wanted:
            print(self._tally.text())
            if self._results is not None:
                print(f"{self._results.rows:,} rows in {self._results.path}")

    def check(self) -> None:
        """Raise the OperatorError of a file that is not complete."""
        if self._problem is not None:
            raise self._problem


def _install_signal_handlers(agent: app.Agent, reread: threading.Event) -> None:
    has_terminal = os.isatty(_STDERR)

    def request_stop(_number: int, _frame: FrameType | None) -> None:
        agent.request_stop()

    def request_reread(_number: int, _frame: FrameType | None) -> None:
        if has_terminal and not os.isatty(_STDERR):  # the terminal was closed
            agent.request_stop()
        reread.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, request_stop)
    signal.signal(signal.SIGHUP, request_reread)


def _wait_for_end(agent: app.Agent, reread: threading.Event, path: Path) -> app.StopReason:
    """Wait for the end; reread the configuration and trim memory meanwhile. Raises InternalError."""
    due_ns = agent.clock.monotonic_ns() + round(_STABLE_S * NS_PER_S)
    while (end := agent.wait(_POLL_S)) is None:
        if reread.is_set():
            reread.clear()
            _reread(agent, path)
        if agent.clock.monotonic_ns() >= due_ns:
            memory_trim.trim_memory()
            due_ns = agent.clock.monotonic_ns() + round(_RETRY_S * NS_PER_S)
    return end


def _reread(agent: app.Agent, path: Path) -> None:
    """Apply the file as it is now; an error is a line in the log, and the agent continues unchanged."""
    try:
        changed = config.load(path)
    except KensaError as error:
        agent.note_configuration(refused=str(error))
        _log.error("%s is not applied: %s", path, error)
        return
    try:
        if not agent.apply(changed).changed:
            _log.info("%s has not changed", path)
    except KensaError as error:
        _log.error("%s is not applied: %s", path, error)
