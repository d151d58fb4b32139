"""Memory, start time and imports of `kensa run` in a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import cv2
import psutil
import yaml

from agent.errors import KensaError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.records import Pixels
    from simulator.doubles.network.mqtt_broker import LocalBroker

_RUN_S: Final = 12.0  # outbox, history and keeper have worked by then, and `agent.health.memory_trim` once
_PEAK: Final = re.compile(r"VmHWM:\s+(\d+) kB")
_FIRST: Final = re.compile(r"first verdict ([0-9.]+) s after the process began")
_FORBIDDEN: Final = ("boto3", "botocore", "tuf", "torch", "awscrt")


@dataclass(frozen=True, slots=True)
class ProcessResult:
    """What one run of `kensa run` with one 30 fps folder camera showed."""

    rss_mb: float  # resident, at the end of the run
    rss_peak_mb: float  # the most that was ever resident: the start, before what only it needed is given back
    first_verdict_s: float  # from the start of the process, interpreter included
    forbidden_modules: tuple[str, ...]  # libraries mapped or imported that must not be


def _write_camera(folder: Path, frames: Sequence[Pixels]) -> None:
    folder.mkdir()
    for index, frame in enumerate(frames):
        cv2.imwrite(str(folder / f"{index:03d}.jpg"), frame, [cv2.IMWRITE_JPEG_QUALITY, 92])


def measure_process(
    release: Path, *, frames: Sequence[Pixels], broker: LocalBroker, roi: Sequence[int]
) -> ProcessResult:
    """Run `kensa run` on a folder of 1080p JPEGs at 30 fps and look at it from outside. Raises KensaError."""
    with tempfile.TemporaryDirectory(prefix="kensa-bench-") as name:
        base = Path(name)
        _write_camera(base / "images", frames)
        tree = {
            "thing": "bench",
            "line": "bench",
            "state_dir": "state",
            "transport": {"kind": "mqtt", "host": broker.host, "port": broker.port, "protocol": "3.1.1"},
            "inspections": {
                "part": {
                    "release": str(release.resolve()),
                    "roi": list(roi),
                    "cameras": {"cam": {"kind": "folder", "path": "images", "fps": 30, "loop": True}},
                }
            },
        }
        (base / "kensa.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
        # The module list is the process's own: it is printed by the interpreter on its way out.
        program = (
            "import atexit, sys; loaded = lambda: sorted({m.split('.')[0] for m in sys.modules}); "
            "atexit.register(lambda: print('modules', *loaded(), file=sys.stderr)); "
            "from agent.cli import main; sys.exit(main(['run', sys.argv[1]]))"
        )
        log = base / "log"
        with log.open("w", encoding="utf-8") as stderr:
            process = subprocess.Popen([sys.executable, "-c", program, str(base / "kensa.yaml")], stderr=stderr)
            try:
                time.sleep(_RUN_S)
                rss = psutil.Process(process.pid).memory_info().rss
                peak = _PEAK.search(Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8"))
            except (psutil.NoSuchProcess, OSError):
                rss, peak = 0, None
            finally:
                process.terminate()
                process.wait(timeout=20.0)
        text = log.read_text(encoding="utf-8")
    first, modules = _FIRST.search(text), re.search(r"^modules (.*)$", text, re.MULTILINE)
    if first is None or modules is None or not rss or peak is None:
        raise KensaError(f"kensa run did not inspect in the benchmark; its log:\n{text[-2_000:]}")
    loaded = set(modules[1].split())
    forbidden = tuple(m for m in _FORBIDDEN if m in loaded)
    return ProcessResult(rss / 1e6, int(peak[1]) * 1024 / 1e6, float(first[1]), forbidden)
