"""Serialises one candidate's evaluator between the workers and the lifecycle's thread.

The workers add observations; the lifecycle's thread asks for decisions.

Promise: no thread that adds an observation ever waits, and it is evaluated at once: by the thread that adds it, or, if
another thread holds the evaluator just then, by that one before it leaves. So a refusal is known when the batch that
proves it is done, and `TrialControl` ignores the challenger's outcomes from the very next batch on, without waiting for
the lifecycle, which writes the refusal afterwards. (A refusal acts before it is persisted, see decision 0014: it only
leads back to the champion. A kill in between costs the note.)

Every phase has an inbox of its own, so that late observations of the previous phase are ignored.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Final

from agent.slot import TrialControl

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.evidence.paired_test import ABReport
    from agent.evidence.rollout_gates import RolloutDecision, RolloutEvaluator
    from agent.records import Observation

_INBOX: Final = 4_096  # observations that wait for a busy evaluator; the oldest are dropped: statistics allow it


class ThreadSafeEvaluator:
    """Serialises one `RolloutEvaluator`. Only what `begin_phase` returns may be called from any thread."""

    def __init__(self, evaluator: RolloutEvaluator, *, on_refusal: Callable[[], None]) -> None:
        """`on_refusal` is called once, on the thread that finds the refusal; it must not block."""
        self._evaluator = evaluator
        self._on_refusal = on_refusal
        self._lock = threading.Lock()
        self._inbox: deque[Observation] = deque(maxlen=_INBOX)
        self.control = TrialControl()
        self._is_paused = False

    def begin_phase(self, begin: Callable[[RolloutEvaluator], None]) -> Callable[[Observation], None]:
        """Begin a phase; return the callable that adds its observations."""
        inbox: deque[Observation] = deque(maxlen=_INBOX)
        with self._lock:
            begin(self._evaluator)
            self._inbox = inbox
            self.control = TrialControl()
            self._update_control()

        def observe(observation: Observation) -> None:
            inbox.append(observation)
            self._drain(inbox)

        return observe

    def decide(self, *, overdue: bool) -> tuple[RolloutDecision, dict[str, float], ABReport]:
        """Return the decision now, the figures behind it and the comparison so far."""
        with self._lock:
            self._take()
            decision = self._evaluator.decide(overdue=overdue)
            self._update_control()
            answer = decision, self._evaluator.progress(), self._evaluator.report()
        self._drain(self._inbox)
        return answer

    def reset_evidence(self) -> None:
        """See `RolloutEvaluator.reset_evidence`; observations that wait count before it."""
        with self._lock:
            self._take()
            self._evaluator.reset_evidence()
            self._update_control()
        self._drain(self._inbox)

    def set_paused(self, *, is_paused: bool) -> None:
        """While paused the challenger's outcomes do not count: the line itself is not healthy."""
        with self._lock:
            self._is_paused = is_paused
            self._update_control()

    def stop(self) -> None:
        """Ignore the challenger's outcomes from now on, even in batches that are being inspected."""
        self.control.has_ended = True

    def _drain(self, inbox: deque[Observation]) -> None:
        """Evaluate what waits, unless another thread does: that one checks again after it has released the lock."""
        while inbox and inbox is self._inbox:
            if not self._lock.acquire(blocking=False):
                return
            try:
                self._take()
            finally:
                self._lock.release()

    def _take(self) -> None:
        inbox, evaluator = self._inbox, self._evaluator
        while inbox:
            evaluator.observe(inbox.popleft())
        self._update_control()

    def _update_control(self) -> None:
        control, evaluator = self.control, self._evaluator
        control.is_binding = not (evaluator.is_in_doubt or self._is_paused)
        if evaluator.is_refused and not control.has_ended:
            control.has_ended = True
            self._on_refusal()
