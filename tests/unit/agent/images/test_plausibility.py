"""A picture that proves nothing is `unknown` with a reason and an alarm; a good one never is."""

from __future__ import annotations

import logging
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.adapters.onnx import OnnxModel
from agent.images import plausibility
from agent.images.plausibility import ImageLimits, ImageStatistics
from agent.inspection.freeze_detector import FreezeDetector
from agent.inspection.monitor import InspectionMonitor
from agent.preprocess import Preprocessor
from agent.records import Geometry, ImageFault, Outcome
from agent.slot import Lease, Trial
from agent.timing.clock import NS_PER_S
from simulator.campaigns.alarms.unusable_images import REAL_SETS, run_good_images, run_real_images, run_unusable_images
from simulator.doubles.clocks.manual_clock import ManualClock
from simulator.line import LineConfig, SimulatedLine
from simulator.line.image_faults import ImageFaultInjector, InjectedFault
from tests.kits.python_models import Line, PlainModel, lease_of, saying
from tests.kits.requirements import ROOT, real_data

RELEASE = ROOT / "releases" / "default"
LIMITS = ImageLimits(level_low=80.0, level_high=105.0, contrast_low=20.0, contrast_high=35.0)
GREYS = np.random.default_rng(1)


@lru_cache
def bundled() -> ImageLimits:
    limits = OnnxModel.load(RELEASE).image_limits
    assert limits is not None
    return limits


# --- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("level", "contrast", "fault"),
    [
        (90.0, 25.0, None),
        (60.0, 25.0, None),  # dim, and judged
        (8.0, 2.5, ImageFault.DARK),
        (0.0, 0.0, ImageFault.DARK),
        (255.0, 0.0, ImageFault.BRIGHT),
        (90.0, 1.0, ImageFault.FLAT),
    ],
)
def test_each_fault_has_its_limit_from_the_golden_set(level: float, contrast: float, fault: ImageFault | None) -> None:
    assert plausibility.find_fault(ImageStatistics(level, contrast), LIMITS) is fault


@given(st.floats(0.0, 255.0), st.floats(0.0, 255.0), st.floats(0.0, 128.0))
def test_what_the_golden_set_itself_shows_is_never_a_fault(low: float, high: float, contrast: float) -> None:
    low, high = sorted((low, high))
    limits = ImageLimits(low, high, contrast, contrast)
    for level in (low, high):
        assert plausibility.find_fault(ImageStatistics(level, contrast), limits) is None


def test_a_golden_set_with_flat_pictures_does_not_call_flat_pictures_a_fault() -> None:
    flat = np.full((3, 32, 32, 1), 90, np.uint8)
    limits = plausibility.measure_limits(flat)
    assert plausibility.find_fault(plausibility.measure(flat[:1]), limits) is None


@given(st.integers(16, 70), st.integers(16, 70), st.sampled_from([1, 3]), st.integers(1, 20))
def test_any_model_input_can_be_measured(height: int, width: int, channels: int, tiles: int) -> None:
    inputs = GREYS.integers(0, 256, (tiles, height, width, channels), np.uint8)
    seen = plausibility.measure(inputs)
    assert 0.0 <= seen.level <= 255.0
    assert seen.contrast >= 0.0


def test_the_bundled_releases_have_limits_that_fit_their_line() -> None:
    line = SimulatedLine(LineConfig(seed=77))
    preprocessor, inputs = Preprocessor(Geometry("whole", 224, 224, 3)), np.empty((1, 224, 224, 3), np.uint8)
    for index in range(0, 600, 60):
        preprocessor.write_to(line.render_roi(index), inputs)
        seen = plausibility.measure(inputs)
        assert plausibility.find_fault(seen, bundled()) is None
        assert plausibility.describe_mismatch(seen, bundled()) is None


@pytest.mark.parametrize(
    ("region", "words"),
    [
        ((1920, 1080), "another aspect than trained: 1920x1080 px are 1.78 wide to high"),
        ((896, 896), None),
        ((900, 1000), None),
        ((200, 224), "smaller than the model's input"),
    ],
)
def test_a_region_that_is_squeezed_or_padded_is_said_so(region: tuple[int, int], words: str | None) -> None:
    said = plausibility.describe_shape_mismatch(Geometry("whole", 224, 224, 3), region=region, has_roi=False)
    if words is None:
        assert said is None
    else:
        assert said is not None
        assert words in said
        assert "roi" in said


# --- frozen -----------------------------------------------------------------------------------------------------------


