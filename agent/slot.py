"""ModelSlot: the one place where the model wing touches the loop.

A worker takes a lease once per batch, before preprocessing: session, geometry, thresholds and identity of the whole
batch come from that lease, so no batch mixes versions, and a swap is one reference store between two batches. CPython
stores and loads a reference atomically; no lock is taken on the hot path.

The model wing calls `begin_shadow`, `begin_trial`, `end_trial`, `switch`, `revert` and `settle`, from one thread; the
loop calls `lease`, from many.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.ports import Model
    from agent.records import DecisionRule, Frame, Judgement, Observation

_HASH_BYTES: Final = 8
_HASH_RANGE: Final = float(1 << (8 * _HASH_BYTES))


class ShadowTap(Protocol):
    """Where the loop leaves frames for a model that is only watched. Made by the model wing."""

    def offer(
        self, frame: Frame, *, key: str, judgement: Judgement, champion_us: int, release: Callable[[int], None]
    ) -> bool:
        """Take a reference to the frame with the champion's raw result, or refuse; never blocks, never copies.

        True: the tap owns `frame.buffer` from now on and calls `release(frame.buffer)` once it is done with the pixels.
        False: the caller keeps it.
        """


@dataclass(frozen=True, slots=True)
class Trial:
    """A challenger that judges a share of the parts beside the champion; the stricter of the two outcomes counts.

    `observe` gets every part of the inspection, assigned or not; it is called on the workers' threads and must neither
    block nor raise. The assignment is a hash of the part, so it can be replayed, and a part that is in at some share
    stays in at every larger one.
    """

    challenger: Lease
    share: float  # of the parts, in [0, 1]
    salt: str  # the candidate's digest
    observe: Callable[[Observation], None]

    def assigned(self, part: str) -> bool:
        """Does this part (its part id, or its verdict's key) go to the challenger too?"""
        digest = hashlib.blake2b(f"{self.salt}/{part}".encode(), digest_size=_HASH_BYTES).digest()
        return int.from_bytes(digest, "big") < self.share * _HASH_RANGE


@dataclass(frozen=True, slots=True, eq=False)
class Lease:
    """What one batch is judged with. `rule` is the model's own with the site's thresholds laid over it."""

    model: Model
    rule: DecisionRule
    shadow: ShadowTap | None = None
    trial: Trial | None = None


class ModelSlot:
    """Holds the lease that the next batch will take; None means SAFE: every part is `unknown`."""

    def __init__(self, lease: Lease | None = None) -> None:
        """Start with `lease`."""
        self._lease = lease
        self._kept: Lease | None = None

    def lease(self) -> Lease | None:
        """The current lease; it stays valid for as long as the caller holds it."""
        return self._lease

    def begin_shadow(self, tap: ShadowTap) -> None:
        """Offer frames to `tap` from the next batch on. Does nothing in SAFE: there is no champion to compare with."""
        if self._lease is not None:
            self._lease = replace(self._lease, shadow=tap, trial=None)

    def begin_trial(self, trial: Trial) -> None:
        """Let `trial.challenger` judge its share beside the champion from the next batch on; also widens a share."""
        if self._lease is not None:
            self._lease = replace(self._lease, shadow=None, trial=trial)

    def end_trial(self) -> None:
        """From the next batch on the champion judges alone: the end of a shadow, and the rollback of a trial."""
        if self._lease is not None:
            self._lease = replace(self._lease, shadow=None, trial=None)

    def switch(self, lease: Lease | None) -> None:
        """Let the next batch be judged with `lease`; batches already leased finish with theirs.

        The champion until now stays loaded for `revert`, until `settle`.
        """
        kept = self._lease
        self._kept = None if kept is None else replace(kept, shadow=None, trial=None)
        self._lease = lease

    def revert(self) -> bool:
        """Go back to the lease before the last `switch`, in one store; False when it is no longer kept."""
        if self._kept is None:
            return False
        self._lease, self._kept = self._kept, None
        return True

    def settle(self) -> None:
        """Let the lease before the last `switch` go: its session is freed."""
        self._kept = None
