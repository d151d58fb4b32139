"""The chart of the reject rate: few false alarms, fast, bounded, the same after a restart."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.evidence.reject_chart import CUSUM_CAP, ChartState, RejectChart, cusum_limit
from agent.inspection.monitor import InspectionMonitor
from agent.inspection.outcome_statistics import chart_key
from agent.records import DecisionRule, Judgement, ModelIdentity, Outcome
from agent.slot import Trial
from simulator.campaigns.alarms.reject_chart_simulation import measure_detection_delay, measure_false_alarms
from simulator.doubles.clocks.manual_clock import ManualClock
from tests.kits.python_models import Line, PlainModel, lease_of, saying

if TYPE_CHECKING:
    from pathlib import Path

A, B = (ModelIdentity("plain", version, version.rjust(64, "0")) for version in ("1", "2"))
RULE = DecisionRule(("ok", "spot"), frozenset({"spot"}), {"spot": 0.5})
OK = Judgement(Outcome.OK, "ok", 0.1, ())
DEFECT = Judgement(Outcome.DEFECT, "spot", 0.9, ())
UNSURE = Judgement(Outcome.UNSURE, "spot", 0.45, ())
NONE = Judgement(Outcome.UNKNOWN, None, 0.0, (), None, "scores are not finite")


def monitor_of(kept: Path | None = None) -> tuple[InspectionMonitor, ManualClock]:
    clock = ManualClock()
    return InspectionMonitor(clock, inspection="top", kept=kept), clock


def pass_by(monitor: InspectionMonitor, judgements: list[Judgement], *, key: str = "a", camera: str = "cam") -> None:
    monitor.record_champion(key, A, [(camera, judgement) for judgement in judgements])


def learned(rate: float = 0.02, parts: int = 20_000, *, seed: int = 1) -> RejectChart:
    rng, chart = np.random.default_rng(seed), RejectChart()
    for rejected in rng.random(parts) < rate:
        chart.add("cam", rejected=bool(rejected))
    return chart


# --- the chart --------------------------------------------------------------------------------------------------------


def test_a_line_that_rejects_everything_from_its_first_part_on_is_an_alarm_after_thirty_one() -> None:
    chart = RejectChart()
    for number in range(1, 40):
        chart.add("cam", rejected=True)
        assert (chart.state is ChartState.FLOOD) == (number >= 31)
    assert (chart.alarm() or "").startswith("39 of the last 39 parts (100.0%) are rejected: check the image, the roi")


def test_a_run_of_rejects_is_one_event_and_no_alarm() -> None:
    chart = learned()
    assert chart.state is ChartState.STEADY
    for _ in range(25):
        chart.add("cam", rejected=True)
    assert chart.state is ChartState.STEADY


def test_each_side_is_found_and_ends_when_the_rate_is_as_usual_again() -> None:
    rng = np.random.default_rng(7)
    for rate, state in ((0.1, ChartState.HIGH), (0.0, ChartState.LOW), (1.0, ChartState.FLOOD)):
        chart = learned()
        for _ in range(3_000):
            chart.add("cam", rejected=bool(rng.random() < rate))
        assert chart.state is state
        assert chart.alarm() is not None
        for _ in range(8_000):
            chart.add("cam", rejected=bool(rng.random() < 0.02))
        assert chart.state is ChartState.STEADY
        assert chart.alarm() is None


def test_what_happens_during_an_alarm_does_not_become_usual() -> None:
    chart, rng = learned(), np.random.default_rng(3)
    for _ in range(20_000):
        chart.add("cam", rejected=bool(rng.random() < 0.1))
    assert chart.baseline == pytest.approx(0.02, abs=0.005)
    assert chart.state is ChartState.HIGH


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 3_000), st.integers(0, 3)), max_size=30))
def test_many_passes_at_once_are_the_same_as_one_by_one(steps: list[tuple[str, int, int]]) -> None:
    at_once, one_by_one = RejectChart(), RejectChart()
    for camera, passes, rejects in steps:
        at_once.add_passes(camera, passes)
        for _ in range(passes):
            one_by_one.add(camera, rejected=False)
        for chart in (at_once, one_by_one):
            for _ in range(rejects):
                chart.add(camera, rejected=True)
    assert at_once.state is one_by_one.state
    for name in ("parts", "rejects", "trials", "runs", "recent", "baseline"):
        assert getattr(at_once, name) == getattr(one_by_one, name), name
    for name in ("high", "low", "flood"):
        assert getattr(at_once, name).value == pytest.approx(getattr(one_by_one, name).value, abs=1e-6), name


@given(st.lists(st.booleans(), max_size=2_500))
def test_a_restart_changes_nothing(rejects: list[bool]) -> None:
    chart = learned(parts=2_000)
    again = RejectChart.from_json(json.loads(json.dumps(chart.to_json())))
    for rejected in rejects:
        chart.add("cam", rejected=rejected)
        again.add("cam", rejected=rejected)
    assert again.parts == chart.parts
    assert abs(again.runs - chart.runs) <= 1  # a run that the restart fell into counts twice
    assert again.trials <= CUSUM_CAP


@pytest.mark.parametrize(
    "broken", [{}, {"parts": "x"}, {"parts": 1, "rejects": 5}, {"parts": -1}, {"high": {"value": float("nan")}}, None]
)
def test_a_chart_that_contradicts_itself_is_not_believed(broken: dict[str, object] | None) -> None:
    kept = None if broken is None else {**learned(parts=10).to_json(), **broken}
    if broken == {}:
        kept = {}
    with pytest.raises(ValueError, match="no chart"):
        RejectChart.from_json(kept)  # type: ignore[arg-type]


def test_the_limit_follows_the_number_of_parts() -> None:
    limits = [cusum_limit(good=0.02, bad=0.04, parts=parts) for parts in (1e3, 1e5, 1e7)]
    assert limits == sorted(limits)
    assert limits[0] > 0.0


# --- as promised, by simulation: a small part of `kensa bench faults --only reject_chart` -----------------------------


@pytest.mark.parametrize(("rate", "run"), [(0.02, 1), (0.02, 5), (0.05, 1), (0.005, 1)])
def test_false_alarms_are_at_most_one_in_thirty_shifts(rate: float, run: int) -> None:
    # 12 of 30 shifts each: chance adds to 1
    assert measure_false_alarms(rate=rate, run=run, repeats=12).per_30_shifts <= 1.5


def test_a_doubled_rate_is_found_within_a_thousand_parts() -> None:
    found = measure_detection_delay(before=0.02, after=0.04, repeats=60)
    assert found.states == ("high",)
    assert found.quantile(0.5) <= 1_200  # the published run's median over 1,000 changes is below 1,000


# --- in the monitor ---------------------------------------------------------------------------------------------------


def test_outcomes_and_classes_are_counted_by_model_and_the_number_of_models_is_bounded() -> None:
    monitor, _ = monitor_of()
    pass_by(monitor, [OK, OK, DEFECT, UNSURE, NONE])
    monitor.record_challenger(B, [DEFECT])
    found = {m.identity.version: m for m in monitor.model_counts()}
    assert found["1"].outcomes == {"ok": 2, "defect": 1, "unsure": 1, "unknown": 1}
    assert found["1"].classes == {"spot": 2}
    assert found["2"].outcomes == {"defect": 1}
    for number in range(20):
        monitor.record_challenger(ModelIdentity("m", "1", f"{number:064d}"), [OK])
    assert len(monitor.model_counts()) == 4


def test_an_alarm_is_told_once_and_ended_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    monitor, _ = monitor_of()
    for _ in range(500):
        pass_by(monitor, [DEFECT])
    assert "500 of the last 500 parts (100.0%) are rejected" in (monitor.alarm() or "")
    for _ in range(500):
        pass_by(monitor, [OK])
    assert monitor.alarm() is None
    said = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert [level for level, _ in said] == ["WARNING", "INFO"]
    assert said[0][1].startswith("verdicts of top: 31 of the last 31 parts")


def test_a_model_without_judgement_is_an_alarm_and_no_reject() -> None:
    monitor, _ = monitor_of()
    pass_by(monitor, [NONE] * 20)
    assert monitor.alarm() == "no judgement on the last 20 parts: scores are not finite"
    pass_by(monitor, [OK])
    assert monitor.alarm() is None
    rate = monitor.reject_rate()
    assert rate is not None
    assert (rate.parts, rate.rejects) == (1, 0)


def test_a_chart_belongs_to_model_thresholds_and_region_and_is_resumed() -> None:
    assert chart_key(A, RULE, None) != chart_key(B, RULE, None)
    assert chart_key(A, RULE, None) != chart_key(A, RULE, (0, 0, 8, 8))
    assert chart_key(A, RULE, None) == chart_key(A, RULE, None)
    monitor, _ = monitor_of()
    pass_by(monitor, [DEFECT] * 40, key="a")
    assert monitor.alarm() is not None
    pass_by(monitor, [OK], key="b")
    assert monitor.alarm() is None
    pass_by(monitor, [DEFECT], key="a")
    assert monitor.alarm() is not None, "going back to the model goes back to its chart"


def test_a_person_may_call_the_present_rate_the_usual_one() -> None:
    monitor, _ = monitor_of()
    pass_by(monitor, [DEFECT] * 40)
    monitor.reset_baseline()
    assert monitor.alarm() is None
    pass_by(monitor, [OK])
    rate = monitor.reject_rate()
    assert rate is not None
    assert rate.parts == 1


def test_learned_rates_outlive_a_restart_and_a_damaged_file_is_said_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "charts" / "top.json"
    monitor, clock = monitor_of(path)
    pass_by(monitor, [DEFECT] * 40)
    monitor.save()
    pass_by(monitor, [OK] * 500)
    monitor.save()  # a minute has not passed: the disk is spared
    again, _ = monitor_of(path)
    pass_by(again, [DEFECT])
    assert "41 of the last 41 parts" in (again.alarm() or "")
    clock.advance(601.0)
    monitor.save()
    again, _ = monitor_of(path)
    pass_by(again, [OK])
    assert again.alarm() is None
    path.write_text('{"charts": {"a": {"parts": 3}}}')
    monitor_of(path)
    assert "start anew" in caplog.text


def test_in_a_trial_the_chart_follows_the_active_models_own_word() -> None:
    monitor, _ = monitor_of()
    line = Line(lease_of(PlainModel("1", saying(0.1))), monitor=monitor)
    challenger = lease_of(PlainModel("2", saying(0.9)))
    line.slot.begin_trial(Trial(challenger=challenger, share=1.0, salt="s", observe=lambda _: None))
    for _ in range(8):
        assert {v.judgement.outcome for v in line.judge(8)} == {Outcome.DEFECT}
    assert monitor.alarm() is None, "the challenger rejects everything, the active model nothing"
    rate = monitor.reject_rate()
    assert rate is not None
    assert (rate.parts, rate.rejects) == (64, 0)
    assert {m.identity.version: dict(m.outcomes) for m in monitor.model_counts()} == {
        "1": {"ok": 64},
        "2": {"defect": 64},
    }
