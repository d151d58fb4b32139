"""Logs a condition once when it begins and once when it ends, and suppresses the repetitions.

Promise: the first fault of a condition is logged at once with its reason; the same reason (numbers aside) is logged
again at most once in `repeat_s` while the condition lasts; its end is logged once with how long it lasted. A condition
that comes and goes is logged at most `MAX_EPISODES` times in `repeat_s`: one line reports that, and `suppressed` counts
the lines that were left out. Memory is bounded: at most `_MAX_REASONS` reasons of a condition are distinguished.

Pure except for the logger; the clock is a parameter, and threads may share one log.
"""

from __future__ import annotations

import logging
import re
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from agent.timing.clock import NS_PER_S

if TYPE_CHECKING:
    from agent.timing.clock import Clock

REPEAT_S: Final = 3_600.0
MAX_EPISODES: Final = 4  # of one condition in `repeat_s` that are logged one by one
_MAX_REASONS: Final = 8
_MAX_EVENTS: Final = 32  # of one component of the agent in `repeat_s`
_NUMBERS: Final = re.compile(r"\d+(?:[.,:]\d+)*")


@dataclass(frozen=True, slots=True)
class Condition:
    """A fault that lasts at the moment."""

    what: str
    reason: str  # the latest
    since_ns: int  # monotonic


@dataclass(slots=True)
class _ConditionState:
    """The state of one condition."""

    since_ns: int | None = None  # None while there is no fault
    reason: str = ""
    logged_ns: dict[str, int] = field(default_factory=dict)  # reason without its numbers -> when it was logged
    episodes: deque[int] = field(default_factory=deque)  # when the last ones began
    is_muted: bool = False  # this episode is counted only
    muted_ns: int | None = None  # when it was logged that it comes and goes
    suppressed: int = 0  # since the last line


class LogCounter(logging.Handler):
    """Counts records at WARNING and above of the loggers that it is attached to, and of their children."""

    def __init__(self) -> None:
        """Start at zero."""
        super().__init__(logging.WARNING)
        self.warnings = 0
        self.errors = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Count one record; the handler's lock is held."""
        if record.levelno >= logging.ERROR:
            self.errors += 1
        else:
            self.warnings += 1


class ConditionLog:
    """The conditions of one component; `what` names each in a text for a person, such as `camera left`."""

    def __init__(self, logger: logging.Logger, clock: Clock, *, repeat_s: float = REPEAT_S) -> None:
        """Log through `logger`; time is `clock`'s monotonic one."""
        self._logger = logger
        self._clock = clock
        self._repeat_ns = round(repeat_s * NS_PER_S)
        self._lock = threading.Lock()
        self._states: dict[str, _ConditionState] = {}
        self._events: dict[str, int] = {}  # event, without its numbers -> when it was logged
        self.faults = 0  # times that a condition began
        self.suppressed = 0  # lines that were left out as repetitions

    def report_fault(
        self, what: str, reason: str, *, level: int = logging.WARNING, trace: BaseException | None = None
    ) -> bool:
        """Record that `what` does not work, and why; return whether it was logged. `trace` goes with that line."""
        now_ns = self._clock.monotonic_ns()
        with self._lock:
            state = self._states.setdefault(what, _ConditionState())
            state.reason = reason
            is_new = state.since_ns is None
            if is_new:
                state.since_ns = now_ns
                self.faults += 1
                self._begin(state, now_ns)
            line = self._line(state, what, reason, now_ns, is_new=is_new)
            if line is None:
                state.suppressed += 1
                self.suppressed += 1
                return False
            state.suppressed = 0
        self._logger.log(level, "%s", line, exc_info=trace)
        return True

    def clear_fault(self, what: str, text: str = "is well again") -> bool:
        """Record that `what` works; return whether it did not before."""
        with self._lock:
            state = self._states.get(what)
            if state is None or state.since_ns is None:
                return False
            lasted_s = (self._clock.monotonic_ns() - state.since_ns) / NS_PER_S
            state.since_ns = None
            state.logged_ns.clear()
            if state.is_muted:
                state.suppressed += 1
                self.suppressed += 1
                return True
        self._logger.info("%s %s after %s", what, text, duration(lasted_s))
        return True

    def report_event(self, what: str, text: str, *, level: int = logging.WARNING) -> bool:
        """Record an event that does not last; return whether it was logged.

        The same text (numbers aside) is logged once in `repeat_s`, and `_MAX_EVENTS` different ones at most.
        """
        now_ns, kind = self._clock.monotonic_ns(), f"{what}: {_NUMBERS.sub('0', text)}"
        with self._lock:
            self._events = {known: ns for known, ns in self._events.items() if now_ns - ns < self._repeat_ns}
            if kind in self._events or len(self._events) >= _MAX_EVENTS:
                self.suppressed += 1
                return False
            self._events[kind] = now_ns
        self._logger.log(level, "%s: %s", what, text)
        return True

    def conditions(self) -> tuple[Condition, ...]:
        """Return the present faults, the oldest first."""
        with self._lock:
            found = [
                Condition(what, state.reason, state.since_ns)
                for what, state in self._states.items()
                if state.since_ns is not None
            ]
        return tuple(sorted(found, key=lambda condition: condition.since_ns))

    def forget(self, what: str) -> None:
        """Forget `what`: it no longer exists."""
        with self._lock:
            self._states.pop(what, None)

    def _begin(self, state: _ConditionState, now_ns: int) -> None:
        while state.episodes and now_ns - state.episodes[0] >= self._repeat_ns:
            state.episodes.popleft()
        state.is_muted = len(state.episodes) >= MAX_EPISODES
        if len(state.episodes) > 2 * MAX_EPISODES:
            state.episodes.popleft()
        state.episodes.append(now_ns)

    def _line(self, state: _ConditionState, what: str, reason: str, now_ns: int, *, is_new: bool) -> str | None:
        """Return what to log, or None for a repetition."""
        if state.is_muted and (state.muted_ns is None or now_ns - state.muted_ns >= self._repeat_ns):
            state.muted_ns = now_ns
            return f"{what} comes and goes: {reason}; what follows is counted, and logged again once an hour"
        kind = _NUMBERS.sub("0", reason)
        last_ns = state.logged_ns.get(kind)
        is_known = last_ns is not None and now_ns - last_ns < self._repeat_ns
        if state.is_muted or is_known or (last_ns is None and len(state.logged_ns) >= _MAX_REASONS):
            return None
        state.logged_ns[kind] = now_ns
        if is_new or last_ns is None:
            return f"{what}: {reason}"
        lasted_s = (now_ns - (state.since_ns or now_ns)) / NS_PER_S
        return f"{what}: still, after {duration(lasted_s)}: {reason} ({state.suppressed} times not logged)"


def duration(seconds: float) -> str:
    """Return `seconds` for a person: `0.4 s`, `12 s`, `5 min`, `3.5 h`, `2.1 days`."""
    minute, hour, day = 60.0, 3_600.0, 86_400.0
    if seconds < 10.0:  # noqa: PLR2004 - a digit after the point is worth reading
        return f"{seconds:.1f} s"
    if seconds < 2 * minute:
        return f"{seconds:.0f} s"
    if seconds < 2 * hour:
        return f"{seconds / minute:.0f} min"
    return f"{seconds / hour:.1f} h" if seconds < 2 * day else f"{seconds / day:.1f} days"
