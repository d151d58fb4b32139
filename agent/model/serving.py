"""Which release the slot holds, and the ways to put another one there.

Promise: nothing reaches the slot whose bytes were not compared with its manifest, and that manifest with the digest in
the journal, in the same call. The model before the last switch stays loaded for the probation, so that going back to
it is one reference store.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from agent.clock import NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from agent.clock import Clock
    from agent.model.journal import Checkpoint, Installed
    from agent.model.store import Store
    from agent.records import ReleaseRef
    from agent.slot import Lease, ModelSlot

_FACTORY: Final = "factory"


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """What to load: a verified release folder. `ref` None is the factory release, which no metadata vouches for."""

    folder: Path
    ref: ReleaseRef | None
    trusted: bool
    optimised: Path | None = None  # the graph as this machine's runtime optimised it; the loader may do without
    optimised_sha256: str | None = None


class Serving:
    """The slot with names on what is in it. The lifecycle's thread uses it."""

    def __init__(
        self,
        *,
        slot: ModelSlot,
        store: Store,
        factory: Path,
        load: Callable[[LoadRequest], Lease],
        clock: Clock,
        probation_s: float,
        checkpoint: Checkpoint,
    ) -> None:
        """`load` raises ReleaseError. The slot is taken as it is: nothing that this object knows."""
        self._slot = slot
        self._store = store
        self._factory = factory
        self._load = load
        self._clock = clock
        self.probation_s = probation_s  # of the next switch
        self._checkpoint = checkpoint
        self._now: str | None = None  # key of what the slot holds
        self._kept: str | None = None  # key of what it held before the last switch
        self._settle_ns: int | None = None

    @property
    def is_safe(self) -> bool:
        """Whether the slot holds no model."""
        return self._slot.lease() is None

    def folder(self, installed: Installed | None) -> Path | None:
        """Return the folder of the model that judges now, for comparisons; None when there is none."""
        if self.is_safe:
            return None
        return self._factory if installed is None else self._store.release(installed.ref)

    def load(self, installed: Installed | None) -> Lease:
        """Verify and load, without touching the slot. Raises ReleaseError."""
        if installed is None:
            return self._load(LoadRequest(self._factory, None, trusted=False))
        folder = self._store.verified(installed.ref)
        optimised = self._store.optimised(installed)
        digest = None if optimised is None else installed.optimised_sha256
        return self._load(LoadRequest(folder, installed.ref, True, optimised, digest))  # noqa: FBT003 - trusted

    def put(self, installed: Installed | None, lease: Lease) -> None:
        """Let the next batch be judged with `lease`; the model until now stays loaded for the probation."""
        self._checkpoint("slot: before")
        self._slot.switch(lease)
        self._kept, self._now = self._now, _key(installed)
        self._settle_ns = self._clock.monotonic_ns() + round(self.probation_s * NS_PER_S)
        self._checkpoint("slot: after")

    def empty(self) -> None:
        """SAFE: from the next batch on every part is `unknown`."""
        self._slot.switch(None)
        self._slot.settle()
        self._now = self._kept = self._settle_ns = None

    def holds(self, installed: Installed | None) -> bool:
        """Whether the slot holds this one already."""
        return self._now == _key(installed)

    def back_to(self, installed: Installed | None) -> bool:
        """Go to this model in one reference store, if it is there or still kept; False when it has to be loaded."""
        if self.holds(installed):
            return True
        if self._kept != _key(installed) or not self._slot.revert():
            return False
        self._now, self._kept, self._settle_ns = self._kept, None, None
        self._checkpoint("slot: reverted")
        return True

    def settle(self) -> None:
        """Free the model before the last switch once its probation is over."""
        if self._settle_ns is not None and self._clock.monotonic_ns() >= self._settle_ns:
            self._slot.settle()
            self._kept = self._settle_ns = None


def _key(installed: Installed | None) -> str:
    return _FACTORY if installed is None else installed.ref.digest
