"""Supervised threads: what happens when a thread of the agent meets a bug.

Every thread is a `SupervisedThread` with a named policy. `RESTART`: its work begins again after a jittered delay that
doubles up to a minute, for as long as the agent runs. `STOP`: the agent stops, and its process ends with
`InternalError.exit_code`, because without this thread verdicts would be lost or wrong; the service manager starts it
anew. `END`: the thread ends and its owner is notified, where the owner can do without it. A machine that has run out of
file descriptors, memory, threads or disk is no bug: that ends no thread and no agent, whatever the policy, and the work
begins again after the delay.

Promise: a fault of a thread is counted by the thread's kind, logged once with its trace (and again at most hourly), and
visible in the heartbeat, the metrics, `kensa status` and the exit code. A thread that cannot be started is an
`OperatorError` with the remedy. `ErrorBoundary` does the same for code that is not ours, such as a camera plug-in:
whatever it raises becomes a KensaError.
"""

from __future__ import annotations

import errno
import logging
import os
import random
import threading
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from agent.condition_log import ConditionLog
from agent.counters import LossCounters
from agent.errors import InternalError, KensaError, ThreadLimitError
from agent.timing.backoff import Backoff
from agent.timing.clock import NS_PER_S, SystemClock

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from agent.condition_log import Condition
    from agent.timing.clock import Clock

_SETTLED_NS: Final = 60 * NS_PER_S  # work that has lived for so long begins again without its earlier failures
_EXHAUSTED: Final = frozenset(
    {
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EAGAIN,
        errno.ENOBUFS,
        errno.EIO,
        errno.EFBIG,
    }
)
_REMEDIES: Final = {
    errno.EMFILE: "this process may open no more files: raise its limit (ulimit -n; LimitNOFILE of the systemd unit)",
    errno.ENFILE: "this machine may open no more files: raise fs.file-max",
    errno.ENOMEM: "this machine or container is out of memory: fewer cameras or workers, or more memory",
    errno.ENOSPC: "the disk is full: free space",
    errno.EDQUOT: "the disk quota is used up: free space",
    errno.EAGAIN: "this machine allows no more threads: raise the limit (ulimit -u; TasksMax of the systemd unit)",
}
_NO_THREAD: Final = "can't start new thread"  # CPython's text; the exception is a bare RuntimeError
_BACKOFF: Final = Backoff(first_s=0.5, longest_s=60.0)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """What a bug does to the thread that raises it, and the back-off before the thread starts again."""

    name: str
    stops_agent: bool = False
    ends: bool = False
    backoff: Backoff = _BACKOFF


RESTART: Final = RestartPolicy("restart")
# For work of which each attempt costs the line something.
RESTART_SLOWLY: Final = RestartPolicy("restart", backoff=Backoff(first_s=60.0, longest_s=60.0))
STOP_AGENT: Final = RestartPolicy("stop", stops_agent=True)
END_THREAD: Final = RestartPolicy("end", ends=True)


def is_exhausted(error: BaseException) -> bool:
    """Return whether `error` means that the machine ran out of descriptors, memory, threads or disk."""
    if isinstance(error, OSError):
        return error.errno in _EXHAUSTED
    return isinstance(error, MemoryError | ThreadLimitError) or (
        isinstance(error, RuntimeError) and str(error) == _NO_THREAD
    )


def remedy(error: BaseException | None) -> str | None:
    """Return what a person can do where `error`, or its cause, means that the machine ran out of something."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _REMEDIES:
            return _REMEDIES[error.errno]
        if isinstance(error, RuntimeError) and str(error) == _NO_THREAD:
            return _REMEDIES[errno.EAGAIN]
        if isinstance(error, MemoryError):
            return _REMEDIES[errno.ENOMEM]
        for number, text in _REMEDIES.items():
            if os.strerror(number) in str(error):  # an adapter's sentence that quotes the system
                return text
        error = error.__cause__
    return None


def describe(error: BaseException) -> str:
    """Return one line on an unexpected exception."""
    text = str(error).strip().split("\n", 1)[0][:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@dataclass(frozen=True, slots=True)
class ThreadFaults:
    """Faults of all threads since the agent's start."""

    by_kind: Mapping[str, int]  # kind of thread -> faults; kinds without any are left out
    last: str | None = None  # the latest


@dataclass(frozen=True, slots=True)
class Fault:
    """An exception that ended one run of a thread's work."""

    error: Exception
    text: str  # one line for a person
    is_last: bool  # the work does not begin again


