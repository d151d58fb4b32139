"""The lifecycle of one inspection's model: what people and the cloud ask of it, one thread, and what it tells.

Promise: it converges on the desired release, or says why not; the slot holds a verified model or none; nothing here
blocks the line, and no fault here (a full disk, a dead network, a bug) takes the model away from it. Requests come from
any thread, are remembered and wake the thread; hints that repeat what is known do nothing. Elsewhere: which state may
follow which (`transitions`), what each does (`rollout`, `candidacy`), how a rollout ends (`ending`), how a start goes
on from the disk (`recovery`).
"""

from __future__ import annotations

import logging
import threading
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Final

from agent.errors import LifecycleError, StateDirError
from agent.lifecycle import version_floor
from agent.lifecycle.active_release import ActiveRelease
from agent.lifecycle.lifecycle_context import LifecycleContext, RetryBackoff
from agent.lifecycle.recovery import mark_start_healthy, recover
from agent.lifecycle.rollout_steps import RolloutSteps
from agent.lifecycle.state import record_store as rules
from agent.lifecycle.state.journal import Journal
from agent.lifecycle.state.model_status import lifecycle_dir, status_of
from agent.lifecycle.state.record_store import RecordStore
from agent.lifecycle.state.transitions import LIVE_STATES, RISKY_STATES, ROLLOUT_STATES, LifecycleEvent, LifecycleState
from agent.lifecycle.trial_runner import TrialRunner
from agent.release.release_store import ReleaseStore
from agent.release_records import Gate
from agent.supervision import RESTART_SLOWLY, ThreadSupervisor, is_exhausted
from agent.timing.clock import NS_PER_S
from agent.wire import is_release_id

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from agent.config import RolloutLimits
    from agent.durable import Checkpoint
    from agent.evidence.paired_test import ABReport
    from agent.lifecycle.active_release import LoadRequest
    from agent.lifecycle.state.journal import LifecycleRecord
    from agent.lifecycle.trial_runner import ClosableFrameTap
    from agent.ports import ReleaseFetcher, SelfTester
    from agent.records import Observation
    from agent.release_records import DesiredRelease, FetchedRelease, ModelStatus, Refusal
    from agent.slot import Lease, ModelSlot
    from agent.supervision import Fault, SupervisedThread
    from agent.timing.clock import Clock

_DISK_RETRY_S: Final = 5.0  # until the next try, when the disk did not take the journal
_PUBLISH_NS: Final = NS_PER_S  # between two reports that differ in figures only
_log = logging.getLogger(__name__)


