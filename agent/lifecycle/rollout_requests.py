"""Requests of people and the cloud: checked on any thread, served one by one.

The lifecycle's thread serves them. A request sets `stop`, so that a fetch or self-test under way ends soon, and
wakes that thread. Hints that repeat what is known do nothing. A request stays remembered until it was served without
StateDirError.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from agent.errors import LifecycleError
from agent.lifecycle.state.deny_list import allow_again, matches_entry
from agent.lifecycle.state.record_changes import is_known, retire_active, rollback_target, with_desired
from agent.lifecycle.state.refusals import make_refusal
from agent.lifecycle.state.transitions import LIVE_STATES, RISKY_STATES, ROLLOUT_STATES, LifecycleEvent, LifecycleState
from agent.release_records import Gate
from agent.wire import is_release_id

if TYPE_CHECKING:
    from agent.lifecycle.lifecycle_dependencies import StepDependencies
    from agent.lifecycle.rollout_outcome import RolloutFinaliser
    from agent.lifecycle.state.journal import LifecycleRecord
    from agent.release_records import DesiredRelease

_SERVING_ORDER: Final = ("retry", "rollback", "stop_ab", "continue", "promote")
_log = logging.getLogger(__name__)


class RolloutRequests:
    """At most one remembered request of each kind, and one desired release."""

    def __init__(self, deps: StepDependencies, finaliser: RolloutFinaliser, *, wake: threading.Event) -> None:
        """`wake` is set with every request."""
        self._deps = deps
        self._finaliser = finaliser
        self._wake = wake
        self._lock = threading.Lock()
        self._desired: DesiredRelease | None = None
        self._requests: dict[str, str | None] = {}  # kind -> its argument
        self._closed = threading.Event()

    @property
    def closed(self) -> threading.Event:
        """Set once `close` was called."""
        return self._closed

    def close(self) -> None:
        """Ask the lifecycle's thread to end soon."""
        with self._lock:
            self._closed.set()
            self._deps.stop.set()
        self._wake.set()

    def begin_step(self) -> None:
        """Let the next fetch or self-test run, unless closed: it sees every request that came before."""
        with self._lock:
            if not self._closed.is_set():
                self._deps.stop.clear()

    # --- from any thread ----------------------------------------------------------------------------------------------

    def desire(self, desired: DesiredRelease) -> None:
        """Converge on `desired`; a repeated hint does nothing. Raises LifecycleError for an invalid name or share."""
        if not is_release_id(desired.release_id):
            raise LifecycleError(
                f"{desired.release_id[:80]!r} is no release: write it as name/version, such as surface/1.2.0."
            )
        if not 0.0 < desired.share <= 1.0:
            raise LifecycleError(f"The share {desired.share} of a comparison must lie in (0, 1], such as 0.5.")
        with self._lock:
            if self._desired is None and is_known(self._deps.record_store.record, desired):
                return
            self._desired = desired
            self._deps.stop.set()
        self._wake.set()

    def rollback(self, reason: str) -> None:
        """End a running rollout, or return to the previous model. Raises LifecycleError if it cannot."""
        record = self._deps.record_store.record
        if record.state not in RISKY_STATES | ROLLOUT_STATES:
            if record.state is LifecycleState.NO_MODEL:
                raise LifecycleError("No model can be loaded, so there is none to roll back; publish a new release.")
            if record.active is None and rollback_target(record) is None:
                raise LifecycleError("The factory release is active, and there is no other model to return to.")
        self._remember("rollback", reason)

    def promote(self) -> None:
        """Make the challenger of the A/B test the active release. Raises LifecycleError when there is none."""
        self._require_ab()
        self._remember("promote", None)

    def stop_ab(self) -> None:
        """End the A/B test; the challenger is not denied. Raises LifecycleError when there is none."""
        self._require_ab()
        self._remember("stop_ab", None)

    def continue_held(self) -> None:
        """Let a held candidate continue; its tests begin anew. Raises LifecycleError when none is held."""
        if self._deps.record_store.record.state not in LIVE_STATES or self._deps.alarms.text("held") is None:
            raise LifecycleError("No release is held here; `kensa model show` says what is under way.")
        self._remember("continue", None)

    def retry(self, which: str | None = None) -> None:
        """Take a release off the deny list (digest, its first 8 or more characters, or name/version; None: none).

        Also ends the cool-down and the wait for a person. Raises LifecycleError when the list does not have it.
        """
        entries = self._deps.record_store.record.deny_list
        if which is not None and not any(matches_entry(entry, which) for entry in entries):
            known = ", ".join(entry.release_id for entry in entries) or "nothing"
            raise LifecycleError(f"{which[:80]!r} is not on the deny list, which has {known}.")
        self._remember("retry", which)

    def _require_ab(self) -> None:
        if self._deps.record_store.record.state is not LifecycleState.AB:
            raise LifecycleError("No A/B test is running; `kensa model ab start` begins one.")

    def _remember(self, kind: str, argument: str | None) -> None:
        with self._lock:
            self._requests[kind] = argument
            self._deps.stop.set()
        self._wake.set()

    # --- on the lifecycle's thread ------------------------------------------------------------------------------------

    def serve_next(self) -> bool:
        """Serve one request; False when there is none, or it has to wait for a step. Raises StateDirError."""
        record = self._deps.record_store.record
        if record.state in {LifecycleState.COMMITTED, LifecycleState.ROLLING_BACK}:
            return False
        with self._lock:
            kind = next((k for k in _SERVING_ORDER if k in self._requests), None)
            argument, desired = self._requests.get(kind or ""), self._desired
        if kind is not None:
            self._serve(kind, argument, record)
            with self._lock:
                if self._requests.get(kind) is argument:
                    self._requests.pop(kind, None)
            return True
        if desired is None:
            return False
        self._accept_desired(record, desired)
        with self._lock:
            if self._desired is desired:
                self._desired = None
        return True

    def _serve(self, kind: str, argument: str | None, record: LifecycleRecord) -> None:
        if kind == "retry":
            self._serve_retry(record, argument)
        elif kind == "rollback":
            self._serve_rollback(record, argument or "no reason given")
        elif kind == "continue":
            self._serve_continue(record)
        elif record.state is not LifecycleState.AB:
            _log.warning("%s came too late: the A/B test has ended", kind)
        elif kind == "stop_ab":
            self._finaliser.abort(replace(record, wanted=False))
        elif (lease := self._deps.trial_runner.lease) is not None:
            self._finaliser.commit(record, lease)

    def _serve_continue(self, record: LifecycleRecord) -> None:
        if record.state not in LIVE_STATES or self._deps.trial_runner.lease is None:
            _log.warning("continue came too late: nothing is held any more")
            return
        held = (self._deps.alarms.text("held") or "").partition(". ")[0]
        self._deps.record_store.annotate(record, "continued", f"a person let it continue: {held}")
        self._deps.trial_runner.reset_evidence()

    def _serve_retry(self, record: LifecycleRecord, which: str | None) -> None:
        self._deps.record_store.annotate(allow_again(record, which), "retry", which or "continue")
        self._deps.backoff.reset()
        if self._deps.active_release.has_no_model:
            self._finaliser.retry_activation()

    def _serve_rollback(self, record: LifecycleRecord, reason: str) -> None:
        refusal = make_refusal(Gate.OPERATOR, "rolled_back", f"A person ended it: {reason[:500]}")
        if record.state in ROLLOUT_STATES:
            self._finaliser.refuse(refusal)
        elif record.state is LifecycleState.IDLE:
            self._deps.active_release.revert_to(rollback_target(record))  # at once, if it is still loaded
            utc_s = self._deps.record_store.utc_s()
            changed = replace(retire_active(record, refusal, utc_s=utc_s), wanted=False)
            self._deps.record_store.transition(LifecycleEvent.ROLLBACK, changed, note=f"{refusal.gate}: {reason[:200]}")

    def _accept_desired(self, record: LifecycleRecord, desired: DesiredRelease) -> None:
        """Write the desired release into the journal; a rollout towards another one ends without blame."""
        if is_known(record, desired):
            return
        changed = with_desired(record, desired)
        if record.state in ROLLOUT_STATES:
            self._finaliser.abort(changed)
        else:
            self._deps.record_store.update(changed)
        self._deps.backoff.reset()
