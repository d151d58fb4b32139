"""The invariants of a soak run.

They are checked whenever the lifecycle moves, every minute on the line, and after every kill.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.errors import IntegrityError
from agent.lifecycle.state.journal import Journal, LifecycleRecord
from agent.lifecycle.state.record_changes import DAY_S
from agent.lifecycle.state.transitions import RESTING_STATES, LifecycleState
from agent.release.release_store import ReleaseStore
from agent.timing.clock import NS_PER_S
from simulator.campaigns.soak.agent_process import CAMERAS, INSPECTION, no_boundary_fault
from simulator.campaigns.soak.synthetic_models import BAD_PROFILES

if TYPE_CHECKING:
    from agent.release_records import ModelStatus, ReleaseRef
    from simulator.campaigns.soak.agent_process import AgentProcess, SoakEnvironment


class InvariantChecker:
    """Compares each sight with the ones before; `problems` names every breach."""

    def __init__(self, site: SoakEnvironment) -> None:
        """Nothing was seen yet."""
        self._site = site
        self._models = site.folder / "state" / "models" / INSPECTION
        self._refs: dict[str, ReleaseRef] = {}  # by version
        self._record = LifecycleRecord()
        self._seen: object = None
        self._floor = 0
        self._automatic_ns: list[int] = []  # automatic rollbacks since a person said `retry`
        self.kinds: dict[str, str] = {}  # by version
        self.cooldown_until_ns = 0
        self.automatic_rollbacks = 0
        self.halts = 0
        self.committed: set[str] = set()  # versions
        self.refused: dict[str, str] = {}  # version -> gate/reason
        self.problems: list[str] = []

    def publish(self, ref: ReleaseRef, *, kind: str) -> None:
        """Know a release, and of what kind it is."""
        self._refs[ref.version], self.kinds[ref.version] = ref, kind

    def clear_halt(self) -> None:
        """A person lets rollouts go on."""
        self._automatic_ns.clear()
        self.cooldown_until_ns = 0

    def journal(self) -> LifecycleRecord:
        """Read the journal, as a start would."""
        record, alarm = Journal(self._models, checkpoint=no_boundary_fault).load()
        if alarm is not None:
            self._problem(f"journal: {alarm}")
        return record

    def on_status(self, status: ModelStatus) -> None:
        """Look at the journal whenever the lifecycle has moved."""
        sight = (status.state, status.active, status.previous, status.candidate, status.counter_floor, status.refused)
        if sight != self._seen:
            fresh, self._seen = self._seen is None, sight
            self._compare(self.journal(), fresh=fresh)

    def check_line(self, boot: AgentProcess) -> None:
        """Captured = inspected + dropped + pending, every buffer is accounted for, only good models inspected."""
        pending = sum(counters.snapshot().pending for counters in boot.counters.values())
        held_up = self._site.clock.now_ns < self._site.faults.worker_stalled_until
        waiting = boot.hub.pending
        if pending < waiting or (pending and not held_up):
            self._problem(f"{pending} exposures are neither inspected nor dropped, {waiting} wait")
        if not waiting <= boot.pool.held <= waiting + len(CAMERAS) or boot.pool.misses:
            self._problem(f"{boot.pool.held} buffers are held for {waiting} frames")
        for sha256, version in self._site.tracker.models.items():
            ref = self._refs.get(version)
            if ref is None or ref.model_sha256 != sha256:
                self._problem(f"a model inspected that nobody published: {version} {sha256}")
            elif self.kinds[version] in BAD_PROFILES:
                self._problem(f"{version} inspected as the champion, and it is of the kind {self.kinds[version]}")
        self._site.tracker.models.clear()

    def check_disk(self) -> None:
        """The journal can be read, the active and the previous release are whole, the floor stands."""
        record, store = self.journal(), ReleaseStore(self._models, checkpoint=no_boundary_fault)
        self._seen = None
        self._compare(record, fresh=True)
        for role, installed in (("active", record.active), ("previous", record.previous)):
            if installed is None:
                continue
            if installed.ref != self._refs.get(installed.ref.version):
                self._problem(f"{role} was never published: {installed.ref}")
            try:
                store.verified_dir(installed.ref)
            except IntegrityError as error:
                self._problem(f"{role} is lost: {error}")

    def _compare(self, record: LifecycleRecord, *, fresh: bool) -> None:
        """Compare the record with the one before; `fresh`: steps in between may not have been seen."""
        before, self._record = self._record, record
        if record.counter_floor < self._floor:
            self._problem(f"the counter floor fell from {self._floor} to {record.counter_floor}")
        self._floor = max(self._floor, record.counter_floor)
        if record.active is not None:
            version = record.active.ref.version
            self.committed.add(version)
            if self.kinds.get(version) in BAD_PROFILES:
                self._problem(f"{version} is active, and it is of the kind {self.kinds[version]}")
        for bad in record.deny_list:
            self.refused[bad.release_id.rpartition("/")[2]] = f"{bad.refusal.gate}/{bad.refusal.reason}"
        if not fresh and before.state in RESTING_STATES and record.state is LifecycleState.FETCHING:
            early_s = (self.cooldown_until_ns - self._site.clock.now_ns) / NS_PER_S
            if record.halted:
                self._problem("a release is tried while a person is waited for")
            if early_s > 0.0:
                self._problem(f"a release is tried {early_s:.0f} s before the cool-down ends")
        if record.rollbacks_utc_s and record.rollbacks_utc_s[-1] not in before.rollbacks_utc_s:
            self._record_rollback(record)

    def _record_rollback(self, record: LifecycleRecord) -> None:
        limits, now_ns = self._site.limits, self._site.clock.now_ns
        reason = "none" if record.refusal is None else record.refusal.reason
        self._automatic_ns = [t for t in self._automatic_ns if now_ns - t < DAY_S * NS_PER_S] + [now_ns]
        self.automatic_rollbacks += 1
        self.cooldown_until_ns = now_ns + round(limits.cool_down_s * NS_PER_S)
        self.halts += record.halted
        many = len(self._automatic_ns)
        if many > limits.max_rollbacks_per_day and reason != "boot_loop":  # which no one can wait with
            self._problem(f"{many} automatic rollbacks within a day, the last for {reason}")

    def _problem(self, text: str) -> None:
        hours = self._site.clock.now_ns / NS_PER_S / 3_600
        self.problems.append(f"after {hours:.2f} h: {text}")
