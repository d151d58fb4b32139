"""Runs the queries on Athena.

Promise: one query is one execution, which is polled until it ends or its deadline passes (then it is stopped, because
Athena bills what it reads), and read page by page. Values have the types that Athena reports. A refusal by Athena is an
AthenaError with Athena's reason.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, Final, Protocol

from agent.errors import KensaError
from pipeline.analytics.query_result import QueryResult
from pipeline.cloud.aws_clients import translate_aws_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pipeline.analytics.queries import Query
    from pipeline.analytics.query_result import Value

_RUNNING: Final = frozenset({"QUEUED", "RUNNING"})
_POLL_S: Final = 0.25  # first pause; doubles up to the next
_MAX_POLL_S: Final = 4.0
_READERS: Final[dict[str, Callable[[str], Value]]] = {
    **dict.fromkeys(("bigint", "integer", "int", "smallint", "tinyint"), int),
    **dict.fromkeys(("double", "float", "real", "decimal"), float),
    "boolean": lambda text: text == "true",
    "date": date.fromisoformat,
    "timestamp": datetime.fromisoformat,
}


class AthenaError(KensaError):
    """Athena refused a query or did not finish it in time."""

    exit_code = 4


class AthenaClient(Protocol):
    """The methods of boto3's Athena client that are used."""

    def start_query_execution(self, **request: Any) -> Any:
        """Start a query."""
        ...

    def get_query_execution(self, **request: Any) -> Any:
        """Read the status of a query."""
        ...

    def get_query_results(self, **request: Any) -> Any:
        """Read one page of results."""
        ...

    def stop_query_execution(self, **request: Any) -> Any:
        """Stop a query."""
        ...


@dataclass(frozen=True, slots=True)
class AthenaSettings:
    """Where queries run, and for how long."""

    database: str  # of the Glue catalogue
    workgroup: str = "primary"
    output: str | None = None  # s3:// for results; None if the workgroup sets one
    timeout_s: float = 300.0


class AthenaEngine:
    """Runs queries; tests may pass their own `sleep` and `monotonic`."""

    def __init__(
        self,
        client: AthenaClient,
        settings: AthenaSettings,
        *,
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is started yet."""
        self._client = client
        self._settings = settings
        self._sleep = sleep
        self._monotonic = monotonic

    def execute(self, query: Query, given: Mapping[str, str], *, first_day: str, last_day: str) -> QueryResult:
        """Run `query`; the days are the defaults of its parameters. Raises UsageError, AwsError, AthenaError."""
        values = query.bind(given, first_day=first_day, last_day=last_day)
        begin = self._monotonic()
        execution = self._start(query.sql(values, "athena"))
        self._wait(query, execution, begin + self._settings.timeout_s)
        rows = tuple(self._rows(query, execution))
        return QueryResult(query, values, rows, self._monotonic() - begin)

    def _start(self, text: str) -> str:
        settings = self._settings
        request: dict[str, Any] = {
            "QueryString": text,
            "QueryExecutionContext": {"Database": settings.database},
            "WorkGroup": settings.workgroup,
        }
        if settings.output is not None:
            request["ResultConfiguration"] = {"OutputLocation": settings.output}
        with translate_aws_errors("athena:StartQueryExecution"):
            return str(self._client.start_query_execution(**request)["QueryExecutionId"])

    def _wait(self, query: Query, execution: str, deadline: float) -> None:
        pause = _POLL_S
        while True:
            with translate_aws_errors("athena:GetQueryExecution"):
                status = self._client.get_query_execution(QueryExecutionId=execution)["QueryExecution"]["Status"]
            state = status["State"]
            if state == "SUCCEEDED":
                return
            if state not in _RUNNING:
                why = status.get("StateChangeReason", "without a reason")
                raise AthenaError(f"{query.name} ended as {state} on Athena ({execution}): {why}")
            if self._monotonic() + pause > deadline:
                with translate_aws_errors("athena:StopQueryExecution"):
                    self._client.stop_query_execution(QueryExecutionId=execution)
                raise AthenaError(
                    f"{query.name} was stopped after {self._settings.timeout_s:g} s on Athena ({execution}): query "
                    "fewer days, or raise --timeout."
                )
            self._sleep(pause)
            pause = min(2 * pause, _MAX_POLL_S)

    def _rows(self, query: Query, execution: str) -> Iterator[tuple[Value, ...]]:
        token: str | None = None
        first = True
        while True:
            request = {"QueryExecutionId": execution, "MaxResults": 1_000} | ({"NextToken": token} if token else {})
            with translate_aws_errors("athena:GetQueryResults"):
                page = self._client.get_query_results(**request)
            columns = page["ResultSet"]["ResultSetMetadata"]["ColumnInfo"]
            names = tuple(column["Name"] for column in columns)
            if names != tuple(column.name for column in query.columns):
                raise AthenaError(f"{query.name} returned the columns {', '.join(names)} on Athena ({execution}).")
            types = [str(column["Type"]) for column in columns]
            rows = page["ResultSet"]["Rows"]
            for row in rows[1:] if first else rows:  # the first page starts with a row of names
                yield tuple(
                    _value(cell.get("VarCharValue"), kind) for cell, kind in zip(row["Data"], types, strict=True)
                )
            first = False
            token = page.get("NextToken")
            if not token:
                return


def _value(text: str | None, kind: str) -> Value:
    """Convert a cell from Athena's text form to a value."""
    reader = _READERS.get(kind.partition("(")[0])
    return text if text is None or reader is None else reader(text)
