"""One inspection's lifecycle on its own disk, driven step by step on a manual clock.

It can be killed at any step.

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
from agent.lifecycle.lifecycle import Lifecycle
from agent.lifecycle.lifecycle_dependencies import LifecycleDependencies
from agent.lifecycle.state.journal import Journal
from agent.lifecycle.state.transitions import RESTING_STATES
from agent.release.release_store import ReleaseStore, read_ref
from agent.release_records import DesiredRelease
from agent.slot import ModelSlot
from simulator.doubles.clocks.manual_clock import ManualClock
from simulator.doubles.lifecycle.fake_repository import (
    FakeReleaseFetcher,
    FakeRepository,
    FakeSelfTester,
    SimulatedKill,
)
from simulator.doubles.lifecycle.release_fixtures import NullTap, PartsStream, load_fixture, write_release

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from agent.lifecycle.state.journal import LifecycleRecord
    from agent.lifecycle.state.transitions import LifecycleState
    from agent.release_records import ModelStatus, ReleaseRef

INSPECTION = "top"
LIMITS = RolloutLimits(min_shadow_parts=0, min_trial_parts=0)
_PARTS_PER_STEP = 60


def ignore_boundary(_boundary: str) -> None:
    """Let every boundary pass."""


@dataclass(slots=True)
class BoundaryFault:
    """Goes off at the n-th boundary whose name begins with `where`: a kill, or what a disk says."""

    boundary: str = ""
    after: int = 0  # boundaries of that name that pass before
    os_errno: int | None = None  # of OSError; None kills
    is_persistent: bool = False  # goes off at every later one as well, as a full disk does
    has_fired: bool = False

    def __call__(self, boundary: str) -> None:
        """Be at a boundary."""
        if not boundary.startswith(self.boundary) or (self.has_fired and not self.is_persistent):
            return
        if self.after > 0:
            self.after -= 1
            return
        self.has_fired = True
        if self.os_errno is None:
            raise SimulatedKill
        raise OSError(self.os_errno, os.strerror(self.os_errno))


def full_disk(where: str = "journal: before") -> BoundaryFault:
    """Return a trap that is a full disk for as long as it is set."""
    return BoundaryFault(where, os_errno=errno.ENOSPC, is_persistent=True)


def read_only_disk(where: str = "journal: before") -> BoundaryFault:
    """Return a trap that is a read-only disk for as long as it is set."""
    return BoundaryFault(where, os_errno=errno.EROFS, is_persistent=True)


@dataclass(slots=True)
class LifecycleHarness:
    """The disk, the cloud, the clock and the line; `start` makes the process."""

    folder: Path
    repository: FakeRepository = field(default_factory=FakeRepository)
    clock: ManualClock = field(default_factory=ManualClock)
    limits: RolloutLimits = LIMITS
    boundary_fault: Callable[[str], None] = ignore_boundary
    healthy_after_s: float = 60.0
    unhealthy: str | None = None  # what is wrong with the line
    published: list[ReleaseRef] = field(default_factory=list)
    reported_statuses: list[ModelStatus] = field(default_factory=list)
    highest_floor: int = 0
    counter: int = 0
    slot: ModelSlot = field(init=False)
    lifecycle: Lifecycle = field(init=False)
    parts: PartsStream = field(init=False)

    def __post_init__(self) -> None:
        """Install the factory release."""
        if not self.factory_dir.exists():
            write_release(self.factory_dir, version="0.0.0", counter=0, name="factory")

    @property
    def factory_dir(self) -> Path:
        """The folder of the factory release."""
        return self.folder / "factory"

    def factory_sha256(self) -> str:
        """Return the digest of the factory's model."""
        return read_ref(self.factory_dir).model_sha256

    @property
    def models_dir(self) -> Path:
        """The folder of journal and store."""
        return self.folder / "state" / "models" / INSPECTION

    def publish(self, version: str | None = None, *, counter: int | None = None) -> ReleaseRef:
        """Publish the next release; one that lies there from before is published as it is."""
        self.counter = self.counter + 1 if counter is None else counter
        version = version or f"{self.counter}.0.0"
        folder = self.folder / "published" / version
        if not folder.exists():
            write_release(folder, version=version, counter=self.counter)
        self.published.append(self.repository.publish(folder))
        return self.published[-1]

    def start(self) -> LifecycleHarness:
        """Make the process anew and let it recover."""
        self.slot = ModelSlot()
        self.parts = PartsStream(self.slot)
        self.lifecycle = Lifecycle(
            LifecycleDependencies(
                inspection=INSPECTION,
                state_dir=self.folder / "state",
                slot=self.slot,
                fetcher=FakeReleaseFetcher(self.repository),
                self_tester=FakeSelfTester(self.repository),
                load=load_fixture,
                factory=self.factory_dir,
                limits=self.limits,
                clock=self.clock,
                open_shadow_deployment=NullTap,
                on_status=self.reported_statuses.append,
                healthy_after_s=self.healthy_after_s,
                line_fault=lambda: self.unhealthy,
                checkpoint=self._boundary,
            )
        )
        self.lifecycle.start()
        return self

    def _boundary(self, name: str) -> None:
        self.boundary_fault(name)

    def desire(self, ref: ReleaseRef | str, *, mode: str = "release", source: str = "control") -> None:
        """Wish for a release."""
        release_id = ref if isinstance(ref, str) else ref.release_id
        self.lifecycle.desire(DesiredRelease(release_id, "ab" if mode == "ab" else "release", source=source))

    def step(self, *, failing: bool = False, blind: bool = False) -> float:
        """One step, its waiting time, and the parts that pass meanwhile."""
        delay_s = self.lifecycle.step()
        self.clock.advance(delay_s)
        self.parts.run(_PARTS_PER_STEP, failing=failing, blind=blind)
        return delay_s

    def step_until(self, state: LifecycleState, *, steps: int = 200, failing: bool = False) -> None:
        """Step until the lifecycle is in `state`. Raises AssertionError when it does not get there."""
        for _ in range(steps):
            if self.lifecycle.status().state == state:
                return
            self.step(failing=failing)
        raise AssertionError(f"still {self.lifecycle.status().state} after {steps} steps, not {state}")

    def step_until_idle(self, *, steps: int = 400, failing: bool = False, blind: bool = False) -> None:
        """Step until nothing is under way and nothing is left to do."""
        quiet = 0
        for _ in range(steps):
            before = self.lifecycle.status()
            self.step(failing=failing, blind=blind)
            now = self.lifecycle.status()
            quiet = quiet + 1 if now == before and now.state in RESTING_STATES else 0
            if quiet > 3 and not self.record().wanted:  # noqa: PLR2004  a request, a sweep, a look
                return
        raise AssertionError(f"no rest after {steps} steps: {self.lifecycle.status()}")

    def record(self) -> LifecycleRecord:
        """What the journal on disk says."""
        return Journal(self.models_dir, checkpoint=ignore_boundary).load()[0]

    def active_version(self) -> str | None:
        """Version of the model that inspects the next batch."""
        lease = self.slot.lease()
        return None if lease is None else lease.model.identity.version

    def violations(self) -> list[str]:
        """Name what must never be, in the slot or on disk."""
        return self.slot_violations() + self.disk_violations()

    def slot_violations(self) -> list[str]:
        """The slot holds bytes that no published manifest names (nor the factory's), or is wrong about their trust."""
        lease, known = self.slot.lease(), {ref.model_sha256 for ref in self.published}
        if lease is None:
            return []
        identity = lease.model.identity
        if identity.sha256 not in known | {self.factory_sha256()}:
            return [f"unverified model {identity}"]
        return [f"wrong about trust in {identity}"] if identity.trusted is not (identity.sha256 in known) else []

    def disk_violations(self) -> list[str]:
        """The floor is lower than it was, or the active or the previous release is not whole: nothing to go back to."""
        found = []
        record, store = self.record(), ReleaseStore(self.models_dir, checkpoint=ignore_boundary)
        if record.counter_floor < self.highest_floor:
            found.append(f"floor fell from {self.highest_floor} to {record.counter_floor}")
        self.highest_floor = max(self.highest_floor, record.counter_floor)
        for role, installed in (("active", record.active), ("previous", record.previous)):
            if installed is None:
                continue
            if installed.ref not in self.published:
                found.append(f"{role} was never published: {installed.ref}")
            try:
                store.verified_dir(installed.ref)
            except IntegrityError as error:
                found.append(f"{role} is lost: {error}")
        return found