class ThreadSupervisor:
    """Makes an agent's threads and counts their faults; one for an agent, shared by its components."""

    def __init__(self, *, clock: Clock | None = None, chance: random.Random | None = None) -> None:
        """`chance` spreads the delays of many threads."""
        self._clock = clock or SystemClock()
        self._chance = chance or random.Random()  # noqa: S311 - spreads delays, guards nothing
        self._lock = threading.Lock()
        self._counts = Counter[str]()
        self._last: str | None = None
        self._logs: list[ConditionLog] = []
        self._conditions = self.condition_log(_log)
        self.losses = LossCounters()  # counted by all components of the agent
        self._failing: dict[str, int | None] = {}  # what failed -> since when (ns) it works again; None while it waits
        self._on_failure: list[Callable[[], None]] = []
        self.failure: KensaError | None = None  # why the agent has to stop

    def thread(
        self,
        run: Callable[[], None],
        *,
        kind: str,
        name: str | None = None,
        policy: RestartPolicy = RESTART,
        stop: threading.Event | None = None,
        wake: threading.Event | None = None,
        on_fault: Callable[[Fault], None] | None = None,
    ) -> SupervisedThread:
        """Return a daemon thread that runs `run`, not started yet.

        `kind` (a name as in topics) is what faults are counted by; `name` the thread's own, `kensa-<kind>` by default.
        `run` returns when it is to end; after an exception it is called again, so it must be able to start again.
        `stop` ends the wait between two runs, `wake` only shortens it (whoever sets `stop` sets it as well).
        `on_fault` is called in the thread after each fault, before the wait, to clean up after `run`.
        """
        return SupervisedThread(
            self,
            run,
            kind=kind,
            name=name or f"kensa-{kind}",
            policy=policy,
            stop=stop or threading.Event(),
            wake=wake,
            on_fault=on_fault,
        )

    def condition_log(self, logger: logging.Logger) -> ConditionLog:
        """Return a new log of conditions for one component; `conditions` and `suppressed_lines` cover all of them."""
        made = ConditionLog(logger, self._clock)
        self._logs.append(made)
        return made

    def conditions(self) -> tuple[Condition, ...]:
        """Return the present faults of all components, the oldest first."""
        self.faults()
        found = [condition for log in self._logs for condition in log.conditions()]
        return tuple(sorted(found, key=lambda condition: condition.since_ns))

    @property
    def suppressed_lines(self) -> int:
        """The number of lines that were not logged because they are repetitions."""
        return sum(log.suppressed for log in self._logs)

    def on_failure(self, callback: Callable[[], None]) -> None:
        """Call `callback` when the agent has to stop; from the thread that failed, and it must not block."""
        self._on_failure.append(callback)

    def record_fault(self, kind: str, what: str, error: BaseException, *, remark: str = "", verb: str = "met") -> None:
        """Count one fault of the thread or boundary `kind` and log it; `what` names it for a person."""
        text = f"{what}: {describe(error)}"
        with self._lock:
            self._counts[kind] += 1
            self._last = text
            self._failing[what] = self._clock.monotonic_ns()
        exhausted = is_exhausted(error)
        cause = "the machine has run out of something" if exhausted else f"{verb} a bug"
        reason = f"{cause}: {describe(error)}{remark}"
        level = logging.WARNING if exhausted else logging.ERROR
        self._conditions.report_fault(what, reason, level=level, trace=None if exhausted else error)

    def fail(self, error: KensaError) -> None:
        """Let the agent stop, with the exit code of `error`; the first one counts."""
        with self._lock:
            self.failure = self.failure or error
        for callback in self._on_failure:
            callback()

    def faults(self) -> ThreadFaults:
        """Return the counts of this moment; a thread that has run for a minute since its fault counts as recovered."""
        now_ns = self._clock.monotonic_ns()
        with self._lock:
            settled = [
                what
                for what, since_ns in self._failing.items()
                if since_ns is not None and now_ns - since_ns >= _SETTLED_NS
            ]
            for what in settled:
                del self._failing[what]
            counts, last = dict(self._counts), self._last
        for what in settled:
            self._conditions.clear_fault(what)
        return ThreadFaults(counts, last)

    # --- for SupervisedThread -----------------------------------------------------------------------------------------

    def run_supervised(self, thread: SupervisedThread) -> None:
        """Run the thread's work under its policy until it returns, or the policy ends it; in that thread."""
        failures = 0
        while True:
            began_ns = self._clock.monotonic_ns()
            self._set_working_since(thread, began_ns)
            try:
                thread.work()
            except Exception as error:  # noqa: BLE001 - the top of every thread of the agent
                failures = 1 if self._clock.monotonic_ns() - began_ns >= _SETTLED_NS else failures + 1
                delay_s = self._handle_fault(thread, error, failures)
                if delay_s is None or self._wait_for_retry(thread, delay_s):
                    return
            else:
                return

    def _set_working_since(self, thread: SupervisedThread, since_ns: int | None) -> None:
        """Record since when a thread that failed works again, or that it waits."""
        with self._lock:
            if thread.label in self._failing:
                self._failing[thread.label] = since_ns

    def _wait_for_retry(self, thread: SupervisedThread, delay_s: float) -> bool:
        """Wait for the next run; return True when there is none."""
        if thread.wake is None:
            return self._clock.wait(thread.stop, delay_s)
        thread.wake.clear()
        if not thread.stop.is_set():
            self._clock.wait(thread.wake, delay_s)
        return thread.stop.is_set()

    def _handle_fault(self, thread: SupervisedThread, error: Exception, failures: int) -> float | None:
        """Handle a fault; return the delay until the next run, or None when there is none."""
        policy = thread.policy
        delay_s = policy.backoff.delay_s(failures, self._chance)
        is_bug = not is_exhausted(error)
        stops, ends = policy.stops_agent and is_bug, policy.ends and is_bug
        again = "" if ends else f"; it begins again in {delay_s:.1f} s"
        remark = "; the agent stops" if stops else again
        self.record_fault(thread.kind, thread.label, error, remark=remark, verb="ended by" if ends else "met")
        self._set_working_since(thread, None)
        if thread.on_fault is not None:
            try:
                thread.on_fault(Fault(error, describe(error), is_last=stops or ends))
            except Exception as second:  # noqa: BLE001 - the clean-up may fail as the work did
                self.record_fault(thread.kind, thread.label, second)
        if not stops:
            return None if ends else delay_s
        ended = InternalError(
            f"the thread {thread.name} met a bug and the agent stopped ({describe(error)}). Its trace is in the log: "
            "please report it; a restart goes on with what is on the disk"
        )
        ended.__cause__ = error
        self.fail(ended)
        return None


