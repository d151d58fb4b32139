"""What a bug does to a supervised thread, by its policy."""

from __future__ import annotations

import errno
import logging
import random
import threading

import pytest

from agent.errors import CameraError, InternalError, KensaError, ThreadLimitError
from agent.supervision import (
    END_THREAD,
    RESTART,
    RESTART_SLOWLY,
    STOP_AGENT,
    ErrorBoundary,
    Fault,
    RestartPolicy,
    ThreadSupervisor,
    is_exhausted,
)
from simulator.doubles.clocks.manual_clock import ManualClock

LONG_S = 20.0  # a safety bound, never an expectation
EXHAUSTED = [
    OSError(errno.EMFILE, "Too many open files"),
    OSError(errno.ENFILE, "Too many open files in system"),
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    MemoryError(),
    RuntimeError("can't start new thread"),
    ThreadLimitError("no more threads"),
]


class Work:
    """Raises each of `errors` in turn, then returns."""

    def __init__(self, *errors: Exception) -> None:
        self.left = list(errors)
        self.runs = 0

    def __call__(self) -> None:
        self.runs += 1
        if self.left:
            raise self.left.pop(0)


@pytest.fixture
def supervisor() -> ThreadSupervisor:
    return ThreadSupervisor(clock=ManualClock(), chance=random.Random(3))


def finish(supervisor: ThreadSupervisor, work: Work, policy: RestartPolicy) -> list[Fault]:
    faults: list[Fault] = []
    thread = supervisor.thread(work, kind="test", policy=policy, on_fault=faults.append)
    thread.start()
    thread.join(LONG_S)
    assert not thread.is_alive()
    return faults


@pytest.mark.parametrize("policy", [RESTART, RESTART_SLOWLY], ids=["at once", "slowly"])
def test_work_begins_again_after_a_bug_and_every_fault_is_counted(
    supervisor: ThreadSupervisor, policy: RestartPolicy
) -> None:
    work = Work(*[ZeroDivisionError("x")] * 7)
    faults = finish(supervisor, work, policy)
    assert work.runs == 8
    assert [fault.is_last for fault in faults] == [False] * 7
    assert supervisor.faults().by_kind == {"test": 7}
    assert supervisor.faults().last == "thread kensa-test: ZeroDivisionError: x"
    assert supervisor.failure is None


def test_a_bug_without_which_the_agent_cannot_go_on_stops_it_with_an_exit_code(supervisor: ThreadSupervisor) -> None:
    stopped = threading.Event()
    supervisor.on_failure(stopped.set)
    work = Work(ZeroDivisionError("x"), ZeroDivisionError("y"))
    faults = finish(supervisor, work, STOP_AGENT)
    assert work.runs == 1
    assert faults[0].is_last
    assert stopped.is_set()
    assert isinstance(supervisor.failure, InternalError)
    assert supervisor.failure.exit_code == 70
    assert isinstance(supervisor.failure.__cause__, ZeroDivisionError)


def test_a_thread_that_the_agent_can_do_without_ends(supervisor: ThreadSupervisor) -> None:
    work = Work(ZeroDivisionError("x"))
    assert finish(supervisor, work, END_THREAD)[0].is_last
    assert work.runs == 1
    assert supervisor.failure is None


@pytest.mark.parametrize("policy", [RESTART, STOP_AGENT, END_THREAD], ids=lambda policy: policy.name)
@pytest.mark.parametrize("error", EXHAUSTED, ids=repr)
def test_a_machine_that_has_run_out_of_something_ends_no_thread(
    supervisor: ThreadSupervisor, error: Exception, policy: RestartPolicy
) -> None:
    work = Work(error, error, error)
    faults = finish(supervisor, work, policy)
    assert work.runs == 4
    assert not any(fault.is_last for fault in faults)
    assert supervisor.failure is None
    assert supervisor.faults().by_kind == {"test": 3}


@pytest.mark.parametrize("error", [OSError(errno.ENOENT, "gone"), OSError("no number"), RuntimeError("x"), KeyError(1)])
def test_other_errors_are_bugs(error: Exception) -> None:
    assert not is_exhausted(error)


