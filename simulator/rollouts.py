"""One inspection's lifecycle on a disk of its own, driven step by step on a manual clock, and killed at will.

`Plant` is what a device is to these tests: the folder survives, everything else is made anew by `start`. `faults`
counts what must never be: see there.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agent.config import RolloutLimits
from agent.errors import IntegrityError
from agent.model.journal import Journal
from agent.model.lifecycle import Lifecycle
from agent.model.store import Store, read_ref
from agent.model.transitions import RESTING
from agent.records import Desired
from agent.slot import ModelSlot
from simulator.cloud import Cloud, CloudExaminer, CloudFetcher, Killed
from simulator.manual_clock import ManualClock
from simulator.stand_in import Bystander, PartsStream, load, write_release

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from agent.model.journal import Record
    from agent.model.transitions import State
    from agent.records import ModelStatus, ReleaseRef

INSPECTION = "top"
LIMITS = RolloutLimits(min_shadow_parts=0, min_trial_parts=0)
_PARTS_A_STEP = 60


def ignore(_boundary: str) -> None:
    """Let every boundary pass."""


@dataclass(slots=True)
class Trap:
    """Goes off at the n-th boundary whose name begins with `where`: a kill, or what a disk says."""

    where: str = ""
    after: int = 0  # boundaries of that name that pass before
    number: int | None = None  # of OSError; None kills
    stays: bool = False  # goes off at every later one as well, as a full disk does
    sprung: bool = False

    def __call__(self, boundary: str) -> None:
        """Be at a boundary."""
        if not boundary.startswith(self.where) or (self.sprung and not self.stays):
            return
        if self.after > 0:
            self.after -= 1
            return
        self.sprung = True
        if self.number is None:
            raise Killed
        raise OSError(self.number, os.strerror(self.number))


def full_disk(where: str = "journal: before") -> Trap:
    """Return a trap that is a full disk for as long as it is set."""
    return Trap(where, number=errno.ENOSPC, stays=True)


def read_only_disk(where: str = "journal: before") -> Trap:
    """Return a trap that is a read-only disk for as long as it is set."""
    return Trap(where, number=errno.EROFS, stays=True)


@dataclass(slots=True)
class Plant:
    """The disk, the cloud, the clock and the line; `start` makes the process."""

    folder: Path
    cloud: Cloud = field(default_factory=Cloud)
    clock: ManualClock = field(default_factory=ManualClock)
    limits: RolloutLimits = LIMITS
    trap: Callable[[str], None] = ignore
    healthy_after_s: float = 60.0
    unhealthy: str | None = None  # what is wrong with the line
    published: list[ReleaseRef] = field(default_factory=list)
    told: list[ModelStatus] = field(default_factory=list)
    highest_floor: int = 0
    counter: int = 0
    slot: ModelSlot = field(init=False)
    lifecycle: Lifecycle = field(init=False)
    line: PartsStream = field(init=False)

    def __post_init__(self) -> None:
        """Install the factory release."""
        if not self.factory.exists():
            write_release(self.factory, version="0.0.0", counter=0, name="factory")

    @property
    def factory(self) -> Path:
        """The folder of the factory release."""
        return self.folder / "factory"

    def factory_sha256(self) -> str:
        """Return the digest of the factory's model."""
        return read_ref(self.factory).model_sha256

    @property
    def models(self) -> Path:
        """The folder of journal and store."""
        return self.folder / "state" / "models" / INSPECTION

    def publish(self, version: str | None = None, *, counter: int | None = None) -> ReleaseRef:
        """Publish the next release; one that lies there from before is published as it is."""
        self.counter = self.counter + 1 if counter is None else counter
        version = version or f"{self.counter}.0.0"
        folder = self.folder / "published" / version
        if not folder.exists():
            write_release(folder, version=version, counter=self.counter)
        self.published.append(self.cloud.publish(folder))
        return self.published[-1]

    def start(self) -> Plant:
        """Make the process anew and let it recover."""
        self.slot = ModelSlot()
        self.line = PartsStream(self.slot)
        self.lifecycle = Lifecycle(
            inspection=INSPECTION,
            state_dir=self.folder / "state",
            slot=self.slot,
            fetcher=CloudFetcher(self.cloud),
            examiner=CloudExaminer(self.cloud),
            load=load,
            factory=self.factory,
            limits=self.limits,
            clock=self.clock,
            open_shadow=Bystander,
            on_status=self.told.append,
            healthy_after_s=self.healthy_after_s,
            unhealthy=lambda: self.unhealthy,
            checkpoint=self._boundary,
        )
        self.lifecycle.start()
        return self

    def _boundary(self, name: str) -> None:
        self.trap(name)

    def desire(self, ref: ReleaseRef | str, *, mode: str = "release", source: str = "control") -> None:
        """Wish for a release."""
        release_id = ref if isinstance(ref, str) else ref.release_id
        self.lifecycle.desire(Desired(release_id, "ab" if mode == "ab" else "release", source=source))

    def step(self, *, failing: bool = False, blind: bool = False) -> float:
        """One step, its waiting time, and the parts that pass meanwhile."""
        delay_s = self.lifecycle.step()
        self.clock.advance(delay_s)
        self.line.run(_PARTS_A_STEP, failing=failing, blind=blind)
        return delay_s

    def until(self, state: State, *, steps: int = 200, failing: bool = False) -> None:
        """Step until the lifecycle is in `state`. Raises AssertionError when it does not get there."""
        for _ in range(steps):
            if self.lifecycle.status().state == state:
                return
            self.step(failing=failing)
        raise AssertionError(f"still {self.lifecycle.status().state} after {steps} steps, not {state}")

    def rest(self, *, steps: int = 400, failing: bool = False, blind: bool = False) -> None:
        """Step until nothing is under way and nothing is left to do."""
        quiet = 0
        for _ in range(steps):
            before = self.lifecycle.status()
            self.step(failing=failing, blind=blind)
            now = self.lifecycle.status()
            quiet = quiet + 1 if now == before and now.state in RESTING else 0
            if quiet > 3 and not self.record().wanted:  # noqa: PLR2004  a request, a sweep, a look
                return
        raise AssertionError(f"no rest after {steps} steps: {self.lifecycle.status()}")

    def record(self) -> Record:
        """What the journal on disk says."""
        return Journal(self.models, checkpoint=ignore).load()[0]

    def serving(self) -> str | None:
        """Version of the model that judges the next batch."""
        lease = self.slot.lease()
        return None if lease is None else lease.model.identity.version

    def faults(self) -> list[str]:
        """Name what must never be, in the slot or on disk."""
        return self.slot_faults() + self.disk_faults()

    def slot_faults(self) -> list[str]:
        """The slot holds bytes that no published manifest names (nor the factory's), or is wrong about their trust."""
        lease, known = self.slot.lease(), {ref.model_sha256 for ref in self.published}
        if lease is None:
            return []
        identity = lease.model.identity
        if identity.sha256 not in known | {self.factory_sha256()}:
            return [f"unverified model {identity}"]
        return [f"wrong about trust in {identity}"] if identity.trusted is not (identity.sha256 in known) else []

    def disk_faults(self) -> list[str]:
        """The floor is lower than it was, or the active or the previous release is not whole: nothing to go back to."""
        found = []
        record, store = self.record(), Store(self.models, checkpoint=ignore)
        if record.counter_floor < self.highest_floor:
            found.append(f"floor fell from {self.highest_floor} to {record.counter_floor}")
        self.highest_floor = max(self.highest_floor, record.counter_floor)
        for role, installed in (("active", record.active), ("previous", record.previous)):
            if installed is None:
                continue
            if installed.ref not in self.published:
                found.append(f"{role} was never published: {installed.ref}")
            try:
                store.verified(installed.ref)
            except IntegrityError as error:
                found.append(f"{role} is lost: {error}")
        return found
