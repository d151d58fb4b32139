"""A day of line time in minutes: hourly releases and every kind of fault, without a broken invariant.

A real line (`simulator.campaigns.soak.agent_process`) runs in lock-step on a virtual clock. Every hour a release is
wished for: good ones, equally good ones, and bad ones. Meanwhile fetches fail and hang, examinations end, the disk
fills up or turns read-only under the journal and the store, the process is killed at boundaries and in between, cameras
fall silent or are unplugged, the broker goes away, UTC is set, and the worker is held up. What must hold all the time
is checked all the time; `SoakResult.problems` names every breach.

Equal arguments give the same line and the same faults; the product's own retry jitter is its own.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agent.release.release_store import read_ref
from agent.release_records import DesiredRelease
from agent.timing.clock import NS_PER_S
from simulator.campaigns.soak.agent_process import CAMERAS, AgentProcess, SoakEnvironment, no_boundary_fault
from simulator.campaigns.soak.invariants import InvariantChecker
from simulator.campaigns.soak.synthetic_models import BAD_PROFILES, GOOD_PROFILES, make_release
from simulator.doubles.clocks.lockstep_clock import LockstepClock
from simulator.doubles.lifecycle.fake_repository import RepositoryFault, SimulatedKill
from simulator.doubles.lifecycle.lifecycle_harness import BoundaryFault, full_disk, read_only_disk

if TYPE_CHECKING:
    from collections.abc import Callable


_HOUR_S: Final = 3_600.0
_TICK_S: Final = 1.0  # between two looks at the outbox and the schedule
_RECEIVE_S: Final = 60.0
_AUDIT_S: Final = 300.0
_DRAIN_S: Final = 1_800.0
_KILL_AGAIN_SHARE: Final = 0.4  # soon after a start, or while it starts
_BAD_SHARE: Final = 0.35
_MAX_PROBLEMS: Final = 20


@dataclass(frozen=True, slots=True)
class SoakResult:
    """What happened; `problems` must be empty."""

    hours: float
    seed: int
    parts: int  # exposures
    inspected: int
    dropped: dict[str, int]  # by reason
    verdicts: dict[str, int]  # by outcome
    verdict_states: dict[str, int]  # of the verdicts at the end
    duplicates: int  # arrived again; de-duplication removes them
    faults: dict[str, int]  # faults, by name
    kills: int  # at boundaries and in between
    requested: dict[str, int]  # releases, by kind
    committed: dict[str, int]  # by kind
    refused: dict[str, int]  # by kind, gate and reason
    automatic_rollbacks: int
    rollout_halts: int  # waits for a person after too many rollbacks
    problems: list[str]
    wall_s: float

    @property
    def is_clean(self) -> bool:
        """Whether all invariants held."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """Return plain values for `json.dumps`."""
        return {**asdict(self), "is_clean": self.is_clean}


@dataclass(slots=True)
class _ScheduledFault:
    """A fault that comes every so often."""

    name: str
    mean_s: float
    begin: Callable[[], None]
    next_ns: int = 0


class SoakRun:
    """One day. `run` plays it."""

    def __init__(self, folder: Path, *, seed: int) -> None:
        """Install the factory release in `folder`."""
        self._random = random.Random(f"{seed} faults")
        factory = make_release(folder / "factory", "good", version="0.0.0", counter=0)
        self._environment = SoakEnvironment(folder, LockstepClock(), random.Random(f"{seed} line"), factory)
        self._invariants = InvariantChecker(self._environment)
        self._invariants.publish(read_ref(factory), kind="good")
        self._process = self._new_process()
        self._releases = 0
        self._desired: DesiredRelease | None = None
        self._fault_counts: Counter[str] = Counter()
        self._requested: Counter[str] = Counter()
        self._frame_counts: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()
        self._undo: list[tuple[int, Callable[[], None]]] = []

    # --- the day ------------------------------------------------------------------------------------------------------

    def run(self, *, hours: float) -> None:
        """Play `hours` of line time."""
        clock = self._environment.clock
        end_ns = clock.now_ns + round(hours * _HOUR_S * NS_PER_S)
        schedule = self._schedule()
        for happening in schedule:
            happening.next_ns = self._draw_next_ns(happening.mean_s)
        next_wish = clock.now_ns + 60 * NS_PER_S
        self._start()
        while clock.now_ns < end_ns:
            self._advance()
            if clock.now_ns >= next_wish:
                next_wish += round(_HOUR_S * NS_PER_S)
                self._request_next_release()
            for happening in schedule:
                if clock.now_ns >= happening.next_ns:
                    happening.next_ns = self._draw_next_ns(happening.mean_s)
                    self._fault_counts[happening.name] += 1
                    happening.begin()
        self._recover_and_drain()

    def _advance(self) -> None:
        """Let a second pass, and look."""
        clock, boot = self._environment.clock, self._process
        before_s = clock.now_ns // NS_PER_S
        until_ns = clock.now_ns + round(_TICK_S * NS_PER_S)
        while clock.run_next(until_ns):
            if boot.is_dead:
                break
            boot.inspect_pending()
        if boot.is_dead:
            self._kill_and_restart()
            return
        boot.inspect_pending()
        boot.flush_outbox()
        for due_ns, undo in [item for item in self._undo if clock.now_ns >= item[0]]:
            self._undo.remove((due_ns, undo))
            undo()
        now_s = clock.now_ns // NS_PER_S
        if now_s // _RECEIVE_S > before_s // _RECEIVE_S:
            boot.receive()
            self._invariants.check_line(boot)
        if now_s // _AUDIT_S > before_s // _AUDIT_S:
            self._invariants.check_disk()

    def _recover_and_drain(self) -> None:
        """Let everything work again, wait until all is delivered, and stop in order."""
        site, clock = self._environment, self._environment.clock
        for _, undo in self._undo:
            undo()
        self._undo.clear()
        site.boundary_fault = no_boundary_fault
        end_ns = clock.now_ns + round(_DRAIN_S * NS_PER_S)
        while clock.now_ns < end_ns and not (self._process.outbox.is_drained and clock.now_ns > end_ns // 2):
            self._advance()
        self._process.inspect_pending()
        self._accumulate_counters()
        self._process.close()
        self._deliver_backlog()
        site.tracker.count_missing()
        self._invariants.problems += site.tracker.problems
        self._invariants.check_disk()

    def _deliver_backlog(self) -> None:
        """One more start, without a line: what the last process left is delivered."""
        boot = self._new_process()
        boot.start()
        for _ in range(round(_DRAIN_S)):
            self._environment.clock.now_ns += NS_PER_S
            boot.flush_outbox()
            if boot.outbox.is_drained and not boot.outbox.stats().rows:
                break
        boot.receive()
        boot.close()

    # --- processes ----------------------------------------------------------------------------------------------------

    def _new_process(self) -> AgentProcess:
        return AgentProcess(self._environment, self._invariants.on_status)

    def _start(self) -> None:
        """Start until a start is not killed."""
        while True:
            try:
                self._process.start()
            except SimulatedKill:
                self._fault_counts["kill while starting"] += 1
                self._process.kill()
                self._process = self._new_process()
                self._environment.boundary_fault = no_boundary_fault
                continue
            if self._desired is not None:  # the desired state is read at start
                self._process.lifecycle.desire(self._desired)
                self._process.wake_lifecycle()
            return

    def _kill_and_restart(self) -> None:
        """Kill what is left of the process, look at the disk, start another."""
        self._process.inspect_pending()
        self._accumulate_counters()
        self._process.kill()
        self._fault_counts["kill"] += 1
        trap = self._environment.boundary_fault
        if not isinstance(trap, BoundaryFault) or trap.os_errno is None:  # the disk is not better after a start
            again = self._random.random() < _KILL_AGAIN_SHARE
            self._environment.boundary_fault = (
                BoundaryFault(after=self._random.randint(0, 3)) if again else no_boundary_fault
            )
        self._invariants.check_disk()
        self._process = self._new_process()
        self._start()

    # --- wishes -------------------------------------------------------------------------------------------------------

    def _request_next_release(self) -> None:
        """Publish the next release and wish for it; a person who is waited for comes first."""
        self._releases += 1
        number = self._releases
        bad = self._random.random() < _BAD_SHARE
        kind = self._random.choice(sorted(BAD_PROFILES if bad else GOOD_PROFILES))
        version = f"{number}.0.0"
        folder = make_release(self._environment.folder / "published" / version, kind, version=version, counter=number)
        ref = self._environment.repository.publish(folder)
        self._invariants.publish(ref, kind=kind)
        self._requested[kind] += 1
        if self._invariants.journal().halted:
            self._operator_retry()
        self._desired = DesiredRelease(ref.release_id, source="shadow")
        self._process.lifecycle.desire(self._desired)
        self._process.wake_lifecycle()

    def _operator_retry(self) -> None:
        self._fault_counts["retry by a person"] += 1
        self._process.lifecycle.retry(None)
        self._invariants.clear_halt()

    # --- what fails ----------------------------------------------------------------------------------------------

    def _schedule(self) -> list[_ScheduledFault]:
        cloud, chance = self._environment.repository, self._random
        fetch = (
            RepositoryFault.ERROR,
            RepositoryFault.ERROR,
            RepositoryFault.NO_SPACE,
            RepositoryFault.KILL,
            RepositoryFault.KILL_LATE,
        )
        exam = (RepositoryFault.ERROR, RepositoryFault.NO_SPACE, RepositoryFault.KILL, RepositoryFault.KILL_LATE)
        hour = _HOUR_S
        return [
            _ScheduledFault(
                "fetch fails", hour, lambda: cloud.inject("fetch", *chance.choices(fetch, k=chance.randint(1, 3)))
            ),
            _ScheduledFault("fetch hangs", 3 * hour, self._hang_fetch),
            _ScheduledFault("self-test fails", 2 * hour, lambda: cloud.inject("run_self_test", chance.choice(exam))),
            _ScheduledFault("disk full or read-only", 2 * hour, self._fail_disk),
            _ScheduledFault("kill at a boundary", 2 * hour, self._arm_kill),
            _ScheduledFault("kill anywhere", 2 * hour, self._kill_and_restart),
            _ScheduledFault("camera silent", 2 * hour, self._silence_camera),
            _ScheduledFault("camera unplugged", 3 * hour, self._unplug_camera),
            _ScheduledFault("broker away", 3 * hour, self._disconnect_broker),
            _ScheduledFault("UTC is set", 4 * hour, self._set_utc),
            _ScheduledFault("worker held up", 6 * hour, self._stall_worker),
            _ScheduledFault("release revoked", 8 * hour, self._revoke_release),
        ]

    def _draw_next_ns(self, mean_s: float) -> int:
        return self._environment.clock.now_ns + round(self._random.expovariate(1.0 / mean_s) * NS_PER_S)

    def _undo_after(self, seconds: float, undo: Callable[[], None]) -> None:
        self._undo.append((self._environment.clock.now_ns + round(seconds * NS_PER_S), undo))

    def _hang_fetch(self) -> None:
        self._environment.faults.fetch_hangs += 1

    def _fail_disk(self) -> None:
        where = self._random.choice(("journal: before", "journal: beside", "journal: between", "store"))
        disk = self._random.choice((full_disk, read_only_disk))
        self._environment.boundary_fault = disk(where)
        self._undo_after(self._random.uniform(30.0, 900.0), self._restore_disk)

    def _restore_disk(self) -> None:
        self._environment.boundary_fault = no_boundary_fault

    def _arm_kill(self) -> None:
        self._environment.boundary_fault = BoundaryFault(after=self._random.randint(0, 40))

    def _silence_camera(self) -> None:
        camera, seconds = self._random.choice(CAMERAS), self._random.uniform(1.0, 300.0)
        self._environment.faults.silent_until[camera] = self._environment.clock.now_ns + round(seconds * NS_PER_S)

    def _unplug_camera(self) -> None:
        camera, seconds = self._random.choice(CAMERAS), self._random.uniform(1.0, 600.0)
        self._environment.faults.unplugged_until[camera] = self._environment.clock.now_ns + round(seconds * NS_PER_S)

    def _disconnect_broker(self) -> None:
        self._set_broker(up=False)
        long = self._random.random() < 0.3  # noqa: PLR2004  long enough to fill the outbox
        self._undo_after(
            self._random.uniform(7_200.0, 14_400.0) if long else self._random.uniform(5.0, 1_800.0),
            self._reconnect_broker,
        )

    def _reconnect_broker(self) -> None:
        self._set_broker(up=True)

    def _set_broker(self, *, up: bool) -> None:
        self._environment.faults.broker_is_up = up
        self._process.transport.set_connected(up)

    def _set_utc(self) -> None:
        self._environment.clock.utc_offset_ns += round(self._random.uniform(-1.0, 1.0) * _HOUR_S * NS_PER_S)
        self._invariants.cooldown_until_ns = 0  # a start knows its end in UTC only

    def _stall_worker(self) -> None:
        self._environment.faults.worker_stalled_until = self._environment.clock.now_ns + round(
            self._random.uniform(0.5, 20.0) * NS_PER_S
        )

    def _revoke_release(self) -> None:
        active = self._invariants.journal().active
        if active is not None:
            self._environment.repository.revoke(active.ref)

    def _accumulate_counters(self) -> None:
        """Add up a process's counters before it ends."""
        for counters in self._process.counters.values():
            seen = counters.snapshot()
            self._frame_counts["captured"] += seen.captured
            self._frame_counts["inspected"] += seen.inspected
            self._dropped.update(seen.dropped)

    # --- the result ---------------------------------------------------------------------------------------------------

    def result(self, *, hours: float, seed: int, wall_s: float) -> SoakResult:
        """Return the counts."""
        audit, book, kinds = self._invariants, self._environment.tracker, self._invariants.kinds
        return SoakResult(
            hours=hours,
            seed=seed,
            parts=self._frame_counts["captured"],
            inspected=self._frame_counts["inspected"],
            dropped=dict(self._dropped),
            verdicts=dict(book.verdicts),
            verdict_states=book.count_states(),
            duplicates=book.duplicates,
            faults=dict(sorted(self._fault_counts.items())),
            kills=self._fault_counts["kill"] + self._fault_counts["kill while starting"],
            requested=dict(sorted(self._requested.items())),
            committed=dict(Counter(kinds[version] for version in sorted(audit.committed))),
            refused=dict(Counter(f"{kinds[v]}: {why}" for v, why in sorted(audit.refused.items()) if v in kinds)),
            automatic_rollbacks=audit.automatic_rollbacks,
            rollout_halts=audit.halts,
            problems=audit.problems[:_MAX_PROBLEMS],
            wall_s=round(wall_s, 1),
        )


def run_soak(*, hours: float = 24.0, seed: int = 0, work_dir: Path | None = None) -> SoakResult:
    """Play a day (or less) and return what happened. `work_dir` is where its disk is made."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kensa-soak-", dir=work_dir) as folder:
        day = SoakRun(Path(folder), seed=seed)
        day.run(hours=hours)
        return day.result(hours=hours, seed=seed, wall_s=time.monotonic() - began)
