"""The line demo's report: grades of verdicts, missing verdicts, histograms."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.counters import Accounting
from agent.health.process_usage import ProcessUsage
from agent.health.snapshot import AgentSnapshot, CameraSnapshot
from agent.records import CameraState, CameraStatus, Judgement, Origin, Outcome, Verdict
from agent.wire import OutboxHealth
from simulator.demos.common.report_parts import histogram
from simulator.demos.common.screen_parts import sparkline
from simulator.demos.common.verdict_metrics import Grade, VerdictMetrics, grade_verdict
from simulator.demos.line.line_report import verify
from simulator.line import LineConfig, SimulatedLine
from simulator.probes.verdict_subscriber import CameraCount, SubscriberCounts, VerdictDeduplicator

ORIGIN = Origin("thing-1", "line-1", "surface", "top", 1, "c" * 64, "p" * 64, None, ("ok", "scratch"))
GOOD = Accounting(captured=10, inspected=9, dropped={"corrupt": 1}, outcomes={"ok": 9})


def verdict(seq: int, *, outcome: Outcome = Outcome.OK, latency_us: int = 2_500, part_id: str | None = None) -> Verdict:
    judgement = Judgement(outcome, "ok" if outcome is Outcome.OK else "scratch", 0.5, (0.5, 0.5))
    return Verdict(ORIGIN, seq, 1_700_000_000_000_000_000 + seq, judgement, latency_us, part_id)


def snapshot(accounting: Accounting) -> AgentSnapshot:
    status = CameraStatus("top", CameraState.RUNNING, 0)
    camera = CameraSnapshot("surface", status, accounting, (), 0)
    outbox = OutboxHealth(rows=0, verdicts=0, bytes=0, oldest_age_s=0.0)
    return AgentSnapshot(0, 0, (camera,), (), outbox, ProcessUsage(0.0, 0))


def tally_of(line: SimulatedLine, count: int) -> VerdictMetrics:
    tally = VerdictMetrics({"top": line})
    for seq in range(count):
        tally.add(verdict(seq))
    return tally


@dataclass(frozen=True)
class Part:
    is_defective: bool


@pytest.fixture(scope="module")
def line() -> SimulatedLine:
    return SimulatedLine(LineConfig(seed=3, defect_rate=0.5, surfaces=("turned",)))


@pytest.mark.parametrize(
    ("outcome", "defective", "worth"),
    [
        (Outcome.OK, False, Grade.PASSED),
        (Outcome.OK, True, Grade.ESCAPE),
        (Outcome.DEFECT, True, Grade.CAUGHT),
        (Outcome.DEFECT, False, Grade.FALSE_REJECT),
        (Outcome.UNSURE, True, Grade.REVIEW),
        (Outcome.UNSURE, False, Grade.REVIEW),
        (Outcome.UNKNOWN, True, Grade.NOT_INSPECTED),
        (Outcome.UNKNOWN, False, Grade.NOT_INSPECTED),
    ],
)
def test_a_verdict_is_worth_what_the_truth_says(outcome: Outcome, defective: bool, worth: Grade) -> None:  # noqa: FBT001
    assert grade_verdict(outcome, Part(defective)) is worth


def test_verdicts_are_compared_with_the_part_they_name(line: SimulatedLine) -> None:
    tally = VerdictMetrics({"top": line})
    bad = next(i for i in range(100) if line.truth(i).is_defective)
    good = next(i for i in range(100) if not line.truth(i).is_defective)
    tally.add(verdict(0, part_id=line.part_id(bad)))
    tally.add(verdict(1, outcome=Outcome.DEFECT, part_id=line.part_id(bad)))
    tally.add(verdict(2, outcome=Outcome.DEFECT, part_id=line.part_id(good)))
    assert tally.grades == {Grade.ESCAPE: 1, Grade.CAUGHT: 1, Grade.FALSE_REJECT: 1}
    assert tally.detection_counts() == (1, 2)
    assert tally.detection_counts(line.truth(bad).difficulty) == (1, 2)


def test_nothing_is_missing_when_every_judged_frame_arrived_once(line: SimulatedLine) -> None:
    counts = SubscriberCounts({"top": CameraCount(unique=9, duplicates=4, missing=1)})
    assert verify(snapshot(GOOD), tally_of(line, 9), counts) == ()


@pytest.mark.parametrize(
    ("accounting", "counts", "complaint"),
    [
        (replace(GOOD, captured=12), CameraCount(9, 0, 0), "2 unaccounted for"),
        (GOOD, CameraCount(8, 0, 0), "1 of 9 verdicts did not arrive"),
        (GOOD, CameraCount(11, 0, 0), "11 verdicts arrived, only 9 were inspected"),
    ],
)
def test_what_is_missing_is_said(
    line: SimulatedLine, accounting: Accounting, counts: CameraCount, complaint: str
) -> None:
    problems = verify(snapshot(accounting), tally_of(line, counts.unique), SubscriberCounts({"top": counts}))
    assert any(complaint in problem for problem in problems)


def test_a_camera_that_nothing_came_from_is_missing_too(line: SimulatedLine) -> None:
    assert verify(snapshot(GOOD), tally_of(line, 0), SubscriberCounts()) == (
        "camera top: 9 of 9 verdicts did not arrive",
    )


def test_undecodable_messages_and_reported_gaps_are_problems(line: SimulatedLine) -> None:
    counts = SubscriberCounts({"top": CameraCount(9, 0, 0)}, refused=2, gaps=1)
    assert len(verify(snapshot(GOOD), tally_of(line, 9), counts)) == 2


@given(st.lists(st.integers(0, 40), max_size=120))
def test_the_ledger_passes_each_verdict_on_once_however_often_it_arrives(numbers: list[int]) -> None:
    ledger = VerdictDeduplicator()
    fresh = [v.seq for number in numbers for v in ledger.add([verdict(number)])]
    assert sorted(fresh) == sorted(set(numbers))
    if numbers:
        count = ledger.cameras()["top"]
        assert count.unique == len(set(numbers))
        assert count.duplicates == len(numbers) - count.unique
        assert count.missing == max(numbers) + 1 - count.unique


@given(st.lists(st.integers(0, 10**7), max_size=50))
def test_the_histogram_counts_every_latency_once(line: SimulatedLine, latencies_us: list[int]) -> None:
    tally = VerdictMetrics({"top": line})
    for seq, latency in enumerate(latencies_us):
        tally.add(verdict(seq, latency_us=latency))
    assert sum(number for _, number in histogram(tally)) == len(latencies_us)


def test_a_sparkline_is_as_high_as_its_values() -> None:
    assert sparkline([0.0, 1.0, 2.0], 16) == "▁▅█"
    assert sparkline([], 16) == ""
    assert sparkline([1.0] * 20, 16) == "█" * 16
