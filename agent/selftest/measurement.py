"""Measures latency side by side, and resident memory; a busy line must not decide the outcome."""

from __future__ import annotations

import resource
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from agent.ports import Model
    from agent.records import Geometry, Pixels

_ROUNDS: Final = 15
_REPETITIONS: Final = 5
_HOPELESS_RATIO: Final = 3.0  # times the limit: no repetition brings that back
_SLOW_S: Final = 0.25  # a single inference so slow needs no more rounds than a few
_STATM: Final = Path("/proc/self/statm")


@dataclass(frozen=True, slots=True)
class Latency:
    """Medians of one repetition, milliseconds of processor time for one input."""

    candidate_ms: float
    champion_ms: float
    ratio: float  # median of the rounds' ratios


def resident_bytes() -> int:
    """Memory of this process that is in use."""
    return int(_STATM.read_text(encoding="ascii").split()[1]) * resource.getpagesize()


def _grey_images(geometry: Geometry, count: int) -> Pixels:
    return np.full((count, geometry.height, geometry.width, geometry.channels), 128, np.uint8)


def warm_up(model: Model, max_batch: int) -> None:
    """Run the largest batch and a single input: what the model takes, it has taken then. Raises InferenceError."""
    for count in (max_batch, 1):
        model.infer(_grey_images(model.geometry, count))


def _once_s(model: Model, image: Pixels) -> float:
    """Processor time of one inference. It runs on this thread alone, so waiting for a processor does not count."""
    began = time.thread_time()
    model.infer(image)
    return time.thread_time() - began


def latency_ms(model: Model) -> float:
    """Median milliseconds of one input."""
    image = _grey_images(model.geometry, 1)
    return statistics.median(_once_s(model, image) for _ in range(_ROUNDS)) * 1_000


def compare_latency(candidate: Model, champion: Model, *, enough: float) -> Latency:
    """Rounds of one inference each, in turn; the best of some repetitions, fewer where the outcome is plain.

    A cache that another process cleared hits neighbours in time alike, so each round gives a ratio of its own.
    """
    mine, theirs = _grey_images(candidate.geometry, 1), _grey_images(champion.geometry, 1)
    best: Latency | None = None
    for _ in range(_REPETITIONS):
        pairs: list[tuple[float, float]] = []
        while len(pairs) < (3 if pairs and pairs[0][0] > _SLOW_S else _ROUNDS):
            theirs_s = _once_s(champion, theirs)
            pairs.append((_once_s(candidate, mine), max(theirs_s, 1e-9)))
        seen = Latency(
            statistics.median(a for a, _ in pairs) * 1_000,
            statistics.median(b for _, b in pairs) * 1_000,
            statistics.median(a / b for a, b in pairs),
        )
        if best is None or seen.ratio < best.ratio:
            best = seen
        if best.ratio <= enough or best.ratio > _HOPELESS_RATIO * enough:
            break
    assert best is not None  # noqa: S101 - at least one repetition ran
    return best
