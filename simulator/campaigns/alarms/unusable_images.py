"""Runs unusable images through the whole agent, and counts false alarms on good ones.

None of the unusable images gets `ok` from the third on.

Spoilt images and frozen sources go through the product as `app.build` composes it, with the bundled release. Good
images are counted at the check itself, which is what alone could refuse them: each rendered part is exposed many
times (gain within what the shipped lines' lamps and exposures do, sensor noise, position), because drawing 100,000
parts takes hours; the real images are each measured once, against a golden set drawn from their training split.
"""

from __future__ import annotations

import csv
import os
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np

from agent import app, config
from agent.adapters.onnx import OnnxModel
from agent.images import plausibility
from agent.inspection.freeze_detector import FreezeDetector
from agent.preprocess import Preprocessor
from agent.records import Geometry, Grab, Outcome
from simulator.doubles.cameras.simulated_cameras import MjpegServer
from simulator.line import CAMERAS, LineConfig, SimulatedLine
from simulator.line.image_faults import ImageFaultInjector, InjectedFault

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from agent.images.plausibility import ImageLimits
    from agent.ports import FrameSource
    from agent.records import Pixels, Verdict

EXPOSURES: Final = 50  # of each rendered part
REAL_SETS: Final = ("xsdd", "magtile")
_BASE: Final = 3  # parts that degraded images are made from
_DEGRADATIONS: Final = 12  # degraded images that a camera shows in turn
_CHUNK: Final = 20  # rendered parts of one seed
_MJPEG_FPS: Final = 400.0
_STILL_S: Final = 120.0
_GOLDEN: Final = 120  # images of a real set's stand-in for a golden set
_REAL_GEOMETRY: Final = Geometry(mode="whole", height=224, width=224, channels=1)
_LINES: Final = (  # the light of the lines that this repository ships
    LineConfig(defect_rate=0.0),
    LineConfig(defect_rate=0.03, drift_period_parts=40),
    LineConfig(defect_rate=0.5, drift_amplitude=0.22, drift_shape="ramp", drift_period_parts=10, exposure_step=0.02),
)


# --- degraded images and frozen sources -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class UnusableImageCount:
    """One kind of fault: its verdicts, and how many were `ok` from the third one on."""

    kind: str
    outcomes: dict[str, int]
    late_ok: int
    alarm: str | None


class _ReplaySource:
    """A camera that shows `pictures` in turn, `count` exposures altogether, as fast as they are taken."""

    def __init__(self, pictures: Sequence[Pixels], count: int) -> None:
        self._pictures, self._left = pictures, count

    def open(self) -> None:
        """See `FrameSource.open`."""

    def read(self, *, timeout_s: float, buffer: Pixels | None) -> Grab | None:
        """See `FrameSource.read`: after the last exposure it is silent, so that the alarm can still be read."""
        if self._left == 0:
            time.sleep(timeout_s)
            return None
        self._left -= 1
        return Grab(self._pictures[self._left % len(self._pictures)], time.monotonic_ns())

    def close(self) -> None:
        """See `FrameSource.close`."""


def run_unusable_images(
    *, release: Path, count: int, seed: int, kinds: Iterable[str] | None = None
) -> list[UnusableImageCount]:
    """Let `count` images of each kind pass an agent; a frozen source is read raw, and over MJPEG."""
    line = SimulatedLine(LineConfig(seed=seed + 100, defect_rate=0.1))
    found = []
    for kind in kinds or (*InjectedFault, "frozen_mjpeg"):
        if kind == "frozen_mjpeg":
            jpeg = cv2.imencode(".jpg", line.render_roi(0))[1].tobytes()
            with MjpegServer(picture=lambda _n, jpeg=jpeg: jpeg, fps=_MJPEG_FPS) as server:  # type: ignore[misc]
                camera = {"kind": "mjpeg", "url": server.url}
                found.append(_inspect_kind(kind, release, camera, None, roi=None, count=count))
            continue
        spoiler = ImageFaultInjector(seed=seed)
        base = [line.render(index) for index in range(_BASE)]
        pictures = [
            spoiler.apply(base[i % _BASE], InjectedFault(kind))
            for i in range(1 if kind == InjectedFault.FROZEN else _DEGRADATIONS)
        ]
        camera = {"kind": "plugin", "source": "campaign"}
        found.append(
            _inspect_kind(str(kind), release, camera, _ReplaySource(pictures, count), roi=line.roi, count=count)
        )
    return found


def _inspect_kind(
    kind: str, release: Path, camera: dict[str, Any], source: FrameSource | None, *, roi: Any, count: int
) -> UnusableImageCount:
    outcomes: dict[int, Outcome] = {}  # by number: those of a network camera may have holes

    def observe(verdicts: Sequence[Verdict]) -> None:
        outcomes.update((verdict.seq, verdict.judgement.outcome) for verdict in verdicts)

    with tempfile.TemporaryDirectory(prefix="kensa-pictures-") as folder:
        tree = {
            "thing": "campaign",
            "line": "campaign",
            "state_dir": folder,
            "workers": 1,
            "transport": {"kind": "none"},
            "inspections": {
                "part": {
                    "release": str(release.resolve()),
                    "roi": None if roi is None else list(roi),
                    "intake": {"policy": "wait", "capacity": 16},
                    "cameras": {"cam": camera},
                }
            },
        }
        settings = config.parse(tree, source="campaign", base=Path(folder))
        with app.build(settings, sources={} if source is None else {"cam": source}, observe=observe) as agent:
            give_up = time.monotonic() + _STILL_S + count / 100
            while len(outcomes) < count and time.monotonic() < give_up:
                time.sleep(0.05)
            alarm = agent.components.monitors["part"].alarm()
    in_order = [outcomes[seq] for seq in sorted(outcomes)]
    late_ok = in_order[2:].count(Outcome.OK)
    return UnusableImageCount(kind, {str(k): v for k, v in Counter(in_order).items()}, late_ok, alarm)


