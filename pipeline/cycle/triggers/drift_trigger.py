"""Daily Lambda: publishes the score drift of a plant as the metric of the drift alarm.

It runs the query `score_drift` (pipeline/analytics/sql) on Athena. The metric is the largest population stability index
of the newest day that has parts, over lines and models: below 0.1 steady, above 0.25 changed. The alarm is the trigger
`drift` of the cycle.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from agent.errors import OperatorError
from pipeline.analytics.athena_engine import AthenaEngine, AthenaSettings
from pipeline.analytics.queries import get_query
from pipeline.cloud import aws_clients

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

NAMESPACE: Final = "Kensa"
METRIC_NAME: Final = "ScoreDrift"
_QUERY: Final = "score_drift"
_DAYS: Final = 45  # the reference days and the days since


def largest_psi(records: Iterable[Mapping[str, Any]]) -> float | None:
    """The largest index over the newest day of each line; None while nothing can be compared."""
    newest: dict[str, tuple[Any, float]] = {}
    for record in records:
        line, date, psi = str(record["line"]), record["date"], float(record["psi"])
        known = newest.get(line)
        if known is None or date > known[0] or (date == known[0] and psi > known[1]):
            newest[line] = (date, psi)
    return max((psi for _, psi in newest.values()), default=None)


def handler(_event: object, _context: object) -> dict[str, Any]:
    """Run the query and publish the metric. KENSA_SITE, KENSA_DATABASE and KENSA_WORKGROUP set where."""
    names = ("KENSA_SITE", "KENSA_DATABASE", "KENSA_WORKGROUP")
    site, database, workgroup = (os.environ.get(name, "") for name in names)
    if not (site and database and workgroup):
        raise OperatorError(f"{', '.join(names)} must be set: they select the plant and the tables.")
    today = datetime.now(UTC).date()
    athena = AthenaEngine(aws_clients.client("athena"), AthenaSettings(database, workgroup=workgroup))
    result = athena.execute(
        get_query(_QUERY),
        {"site": site},
        first_day=(today - timedelta(days=_DAYS)).isoformat(),
        last_day=(today - timedelta(days=1)).isoformat(),
    )
    psi = largest_psi(result.records())
    if psi is not None:
        with aws_clients.translate_aws_errors("cloudwatch:PutMetricData"):
            aws_clients.client("cloudwatch").put_metric_data(
                Namespace=NAMESPACE,
                MetricData=[{"MetricName": METRIC_NAME, "Dimensions": [{"Name": "Site", "Value": site}], "Value": psi}],
            )
    return {"site": site, "psi": psi}
