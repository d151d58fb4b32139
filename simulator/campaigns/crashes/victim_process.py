"""A process that is started to be killed, and what it reported until then."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any, Final, Self

from simulator.campaigns.forkserver import start_child

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.context import ForkServerContext

_START_S: Final = 60.0


class Victim:
    """Runs `target(*arguments, pipe, **options)` until `kill`, at the latest at the end of the `with` block."""

    def __init__(
        self,
        context: ForkServerContext,
        target: Callable[..., None],
        *arguments: Any,
        daemon: bool = True,
        **options: Any,
    ) -> None:
        """Start it; what it sends through the pipe is received by `read` and `drain`."""
        self._process, self.reports = start_child(context, target, *arguments, daemon=daemon, **options)

    def __enter__(self) -> Self:
        """Return itself: the process runs already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Kill what still runs."""
        self.kill()
        self.reports.close()

    def wait_started(self) -> None:
        """Wait for the first report, which stays unread. Raises TimeoutError."""
        if not self.reports.poll(_START_S):
            raise TimeoutError("the process that is to be killed did not start")

    def read(self, seconds: float) -> Iterator[Any]:
        """Yield what is reported for `seconds`: a full pipe would hold the victim up. Raises EOFError if it ended."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0.0:
            if self.reports.poll(left):
                yield self.reports.recv()

    def drain(self) -> Iterator[Any]:
        """Yield what has been reported by now."""
        with contextlib.suppress(EOFError):
            while self.reports.poll():
                yield self.reports.recv()

    def kill(self) -> None:
        """Send SIGKILL and wait for the end."""
        self._process.kill()
        self._process.join()
