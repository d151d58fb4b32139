"""What this process uses, and how warm the machine is.

Promise: reading never raises; what a machine does not tell is None. Reading sensors can take milliseconds: never call
this on the hot path.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import psutil

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Drivers that measure the processor, most precise first; without one of them the hottest sensor of all counts.
_CPU_CHIPS: Final = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "cpu-thermal", "soc_thermal", "acpitz")
_PLAUSIBLE_C: Final = (-40.0, 150.0)  # sensors without a chip behind them report 0 K, 255 and worse


@dataclass(frozen=True, slots=True)
class ProcessUsage:
    """Usage at one moment."""

    cpu_s: float  # processor time since the process began, all threads
    rss_bytes: int
    temperature_c: float | None = None  # of the processor, or the hottest part that tells
    memory_used: float | None = None  # share of the machine's memory in use, 0..1


def hottest_c(sensors: Mapping[str, Sequence[float]]) -> float | None:
    """Choose from {driver: readings in degrees Celsius}: the processor's hottest, else the hottest plausible of all."""
    low, high = _PLAUSIBLE_C
    usable = {
        chip: max(values)
        for chip, readings in sensors.items()
        if (values := [v for v in readings if math.isfinite(v) and low < v < high and v != 0.0])
    }
    for chip in _CPU_CHIPS:
        if chip in usable:
            return usable[chip]
    return max(usable.values(), default=None)


class ProcessMeter:
    """Reads this process; keeps nothing but its handle."""

    def __init__(self) -> None:
        """Attach to the calling process."""
        self._process = psutil.Process()

    def read(self) -> ProcessUsage:
        """Return the usage now."""
        with self._process.oneshot():
            times = self._process.cpu_times()
            rss = self._process.memory_info().rss
        return ProcessUsage(
            cpu_s=times.user + times.system,
            rss_bytes=rss,
            temperature_c=self._temperature_c(),
            memory_used=min(1.0, psutil.virtual_memory().percent / 100.0),
        )

    @staticmethod
    def _temperature_c() -> float | None:
        try:
            sensors = psutil.sensors_temperatures()
        except (OSError, ValueError):  # a driver that went away, or wrote what is no number
            return None
        return hottest_c({chip: [entry.current for entry in entries] for chip, entries in sensors.items()})


def process_age_s() -> float:
    """Seconds since this process began, the interpreter's own start included; resolution 10 ms (proc(5), starttime)."""
    return time.time() - psutil.Process().create_time()
