"""Exponential back-off with jitter: how long to wait after failures in a row.

The one definition for cameras, brokers, topics, uploads, fetches and restarted threads; each place states its own
first and longest delay. Pure: the caller waits, and brings the source of randomness.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from random import Random

_MAX_DOUBLINGS: Final = 32  # keeps the power finite; every `longest_s` is reached long before
_UPPER_HALF: Final = (0.5, 1.0)


@dataclass(frozen=True, slots=True)
class Backoff:
    """Delays of `first_s` seconds, multiplied by `growth` for each further failure in a row, `longest_s` at most.

    `jitter` is the range of the random factor. By default only the upper half of a delay is random: without it all
    devices or cameras behind a restarted broker or switch would come back in step.
    """

    first_s: float
    longest_s: float
    growth: float = 2.0
    jitter: tuple[float, float] = _UPPER_HALF

    def ceiling_s(self, failures: int) -> float:
        """Return the delay after `failures` >= 1 failures in a row, without jitter."""
        return min(self.longest_s, self.first_s * self.growth ** min(failures - 1, _MAX_DOUBLINGS))

    def delay_s(self, failures: int, random: Random) -> float:
        """Return the jittered delay after `failures` >= 1 failures in a row."""
        return self.ceiling_s(failures) * random.uniform(*self.jitter)


class FailureCounter:
    """Counts the failures in a row of one task and draws the delay after each. For one thread."""

    def __init__(self, backoff: Backoff, random: Random) -> None:
        """Nothing has failed yet."""
        self._backoff = backoff
        self._random = random
        self.failures = 0

    def next_delay_s(self) -> float:
        """Count one more failure; return the seconds to wait."""
        self.failures += 1
        return self._backoff.delay_s(self.failures, self._random)

    def reset(self) -> None:
        """The task succeeded, or somebody asked for an attempt now."""
        self.failures = 0