# --- good images ----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class GoodImageCount:
    """Good images, and those that the check would have refused."""

    pictures: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    nearest: dict[str, float] = field(default_factory=dict)  # how near the nearest image came to a limit; above 1: in

    def merge(self, other: GoodImageCount) -> None:
        """Take another chunk in."""
        self.pictures += other.pictures
        self.refused += other.refused
        for name, value in other.nearest.items():
            self.nearest[name] = min(value, self.nearest.get(name, value))

    def measure(self, inputs: Pixels, limits: ImageLimits) -> None:
        """Measure one part's inputs [tiles, H, W, C]."""
        seen = plausibility.measure(inputs)
        self.pictures += 1
        if fault := plausibility.find_fault(seen, limits):
            self.refused[str(fault)] += 1
        room = {
            "dark": seen.level / limits.darkest,
            "bright": (255.0 - seen.level) / (255.0 - limits.brightest),
            "flat": seen.contrast / limits.flattest,
        }
        for name, value in room.items():
            self.nearest[name] = round(min(value, self.nearest.get(name, value)), 3)


def run_good_images(*, release: Path, count: int, seed: int) -> GoodImageCount:
    """Expose simulated parts `count` times altogether, in chunks on all cores; see the module."""
    limits = OnnxModel.load(release).image_limits
    if limits is None:
        raise RuntimeError(f"{release} has no golden set that can be read")
    chunks = max(1, count // (_CHUNK * EXPOSURES))
    total = GoodImageCount()
    work = partial(_expose_chunk, limits=limits, seed=seed)
    if chunks == 1:
        return work(0)
    with ProcessPoolExecutor(os.cpu_count() or 1) as processes:
        for found in processes.map(work, range(chunks)):
            total.merge(found)
    return total


def _expose_chunk(number: int, *, limits: ImageLimits, seed: int) -> GoodImageCount:
    """Render `_CHUNK` parts of a line of its own and expose each `EXPOSURES` times, with the frozen check beside it."""
    light = _LINES[number % len(_LINES)]
    line = SimulatedLine(light.model_copy(update={"seed": seed * 1_000 + number}))
    rng = np.random.default_rng((seed, number))
    preprocessor = Preprocessor(Geometry(mode="whole", height=224, width=224, channels=3))
    inputs = np.empty((1, 224, 224, 3), np.uint8)
    noise = rng.standard_normal((256, 256, 3), np.float32)
    found, freeze = GoodImageCount(), FreezeDetector(0.0)
    first = int(rng.integers(0, 2_000))
    roi = (0, 0, CAMERAS["colour1080"].roi[2], CAMERAS["colour1080"].roi[3])
    for index in range(first, first + _CHUNK):
        frame = line.render_roi(index)
        if freeze.is_frozen(frame, 0):
            found.refused["frozen"] += 1
        preprocessor.write_to(frame[roi[1] : roi[1] + roi[3], roi[0] : roi[0] + roi[2]], inputs)
        plain = inputs[0].astype(np.float32)
        for _ in range(EXPOSURES):
            found.measure(_expose(plain, noise, rng)[None], limits)
    return found


def _expose(plain: np.ndarray[Any, np.dtype[np.float32]], noise: Any, rng: np.random.Generator) -> Pixels:
    """One more exposure of a model's input: gain of flicker and exposure, sensor noise reduced 4 x 4 fold, position."""
    gain = (1.0 + rng.uniform(-0.05, 0.05)) * (1.0 + rng.uniform(-0.01, 0.01))
    y, x = rng.integers(0, 32, 2)
    shifted = np.roll(plain, tuple(rng.integers(-3, 4, 2)), axis=(0, 1))
    lit = shifted * np.float32(gain) + noise[y : y + 224, x : x + 224] * np.float32(0.4)
    exposed: Pixels = np.clip(lit, 0.0, 255.0).astype(np.uint8)
    return exposed


def run_real_images(folder: Path, *, seed: int) -> GoodImageCount:
    """Measure every image of a real set against a golden set drawn from its training split, classes in turn."""
    with (folder / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    preprocessor, inputs = Preprocessor(_REAL_GEOMETRY), np.empty((len(rows), 224, 224, 1), np.uint8)
    for number, row in enumerate(rows):
        pixels = cv2.imread(str(folder / row["path"]), cv2.IMREAD_GRAYSCALE)
        if pixels is None:
            raise RuntimeError(f"{folder / row['path']} cannot be read")
        preprocessor.write_to(np.asarray(pixels, np.uint8), inputs[number : number + 1])
    limits = plausibility.measure_limits(inputs[_golden_rows(rows, seed)])
    found = GoodImageCount()
    for number in range(len(rows)):
        found.measure(inputs[number : number + 1], limits)
    return found


def _golden_rows(rows: Sequence[dict[str, str]], seed: int) -> list[int]:
    rng = np.random.default_rng(seed)
    by_class: dict[str, list[int]] = {}
    for number in rng.permutation([n for n, row in enumerate(rows) if row["split"] == "train"]):
        by_class.setdefault(rows[number]["class"], []).append(int(number))
    chosen: list[int] = []
    while len(chosen) < _GOLDEN and any(by_class.values()):
        chosen += [numbers.pop() for numbers in by_class.values() if numbers]
    return chosen[:_GOLDEN]
