"""Two lines with one kind of part, and the model that knows it in good light.

The parts are the simulated line's cast ones, half of them stained: few parts then say much about a model. The cameras
read the part's square with 2 x 2 pixels binned.
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np

from agent.errors import OperatorError
from agent.records import Grab
from simulator.line import LineConfig, SimulatedLine

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from agent.records import Pixels
    from agent.timing.clock import Clock

from agent.inspection.pacing import Pacer

SITE: Final = "plant-a"
MODEL: Final = "cast"
INSPECTION: Final = "surface"
FACTORY: Final = "1.0.0"  # the version that the lines start with
GEOMETRY: Final = "whole:112x112x3"
NET: Final = "slim"
EPOCHS: Final = 30
SIDE_PX: Final = 448  # of an image
DEFECT_RATE: Final = 0.5
FADED_LIGHT: Final = 0.22  # of the lamp's light, in the end
_SPLITS: Final = {"train": (11, 320), "val": (12, 60)}  # of what the first model learns: seed of the line, parts
_TRAIN_S: Final = 300.0
_LOG_CHARACTERS: Final = 1_000


def make_line(seed: int, **light: Any) -> SimulatedLine:
    """A line of this plant; `light` are the drift's fields of LineConfig, and nothing means that it does not drift."""
    fields = {"drift_amplitude": 0.0, "drift_shape": "ramp", **light}
    return SimulatedLine(
        LineConfig(
            seed=seed,
            surfaces=("cast",),
            kinds=("stain",),
            weak_share=0.0,
            exposure_step=0.02,
            defect_rate=DEFECT_RATE,
            **fields,
        )
    )


def bin_pixels(pixels: Pixels) -> Pixels:
    """The camera's image of the part's square: [SIDE_PX, SIDE_PX, 3] or [SIDE_PX, SIDE_PX] uint8."""
    return np.asarray(cv2.resize(pixels, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA), np.uint8)


class BinnedLineCamera:
    """A `FrameSource`: every part is a new one, drawn when it comes (some 20 ms)."""

    def __init__(self, line: SimulatedLine, *, fps: float, clock: Clock) -> None:
        """`fps` parts a second."""
        self.line = line
        self._pacer = Pacer(fps=fps, clock=clock)
        self._index = 0
        self._held = False

    @property
    def shown(self) -> int:
        """Parts that passed."""
        return self._index

    def pause(self) -> None:
        """Let no more parts come; from any thread."""
        self._held = True

    def open(self) -> None:
        """See `FrameSource.open`."""
        self._pacer.restart()

    def read(self, *, timeout_s: float, buffer: Pixels | None) -> Grab | None:
        """See `FrameSource.read`; ignores `buffer`."""
        del buffer
        due_ns = self._pacer.wait(timeout_s)
        if due_ns is None or self._held:
            return None
        index = self._index
        self._index += 1
        return Grab(pixels=bin_pixels(self.line.render_roi(index)), due_ns=due_ns, part_id=self.line.part_id(index))

    def close(self) -> None:
        """See `FrameSource.close`."""


def write_base_dataset(folder: Path) -> int:
    """Write the labelled images in good light, with masks, as `SPLIT/CLASS/NAME.png`; returns how many."""
    total = 0
    with ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="parts") as threads:
        for split, (seed, parts) in _SPLITS.items():
            line = make_line(seed)
            for name in ("ok", "stain"):
                (folder / split / name).mkdir(parents=True)
            (folder / "masks").mkdir(exist_ok=True)
            total += sum(threads.map(lambda index, to=split, of=line: _write_part(folder, to, of, index), range(parts)))
    return total


def _write_part(folder: Path, split: str, line: SimulatedLine, index: int) -> int:
    truth = line.truth(index)
    name = f"{truth.part_id}.png"
    _write(folder / split / truth.class_name / name, bin_pixels(line.render_roi(index)))
    if truth.is_defective:
        _write(folder / "masks" / name, bin_pixels(line.mask_roi(index)))
    return 1


def _write(path: Path, pixels: Pixels) -> None:
    _, data = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    path.write_bytes(data.tobytes())


def train_first_model(data: Path, out: Path, *, stopped: Callable[[], bool]) -> None:
    """Train the model that the lines start with: `kensa train` in a process of its own. Raises OperatorError."""
    given = {
        "--data": str(data), "--out": str(out), "--name": MODEL, "--version": FACTORY, "--net": NET,
        "--geometry": GEOMETRY, "--head": "evidence", "--epochs": str(EPOCHS), "--threads": "2",
    }  # fmt: skip
    arguments = [text for pair in given.items() for text in pair]
    log = out.with_suffix(".log")
    program = "import sys; from agent.cli import main; sys.exit(main())"
    with log.open("wb") as file:
        child = subprocess.Popen([sys.executable, "-c", program, "train", *arguments], stdout=file, stderr=file)
        try:
            while child.poll() is None and not stopped():
                try:
                    child.wait(0.2)
                except subprocess.TimeoutExpired:
                    continue
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
    if child.returncode != 0:
        said = log.read_text(encoding="utf-8", errors="replace")[-_LOG_CHARACTERS:]
        raise OperatorError(f"the first model could not be trained:\n{said}")
