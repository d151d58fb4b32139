"""A whole agent that runs out of resources while parts pass; a child of `test_exhaustion`.

`python exhausted_victim.py FOLDER LIMIT SECONDS` prints one JSON object on what became of it.
"""

from __future__ import annotations

import json
import resource
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2

from agent import app, config, control
from agent.adapters.image_folder import ImageFolderSource
from agent.errors import ThreadLimitError
from agent.inspection.latest_frames import latest_frames_of
from agent.timing.clock import SystemClock
from simulator.doubles.network.memory_transport import MemoryTransport
from tests.kits.releases import spot_images, write_release

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.ports import FrameSource

CAMERAS = 16
PATIENCE_S = 90.0


def write_line(folder: Path, *, cameras: int = CAMERAS) -> config.Config:
    write_release(folder / "release")
    (folder / "images").mkdir()
    for index, image in enumerate(spot_images(8)[0]):
        cv2.imwrite(str(folder / "images" / f"{index}.png"), image)
    camera = {"kind": "folder", "path": "images", "fps": 10.0, "loop": True}
    tree = {
        "thing": "thing", "line": "line", "state_dir": "state", "workers": 2, "metrics": {"port": 0},
        "transport": {"kind": "none"}, "heartbeat_s": 1.0,
        "inspections": {"spots": {
            "release": "release", "cameras": {f"cam{index}": camera for index in range(cameras)},
        }},
    }  # fmt: skip
    return config.parse(tree, source="test", base=folder)


def live(folder: Path) -> dict[str, FrameSource]:
    """Half of the cameras are live ones, which have a reading thread for each opening.

    Not where memory is short: `Thread.start` of CPython waits for ever for a thread that meets a MemoryError before its
    first line.
    """

    def make() -> FrameSource:
        return ImageFolderSource(path=folder / "images", fps=10.0, loop=True, clock=SystemClock())

    return {f"cam{index}": latest_frames_of(make, name=f"cam{index}") for index in range(0, CAMERAS, 2)}


def _memory_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _no_thread(*_arguments: Any) -> int:
    """What CPython does where the system refuses a thread."""
    raise RuntimeError("can't start new thread")


def squeeze(what: str) -> Callable[[], None]:
    """Leave the process no more of `what`; return what lets it go."""
    if what == "threads":
        start = threading._start_new_thread  # type: ignore[attr-defined]
        threading._start_new_thread = _no_thread  # type: ignore[attr-defined]
        return lambda: setattr(threading, "_start_new_thread", start)
    kind, value = {
        "descriptors": (resource.RLIMIT_NOFILE, 3),
        "memory": (resource.RLIMIT_AS, _memory_bytes()),
        "disk": (resource.RLIMIT_FSIZE, 0),
    }[what]
    before = resource.getrlimit(kind)
    resource.setrlimit(kind, (value, before[1]))
    return lambda: resource.setrlimit(kind, before)


def until(is_reached: Any) -> bool:
    deadline = time.monotonic() + PATIENCE_S
    while not is_reached():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def inspected(agent: app.Agent) -> dict[str, int]:
    return {camera: view.counters.snapshot().inspected for camera, view in agent.cameras.items()}


def all_go_on(agent: app.Agent) -> bool:
    """Whether every camera judges 5 more parts from now on."""
    before = inspected(agent)
    return until(lambda: all(count >= before[camera] + 5 for camera, count in inspected(agent).items()))


def main(folder: Path, what: str, seconds: float) -> dict[str, Any]:
    transport = MemoryTransport()
    given = write_line(folder)
    agent = app.build(given, transport=transport, sources=live(folder) if what != "memory" else None)
    agent.start()
    assert all_go_on(agent)
    names = sorted(thread.name for thread in threading.enumerate())
    let_go = squeeze(what)
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        for view in agent.cameras.values():
            try:
                view.capture.reconfigure(view.settings)  # every camera is closed and opened again, under the limit
            except (MemoryError, OSError, ThreadLimitError):
                break
        time.sleep(seconds / 4)
    errors = sorted({str(view.capture.status.last_error) for view in agent.cameras.values()})[:3]
    let_go()
    found = {
        "went_on": all_go_on(agent),
        "states": sorted({str(view.capture.status.state) for view in agent.cameras.values()}),
        "threads_lost": sorted(set(names) - {thread.name for thread in threading.enumerate()}),
        "answers": "heartbeat" in control.request(folder / "state", "status"),
        "storage_ok": until(lambda: agent.outbox.stats().storage_error is None),
        "ended": None if (end := agent.wait(0.2)) is None else str(end),
        "faults": dict(agent.supervisor.faults().by_kind),
        "errors": errors,
    }
    found["clean"] = agent.stop()
    accounts = [view.counters.snapshot() for view in agent.cameras.values()]
    found["pending"] = sum(account.pending for account in accounts)
    found["unaccounted"] = sum(a.captured - a.inspected - a.dropped_total for a in accounts)
    stats = agent.outbox.stats()
    found["verdicts_lost"] = stats.appended - stats.committed
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]))))
