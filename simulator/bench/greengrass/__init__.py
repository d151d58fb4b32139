"""`kensa bench greengrass`: every row of what the component must reach, measured against the simulated nucleus.

The nucleus is `simulator.nucleus`, everything else is real: the SDK, the component's processes, a mosquitto.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simulator.bench.greengrass.component_update import measure_sizes, measure_update
from simulator.bench.greengrass.daemon_restarts import measure_restarts
from simulator.bench.greengrass.delivery import measure_cuts, measure_rate
from simulator.bench.greengrass.model_updates import measure_models, measure_refusals
from simulator.bench.greengrass.rejected_configurations import measure_configurations
from simulator.bench.greengrass.result_row import GreengrassBenchSettings, RequirementRow

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["ROWS", "GreengrassBenchSettings", "RequirementRow", "run_greengrass"]

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


def run_greengrass(
    *, only: Sequence[str], settings: GreengrassBenchSettings, say: Callable[[str], None]
) -> list[RequirementRow]:
    """Measure the rows named, all of them where none is. Raises a KensaError where something cannot be set up."""
    rows: list[RequirementRow] = []
    for name in only or ROWS:
        say(f"row {name}")
        rows += ROWS[name](settings, say)
    return rows
