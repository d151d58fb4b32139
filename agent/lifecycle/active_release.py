"""The active release: which one the slot holds, and the ways to put another one there.

Promise: nothing reaches the slot whose bytes were not compared with its manifest, and that manifest with the digest in
the journal, in the same call. The model before the last switch stays loaded for the probation, so that going back to
it is one reference store.

On the way from fetch to slot, the next module is `agent.slot`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from agent.timing.clock import NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from agent.durable import Checkpoint
    from agent.lifecycle.rollout_state import SiteLimits
    from agent.release.installed_release import InstalledRelease
    from agent.release.release_store import ReleaseStore
    from agent.release_records import ReleaseRef
    from agent.slot import Lease, ModelSlot
    from agent.timing.clock import Clock

_FACTORY: Final = "factory"


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """What to load: a verified release folder. `ref` None is the factory release, which no metadata vouches for."""

    folder: Path
    ref: ReleaseRef | None
    trusted: bool
    optimised: Path | None = None  # the graph as this machine's runtime optimised it; the loader may do without
    optimised_sha256: str | None = None


class ActiveRelease:
    """Knows which release is in the slot. The lifecycle's thread uses it."""

    def __init__(
        self,
        *,
        slot: ModelSlot,
        store: ReleaseStore,
        factory: Path,
        load: Callable[[LoadRequest], Lease],
        clock: Clock,
        limits: SiteLimits,
        checkpoint: Checkpoint,
    ) -> None:
        """Compose; what the slot holds at first counts as unknown.

        Args:
            slot: The model slot of the inspection.
            store: The verified releases.
            factory: Folder of the factory release.
            load: Loads a release; raises ReleaseError.
            clock: Times the probation.
            limits: Their `probation_s` is read at every switch.
            checkpoint: Called before and after the slot changes.
        """
        self._slot = slot
        self._store = store
        self._factory = factory
        self._load = load
        self._clock = clock
        self._limits = limits
        self._checkpoint = checkpoint
        self._current: str | None = None  # key of what the slot holds
        self._previous: str | None = None  # key of what it held before the last switch
        self._probation_end_ns: int | None = None

    @property
    def has_no_model(self) -> bool:
        """Whether the slot holds no model."""
        return self._slot.lease() is None

    def folder(self, installed: InstalledRelease | None) -> Path | None:
        """Return the folder of the active model, for comparisons; None when the slot holds none."""
        if self.has_no_model:
            return None
        return self._factory if installed is None else self._store.release_dir(installed.ref)

    def load(self, installed: InstalledRelease | None) -> Lease:
        """Verify and load, without touching the slot. Raises ReleaseError."""
        if installed is None:
            return self._load(LoadRequest(self._factory, None, trusted=False))
        folder = self._store.verified_dir(installed.ref)
        optimised = self._store.find_optimised(installed)
        digest = None if optimised is None else installed.optimised_sha256
        return self._load(LoadRequest(folder, installed.ref, True, optimised, digest))  # noqa: FBT003 - trusted

    def activate(self, installed: InstalledRelease | None, lease: Lease) -> None:
        """Use `lease` from the next batch on; the model before it stays loaded for the probation."""
        self._checkpoint("slot: before")
        self._slot.switch(lease)
        self._previous, self._current = self._current, _key(installed)
        self._probation_end_ns = self._clock.monotonic_ns() + round(self._limits.current.probation_s * NS_PER_S)
        self._checkpoint("slot: after")

    def clear(self) -> None:
        """NO_MODEL: from the next batch on every part is `unknown`."""
        self._slot.switch(None)
        self._slot.drop_previous()
        self._current = self._previous = self._probation_end_ns = None

    def is_active(self, installed: InstalledRelease | None) -> bool:
        """Whether the slot holds this release."""
        return self._current == _key(installed)

    def revert_to(self, installed: InstalledRelease | None) -> bool:
        """Switch to this model in one reference store, if it is still loaded; False when it has to be loaded first."""
        if self.is_active(installed):
            return True
        if self._previous != _key(installed) or not self._slot.revert():
            return False
        self._current, self._previous, self._probation_end_ns = self._previous, None, None
        self._checkpoint("slot: reverted")
        return True

    def drop_previous_if_due(self) -> None:
        """Free the model before the last switch once its probation is over."""
        if self._probation_end_ns is not None and self._clock.monotonic_ns() >= self._probation_end_ns:
            self._slot.drop_previous()
            self._previous = self._probation_end_ns = None


def _key(installed: InstalledRelease | None) -> str:
    return _FACTORY if installed is None else installed.ref.digest
