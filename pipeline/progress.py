"""Progress of long steps: the callback's protocol, a no-op, and a display for commands.

The display writes to standard error: a bar on a terminal where rich is installed, otherwise a line every few seconds.
"""

from __future__ import annotations

import sys
import time
from types import ModuleType  # noqa: TC003 - used by the annotation of a local import
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from typing import Self

LINE_EVERY_S: Final = 5.0


class Progress(Protocol):
    """A callback that receives the progress of a step: it may draw a bar, write lines or do nothing."""

    def __call__(self, step: str, done: int, total: int, note: str = "") -> None:
        """`done` of `total` units of `step` are finished; `note` is a short text such as a loss."""


def no_progress(step: str, done: int, total: int, note: str = "") -> None:
    """A `Progress` that shows nothing."""


def _rich() -> ModuleType | None:
    try:
        import rich.progress  # noqa: PLC0415 - optional
    except ImportError:
        return None
    return rich.progress


class ProgressDisplay:
    """A `Progress` for commands; a context manager, because a bar must be closed."""

    def __init__(self, *, quiet: bool = False) -> None:
        """`quiet` shows nothing."""
        self._quiet = quiet
        self._bar: Any = None
        self._tasks: dict[str, Any] = {}
        self._last_line = 0.0

    def __enter__(self) -> Self:
        """Start the bar where there is a terminal."""
        found = None if self._quiet or not sys.stderr.isatty() else _rich()
        if found is not None:
            import rich.console  # noqa: PLC0415 - comes with rich.progress

            columns = [
                found.TextColumn("{task.description:<9}"),
                found.BarColumn(),
                found.MofNCompleteColumn(),
                found.TimeRemainingColumn(),
                found.TextColumn("{task.fields[note]}"),
            ]
            self._bar = found.Progress(*columns, console=rich.console.Console(stderr=True))
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the bar."""
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, step: str, done: int, total: int, note: str = "") -> None:
        """See `Progress`."""
        if self._quiet:
            return
        if self._bar is None:
            now = time.monotonic()
            if done == total or now - self._last_line >= LINE_EVERY_S:
                self._last_line = now
                sys.stderr.write(f"{step}: {done}/{total} {note}".rstrip() + "\n")
            return
        if step not in self._tasks:
            self._tasks[step] = self._bar.add_task(step, total=total, note=note)
        self._bar.update(self._tasks[step], completed=done, total=total, note=note)
