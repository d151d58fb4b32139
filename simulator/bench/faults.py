"""`kensa bench faults`: kills of the outbox and of the model lifecycle, and power cuts, counted."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

from simulator.faults.kills import Kills, run_kills
from simulator.faults.lifecycle_kills import LifecycleKills, run_lifecycle_kills
from simulator.faults.power import PowerCuts, missing_for_power_cuts, run_power_cuts


@dataclass(frozen=True, slots=True)
class FaultsResult:
    """What was done, what it cost. `power` is None where the machine cannot cut; `power_missing` then says why."""

    kills: Kills
    lifecycle: LifecycleKills
    power: PowerCuts | None
    power_missing: str | None
    seconds: float

    @property
    def is_clean(self) -> bool:
        """Whether nothing that was committed is missing, and no model was where it must not be."""
        power_losses = 0 if self.power is None else self.power.lost + self.power.stale_epochs
        return self.lifecycle.is_clean and self.kills.lost + self.kills.repeated_epochs + power_losses == 0

    def to_json(self) -> dict[str, Any]:
        """Return plain values for `json.dumps`."""
        return {**asdict(self), "is_clean": self.is_clean}


def run_faults(
    *, kills: int = 1_000, lifecycle_kills: int = 1_000, power_cuts: int = 40, seed: int = 0
) -> FaultsResult:
    """Kill, and cut the power where this machine can; every count in the result is measured in this run."""
    start = time.monotonic()
    killed = run_kills(kills=kills, seed=seed)
    lifecycle = run_lifecycle_kills(kills=lifecycle_kills, seed=seed)
    missing = missing_for_power_cuts()
    power = run_power_cuts(power_cuts=power_cuts, seed=seed) if missing is None else None
    return FaultsResult(killed, lifecycle, power, missing, round(time.monotonic() - start, 1))
