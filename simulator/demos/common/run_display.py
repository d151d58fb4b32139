"""The display of a running demo: a live screen on a terminal, lines of text elsewhere."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from rich.live import Live

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.console import Console, RenderableType
    from rich.status import Status

# Drawing is pure Python and shares the interpreter's lock with the line, which needs it several times a frame. At the
# default of 5 ms the view raised the p99 latency from 3 to 18 ms; at 0.1 ms to 4 ms.
_SWITCH_S: Final = 1e-4


class RunDisplay:
    """Shows each state of a run on `console`."""

    def __init__(self, console: Console, *, line_every_s: float, first_line_s: float) -> None:
        """Print a line every `line_every_s` of the run, from `first_line_s` on, where the console is no terminal."""
        self._console = console
        self._live = Live(console=console, screen=True, auto_refresh=False) if console.is_terminal else None
        self._line_every_s = line_every_s
        self._next_line_s = first_line_s
        self._printed_events = 0

    @contextmanager
    def on(self) -> Iterator[None]:
        """Use the whole terminal meanwhile."""
        if self._live is None:
            yield
            return
        with self._live:
            yield

    def show(
        self,
        elapsed_s: float,
        *,
        screen: Callable[[int], RenderableType],
        line: Callable[[], str],
        events: Sequence[str] = (),
    ) -> None:
        """Show the state at `elapsed_s`.

        Args:
            elapsed_s: Seconds since the run began.
            screen: Makes the screen for a terminal so many columns wide.
            line: Makes the line for other outputs.
            events: All events so far as lines; those not printed yet are printed where there is no terminal.

        """
        if self._live is not None:
            self._live.update(screen(self._console.width), refresh=True)
            return
        lines = list(events[self._printed_events :])
        self._printed_events = len(events)
        if elapsed_s >= self._next_line_s:
            self._next_line_s += self._line_every_s
            lines.append(line())
        for text in lines:
            self._console.print(text, highlight=False, soft_wrap=True)


@contextmanager
def fast_thread_switches() -> Iterator[None]:
    """Let the interpreter switch threads every 0.1 ms: clients and servers share its lock with the lines."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_S)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def progress_reporter(console: Console, status: Status, title: str) -> Callable[[str], None]:
    """Return what reports a step of the preparation: beside the spinner, and as a line where there is no terminal."""

    def report(step: str) -> None:
        status.update(f"{title}: {step}")
        if not console.is_terminal:
            console.print(step, highlight=False, soft_wrap=True)

    return report


def wait_for_arrival(
    receive: Callable[[], None], delivered: Callable[[], int], *, inspected: int, timeout_s: float
) -> None:
    """Call `receive` until `inspected` verdicts are `delivered`, for `timeout_s` at most."""
    deadline = time.monotonic() + timeout_s
    receive()
    while delivered() < inspected and time.monotonic() < deadline:
        time.sleep(0.02)
        receive()
