"""One candidate's judge between the workers, which bring what they saw, and the lifecycle's thread, which asks.

Promise: nobody who brings a part ever waits, and a part is judged at once: by the thread that brings it, or, where
another thread is at the judge just then, by that one before it leaves. So a refusal is known when the batch that
proves it is done, and `TrialControl` takes the challenger's word away from the very next batch on, without waiting
for the lifecycle, which writes it down afterwards. (A refusal acts before it is persisted, see decision 0014: it only
leads back to the champion. A kill in between costs the note.)

Every phase has an inbox of its own, so that what a worker still says about the phase before reaches nobody.
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

_INBOX: Final = 4_096  # observations that wait for a busy judge; the oldest give way, statistics can spare them


class ThreadSafeEvaluator:
    """Serialises one `RolloutEvaluator`. `open` and `ask` are the lifecycle's; what `open` returns is any thread's."""

    def __init__(self, judge: RolloutEvaluator, *, on_refusal: Callable[[], None]) -> None:
        """`on_refusal` is called once, from whichever thread the refusal is found on; it must not block."""
        self._evaluator = judge
        self._on_refusal = on_refusal
        self._lock = threading.Lock()
        self._inbox: deque[Observation] = deque(maxlen=_INBOX)
        self.control = TrialControl()
        self._is_paused = False

    def begin_phase(self, begin: Callable[[RolloutEvaluator], None]) -> Callable[[Observation], None]:
        """Begin a phase; returns what takes its parts."""
        inbox: deque[Observation] = deque(maxlen=_INBOX)
        with self._lock:
            begin(self._evaluator)
            self._inbox = inbox
            self.control = TrialControl()
            self._update_control()

        def observe(seen: Observation) -> None:
            inbox.append(seen)
            self._drain(inbox)

        return observe

    def decide(self, *, overdue: bool) -> tuple[RolloutDecision, dict[str, float], ABReport]:
        """The decision now, the figures behind it and the comparison so far."""
        with self._lock:
            self._take()
            decision = self._evaluator.decide(overdue=overdue)
            self._update_control()
            answer = decision, self._evaluator.progress(), self._evaluator.report()
        self._drain(self._inbox)
        return answer

    def reset_evidence(self) -> None:
        """See `RolloutEvaluator.forgive`; what waits counts before it."""
        with self._lock:
            self._take()
            self._evaluator.reset_evidence()
            self._update_control()
        self._drain(self._inbox)

    def set_paused(self, *, is_paused: bool) -> None:
        """While paused the challenger's word does not count, whatever was seen: the line itself is not healthy."""
        with self._lock:
            self._is_paused = is_paused
            self._update_control()

    def stop(self) -> None:
        """The challenger's word counts no more, not even for batches in work."""
        self.control.has_ended = True

    def _drain(self, inbox: deque[Observation]) -> None:
        """Judge what waits, unless another thread is at it: that one looks again after it has let go."""
        while inbox and inbox is self._inbox:
            if not self._lock.acquire(blocking=False):
                return
            try:
                self._take()
            finally:
                self._lock.release()

    def _take(self) -> None:
        inbox, judge = self._inbox, self._evaluator
        while inbox:
            judge.observe(inbox.popleft())
        self._update_control()

    def _update_control(self) -> None:
        control, judge = self.control, self._evaluator
        control.is_binding = not (judge.is_in_doubt or self._is_paused)
        if judge.is_refused and not control.has_ended:
            control.has_ended = True
            self._on_refusal()
