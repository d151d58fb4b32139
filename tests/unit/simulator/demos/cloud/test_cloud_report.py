"""Accuracy, plot, screen and report of the cloud demo."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ET
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from rich.console import Console

from agent.errors import UsageError
from agent.records import Judgement, ModelIdentity, Origin, Outcome, Verdict
from agent.timing.clock import SystemClock
from pipeline.cloud.storage import open_storage
from pipeline.datasets.label_store import LabelStore
from simulator import commands
from simulator.demos.cloud import labelling
from simulator.demos.cloud.accuracy import WINDOW, Accuracy, AccuracyShare
from simulator.demos.cloud.accuracy_plot import render_accuracy_plot
from simulator.demos.cloud.cloud_line import SIDE_PX, BinnedLineCamera, make_line
from simulator.demos.cloud.cloud_report import CloudResult, DeviceResult, closing_report, to_json, verify
from simulator.demos.cloud.cloud_scenario import ScenarioEvent, ScenarioOutcome
from simulator.demos.cloud.cloud_view import CloudSnapshot, DeviceSnapshot, line_chart, plain_line, screen_svg
from simulator.demos.cloud.scenario_steps import StepTimer, plan_text
from simulator.line import part_sequence
from simulator.probes.verdict_subscriber import CameraCount, SubscriberCounts
from tests.kits.cloud.datasets import Line

if TYPE_CHECKING:
    from pathlib import Path

LINE = make_line(3)
CHAPTERS = (
    ScenarioEvent(35.0, "the lamp begins to fade", "light"),
    ScenarioEvent(60.0, "drift noticed & told", "data"),
    ScenarioEvent(61.0, "a data set is built", "cycle"),
    ScenarioEvent(150.0, "every device runs the new model", "good"),
)
MODEL = ModelIdentity("cast", "1.0.0", "ab" * 32, 1, trusted=True)


def verdict(index: int, outcome: Outcome, *, at_s: float) -> Verdict:
    """Of part `index`, `at_s` seconds after 1970."""
    class_name = "stain" if outcome in {Outcome.DEFECT, Outcome.UNSURE} else None
    return Verdict(
        origin=Origin("press-1", "line-1", "surface", "cam", 1, "c" * 64, "p" * 64, MODEL, ("ok", "stain")),
        seq=index,
        captured_utc_ns=round(at_s * 1e9),
        latency_us=1_000,
        judgement=Judgement(outcome, class_name, 0.9, (0.1, 0.9)),
        part_id=LINE.part_id(index),
    )


def right_of(index: int) -> Outcome:
    return Outcome.DEFECT if LINE.truth(index).is_defective else Outcome.OK


def wrong_of(index: int) -> Outcome:
    return Outcome.OK if LINE.truth(index).is_defective else Outcome.DEFECT


def test_a_part_is_right_when_its_verdict_is_and_unsure_is_not() -> None:
    accuracy = Accuracy({"cam": LINE}, began_utc_s=0.0)
    assert accuracy.add(verdict(0, right_of(0), at_s=1.0)).is_correct
    assert not accuracy.add(verdict(1, wrong_of(1), at_s=2.0)).is_correct
    assert not accuracy.add(verdict(2, Outcome.UNSURE, at_s=3.0)).is_correct
    assert accuracy.between(0.0, 2.5) == AccuracyShare(1, 2)
    assert accuracy.recent() == AccuracyShare(1, 3)
    assert AccuracyShare(0, 0).value == 0.0


def test_the_curve_is_the_sliding_window_in_the_order_of_exposure() -> None:
    accuracy = Accuracy({"cam": LINE}, began_utc_s=0.0)
    parts = 3 * WINDOW
    for index in reversed(range(parts)):
        good = index < WINDOW or index >= 2 * WINDOW
        accuracy.add(verdict(index, right_of(index) if good else wrong_of(index), at_s=index / 10))
    curve = accuracy.curve()
    assert curve[0] == ((WINDOW - 1) / 10, 1.0)
    assert min(share for _, share in curve) == pytest.approx(0.0, abs=0.1)
    for at_s, share in curve:
        last = round(at_s * 10)
        wanted = sum(index < WINDOW or index >= 2 * WINDOW for index in range(last - WINDOW + 1, last + 1)) / WINDOW
        assert share == pytest.approx(wanted)


def test_the_plot_is_a_picture_that_loads_nothing_and_names_every_event() -> None:
    drawn = render_accuracy_plot([(10.0, 1.0), (60.0, 0.5)], CHAPTERS, dark=(35.0, 65.0), title="a < b", seconds=160.0)
    tree = ET.fromstring(drawn)  # noqa: S314 - our own
    texts = [element.text for element in tree.iter() if element.tag.endswith("text")]
    assert {chapter.text for chapter in CHAPTERS} <= set(texts)
    assert "http" not in drawn.replace("http://www.w3.org/2000/svg", "")
    assert "url(#fade)" not in render_accuracy_plot([], (), dark=None, title="t", seconds=0.0)


def moment(**changes: Any) -> CloudSnapshot:
    device = DeviceSnapshot("press-1", "1.0.0", "shadow", " 12/60", 120, 0, 30)
    return replace(
        CloudSnapshot(
            elapsed_s=75.0,
            note="the state machine is in Monitor",
            light=0.78,
            accuracy=AccuracyShare(60, 120),
            curve=((10.0, 1.0), (12.0, 0.5)),
            psi=1.5,
            events=CHAPTERS,
            states=("Begin", "BuildDataset", "Train", "Choose", "Release", "Monitor"),
            devices=(device, replace(device, thing="press-2")),
            delivered=240,
            labels=99,
        ),
        **changes,
    )


@pytest.mark.parametrize(("width", "height"), [(80, 24), (140, 50)])
def test_the_screen_fits_and_says_where_things_stand(width: int, height: int) -> None:
    drawn = screen_svg(moment(), width=width, height=height)
    for text in ("press-1", "press-2", "50.0%", "78%", "canary"):
        assert text in drawn.replace("&#160;", " ")
    assert "50.0%" in plain_line(moment())
    screen_svg(moment(states=(), events=(), curve=(), psi=None), width=width, height=height)


def test_a_chart_has_a_bar_for_each_value_or_as_many_as_fit() -> None:
    assert line_chart([], 10) == ""
    assert line_chart([0.0, 0.5, 1.0], 10) == "▁▅█"
    assert len(line_chart([0.3] * 100, 10)) == 10


FINDINGS = ScenarioOutcome(
    before=AccuracyShare(999, 1_000),
    drifted=AccuracyShare(500, 1_000),
    after=AccuracyShare(995, 1_000),
    psi=1.5,
    labels=250,
    poisoned_labels=60,
    statuses=["SUCCEEDED", "SUCCEEDED"],
    cycle={"result": "promoted", "choice": {"candidates": 2, "objective": 0.99, "champion_objective": 0.7}},
    poisoned={"result": "poisoned"},
    models_untouched=True,
)


def result(**changes: Any) -> CloudResult:
    end = DeviceResult(
        thing="press-1", shown=100, captured=100, inspected=100, dropped=0, model="cast/1.1.0", collected=9
    )
    values: dict[str, Any] = {
        "seconds": 200.0,
        "prepared_s": 50.0,
        "outcome": FINDINGS,
        "events": CHAPTERS,
        "devices": (end,),
        "counts": SubscriberCounts({"cam-1": CameraCount(100, 1, 0)}),
        "broker": "mosquitto",
        "problem": None,
    }
    return CloudResult(**{**values, **changes})


def test_a_story_that_came_to_its_end_has_no_problem() -> None:
    assert verify(result()) == ()
    told = to_json(result())
    assert told["complete"]
    assert (told["accuracy_before"], told["accuracy_drifted"], told["accuracy_after"]) == (0.999, 0.5, 0.995)
    assert (told["frames_lost"], told["poisoned_refused"], told["seconds"]) == (0, True, 250.0)
    console = Console(file=io.StringIO(), width=100)
    console.print(closing_report(result()))
    assert "as good as before" in console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"outcome": replace(FINDINGS, after=AccuracyShare(988, 1_000))}, "98.8% of 1000 parts after"),
        ({"outcome": replace(FINDINGS, after=None)}, "not measured"),
        ({"outcome": replace(FINDINGS, poisoned={"result": "promoted"})}, "must be refused"),
        ({"outcome": replace(FINDINGS, models_untouched=False)}, "must be refused"),
        ({"outcome": replace(FINDINGS, statuses=["FAILED"])}, "two must succeed"),
        ({"counts": SubscriberCounts({"cam-1": CameraCount(99, 0, 0)})}, "1 parts passed a camera"),
        ({"problem": "it was ended early"}, "ended early"),
    ],
)
def test_whatever_is_missing_is_said_and_fails(changes: dict[str, Any], sentence: str) -> None:
    assert any(sentence in problem for problem in verify(result(**changes)))


def test_a_step_that_was_not_reached_is_said_to_be_so_and_not_to_have_failed() -> None:
    early = replace(FINDINGS, after=None, poisoned={}, poisoned_labels=0, statuses=[], models_untouched=False, cycle={})
    ended = result(outcome=replace(early, recovery_s=None, drift_noticed_s=None), problem="it was ended early")
    assert any("wrong labels was not reached" in problem for problem in verify(ended))
    assert to_json(ended)["poisoned_refused"] is None
    console = Console(file=io.StringIO(), width=100)
    console.print(closing_report(ended))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "NOT refused" not in shown
    assert shown.count("not reached") >= 4
    told = result(outcome=replace(early, poisoned_labels=60))
    assert told.poisoned_text == "not decided before the end"


def test_each_step_says_how_long_it_takes_and_when_it_is_too_slow() -> None:
    assert "cycle 210 s" in plan_text()
    assert "about 8 minutes" in plan_text() or "about 7 minutes" in plan_text()
    pace = StepTimer()
    assert pace.progress_text(0.0) == ""
    pace.begin("good light", 0.0)
    pace.begin("fading lamp", 36.0)
    assert pace.progress_text(46.0) == "the lamp fades, and drift of the scores is noticed: 10 s of about 50 s"
    assert "slower than usual" in pace.progress_text(150.0)
    pace.begin("labels", 150.0)
    lines = pace.summary_lines()
    assert lines[0] == "good light: 36 s (about 35 s usual)"
    assert "114 s" in lines[1]
    assert "too slow" in lines[1]
    assert "not ended" in lines[2]
    assert all("not reached" in line for line in lines[3:])
    pace.end(190.0)
    assert pace.summary_lines()[2] == "labels: 40 s (about 40 s usual)"


def test_a_ramp_begins_after_the_parts_in_good_light() -> None:
    config = make_line(1, drift_amplitude=0.2, drift_after_parts=100, drift_period_parts=50).config
    assert [part_sequence.drift_at(config, index) for index in (0, 100)] == [1.0, 1.0]
    assert part_sequence.drift_at(config, 125) == pytest.approx(0.9)
    assert part_sequence.drift_at(config, 1_000) == pytest.approx(0.8)


def test_the_camera_shows_each_part_once_and_none_when_held() -> None:
    camera = BinnedLineCamera(LINE, fps=1_000.0, clock=SystemClock())
    camera.open()
    grabs = [camera.read(timeout_s=1.0, buffer=None) for _ in range(2)]
    assert [grab.part_id for grab in grabs if grab] == [LINE.part_id(0), LINE.part_id(1)]
    assert grabs[0] is not None
    assert grabs[0].pixels.shape == (SIDE_PX, SIDE_PX, 3)
    camera.pause()
    assert camera.read(timeout_s=0.01, buffer=None) is None
    assert camera.shown == 2


def test_people_label_what_has_no_label_and_mark_the_defects(tmp_path: Path) -> None:
    data = open_storage(tmp_path)
    line = Line(data)
    for index in range(6):
        line.keep(index, pixels=np.full((SIDE_PX, SIDE_PX), 90 + index, np.uint8), part=LINE.part_id(index))
    truths = [LINE.truth(index).is_defective for index in range(6)]
    assert labelling.count_collected(data) == 6
    assert labelling.label_frames(data, {"cam": LINE}, job="first", version="9.9.9") == 0
    assert labelling.label_frames(data, {"cam": LINE}, job="first") == 6
    book = LabelStore(data, now=lambda: datetime.now(UTC)).load()
    assert [label.is_defect for label in sorted(book.all(), key=lambda one: int(one.key.split("/")[-1]))] == truths
    assert len(list(data.list("masks/v1/"))) == sum(truths)
    assert labelling.label_frames(data, {"cam": LINE}, job="hurried", wrong=True) == 0


def test_an_option_of_another_demo_is_refused() -> None:
    with pytest.raises(UsageError, match="--seconds cannot be combined with --cloud"):
        commands.demo(["--cloud", "--seconds", "5"])
