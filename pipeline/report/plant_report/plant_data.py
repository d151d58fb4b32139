"""Collects the data of the plant's report: the results of all its queries over one window of days."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from agent.errors import OperatorError
from pipeline.analytics.queries import FIRST_DAY, LAST_DAY, get_query

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pipeline.analytics.queries import Query
    from pipeline.analytics.query_result import QueryResult, Value

    Record = dict[str, Value]

REPORT_QUERIES: Final[dict[str, Mapping[str, str]]] = {  # query -> parameters beside the window
    "yield_by_line": {"grain": "day"},
    "defect_pareto": {},
    "model_comparison": {},
    "ab_readout": {},
    "escapes": {},
    "escapes_by_class": {},
    "latency": {},
    "loss": {},
    "score_drift": {},
    "camera_drift": {},
    "release_history": {},
    "fleet": {},
}


class QueryEngine(Protocol):
    """A `DuckDbEngine`, or an engine with the same interface."""

    def execute(self, query: Query, given: Mapping[str, str] | None = None) -> QueryResult:
        """Run a query."""
        ...


@dataclass(frozen=True, slots=True)
class PlantData:
    """All results, by query."""

    results: Mapping[str, QueryResult]

    def records(self, query: str) -> list[Record]:
        """The rows of one result."""
        return list(self.results[query].records())

    @property
    def window(self) -> tuple[str, str]:
        """First and last day, YYYY-MM-DD."""
        values = self.results["yield_by_line"].parameters
        return values[FIRST_DAY], values[LAST_DAY]


def collect_plant_data(
    lake: QueryEngine, window: Mapping[str, str], *, progress: Callable[[int, int], None] | None = None
) -> PlantData:
    """Run all queries. `window` may hold first_day, last_day and site. Raises OperatorError without verdicts."""
    results: dict[str, QueryResult] = {}
    for done, (name, more) in enumerate(REPORT_QUERIES.items()):
        if progress is not None:
            progress(done, len(REPORT_QUERIES))
        results[name] = lake.execute(get_query(name), {**window, **more})
        if name == "yield_by_line" and not results[name].rows:
            raise OperatorError("There are no verdicts in this window: check --data, --site, --from and --to.")
    return PlantData(results)


def number(record: Record, name: str) -> float:
    """A column as a number; 0.0 for NULL."""
    value = record[name]
    return float(value) if isinstance(value, (int, float)) else 0.0


def optional_number(record: Record, name: str) -> float | None:
    """A column as a number, or None for NULL."""
    return None if record[name] is None else number(record, name)
