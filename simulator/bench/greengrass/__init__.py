"""`kensa bench greengrass`: measures the component's requirements on the simulated nucleus.

The nucleus is `simulator.nucleus`, everything else is real: the SDK, the component's processes, a mosquitto.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simulator.bench.bench_report import BenchReport, ResultTable, silenced
from simulator.bench.greengrass.component_update import measure_sizes, measure_update
from simulator.bench.greengrass.daemon_restarts import measure_restarts
from simulator.bench.greengrass.delivery import measure_cuts, measure_rate
from simulator.bench.greengrass.model_updates import measure_models, measure_refusals
from simulator.bench.greengrass.rejected_configurations import measure_configurations
from simulator.bench.greengrass.result_row import GreengrassBenchSettings, RequirementRow

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

__all__ = ["ROWS", "SECTIONS", "GreengrassBenchSettings", "RequirementRow", "run_command", "run_greengrass"]

ROWS: Final = {
    "cuts": measure_cuts,
    "rate": measure_rate,
    "models": measure_models,
    "refusals": measure_refusals,
    "update": measure_update,
    "restarts": measure_restarts,
    "configurations": measure_configurations,
    "sizes": measure_sizes,
}
SECTIONS: Final = tuple(ROWS)


def run_greengrass(
    *, only: Sequence[str], settings: GreengrassBenchSettings, report: Callable[[str], None]
) -> list[RequirementRow]:
    """Measure the rows named, all of them where none is. Raises a KensaError where something cannot be set up."""
    rows: list[RequirementRow] = []
    for name in only or ROWS:
        report(f"row {name}")
        rows += ROWS[name](settings, report)
    return rows


def run_command(arguments: argparse.Namespace, *, report: Callable[[str], None]) -> BenchReport:
    """`kensa bench greengrass`."""
    settings = GreengrassBenchSettings(seconds=arguments.seconds, repeats=arguments.updates)
    with silenced():
        rows = run_greengrass(only=arguments.only or (), settings=settings, report=report)
    table = ResultTable("kensa bench greengrass · simulated nucleus, real SDK, processes and mosquitto")
    for row in rows:
        table.add_result(row.what, row.target, row.figure, met=row.met)
    return BenchReport(table, {row.name: row.to_json() for row in rows})
