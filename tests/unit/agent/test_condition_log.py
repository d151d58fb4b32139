"""One line when something breaks, one when it is well again; the clock is a manual one."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.condition_log import MAX_EPISODES, ConditionLog, duration
from simulator.doubles.clocks.manual_clock import ManualClock

LOGGER = logging.getLogger("test.conditions")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def conditions(clock: ManualClock, caplog: pytest.LogCaptureFixture) -> ConditionLog:
    caplog.set_level(logging.DEBUG, LOGGER.name)
    return ConditionLog(LOGGER, clock)


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(record.levelname, record.getMessage()) for record in caplog.records]


def test_a_fault_is_one_line_and_its_end_another(
    conditions: ConditionLog, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(500):
        conditions.report_fault("camera left", "no route to host")
        clock.advance(1.0)
    conditions.clear_fault("camera left", "delivers again")
    assert lines(caplog) == [
        ("WARNING", "camera left: no route to host"),
        ("INFO", "camera left delivers again after 8 min"),
    ]
    assert (conditions.faults, conditions.suppressed) == (1, 499)


def test_what_lasts_is_said_again_once_an_hour(
    conditions: ConditionLog, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3 * 3_600):
        conditions.report_fault("the outbox", "disk full")
        clock.advance(1.0)
    assert [message for _, message in lines(caplog)] == [
        "the outbox: disk full",
        "the outbox: still, after 60 min: disk full (3599 times not logged)",
        "the outbox: still, after 2.0 h: disk full (3599 times not logged)",
    ]


def test_another_reason_is_news_and_other_numbers_are_not(
    conditions: ConditionLog, caplog: pytest.LogCaptureFixture
) -> None:
    conditions.report_fault("camera left", "no frame for 2.1 s")
    conditions.report_fault("camera left", "no frame for 13.7 s")
    conditions.report_fault("camera left", "401 unauthorised")
    assert [message for _, message in lines(caplog)] == [
        "camera left: no frame for 2.1 s",
        "camera left: 401 unauthorised",
    ]
    assert [condition.reason for condition in conditions.conditions()] == ["401 unauthorised"]


def test_what_comes_and_goes_is_said_so_instead_of_filling_the_log(
    conditions: ConditionLog, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(1_000):
        conditions.report_fault("the broker", "connection lost")
        clock.advance(1.0)
        conditions.clear_fault("the broker")
        clock.advance(1.0)
    assert len(lines(caplog)) == 2 * MAX_EPISODES + 1
    assert "comes and goes" in lines(caplog)[-1][1]
    assert conditions.faults == 1_000


def test_what_never_broke_is_not_said_to_be_well(conditions: ConditionLog, caplog: pytest.LogCaptureFixture) -> None:
    assert not conditions.clear_fault("the broker")
    assert not caplog.records
    conditions.report_fault("the broker", "away")
    conditions.forget("the broker")
    assert not conditions.clear_fault("the broker")
    assert not conditions.conditions()


@given(
    st.lists(st.tuples(st.sampled_from(["broken", "well"]), st.integers(0, 12), st.floats(0.0, 900.0)), max_size=200)
)
def test_whatever_happens_the_log_stays_short_and_every_line_left_out_is_counted(
    events: list[tuple[str, int, float]],
) -> None:
    clock, said = ManualClock(), list[str]()
    logger = logging.Logger("counts")  # noqa: LOG001 - one that no other test shares
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    conditions = ConditionLog(logger, clock)
    began_ns, spoken = clock.monotonic_ns(), 0
    for what, number, pause_s in events:
        if what == "broken":
            conditions.report_fault("it", f"reason {'x' * number}")
            spoken += 1
        else:
            spoken += conditions.clear_fault("it")
        clock.advance(pause_s)
    hours = 1 + (clock.monotonic_ns() - began_ns) / 3.6e12
    assert len(said) + conditions.suppressed == spoken
    assert len(said) <= hours * (MAX_EPISODES + 1) * 10


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (12, "12 s"), (300, "5 min"), (12_600, "3.5 h"), (181_440, "2.1 days")],
)
def test_a_duration_is_in_the_unit_that_a_person_would_use(seconds: float, text: str) -> None:
    assert duration(seconds) == text