def frames(*kinds: str) -> list[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
    """One frame for each letter; equal letters are equal frames."""
    made = {kind: np.random.default_rng(ord(kind)).integers(0, 256, (48, 64, 3), np.uint8) for kind in kinds}
    return [made[kind].copy() for kind in kinds]


@pytest.mark.parametrize(
    ("seen", "frozen"),
    [("abc", "---"), ("aaa", "--F"), ("aab", "---"), ("aaaab", "--FF-"), ("aabbb", "----F"), ("abab", "----")],
)
def test_the_third_equal_frame_in_a_row_is_frozen(seen: str, frozen: str) -> None:
    detector = FreezeDetector(0.0)
    assert "".join("F" if detector.is_frozen(f, 0) else "-" for f in frames(*seen)) == frozen


def test_one_pixel_that_the_sample_does_not_hold_is_life() -> None:
    detector = FreezeDetector(0.0)
    (frame,) = frames("a")
    for value in range(6):
        frame[1, 1, 0] = value
        assert not detector.is_frozen(frame.copy(), 0)


def test_a_codec_may_repeat_a_still_scene_for_its_stated_time_and_files_for_ever() -> None:
    (frame,) = frames("a")
    video, files = FreezeDetector(30.0), FreezeDetector(None)
    found = [video.is_frozen(frame, second * NS_PER_S) for second in range(40)]
    assert found == [second >= 30 for second in range(40)]
    assert not any(files.is_frozen(frame, second * NS_PER_S) for second in range(40))


# --- the monitor ------------------------------------------------------------------------------------------------------


def test_an_alarm_is_one_line_when_it_begins_and_one_when_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    monitor = InspectionMonitor(ManualClock(), inspection="top")
    for _ in range(2):
        monitor.count_unusable("cam", ImageFault.DARK, "dark: lamp")
    assert monitor.alarm() is None, "two dark pictures are two `unknown` verdicts and no alarm"
    for _ in range(500):
        monitor.count_unusable("cam", ImageFault.DARK, "dark: lamp")
    assert monitor.alarm() == "camera cam: dark: lamp"
    for _ in range(9):
        monitor.count_usable("cam")
    assert monitor.alarm() is not None
    monitor.count_usable("cam")
    assert monitor.alarm() is None
    assert monitor.image_health("cam").faults == {"dark": 502}
    said = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert [level for level, _ in said] == ["WARNING", "INFO"]
    assert "502 were not" in said[1][1], said


def test_pictures_unlike_the_golden_set_are_warned_of_once_for_a_model(caplog: pytest.LogCaptureFixture) -> None:
    monitor = InspectionMonitor(ManualClock(), inspection="top")
    for _ in range(20):
        monitor.compare_with_golden("cam", "model 1", ImageStatistics(40.0, 25.0), LIMITS, squeezed="squeezed")
    assert monitor.image_health("cam").mismatch == "squeezed; brightness 40 of 255 against 80 to 105 in the golden set"
    assert len(caplog.records) == 1
    for _ in range(20):
        monitor.compare_with_golden("cam", "model 2", ImageStatistics(90.0, 25.0), LIMITS, squeezed=None)
    assert monitor.image_health("cam").mismatch is None


# --- in the loop ------------------------------------------------------------------------------------------------------


def light_line(model: PlainModel) -> tuple[Line, InspectionMonitor]:
    """A line of 8x8 pixels whose golden set has greys of 80 to 105; contrast is not looked at."""
    model.image_limits = ImageLimits(80.0, 105.0, 0.0, 128.0)
    monitor = InspectionMonitor(ManualClock(), inspection="top")
    return Line(lease_of(model), monitor=monitor), monitor


def test_a_dark_part_is_unknown_whatever_the_model_would_say_and_its_neighbours_are_judged() -> None:
    model = PlainModel("1", saying(0.1))
    line, monitor = light_line(model)
    found = line.judge(4, greys=[90, 5, 95, 255])
    assert [v.judgement.outcome for v in found] == [Outcome.OK, Outcome.UNKNOWN, Outcome.OK, Outcome.UNKNOWN]
    assert (found[1].judgement.reason or "").startswith("dark: brightness 5 of 255, the model's images have 80 to 105")
    assert monitor.image_health("cam").faults == {"dark": 1, "bright": 1}
    assert line.counters.snapshot().pending == 0
    assert line.pool.held == 0


def test_a_challenger_is_not_asked_about_a_picture_that_proves_nothing() -> None:
    line, _ = light_line(PlainModel("1", saying(0.1)))
    seen: list[object] = []
    challenger = Lease(PlainModel("2", saying(0.9)), PlainModel("2", saying(0.9)).rule)
    line.slot.begin_trial(Trial(challenger=challenger, share=1.0, salt="s", observe=seen.append))
    dark, good = line.judge(2, greys=[5, 90])
    assert (dark.judgement.outcome, dark.arm) == (Outcome.UNKNOWN, None)
    assert good.judgement.outcome is Outcome.DEFECT
    assert len(seen) == 1


@pytest.mark.parametrize("kind", [*InjectedFault, "frozen_mjpeg"])
def test_no_spoilt_picture_is_ok_from_the_third_on_and_each_kind_has_its_alarm(kind: str) -> None:
    (found,) = run_unusable_images(release=RELEASE, count=60, seed=3, kinds=[kind])
    assert sum(found.outcomes.values()) >= 60
    assert found.late_ok == 0
    assert found.alarm is not None


def test_good_pictures_of_the_simulated_line_are_never_refused() -> None:
    found = run_good_images(release=RELEASE, count=1_000, seed=8)
    assert found.pictures == 1_000
    assert not found.refused


@pytest.mark.parametrize("name", REAL_SETS)
def test_no_real_picture_is_refused(name: str) -> None:
    found = run_real_images(real_data(name), seed=5)
    assert found.pictures > 1_000
    assert not found.refused


def test_the_simulated_line_spoils_what_it_is_told_to() -> None:
    picture = SimulatedLine(LineConfig(seed=2)).render_roi(0)
    spoiler = ImageFaultInjector(seed=1)
    dark, again = (spoiler.apply(picture, InjectedFault.DARK_LAMP) for _ in range(2))
    assert dark.mean() == pytest.approx(picture.mean() / 10, abs=1.0)
    assert not np.array_equal(dark, again), "a living sensor has noise"
    first, second = (spoiler.apply(picture + np.uint8(n), InjectedFault.FROZEN) for n in range(2))
    assert np.array_equal(first, second)