class SupervisedThread(threading.Thread):
    """A daemon thread under a policy; made by `ThreadSupervisor.thread`."""

    def __init__(
        self,
        supervisor: ThreadSupervisor,
        work: Callable[[], None],
        *,
        kind: str,
        name: str,
        policy: RestartPolicy,
        stop: threading.Event,
        wake: threading.Event | None,
        on_fault: Callable[[Fault], None] | None,
    ) -> None:
        """See `ThreadSupervisor.thread`."""
        super().__init__(name=name, daemon=True)
        self._supervisor = supervisor
        self.work: Final = work
        self.kind: Final = kind
        self.label: Final = f"thread {name}"
        self.policy: Final = policy
        self.stop: Final = stop
        self.wake: Final = wake
        self.on_fault: Final = on_fault

    def start(self) -> None:
        """Start. Raises ThreadLimitError when the machine allows no more threads; it may then be tried again."""
        try:
            super().start()
        except RuntimeError as error:
            if str(error) != _NO_THREAD:
                raise
            raise ThreadLimitError(
                f"the thread {self.name} cannot be started: this machine allows no more. Raise the limit of processes "
                "(ulimit -u; TasksMax of the systemd unit; pids of the container) or end other programs"
            ) from error

    def run(self) -> None:
        """Run the work under the supervisor."""
        self._supervisor.run_supervised(self)


class ErrorBoundary:
    """A context manager around a call into code that is not ours: what it raises becomes `make(text)`.

    A KensaError, and anything that is no Exception (a signal's KeyboardInterrupt), passes unchanged.
    """

    def __init__(
        self, supervisor: ThreadSupervisor | None, *, kind: str, what: str, make: Callable[[str], KensaError]
    ) -> None:
        """Count faults under `kind`, except those of a machine that ran out of something."""
        self._supervisor = supervisor
        self._kind = kind
        self._what = what
        self._make = make

    def __enter__(self) -> Self:
        """Enter; has no effect."""
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Translate an exception."""
        if error is None or isinstance(error, KensaError) or not isinstance(error, Exception):
            return
        if self._supervisor is not None and not isinstance(error, OSError) and not is_exhausted(error):
            self._supervisor.record_fault(self._kind, self._what, error)
        raise self._make(describe(error)) from error
