"""Drift: whether scores have moved, and whether the model or light and camera are the cause. Pure.

Three comparisons, each over at least `window` parts that both models inspected, so that both saw the same parts:

1. The challenger now (last `window` parts) against itself earlier (first `window` parts of its shadow and trial).
2. The champion likewise, over the same parts. A model has no drift of its own: it gives the same image the same score.
   So if both moved, the images did: light or camera. If only the challenger moved, it does not tolerate what the
   champion tolerates.
3. The challenger against the champion, part by part. Their distributions differ whenever they were trained from
   different seeds or differently calibrated, which is no fault: on its own a large PSI between them proves nothing and
   blocks nothing. A fault is a score that is shifted by nearly the same amount on every part (a lost bias, a wrong zero
   point): the differences of the pairs then hardly scatter around their median. Independent models scatter as much as
   their scores do. A shift that changes outcomes is refused by the tests on outcomes long before.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from agent.sequential_tests import psi

if TYPE_CHECKING:
    from agent.release.rollout_policy import RolloutPolicy

_STRIDE: Final = 50  # parts between two comparisons: windows of 1,000 change slowly, and a comparison sorts them
_MIN_SHIFT: Final = 0.02  # of a score in [0, 1]; less is rounding of int8 arithmetic
_SHIFT_TO_SPREAD: Final = 8.0  # the median difference of pairs to their interquartile range


@dataclass(frozen=True, slots=True)
class DriftResult:
    """The last comparison; None before there were enough parts."""

    champion: float | None = None  # PSI of now against earlier
    challenger: float | None = None
    between: float | None = None  # PSI of the challenger's scores against the champion's, last parts
    shift: float = 0.0  # median difference challenger - champion over the same parts
    is_uniform_shift: bool = False


class DriftMonitor:
    """Compares the first and the last scores of both models."""

    def __init__(self, policy: RolloutPolicy) -> None:
        """Use window and limit of `policy`."""
        self._window = policy.psi_window
        self._block = policy.psi_block
        self._earlier: list[tuple[float, float]] = []
        self._now: deque[tuple[float, float]] = deque(maxlen=policy.psi_window)
        self._pairs = 0
        self._compared_at = 0
        self._drift = DriftResult()

    def add(self, champion: float, challenger: float) -> None:
        """Add the finite scores of one part."""
        self._pairs += 1
        if len(self._earlier) < self._window:
            self._earlier.append((champion, challenger))
        else:
            self._now.append((champion, challenger))

    def current(self) -> DriftResult:
        """Return the comparisons as of at most 50 parts ago."""
        if len(self._earlier) == self._window and (
            self._compared_at == 0 or self._pairs - self._compared_at >= _STRIDE
        ):
            self._compared_at = self._pairs
            self._drift = self._compare()
        return self._drift

    def _compare(self) -> DriftResult:
        earlier = np.array(self._earlier)
        is_full = len(self._now) == self._window
        latest = np.array(self._now) if is_full else earlier
        difference = latest[:, 1] - latest[:, 0]
        low, shift, high = (float(value) for value in np.quantile(difference, (0.25, 0.5, 0.75)))
        between = psi(latest[:, 0], latest[:, 1])
        uniform = between >= self._block and abs(shift) >= max(_MIN_SHIFT, _SHIFT_TO_SPREAD * (high - low))
        if not is_full:
            return DriftResult(between=between, shift=shift, is_uniform_shift=uniform)
        champion, challenger = (psi(earlier[:, i], latest[:, i]) for i in (0, 1))
        return DriftResult(champion, challenger, between, shift, uniform)
