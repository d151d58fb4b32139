"""Row `restarts`: restarts the IPC daemon of nucleus lite ten times.

The daemon forgets every token each time.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from simulator.bench.greengrass.greengrass_testbed import INSPECTOR_NAME, GreengrassTestbed
from simulator.bench.greengrass.result_row import GreengrassBenchSettings, RequirementRow

if TYPE_CHECKING:
    from collections.abc import Callable

_RESTARTS: Final = 10
_SECONDS: Final = 300.0  # well within the hour in which lite allows three starts
_SETTLED_S: Final = 90.0
_FPS: Final = 30.0


def measure_restarts(settings: GreengrassBenchSettings, report: Callable[[str], None]) -> list[RequirementRow]:
    """Restart the daemon at regular intervals, and count exits, starts and frames."""
    seconds = settings.seconds or _SECONDS
    with GreengrassTestbed("lite", fps=_FPS) as site:
        site.write_inspector()
        outcome = site.deploy()
        pid = site.pid
        report(f"{_FPS:g} frames/s for {seconds:g} s, {_RESTARTS} restarts of ggipcd")
        began = time.monotonic()
        for number in range(1, _RESTARTS + 1):
            time.sleep(max(0.0, began + number * seconds / (_RESTARTS + 1) - time.monotonic()))
            site.nucleus.restart_ipc_daemon()
        time.sleep(max(0.0, began + seconds - time.monotonic()))
        listener = site.listener
        listener.wait(site.is_drained, _SETTLED_S)
        component, same = site.nucleus.component(INSPECTOR_NAME), site.pid == pid
        site.remove_components()
        listener.wait(lambda: listener.lost == 0, _SETTLED_S)
        figures: dict[str, Any] = {
            "seconds": seconds,
            "deployed": outcome.status,
            "restarts": _RESTARTS,
            "exits": len(component.exit_codes),
            "starts": component.starts,
            "same_process": same,
            "frames": listener.unique,
            "lost": listener.lost,
            "dropped_by_the_device": listener.dropped,
        }
    enough = listener.unique >= 0.9 * _FPS * seconds  # less: the line stood still
    return [
        RequirementRow(
            "restarts",
            f"lite, {_FPS:g} frames/s, {seconds:g} s, {_RESTARTS} restarts of its IPC daemon: exits of the component, "
            f"frames lost or dropped of {listener.unique:,}",
            "0, 0",
            f"{figures['exits']}, {listener.lost + listener.dropped}",
            met=enough and same and figures["exits"] == listener.lost == listener.dropped == 0,
            figures=figures,
        )
    ]
