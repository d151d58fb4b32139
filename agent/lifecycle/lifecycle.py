"""The lifecycle of one inspection's model: requests, one thread, and the status it reports.

Promise: it converges on the desired release, or reports why not; the slot holds a verified model or none; nothing here
blocks the line, and no fault here (a full disk, a dead network, a bug) takes the model away from it. Requests come from
any thread (`rollout_requests`). Elsewhere: which state may follow which (`state.transitions`), what each does
(`rollout_steps`, `admission`), how a rollout ends (`rollout_outcome`), how a start continues from the disk
(`recovery`).

On the way from fetch to slot, the next module is `agent.lifecycle.rollout_steps`.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Final

from agent.errors import StateDirError
from agent.lifecycle.lifecycle_dependencies import compose_steps
from agent.lifecycle.recovery import mark_start_healthy, recover
from agent.lifecycle.rollout_requests import RolloutRequests
from agent.lifecycle.rollout_steps import RolloutSteps
from agent.lifecycle.state import version_floor
from agent.lifecycle.state.model_status import status_of
from agent.lifecycle.state.transitions import RISKY_STATES, LifecycleEvent
from agent.supervision import RESTART_SLOWLY, ThreadSupervisor, is_exhausted
from agent.timing.clock import NS_PER_S

if TYPE_CHECKING:
    from agent.config import RolloutLimits
    from agent.evidence.paired_test import ABReport
    from agent.lifecycle.lifecycle_dependencies import LifecycleDependencies
    from agent.release_records import DesiredRelease, FetchedRelease, ModelStatus, Refusal
    from agent.slot import Lease
    from agent.supervision import Fault, SupervisedThread

_DISK_RETRY_S: Final = 5.0  # until the next attempt, when the disk did not take the journal
_PUBLISH_NS: Final = NS_PER_S  # between two reports that differ in figures only
_log = logging.getLogger(__name__)


class Lifecycle:
    """One inspection's lifecycle. `start` before the cameras, then `launch`; or `step` by hand on a virtual clock."""

    def __init__(self, dependencies: LifecycleDependencies) -> None:
        """Compose; nothing is read before `start`."""
        clock = dependencies.clock
        self._inspection = dependencies.inspection
        self._clock = clock
        self._on_status = dependencies.on_status
        self._healthy_after_s = dependencies.healthy_after_s
        self._wake = threading.Event()
        self._deps = compose_steps(dependencies, wake=self._wake.set, on_progress=self._publish_status)
        self._rollout = RolloutSteps(self._deps)
        self._requests = RolloutRequests(self._deps, self._rollout.finaliser, wake=self._wake)
        self._supervisor = dependencies.supervisor or ThreadSupervisor(clock=clock)
        self._conditions = self._supervisor.condition_log(_log)
        self._condition = f"journal of the model of {self._inspection}"
        self._thread: SupervisedThread | None = None
        self._started_ns = clock.monotonic_ns()
        self._published: ModelStatus | None = None
        self._published_ns = 0

    # --- start, steps and end -----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Recover from the journal and fill the slot; returns when the line can begin. Never raises for the disk."""
        self._started_ns = self._clock.monotonic_ns()
        recover(self._deps, self._rollout)
        self._publish_status()

    def launch(self) -> None:
        """Run the steps on a thread from now on."""
        self._thread = self._supervisor.thread(
            self._run,
            kind="model",
            name=f"kensa-model-{self._inspection}",
            policy=RESTART_SLOWLY,
            stop=self._requests.closed,
            wake=self._wake,
            on_fault=self._failed,
        )
        self._thread.start()

    def step(self) -> float:
        """Do at most one thing; return the seconds until the next call."""
        before = self._deps.record_store.record
        self._requests.begin_step()
        try:
            self._housekeep()
            served = not self._rollout.finaliser.has_pending_refusal and self._requests.serve_next()
            delay_s = 0.0 if served else self._rollout.step()
            self._deps.alarms.clear("machine")
            if self._deps.record_store.record is not before:
                self._deps.alarms.clear("disk")
                self._conditions.clear_fault(self._condition, "is written again")
        except StateDirError as error:
            self._conditions.report_fault(self._condition, str(error), level=logging.ERROR)
            self._deps.alarms.raise_alarm("disk", str(error))
            delay_s = _DISK_RETRY_S
        self._publish_status()
        return delay_s

    def request_close(self) -> None:
        """Ask the thread to end soon, without waiting for it: so that many lifecycles end side by side."""
        self._requests.close()

    def close(self, *, timeout_s: float = 30.0) -> None:
        """End the thread and what is under way; the candidate's attempt does not count. Safe to call twice."""
        self.request_close()
        if self._thread is not None:
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                _log.error("the lifecycle of %s did not end within %.1f s", self._inspection, timeout_s)
                return
        self._deps.trial_runner.close()
        record = replace(self._deps.record_store.record, unfinished_boots=0)
        try:
            if record.state in RISKY_STATES:
                uncounted = replace(record, attempts=max(0, record.attempts - 1), hops=0)
                self._deps.record_store.transition(LifecycleEvent.INTERRUPTED, uncounted)
            else:
                self._deps.record_store.update(record)
        except StateDirError as error:
            _log.error("%s", error)
        self._rollout.interrupt()

    def set_limits(self, limits: RolloutLimits) -> None:
        """Set what the site allows, from any thread: later steps follow it, the open phase keeps its statistics."""
        self._deps.limits.replace(limits)

    def _run(self) -> None:
        while not self._requests.closed.is_set():
            delay_s = self.step()
            if delay_s > 0.0:
                self._clock.wait(self._wake, delay_s)
            self._wake.clear()

    def _failed(self, fault: Fault) -> None:
        """Continue from the last verified state after a bug, which does not take the model from the line."""
        if is_exhausted(fault.error):
            text = f"The model lifecycle cannot continue for now: {fault.text}."
            self._deps.alarms.raise_alarm("machine", text)
        else:
            text = "The model lifecycle met a bug; see the log. The line continues as it is."
            self._deps.alarms.raise_alarm("bug", text)
            _log.error("the lifecycle of %s continues from the last verified state", self._inspection)
        self._rollout.interrupt()

    def _housekeep(self) -> None:
        self._deps.active_release.drop_previous_if_due()
        if self._deps.record_store.record.unfinished_boots and self._uptime_s() >= self._healthy_after_s:
            mark_start_healthy(self._deps)

    def _uptime_s(self) -> float:
        return (self._clock.monotonic_ns() - self._started_ns) / NS_PER_S

    # --- requests, from any thread: see `RolloutRequests` -------------------------------------------------------------

    def desire(self, desired: DesiredRelease) -> None:
        """Converge on `desired`; a repeated hint does nothing. Raises LifecycleError for an invalid name or share."""
        self._requests.desire(desired)

    def rollback(self, reason: str) -> None:
        """End a running rollout, or return to the previous model. Raises LifecycleError if it cannot."""
        self._requests.rollback(reason)

    def promote(self) -> None:
        """Make the challenger of the A/B test the active release. Raises LifecycleError when there is none."""
        self._requests.promote()

    def stop_ab(self) -> None:
        """End the A/B test; the challenger is not denied. Raises LifecycleError when there is none."""
        self._requests.stop_ab()

    def continue_held(self) -> None:
        """Let a held candidate continue; its tests begin anew. Raises LifecycleError when none is held."""
        self._requests.continue_held()

    def retry(self, which: str | None = None) -> None:
        """Take a release off the deny list, end cool-down and halt. Raises LifecycleError for an unknown one."""
        self._requests.retry(which)

    # --- status, from any thread --------------------------------------------------------------------------------------

    def status(self) -> ModelStatus:
        """Return the current status."""
        deps = self._deps
        return replace(
            status_of(self._inspection, deps.record_store.record, others=deps.alarms.texts()),
            share=deps.trial_runner.share,
            progress=deps.progress.figures,
            last_try=deps.progress.last_failed_attempt,
        )

    def challenger(self) -> Lease | None:
        """Return the loaded candidate of a shadow deployment, trial or A/B test."""
        return self._deps.trial_runner.lease

    def history(self) -> list[dict[str, Any]]:
        """Return the last 100 transitions as plain values, oldest first."""
        return [asdict(entry) for entry in self._deps.record_store.record.history]

    def deny_list(self) -> list[dict[str, Any]]:
        """Return the releases that are not tried again, with their refusals, as plain values, oldest first."""
        return [asdict(entry) for entry in self._deps.record_store.record.deny_list]

    def check_release(self, fetched: FetchedRelease, *, release_id: str) -> Refusal | None:
        """Return why the lifecycle would refuse the release that was fetched for `release_id`, or None."""
        record = self._deps.record_store.record
        return version_floor.check_release(record, fetched, release_id=release_id) or version_floor.check_counter_floor(
            record, fetched.ref
        )

    def trusted_utc_s(self) -> float:
        """Return the time, but never before the newest signing time that was seen."""
        return self._deps.record_store.trusted_utc_s()

    def ab_report(self) -> ABReport | None:
        """Return the paired comparison of the candidate on live parts, or of the last one of this process."""
        return self._deps.trial_runner.report

    def _publish_status(self) -> None:
        """Report a changed status; one that differs in figures alone at most once a second."""
        status, now_ns = self.status(), self._clock.monotonic_ns()
        published = self._published
        if status == published:
            return
        if (
            published is not None
            and now_ns - self._published_ns < _PUBLISH_NS
            and replace(status, progress=published.progress) == published
        ):
            return
        self._published, self._published_ns = status, now_ns
        self._on_status(status)
