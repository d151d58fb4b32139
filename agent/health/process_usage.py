"""Measures the CPU time and memory of this process, and the temperature of the machine.

Promise: reading never raises; a value that a machine does not provide is None. Reading sensors can take milliseconds:
never call this on the hot path.
"""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import psutil

# Drivers that measure the processor, most precise first; without any of them the hottest sensor counts.
_CPU_CHIPS: Final = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "cpu-thermal", "soc_thermal", "acpitz")
_PLAUSIBLE_C: Final = (-40.0, 150.0)  # sensors without a chip behind them report 0 K, 255 and worse


@dataclass(frozen=True, slots=True)
class ProcessUsage:
    """Usage at one moment."""

    cpu_s: float  # processor time since the process began, all threads
    rss_bytes: int
    temperature_c: float | None = None  # of the processor, or of the hottest sensor
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
    """Reads this process. psutil is imported at the first reading, because that takes 40 ms."""

    def __init__(self) -> None:
        """Prepare; nothing is read yet."""
        self._process: psutil.Process | None = None

    def read(self) -> ProcessUsage:
        """Return the present usage."""
        import psutil  # noqa: PLC0415 - see the class

        process = self._process = self._process or psutil.Process()
        with process.oneshot():
            times = process.cpu_times()
            rss = process.memory_info().rss
        try:
            sensors = psutil.sensors_temperatures()
        except (OSError, ValueError):  # a driver that disappeared, or wrote something that is no number
            sensors = {}
        return ProcessUsage(
            cpu_s=times.user + times.system,
            rss_bytes=rss,
            temperature_c=hottest_c({chip: [entry.current for entry in entries] for chip, entries in sensors.items()}),
            memory_used=min(1.0, psutil.virtual_memory().percent / 100.0),
        )


def process_age_s() -> float:
    """Return the seconds since this process began, the interpreter's start included, to 10 ms (proc(5), starttime)."""
    after_name = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
    began_s = int(after_name[19]) / os.sysconf(
        "SC_CLK_TCK"
    )  # field 22; the name, which may hold blanks, was the second
    return time.clock_gettime(time.CLOCK_BOOTTIME) - began_s