class Lifecycle:
    """One inspection's lifecycle. `start` before the cameras, then `launch`; or `step` by hand on a virtual clock."""

    def __init__(  # noqa: PLR0913 - the composition root names every part
        self,
        *,
        inspection: str,
        state_dir: Path,
        slot: ModelSlot,
        fetcher: ReleaseFetcher,
        examiner: SelfTester,
        load: Callable[[LoadRequest], Lease],
        factory: Path,
        limits: RolloutLimits,
        clock: Clock,
        open_shadow: Callable[[Lease, Callable[[Observation], None]], ClosableFrameTap],
        on_status: Callable[[ModelStatus], None],
        acceptance: Path | None = None,
        healthy_after_s: float = 60.0,
        look_every_s: float = 6 * 3_600.0,
        unhealthy: Callable[[], str | None] = lambda: None,
        checkpoint: Checkpoint = lambda _boundary: None,
        supervisor: ThreadSupervisor | None = None,
    ) -> None:
        """Compose; nothing is read before `start`.

        `load` raises ReleaseError. `on_status` is called from the lifecycle's thread and must not block. `acceptance`
        is the folder of the site's labelled parts, which need not exist. `unhealthy` says why the line's verdicts prove
        nothing at the moment (None: they do): as long, no candidate is judged by them or given a larger share.
        `checkpoint` is called at every boundary between persisting and acting: fault tests end the process there.
        """
        folder = lifecycle_dir(state_dir, inspection)
        store = ReleaseStore(folder, checkpoint=checkpoint)
        self._inspection = inspection
        self._clock = clock
        self._on_status = on_status
        self._healthy_after_s = healthy_after_s
        self._wake = threading.Event()
        self._context = LifecycleContext(
            record_store=RecordStore(inspection, Journal(folder, checkpoint=checkpoint), clock),
            store=store,
            active_release=ActiveRelease(
                slot=slot,
                store=store,
                factory=factory,
                load=load,
                clock=clock,
                probation_s=limits.probation_s,
                checkpoint=checkpoint,
            ),
            trial_runner=TrialRunner(slot=slot, open_shadow=open_shadow, clock=clock, on_refusal=self._wake.set),
            fetcher=fetcher,
            self_tester=examiner,
            acceptance_dir=acceptance,
            limits=limits,
            clock=clock,
            backoff=RetryBackoff(clock),
            on_progress=self._publish_status,
            revocation_poll_s=look_every_s,
            line_fault=unhealthy,
        )
        self._rollout = RolloutSteps(self._context)
        self._lock = threading.Lock()  # of the requests
        self._desired: DesiredRelease | None = None
        self._requests: dict[str, str | None] = {}  # retry, rollback, promote, stop_ab, continue -> its argument
        self._closing = threading.Event()
        self._supervisor = supervisor or ThreadSupervisor(clock=clock)
        self._conditions = self._supervisor.condition_log(_log)
        self._condition = f"journal of the model of {inspection}"
        self._thread: SupervisedThread | None = None
        self._started_ns = clock.monotonic_ns()
        self._published: ModelStatus | None = None
        self._published_ns = 0

    # --- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Recover from the journal and fill the slot; returns when the line can begin. Never raises for the disk."""
        self._started_ns = self._clock.monotonic_ns()
        recover(self._context, self._rollout)
        self._publish_status()

    def launch(self) -> None:
        """Let a thread do the steps from now on."""
        self._thread = self._supervisor.thread(
            self._run,
            kind="model",
            name=f"kensa-model-{self._inspection}",
            policy=RESTART_SLOWLY,
            stop=self._closing,
            wake=self._wake,
            on_fault=self._failed,
        )
        self._thread.start()

    def step(self) -> float:
        """Do at most one thing; return the seconds until it wants to be called again."""
        before = self._context.record_store.record
        with self._lock:
            if not self._closing.is_set():
                self._context.stop.clear()
        try:
            self._housekeep()
            handled = not self._rollout.finaliser.has_pending_refusal and self._serve_request()
            delay_s = 0.0 if handled else self._rollout.step()
            self._context.alarms.pop("machine", None)
            if self._context.record_store.record is not before:
                self._context.alarms.pop("disk", None)
                self._conditions.clear_fault(self._condition, "is written again")
        except StateDirError as error:
            self._conditions.report_fault(self._condition, str(error), level=logging.ERROR)
            self._context.alarms["disk"] = str(error)
            delay_s = _DISK_RETRY_S
        self._publish_status()
        return delay_s

    def request_close(self) -> None:
        """Let the thread end soon, without waiting for it: so that many lifecycles end side by side."""
        with self._lock:
            self._closing.set()
            self._context.stop.set()
        self._wake.set()

    def close(self, *, timeout_s: float = 30.0) -> None:
        """End the thread and what is under way; a candidate's attempt is not held against it. Safe to call twice."""
        self.request_close()
        if self._thread is not None:
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                _log.error("the lifecycle of %s did not end within %.1f s", self._inspection, timeout_s)
                return
        self._context.trial_runner.close()
        record = replace(self._context.record_store.record, unfinished_boots=0)
        try:
            if record.state in RISKY_STATES:
                kept = replace(record, attempts=max(0, record.attempts - 1), hops=0)
                self._context.record_store.transition(LifecycleEvent.INTERRUPTED, kept)
            else:
                self._context.record_store.update(record)
        except StateDirError as error:
            _log.error("%s", error)
        self._rollout.interrupt()

    def _run(self) -> None:
        while not self._closing.is_set():
            delay_s = self.step()
            if delay_s > 0.0:
                self._clock.wait(self._wake, delay_s)
            self._wake.clear()

    def _failed(self, fault: Fault) -> None:
        """A bug here does not take the model from the line; the lifecycle goes on from the last verified state."""
        if is_exhausted(fault.error):
            self._context.alarms["machine"] = f"The model lifecycle cannot go on for now: {fault.text}."
        else:
            self._context.alarms["bug"] = "The model lifecycle met a bug; see the log. The line goes on as it is."
            _log.error("the lifecycle of %s goes on from the last verified state", self._inspection)
        self._rollout.interrupt()

    def _housekeep(self) -> None:
        self._context.active_release.drop_previous_if_due()
        if self._context.record_store.record.unfinished_boots and self._uptime_s() >= self._healthy_after_s:
            mark_start_healthy(self._context)

    def _uptime_s(self) -> float:
        return (self._clock.monotonic_ns() - self._started_ns) / NS_PER_S

    def set_limits(self, limits: RolloutLimits) -> None:
        """Set what the site allows, from any thread: steps under way go by it, the open phase keeps its statistics."""
        self._context.limits = limits
        self._context.active_release.probation_s = limits.probation_s

    # --- requests -----------------------------------------------------------------------------------------------------

    def desire(self, desired: DesiredRelease) -> None:
        """Converge on `desired`; a hint that repeats what is known does nothing. Raises LifecycleError for no name."""
        if not is_release_id(desired.release_id):
            raise LifecycleError(
                f"{desired.release_id[:80]!r} is no release: write it as name/version, such as surface/1.2.0."
            )
        if not 0.0 < desired.share <= 1.0:
            raise LifecycleError(f"The share {desired.share} of a comparison must lie in (0, 1], such as 0.5.")
        with self._lock:
            if self._desired is None and rules.is_known(self._context.record_store.record, desired):
                return
            self._desired = desired
            self._context.stop.set()
        self._wake.set()

    def rollback(self, reason: str) -> None:
        """End a running rollout, or go back to the model before the active one. Raises LifecycleError if it cannot."""
        record = self._context.record_store.record
        if record.state in RISKY_STATES | ROLLOUT_STATES:
            self._request("rollback", reason)
            return
        if record.state is LifecycleState.NO_MODEL:
            raise LifecycleError("No model can be loaded, so there is none to go back from; publish a new release.")
        if record.active is None and rules.rollback_target(record) is None:
            raise LifecycleError("The factory release is active, and there is no other model to go back to.")
        self._request("rollback", reason)

    def promote(self) -> None:
        """Make the challenger of the A/B test the active release. Raises LifecycleError when there is none."""
        self._require_ab()
        self._request("promote", None)

    def stop_ab(self) -> None:
        """End the A/B test; the challenger is not blamed. Raises LifecycleError when there is none."""
        self._require_ab()
        self._request("stop_ab", None)

    def continue_held(self) -> None:
        """Let a candidate that is held go on; its tests begin anew. Raises LifecycleError when none is held."""
        if self._context.record_store.record.state not in LIVE_STATES or "held" not in self._context.alarms:
            raise LifecycleError("No release is held here; `kensa model show` says what is under way.")
        self._request("continue", None)

    def retry(self, which: str | None = None) -> None:
        """Take a release off the deny list (digest, its first 8 or more characters, or name/version; None: none).

        Also ends the cool-down and the wait for a person. Raises LifecycleError when the list does not have it.
        """
        record = self._context.record_store.record
        if which is not None and not any(rules.matches_entry(bad, which) for bad in record.deny_list):
            known = ", ".join(bad.release_id for bad in record.deny_list) or "nothing"
            raise LifecycleError(f"{which[:80]!r} is not on the deny list, which has {known}.")
        self._request("retry", which)

    def _require_ab(self) -> None:
        if self._context.record_store.record.state is not LifecycleState.AB:
            raise LifecycleError("No A/B test is running; `kensa model ab start` begins one.")

    def _request(self, what: str, argument: str | None) -> None:
        with self._lock:
            self._requests[what] = argument
            self._context.stop.set()
        self._wake.set()

    # --- what is known ------------------------------------------------------------------------------------------------

    def status(self) -> ModelStatus:
        """Where it stands; from any thread."""
        record, parts = self._context.record_store.record, self._context
        alarms = [text for _, text in sorted(parts.alarms.copy().items())]  # read from other threads too
        return replace(
            status_of(self._inspection, record, others=alarms),
            share=parts.trial_runner.share,
            progress=dict(parts.progress),
            last_try=parts.last_failed_attempt,
        )

    def challenger(self) -> Lease | None:
        """Return the candidate that is loaded, in a shadow, trial or A/B test; from any thread."""
        return self._context.trial_runner.lease

    def history(self) -> list[dict[str, Any]]:
        """Return the last 100 transitions as plain values, oldest first."""
        return [asdict(line) for line in self._context.record_store.record.history]

    def deny_list(self) -> list[dict[str, Any]]:
        """Return what is not tried again, with its refusals, as plain values, oldest first."""
        return [asdict(bad) for bad in self._context.record_store.record.deny_list]

    def check_release(self, fetched: FetchedRelease, *, release_id: str) -> Refusal | None:
        """Say what the lifecycle would refuse the release for that was fetched for `release_id`; from any thread."""
        record = self._context.record_store.record
        return version_floor.check_release(record, fetched, release_id=release_id) or version_floor.check_counter_floor(
            record, fetched.ref
        )

    def trusted_utc_s(self) -> float:
        """Now, but never before the newest signing time that was seen; from any thread."""
        return self._context.record_store.trusted_utc_s()

    def ab_report(self) -> ABReport | None:
        """Return the paired comparison of the candidate on live parts, or of the last one of this process."""
        return self._context.trial_runner.report

    def _publish_status(self) -> None:
        """Report what has changed; figures alone at most once a second."""
        status, now_ns = self.status(), self._clock.monotonic_ns()
        told = self._published
        if status == told:
            return
        if (
            told is not None
            and now_ns - self._published_ns < _PUBLISH_NS
            and replace(status, progress=told.progress) == told
        ):
            return
        self._published, self._published_ns = status, now_ns
        self._on_status(status)

    # --- serving requests ---------------------------------------------------------------------------------------------

    def _serve_request(self) -> bool:
        """Do what was asked, one thing; False when nothing was, or it has to wait for a step. Raises StateDirError."""
        record = self._context.record_store.record
        if record.state in {LifecycleState.COMMITTED, LifecycleState.ROLLING_BACK}:
            return False
        with self._lock:
            what = next(
                (w for w in ("retry", "rollback", "stop_ab", "continue", "promote") if w in self._requests), None
            )
            argument, wish = self._requests.get(what or ""), self._desired
        if what is not None:
            self._handle_request(what, argument, record)
            with self._lock:
                if self._requests.get(what) is argument:
                    self._requests.pop(what, None)
            return True
        if wish is None:
            return False
        self._accept_desired(record, wish)
        with self._lock:
            if self._desired is wish:
                self._desired = None
        return True

    def _handle_request(self, what: str, argument: str | None, record: LifecycleRecord) -> None:
        if what == "retry":
            self._retry(record, argument)
        elif what == "rollback":
            self._roll_back(record, argument or "no reason given")
        elif what == "continue":
            self._continue_held(record)
        elif record.state is not LifecycleState.AB:
            _log.warning("%s came too late: the A/B test has ended", what)
        elif what == "stop_ab":
            self._rollout.finaliser.abort(replace(record, wanted=False))
        elif (lease := self._context.trial_runner.lease) is not None:
            self._rollout.finaliser.commit(record, lease)

    def _continue_held(self, record: LifecycleRecord) -> None:
        if record.state not in LIVE_STATES or self._context.trial_runner.lease is None:
            _log.warning("continue came too late: nothing is held any more")
            return
        held = self._context.alarms.get("held", "").partition(". ")[0]
        self._context.record_store.annotate(record, "continued", f"a person let it go on: {held}")
        self._context.trial_runner.reset_evidence()

    def _retry(self, record: LifecycleRecord, which: str | None) -> None:
        self._context.record_store.annotate(rules.allow_again(record, which), "retry", which or "go on")
        self._context.backoff.reset()
        if self._context.active_release.has_no_model:
            self._rollout.finaliser.retry_activation()

    def _roll_back(self, record: LifecycleRecord, reason: str) -> None:
        refusal = rules.make_refusal(Gate.OPERATOR, "rolled_back", f"A person ended it: {reason[:500]}")
        if record.state in ROLLOUT_STATES:
            self._rollout.finaliser.refuse(refusal)
        elif record.state is LifecycleState.IDLE:
            self._context.active_release.revert_to(rules.rollback_target(record))  # at once, where it is still loaded
            changed = replace(
                rules.retire_active(record, refusal, utc_s=self._context.record_store.utc_s()), wanted=False
            )
            self._context.record_store.transition(
                LifecycleEvent.ROLLBACK, changed, note=f"{refusal.gate}: {reason[:200]}"
            )

    def _accept_desired(self, record: LifecycleRecord, wish: DesiredRelease) -> None:
        """Take a wish in; a rollout towards another one ends without blame."""
        if rules.is_known(record, wish):
            return
        changed = rules.with_desired(record, wish)
        if record.state in ROLLOUT_STATES:
            self._rollout.finaliser.abort(changed)
        else:
            self._context.record_store.update(changed)
        self._context.backoff.reset()