def test_delays_double_up_to_a_minute_and_are_jittered() -> None:
    chance = random.Random(1)
    for failures, longest in [(1, 0.5), (2, 1.0), (4, 4.0), (8, 60.0), (500, 60.0)]:
        delays = [RESTART.backoff.delay_s(failures, chance) for _ in range(200)]
        assert longest / 2 <= min(delays) < 0.6 * longest
        assert 0.9 * longest < max(delays) <= longest
    assert RESTART_SLOWLY.backoff.delay_s(1, chance) >= 30.0


def test_one_bug_again_and_again_is_one_trace_in_the_log(
    supervisor: ThreadSupervisor, caplog: pytest.LogCaptureFixture
) -> None:
    finish(supervisor, Work(*[ZeroDivisionError("x")] * 10), RESTART)
    records = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(records) == 1
    assert records[0].exc_info is not None
    assert "met a bug: ZeroDivisionError: x; it begins again in" in records[0].getMessage()


def test_a_thread_that_lives_for_a_minute_after_its_fault_is_well_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock = ManualClock()
    supervisor = ThreadSupervisor(clock=clock)
    stop, lives = threading.Event(), threading.Event()

    def work() -> None:
        if not supervisor.faults().by_kind:
            raise ZeroDivisionError
        lives.set()
        stop.wait(LONG_S)

    thread = supervisor.thread(work, kind="test", stop=stop)
    thread.start()
    assert lives.wait(LONG_S)
    assert [condition.what for condition in supervisor.conditions()] == ["thread kensa-test"]
    clock.advance(61.0)
    assert supervisor.conditions() == ()
    assert "thread kensa-test is well again" in caplog.text
    stop.set()
    thread.join(LONG_S)


def test_a_stop_ends_the_wait_for_the_next_run() -> None:
    supervisor = ThreadSupervisor()
    stop, failed = threading.Event(), threading.Event()
    thread = supervisor.thread(
        Work(*[ZeroDivisionError()] * 99), kind="test", policy=RESTART_SLOWLY, stop=stop,
        on_fault=lambda _: failed.set(),
    )  # fmt: skip
    thread.start()
    assert failed.wait(LONG_S)
    stop.set()
    thread.join(LONG_S)
    assert not thread.is_alive()


def test_a_wake_begins_the_next_run_at_once_and_is_no_stop() -> None:
    supervisor = ThreadSupervisor()
    stop, wake = threading.Event(), threading.Event()
    failed, again = threading.Event(), threading.Event()

    def work() -> None:
        if failed.is_set():
            again.set()
            return
        raise ZeroDivisionError

    thread = supervisor.thread(
        work, kind="test", policy=RESTART_SLOWLY, stop=stop, wake=wake, on_fault=lambda _: failed.set()
    )
    thread.start()
    assert failed.wait(LONG_S)
    while not again.wait(0.01):
        wake.set()
    thread.join(LONG_S)


def test_what_foreign_code_raises_becomes_the_error_that_its_caller_knows(supervisor: ThreadSupervisor) -> None:
    guard = ErrorBoundary(supervisor, kind="camera", what="camera left", make=CameraError)
    with pytest.raises(CameraError, match=r"^TypeError: no such thing$"), guard:
        raise TypeError("no such thing")
    assert supervisor.faults().by_kind == {"camera": 1}
    with pytest.raises(CameraError, match="input/output error"), guard:
        raise OSError(errno.EIO, "input/output error")
    assert supervisor.faults().by_kind == {"camera": 1}, "a driver's OSError is a camera's fault and no bug"


@pytest.mark.parametrize("error", [KensaError("told"), KeyboardInterrupt(), SystemExit(3)])
def test_what_is_told_already_and_what_ends_the_process_passes_the_boundary(error: BaseException) -> None:
    guard = ErrorBoundary(None, kind="camera", what="camera left", make=CameraError)
    with pytest.raises(type(error)) as caught, guard:
        raise error
    assert caught.value is error
