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

from agent.clock import NS_PER_S
from agent.errors import LifecycleError, StateDirError
from agent.model import floor
from agent.model import ledger as rules
from agent.model.journal import Journal
from agent.model.ledger import Ledger
from agent.model.parts import BackOff, Parts
from agent.model.recovery import is_healthy, recover
from agent.model.rollout import Rollout
from agent.model.serving import Serving
from agent.model.standing import folder_of, standing
from agent.model.store import Store
from agent.model.transitions import ON_LIVE_PARTS, RISKY, ROLLOUT, Event, State
from agent.model.watch import Watch
from agent.records import Gate
from agent.supervision import RESTART_SLOWLY, Supervisor, is_exhausted
from agent.wire import is_release_id

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from agent.clock import Clock
    from agent.config import RolloutLimits
    from agent.model.journal import Checkpoint, Record
    from agent.model.paired import ABReport
    from agent.model.serving import LoadRequest
    from agent.model.watch import ClosableTap
    from agent.ports import Examiner, ReleaseFetcher
    from agent.records import Desired, Fetched, ModelStatus, Observation, Refusal
    from agent.slot import Lease, ModelSlot
    from agent.supervision import Fault, SupervisedThread

_DISK_S: Final = 5.0  # until the next try, when the disk did not take the journal
_TELL_NS: Final = NS_PER_S  # between two reports that differ in figures only
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
        examiner: Examiner,
        load: Callable[[LoadRequest], Lease],
        factory: Path,
        limits: RolloutLimits,
        clock: Clock,
        open_shadow: Callable[[Lease, Callable[[Observation], None]], ClosableTap],
        on_status: Callable[[ModelStatus], None],
        acceptance: Path | None = None,
        healthy_after_s: float = 60.0,
        look_every_s: float = 6 * 3_600.0,
        unhealthy: Callable[[], str | None] = lambda: None,
        checkpoint: Checkpoint = lambda _boundary: None,
        supervisor: Supervisor | None = None,
    ) -> None:
        """Compose; nothing is read before `start`.

        `load` raises ReleaseError. `on_status` is called from the lifecycle's thread and must not block. `acceptance`
        is the folder of the site's labelled parts, which need not exist. `unhealthy` says why the line's verdicts prove
        nothing at the moment (None: they do): as long, no candidate is judged by them or given a larger share.
        `checkpoint` is called at every boundary between persisting and acting: fault tests end the process there.
        """
        folder = folder_of(state_dir, inspection)
        store = Store(folder, checkpoint=checkpoint)
        self._inspection = inspection
        self._clock = clock
        self._on_status = on_status
        self._healthy_after_s = healthy_after_s
        self._wake = threading.Event()
        self._parts = Parts(
            ledger=Ledger(inspection, Journal(folder, checkpoint=checkpoint), clock),
            store=store,
            serving=Serving(
                slot=slot,
                store=store,
                factory=factory,
                load=load,
                clock=clock,
                probation_s=limits.probation_s,
                checkpoint=checkpoint,
            ),
            watch=Watch(slot=slot, open_shadow=open_shadow, clock=clock, on_refusal=self._wake.set),
            fetcher=fetcher,
            examiner=examiner,
            acceptance=acceptance,
            limits=limits,
            clock=clock,
            back_off=BackOff(clock),
            on_progress=self._tell,
            look_every_s=look_every_s,
            unhealthy=unhealthy,
        )
        self._rollout = Rollout(self._parts)
        self._lock = threading.Lock()  # of the requests
        self._wish: Desired | None = None
        self._asked: dict[str, str | None] = {}  # retry, rollback, promote, stop_ab, continue -> its argument
        self._closing = threading.Event()
        self._supervisor = supervisor or Supervisor(clock=clock)
        self._conditions = self._supervisor.condition_log(_log)
        self._what = f"journal of the model of {inspection}"
        self._thread: SupervisedThread | None = None
        self._started_ns = clock.monotonic_ns()
        self._told: ModelStatus | None = None
        self._told_ns = 0

    # --- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Recover from the journal and fill the slot; returns when the line can begin. Never raises for the disk."""
        self._started_ns = self._clock.monotonic_ns()
        recover(self._parts, self._rollout)
        self._tell()

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
        before = self._parts.ledger.record
        with self._lock:
            if not self._closing.is_set():
                self._parts.stop.clear()
        try:
            self._keep_house()
            handled = not self._rollout.ending.is_refusing and self._serve_request()
            delay_s = 0.0 if handled else self._rollout.step()
            self._parts.alarms.pop("machine", None)
            if self._parts.ledger.record is not before:
                self._parts.alarms.pop("disk", None)
                self._conditions.well(self._what, "is written again")
        except StateDirError as error:
            self._conditions.broken(self._what, str(error), level=logging.ERROR)
            self._parts.alarms["disk"] = str(error)
            delay_s = _DISK_S
        self._tell()
        return delay_s

    def ask_close(self) -> None:
        """Let the thread end soon, without waiting for it: so that many lifecycles end side by side."""
        with self._lock:
            self._closing.set()
            self._parts.stop.set()
        self._wake.set()

    def close(self, *, timeout_s: float = 30.0) -> None:
        """End the thread and what is under way; a candidate's attempt is not held against it. Safe to call twice."""
        self.ask_close()
        if self._thread is not None:
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                _log.error("the lifecycle of %s did not end within %.1f s", self._inspection, timeout_s)
                return
        self._parts.watch.close()
        record = replace(self._parts.ledger.record, unfinished_boots=0)
        try:
            if record.state in RISKY:
                kept = replace(record, attempts=max(0, record.attempts - 1), hops=0)
                self._parts.ledger.move(Event.INTERRUPTED, kept)
            else:
                self._parts.ledger.amend(record)
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
            self._parts.alarms["machine"] = f"The model lifecycle cannot go on for now: {fault.text}."
        else:
            self._parts.alarms["bug"] = "The model lifecycle met a bug; see the log. The line goes on as it is."
            _log.error("the lifecycle of %s goes on from the last verified state", self._inspection)
        self._rollout.interrupt()

    def _keep_house(self) -> None:
        self._parts.serving.settle()
        if self._parts.ledger.record.unfinished_boots and self._lived_s() >= self._healthy_after_s:
            is_healthy(self._parts)

    def _lived_s(self) -> float:
        return (self._clock.monotonic_ns() - self._started_ns) / NS_PER_S

    def limit(self, limits: RolloutLimits) -> None:
        """Set what the site allows, from any thread: steps under way go by it, the open phase keeps its statistics."""
        self._parts.limits = limits
        self._parts.serving.probation_s = limits.probation_s

    # --- requests -----------------------------------------------------------------------------------------------------

    def desire(self, desired: Desired) -> None:
        """Converge on `desired`; a hint that repeats what is known does nothing. Raises LifecycleError for no name."""
        if not is_release_id(desired.release_id):
            raise LifecycleError(
                f"{desired.release_id[:80]!r} is no release: write it as name/version, such as surface/1.2.0."
            )
        if not 0.0 < desired.share <= 1.0:
            raise LifecycleError(f"The share {desired.share} of a comparison must lie in (0, 1], such as 0.5.")
        with self._lock:
            if self._wish is None and rules.is_known(self._parts.ledger.record, desired):
                return
            self._wish = desired
            self._parts.stop.set()
        self._wake.set()

    def rollback(self, reason: str) -> None:
        """End a running rollout, or go back to the model before the active one. Raises LifecycleError if it cannot."""
        record = self._parts.ledger.record
        if record.state in RISKY | ROLLOUT:
            self._ask("rollback", reason)
            return
        if record.state is State.SAFE:
            raise LifecycleError("No model can be loaded, so there is none to go back from; publish a new release.")
        if record.active is None and rules.way_back(record) is None:
            raise LifecycleError("The factory release is active, and there is no other model to go back to.")
        self._ask("rollback", reason)

    def promote(self) -> None:
        """Make the challenger of the A/B test the active release. Raises LifecycleError when there is none."""
        self._needs_ab()
        self._ask("promote", None)

    def stop_ab(self) -> None:
        """End the A/B test; the challenger is not blamed. Raises LifecycleError when there is none."""
        self._needs_ab()
        self._ask("stop_ab", None)

    def proceed(self) -> None:
        """Let a candidate that is held go on; its tests begin anew. Raises LifecycleError when none is held."""
        if self._parts.ledger.record.state not in ON_LIVE_PARTS or "held" not in self._parts.alarms:
            raise LifecycleError("No release is held here; `kensa model show` says what is under way.")
        self._ask("continue", None)

    def retry(self, which: str | None = None) -> None:
        """Take a release off the bad list (digest, its first 8 or more characters, or name/version; None: none).

        Also ends the cool-down and the wait for a person. Raises LifecycleError when the list does not have it.
        """
        record = self._parts.ledger.record
        if which is not None and not any(rules.names(bad, which) for bad in record.bad):
            known = ", ".join(bad.release_id for bad in record.bad) or "nothing"
            raise LifecycleError(f"{which[:80]!r} is not on the bad list, which has {known}.")
        self._ask("retry", which)

    def _needs_ab(self) -> None:
        if self._parts.ledger.record.state is not State.AB:
            raise LifecycleError("No A/B test is running; `kensa model ab start` begins one.")

    def _ask(self, what: str, argument: str | None) -> None:
        with self._lock:
            self._asked[what] = argument
            self._parts.stop.set()
        self._wake.set()

    # --- what is known ------------------------------------------------------------------------------------------------

    def status(self) -> ModelStatus:
        """Where it stands; from any thread."""
        record, parts = self._parts.ledger.record, self._parts
        alarms = [text for _, text in sorted(parts.alarms.copy().items())]  # read from other threads too
        return replace(
            standing(self._inspection, record, others=alarms),
            share=parts.watch.share,
            progress=dict(parts.progress),
            last_try=parts.last_try,
        )

    def challenger(self) -> Lease | None:
        """Return the candidate that is loaded, in a shadow, trial or A/B test; from any thread."""
        return self._parts.watch.lease

    def history(self) -> list[dict[str, Any]]:
        """Return the last 100 transitions as plain values, oldest first."""
        return [asdict(line) for line in self._parts.ledger.record.history]

    def bad_list(self) -> list[dict[str, Any]]:
        """Return what is not tried again, with its refusals, as plain values, oldest first."""
        return [asdict(bad) for bad in self._parts.ledger.record.bad]

    def objection(self, fetched: Fetched, *, release_id: str) -> Refusal | None:
        """Say what the lifecycle would refuse the release for that was fetched for `release_id`; from any thread."""
        record = self._parts.ledger.record
        return floor.objection(record, fetched, release_id=release_id) or floor.below_floor(record, fetched.ref)

    def trusted_utc_s(self) -> float:
        """Now, but never before the newest signing time that was seen; from any thread."""
        return self._parts.ledger.trusted_utc_s()

    def ab_report(self) -> ABReport | None:
        """Return the paired comparison of the candidate on live parts, or of the last one of this process."""
        return self._parts.watch.report

    def _tell(self) -> None:
        """Report what has changed; figures alone at most once a second."""
        status, now_ns = self.status(), self._clock.monotonic_ns()
        told = self._told
        if status == told:
            return
        if told is not None and now_ns - self._told_ns < _TELL_NS and replace(status, progress=told.progress) == told:
            return
        self._told, self._told_ns = status, now_ns
        self._on_status(status)

    # --- serving requests ---------------------------------------------------------------------------------------------

    def _serve_request(self) -> bool:
        """Do what was asked, one thing; False when nothing was, or it has to wait for a step. Raises StateDirError."""
        record = self._parts.ledger.record
        if record.state in {State.COMMITTED, State.ROLLING_BACK}:
            return False
        with self._lock:
            what = next((w for w in ("retry", "rollback", "stop_ab", "continue", "promote") if w in self._asked), None)
            argument, wish = self._asked.get(what or ""), self._wish
        if what is not None:
            self._do(what, argument, record)
            with self._lock:
                if self._asked.get(what) is argument:
                    self._asked.pop(what, None)
            return True
        if wish is None:
            return False
        self._accept(record, wish)
        with self._lock:
            if self._wish is wish:
                self._wish = None
        return True

    def _do(self, what: str, argument: str | None, record: Record) -> None:
        if what == "retry":
            self._retry(record, argument)
        elif what == "rollback":
            self._roll_back(record, argument or "no reason given")
        elif what == "continue":
            self._proceed(record)
        elif record.state is not State.AB:
            _log.warning("%s came too late: the A/B test has ended", what)
        elif what == "stop_ab":
            self._rollout.ending.give_up(replace(record, wanted=False))
        elif (lease := self._parts.watch.lease) is not None:
            self._rollout.ending.commit(record, lease)

    def _proceed(self, record: Record) -> None:
        if record.state not in ON_LIVE_PARTS or self._parts.watch.lease is None:
            _log.warning("continue came too late: nothing is held any more")
            return
        held = self._parts.alarms.get("held", "").partition(". ")[0]
        self._parts.ledger.remark(record, "continued", f"a person let it go on: {held}")
        self._parts.watch.forgive()

    def _retry(self, record: Record, which: str | None) -> None:
        self._parts.ledger.remark(rules.pardoned(record, which), "retry", which or "go on")
        self._parts.back_off.reset()
        if self._parts.serving.is_safe:
            self._rollout.ending.serve_again()

    def _roll_back(self, record: Record, reason: str) -> None:
        refusal = rules.refusal_of(Gate.OPERATOR, "rolled_back", f"A person ended it: {reason[:500]}")
        if record.state in ROLLOUT:
            self._rollout.ending.refuse(refusal)
        elif record.state is State.IDLE:
            self._parts.serving.back_to(rules.way_back(record))  # at once, where it is still loaded
            changed = replace(rules.retired(record, refusal, utc_s=self._parts.ledger.utc_s()), wanted=False)
            self._parts.ledger.move(Event.ROLLBACK, changed, note=f"{refusal.gate}: {reason[:200]}")

    def _accept(self, record: Record, wish: Desired) -> None:
        """Take a wish in; a rollout towards another one ends without blame."""
        if rules.is_known(record, wish):
            return
        changed = rules.wished(record, wish)
        if record.state in ROLLOUT:
            self._rollout.ending.give_up(changed)
        else:
            self._parts.ledger.amend(changed)
        self._parts.back_off.reset()
