"""The simulated line as a camera: one exposure per part, triggered, handed over by reference.

Invariants: the images of a pooled line are rendered before the first exposure and never copied or changed after it;
on a line that varies each exposure is made from a blank part, in the reader's buffer, before it is due;
part ids are unique within a source, also over a reconnection; `SimulatedLine(config).truth(part_id)` anywhere tells
the truth of every exposure.
"""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path  # noqa: TC003 - pydantic reads the annotation
from typing import TYPE_CHECKING, Annotated, Self

import numpy as np
from pydantic import Field, ValidationError, model_validator

from agent.errors import CameraError, ConfigError, SourceEndedError
from agent.inspection.pacing import Pacer
from agent.records import Grab
from simulator.line import part_sequence
from simulator.line.config import LineConfig
from simulator.line.image_faults import ImageFaultInjector, InjectedFault
from simulator.line.render import RENDERER_VERSION, SimulatedLine

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agent.records import Pixels
    from agent.timing.clock import Clock

DEFAULT_POOL = 32  # images; 0.2 GB of 1080p frames
_DRAWN_AHEAD = 64  # parts; a defect takes up to 0.1 s to draw, which is 12 parts of a fast line


class SimulatedCameraOptions(LineConfig):
    """What a configuration may say about a simulated camera: the line's own keys and these."""

    pool: Annotated[int, Field(ge=0, le=4096)] = DEFAULT_POOL
    fps: Annotated[float, Field(gt=0.0, le=10_000.0, allow_inf_nan=False)] | None = 30.0  # null: as fast as taken
    parts: Annotated[int, Field(ge=1)] | None = None  # null: without end
    first_part: Annotated[int, Field(ge=0)] = 0
    cache_dir: Path | None = None  # where rendered pools are kept between runs; of no use to a line that varies
    image_fault: InjectedFault | None = None  # what is wrong with some of the images
    image_fault_after_parts: Annotated[int, Field(ge=0)] = 0  # good ones before
    image_fault_parts: Annotated[int, Field(ge=1)] | None = None  # null: without end

    @model_validator(mode="after")
    def _frozen_needs_varying_pictures(self) -> Self:
        if self.image_fault is InjectedFault.FROZEN and self.pool and not self.vary:
            msg = "frozen needs pool: 0, or vary: true, because the pictures of a pool repeat by themselves"
            raise ValueError(msg)
        return self

    def line(self) -> LineConfig:
        """Return the line's part of the options: what a reader of the truth needs."""
        return LineConfig.model_validate(self.model_dump(include=set(LineConfig.model_fields)))


def from_config(options: Mapping[str, object], *, clock: Clock) -> SimulatedSource:
    """Return the source that a camera's `options` describe. Raises ConfigError with every refused key."""
    try:
        checked = SimulatedCameraOptions.model_validate(dict(options))
    except ValidationError as error:
        lines = [
            f"  options.{'.'.join(map(str, problem['loc']))}: given {problem['input']!r}; "
            f"{_allowed(problem['type'], problem['msg'])}"
            for problem in error.errors()
        ]
        raise ConfigError("the simulated camera is refused:\n" + "\n".join(lines)) from error
    return SimulatedSource(
        line=SimulatedLine(checked.line()),
        clock=clock,
        fps=checked.fps,
        parts=checked.parts,
        first_part=checked.first_part,
        cache_dir=checked.cache_dir,
        image_fault=None
        if checked.image_fault is None
        else ImageFaultWindow(checked.image_fault, checked.image_fault_after_parts, checked.image_fault_parts),
    )


def _allowed(kind: str, message: str) -> str:
    if kind == "extra_forbidden":
        return f"no such key; allowed: {', '.join(sorted(SimulatedCameraOptions.model_fields))}"
    return message[:1].lower() + message[1:]


@dataclass(frozen=True, slots=True)
class ImageFaultWindow:
    """Which parts' images are spoilt, and how: `parts` of them (None: without end) after the first `after`."""

    kind: InjectedFault
    after: int = 0
    parts: int | None = None

    def covers(self, number: int) -> bool:
        """Whether it spoils the image of part `number`, counted from the first one that the source shows."""
        return self.after <= number and (self.parts is None or number < self.after + self.parts)


