"""Whatever people, cloud, disk and power do, the line has a verified model."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agent.errors import IllegalTransitionError, LifecycleError
from agent.lifecycle.state.transitions import RESTING_STATES, TABLE, LifecycleEvent, LifecycleState
from simulator.doubles.lifecycle.fake_repository import RepositoryFault, SimulatedKill
from simulator.doubles.lifecycle.lifecycle_harness import (
    BoundaryFault,
    LifecycleHarness,
    full_disk,
    ignore_boundary,
    read_only_disk,
)
from tests.kits.lifecycle_disk import quick_disk

if TYPE_CHECKING:
    from collections.abc import Callable

BOUNDARIES = ["", "journal", "journal: between", "journal: after", "store", "slot"]


class Life(RuleBasedStateMachine):
    """One device from its first start on."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = contextlib.ExitStack()
        self.plant = LifecycleHarness(self.stack.enter_context(quick_disk())).start()
        self.plant.publish()

    def survive(self, act: Callable[[], object]) -> None:
        """Do it; a kill means a new process on the same disk."""
        try:
            act()
        except SimulatedKill:
            self.plant.boundary_fault = ignore_boundary
            self.plant.start()

    # --- people and the cloud -----------------------------------------------------------------------------------------

    @rule()
    def publish(self) -> None:
        self.plant.publish()

    @rule(
        data=st.data(),
        mode=st.sampled_from(["release", "release", "ab"]),
        source=st.sampled_from(["control", "shadow"]),
    )
    def desire(self, data: st.DataObject, mode: str, source: str) -> None:
        ref = data.draw(st.sampled_from(self.plant.published))
        self.plant.desire(ref, mode=mode, source=source)

    @rule()
    def desire_what_does_not_exist(self) -> None:
        self.plant.desire("ghost/1.0.0")

    @rule(what=st.sampled_from(["rollback", "promote", "stop_ab", "retry"]))
    def ask(self, what: str) -> None:
        lifecycle = self.plant.lifecycle
        acts: dict[str, Callable[[], None]] = {
            "rollback": lambda: lifecycle.rollback("a person"),
            "promote": lifecycle.promote,
            "stop_ab": lifecycle.stop_ab,
            "retry": lifecycle.retry,
        }
        with contextlib.suppress(LifecycleError):
            acts[what]()

    @rule(data=st.data())
    def pardon(self, data: st.DataObject) -> None:
        if bad := self.plant.lifecycle.deny_list():
            entry = data.draw(st.sampled_from(bad))
            with contextlib.suppress(LifecycleError):
                self.plant.lifecycle.retry(entry["digest"] or entry["release_id"])

    @rule(data=st.data())
    def revoke(self, data: st.DataObject) -> None:
        self.plant.repository.revoke(data.draw(st.sampled_from(self.plant.published)))

    # --- time ---------------------------------------------------------------------------------------------------------

    @rule(count=st.integers(1, 12), failing=st.sampled_from([False, False, True]))
    def steps(self, count: int, failing: bool) -> None:  # noqa: FBT001 - drawn by name
        def run() -> None:
            for _ in range(count):
                self.plant.step(failing=failing)
                assert self.plant.violations() == []

        self.survive(run)

    @rule(hours=st.sampled_from([0.2, 7.0, 25.0]))
    def wait(self, hours: float) -> None:
        self.plant.clock.advance(hours * 3_600.0)

    @rule(seconds=st.sampled_from([-10_000_000, 10_000_000]))
    def set_the_clock(self, seconds: int) -> None:
        self.plant.clock.utc_offset_ns += seconds * 10**9

    # --- faults -------------------------------------------------------------------------------------------------------

    @rule(where=st.sampled_from(BOUNDARIES), after=st.integers(0, 6))
    def kill_soon(self, where: str, after: int) -> None:
        self.plant.boundary_fault = BoundaryFault(where, after=after)

    @rule(
        port=st.sampled_from(["fetch", "run_self_test"]),
        fault=st.sampled_from([f for f in RepositoryFault if f is not RepositoryFault.HANG]),
    )
    def order(self, port: str, fault: RepositoryFault) -> None:
        self.plant.repository.inject(port, fault)

    @rule(where=st.sampled_from(["journal: b", "store"]), full=st.booleans())
    def break_the_disk(self, where: str, full: bool) -> None:  # noqa: FBT001 - drawn by name
        self.plant.boundary_fault = full_disk(where) if full else read_only_disk(where)

    @rule()
    def mend_the_disk(self) -> None:
        self.plant.boundary_fault = ignore_boundary

    @rule()
    def power_cycle(self) -> None:
        self.survive(self.plant.start)

    @rule()
    def stop_cleanly_and_start(self) -> None:
        def restart() -> None:
            self.plant.lifecycle.close()
            self.plant.start()

        self.survive(restart)

    @rule(event=st.sampled_from(list(LifecycleEvent)))
    def force_an_illegal_event(self, event: LifecycleEvent) -> None:
        ledger = self.plant.lifecycle._deps.record_store
        before, on_disk = ledger.record, self.plant.record()
        if (before.state, event) in TABLE:
            return
        try:
            ledger.transition(event)
        except IllegalTransitionError:
            assert ledger.record is before
            assert self.plant.record() == on_disk
        else:
            raise AssertionError(f"{event} was accepted in {before.state}")

    @precondition(lambda self: self.plant.boundary_fault is ignore_boundary)
    @rule()
    def comes_to_rest_without_faults(self) -> None:
        self.plant.repository.faults.clear()
        for _ in range(250):
            self.plant.step()
            status = self.plant.lifecycle.status()
            if status.state in RESTING_STATES or status.state == LifecycleState.AB:
                break
        else:
            raise AssertionError(f"no rest: {self.plant.lifecycle.status()}")

    # --- what must hold -----------------------------------------------------------------------------------------------

    @invariant()
    def nothing_is_that_must_not_be(self) -> None:
        assert self.plant.violations() == []

    @invariant()
    def there_is_a_model_unless_the_lifecycle_says_that_there_is_none(self) -> None:
        if self.plant.active_version() is None:
            assert self.plant.lifecycle._deps.alarms.texts()

    @invariant()
    def the_slot_serves_the_active_release(self) -> None:
        status = self.plant.lifecycle.status()
        settled = status.state not in {LifecycleState.COMMITTED, LifecycleState.ROLLING_BACK}
        if (
            settled
            and self.plant.boundary_fault is ignore_boundary
            and self.plant.active_version() is not None
            and status.alarm is None
        ):
            active = "0.0.0" if status.active is None else status.active.version
            assert self.plant.active_version() == active

    def teardown(self) -> None:
        self.stack.close()


Life.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestLife = Life.TestCase
