"""The result of one benchmark: a table for people and figures for machines."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterator


class ResultTable(Table):
    """Rows of what was measured, its target, the figure, and whether the figure meets the target."""

    def __init__(self, title: str, measured: str = "measured", *, what: str = "what") -> None:
        """Name the columns: `what` is measured, and `measured` says how the figure came about (median, counted)."""
        super().__init__(what, "target", measured, "", title=title)

    def add_result(self, name: str, target: str, figure: str, *, met: bool) -> None:
        """Add a row that has a target."""
        self.add_row(name, target, figure, "[green]met[/]" if met else "[yellow]not met[/]")

    def add_shown(self, name: str, figure: str, target: str = "shown") -> None:
        """Add a row without a target."""
        self.add_row(name, target, figure, "")


@dataclass(frozen=True, slots=True)
class BenchReport:
    """What a benchmark's `run_command` returns."""

    table: Table
    figures: dict[str, Any]  # plain values for `json.dumps`


@contextmanager
def silenced(logger: str = "") -> Iterator[None]:
    """Silence a logger, the root logger by default, while a benchmark provokes errors on purpose."""
    log = logging.getLogger(logger)
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)