class SimulatedSource:
    """A `FrameSource` over a simulated line. Frames of a pool are read-only and stay valid as long as the source."""

    def __init__(
        self,
        *,
        line: SimulatedLine,
        clock: Clock,
        fps: float | None = None,
        parts: int | None = None,
        first_part: int = 0,
        cache_dir: Path | None = None,
        image_fault: ImageFaultWindow | None = None,
    ) -> None:
        """Nothing is rendered yet.

        Args:
            line: The line that passes.
            clock: Paces the exposures.
            fps: Parts a second; None: as fast as they are taken.
            parts: How many parts pass; None: without end.
            first_part: Index of the first part.
            cache_dir: Where rendered pools are kept between runs; None: nowhere.
            image_fault: What is wrong with some of the images; None: nothing.

        """
        self._line = line
        self._clock = clock
        self._pacer = Pacer(fps=fps, clock=clock)
        self._end = None if parts is None else first_part + parts
        self._first = self._index = first_part
        self._fault_window = image_fault
        self._fault_injector = ImageFaultInjector(seed=line.config.seed)
        self._cache_dir = cache_dir
        self._pool: Sequence[Pixels] = ()
        self._opened = False
        self._drawn = first_part  # defects of the parts before this one are drawn, or are being drawn
        self._defect_drawer: ThreadPoolExecutor | None = None  # draws defects of parts to come

    @property
    def may_repeat(self) -> bool:
        """Whether equal frames in a row are no fault: a pool is drawn from, so an image may follow itself."""
        return bool(self._line.config.pool) and not self._line.config.vary

    @property
    def line(self) -> SimulatedLine:
        """The line, for whoever needs the truth."""
        return self._line

    def open(self) -> None:
        """See `FrameSource.open`; renders the pool the first time, or maps it from the cache."""
        if self._line.config.vary:
            self._prepare_varied()
        elif self._line.config.pool and not self._pool:
            self._pool = self._load() if self._cache_dir is not None else self._render()
        self._opened = True
        self._pacer.restart()

    def read(self, *, timeout_s: float, buffer: Pixels | None) -> Grab | None:
        """See `FrameSource.read`; uses `buffer` on a line that varies only.

        A part of such a line is made before it is due, in some 2 ms, so that this adds nothing to its latency. Without
        a pool each part is rendered here, after it was due: some 50 ms.
        """
        if not self._opened:
            raise CameraError("the simulated camera is not open: call open() first")
        if self._index == self._end:
            raise SourceEndedError(
                f"all parts of the simulated line up to {self._line.part_id(self._index - 1)} passed"
            )
        varied = self._varied(buffer) if self._line.config.vary else None
        due_ns = self._pacer.wait(timeout_s)
        if due_ns is None:
            return None  # the part is made again next time, maybe in another buffer
        index = self._index
        self._index += 1
        line = self._line
        if varied is not None:
            pixels = varied
        else:
            pixels = self._pool[part_sequence.picture_of(line.config, index)] if self._pool else line.render(index)
        if self._fault_window is not None and self._fault_window.covers(index - self._first):
            pixels = self._fault_injector.apply(pixels, self._fault_window.kind)
        else:
            self._fault_injector.note_good_picture()
        return Grab(pixels=pixels, due_ns=due_ns, part_id=line.part_id(index))

    def close(self) -> None:
        """See `FrameSource.close`; the pool stays for the next `open`."""
        self._opened = False
        if self._defect_drawer is not None:
            self._defect_drawer.shutdown(cancel_futures=True)
            self._defect_drawer = None
            self._drawn = self._index

    def _prepare_varied(self) -> None:
        """Render the blank parts on all cores, the first time, and begin to draw defects ahead."""
        varied = self._line.varied
        varied.prepare()
        with ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="simulated-line") as threads:
            list(threads.map(varied.blank, range(self._line.config.pool)))
        if self._defect_drawer is None:
            self._defect_drawer = ThreadPoolExecutor(1, thread_name_prefix="simulated-defects")

    def _varied(self, buffer: Pixels | None) -> Pixels:
        """Make the next part, and let the defects of those after it be drawn."""
        until = self._index + _DRAWN_AHEAD if self._end is None else min(self._index + _DRAWN_AHEAD, self._end)
        while self._drawn < until and self._defect_drawer is not None:
            if part_sequence.is_defective(self._line.config, self._drawn):
                self._defect_drawer.submit(self._line.varied.draw_ahead, self._drawn)
            self._drawn += 1
        return self._line.varied.frame(self._index, buffer)

    def _render(self) -> list[Pixels]:
        """Render the pool on all cores (OpenCV and NumPy release the interpreter's lock)."""
        with ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="simulated-line") as threads:
            frames = list(threads.map(self._line.render_picture, range(self._line.config.pool)))
        for frame in frames:
            frame.flags.writeable = False
        return frames

    def _load(self) -> list[Pixels]:
        """Map the pool from the cache, after rendering it when it is not there. Raises CameraError."""
        assert self._cache_dir is not None  # noqa: S101 - for the type checker: open() asked
        described = f"{RENDERER_VERSION} {np.__version__} {self._line.config.model_dump_json()}"
        path = self._cache_dir / f"line-{hashlib.sha256(described.encode()).hexdigest()[:16]}.npy"
        camera = self._line.camera
        shape = (self._line.config.pool, camera.height, camera.width) + ((3,) if camera.channels == 3 else ())
        try:
            frames = self._map(path, shape)
            if frames is None:
                self._cache_dir.mkdir(parents=True, exist_ok=True)
                partial = path.with_suffix(f".{os.getpid()}.npy")
                np.save(partial, np.stack(self._render()))
                partial.replace(path)
                frames = self._map(path, shape)
        except OSError as error:
            raise CameraError(f"the cache {path} of the simulated line cannot be used: {error.strerror}") from error
        if frames is None:
            raise CameraError(f"the cache {path} of the simulated line changes while it is written: delete it")
        return frames

    @staticmethod
    def _map(path: Path, shape: tuple[int, ...]) -> list[Pixels] | None:
        """Return the cached frames, or None when the file is missing, truncated or not of `shape`."""
        try:
            stack = np.load(path, mmap_mode="r")
        except (FileNotFoundError, ValueError, EOFError):
            return None
        if stack.shape != shape or stack.dtype != np.uint8:
            return None
        plain = np.asarray(stack).view(np.ndarray)
        return [plain[number] for number in range(len(plain))]
