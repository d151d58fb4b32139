"""ModelSlot: the one place where the model wing touches the loop.

A worker takes a lease once per batch, before preprocessing: session, geometry, thresholds and identity of the whole
batch come from that lease, so no batch mixes versions, and a swap is one reference store between two batches. CPython
stores and loads a reference atomically; no lock is taken on the hot path.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent.ports import Model
    from agent.records import DecisionRule


@dataclass(frozen=True, slots=True)
class Lease:
    """What one batch is judged with. `rule` is the model's own with the site's thresholds laid over it."""

    model: Model
    rule: DecisionRule


class ModelSlot:
    """Holds the lease that the next batch will take; None means SAFE: every part is `unknown`."""

    def __init__(self, lease: Lease | None = None) -> None:
        """Start with `lease`."""
        self._lease = lease

    def lease(self) -> Lease | None:
        """The current lease; it stays valid for as long as the caller holds it."""
        return self._lease

    def switch(self, lease: Lease | None) -> None:
        """Let the next batch be judged with `lease`; batches already leased finish with theirs."""
        self._lease = lease
