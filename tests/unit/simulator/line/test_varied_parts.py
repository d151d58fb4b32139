"""A varied line: no two parts are alike, the truth matches the pixels, a camera is kept up with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from agent.timing.clock import SystemClock
from simulator.line import LineConfig, SimulatedLine
from simulator.line.source import SimulatedSource

if TYPE_CHECKING:
    from agent.records import Pixels

CONFIG = LineConfig(seed=5, pool=3, vary=True, defect_rate=0.5, weak_share=0.0, surfaces=("turned", "cast"))


@pytest.fixture(scope="module")
def line() -> SimulatedLine:
    return SimulatedLine(CONFIG)


def roi(line: SimulatedLine, frame: Pixels) -> Pixels:
    x, y, width, height = line.roi
    return frame[y : y + height, x : x + width]


def test_no_two_parts_are_alike_in_pixels_place_light_or_defect(line: SimulatedLine) -> None:
    frames = [line.render(index) for index in range(8)]
    assert len({frame.tobytes() for frame in frames}) == 8
    truths = [line.truth(index) for index in range(200)]
    assert len({truth.light.gain for truth in truths}) == 200
    assert len({(truth.pose.dx, truth.pose.dy) for truth in truths}) > 120
    masks = {line.mask_roi(truth.index).tobytes() for truth in truths[:20] if truth.is_defective}
    assert len(masks) == sum(truth.is_defective for truth in truths[:20])
    assert len({truth.picture for truth in truths}) == 200


def test_a_part_has_the_same_pixels_whatever_was_made_before(line: SimulatedLine) -> None:
    again = SimulatedLine(CONFIG)
    backwards = {index: again.render(index) for index in (7, 3, 1)}
    assert all(np.array_equal(line.render(index), backwards[index]) for index in (1, 3, 7))
    assert np.array_equal(roi(line, line.render(3)), line.render_roi(3))


def test_the_defect_rate_is_kept(line: SimulatedLine) -> None:
    found = sum(line.truth(index).is_defective for index in range(2_000))
    assert 0.45 < found / 2_000 < 0.55


@pytest.mark.parametrize(("camera", "parts"), [("colour1080", 6), ("mono5mp", 2)])
def test_pixels_change_where_the_truth_says_that_the_defect_is(camera: str, parts: int) -> None:
    options = {**CONFIG.model_dump(), "camera": camera, "pool": 1, "surfaces": ("cast",), "noise": 0.0}
    hurt = SimulatedLine(LineConfig.model_validate(options))
    whole = SimulatedLine(LineConfig.model_validate({**options, "defect_rate": 0.0}))
    for index in [index for index in range(40) if hurt.truth(index).is_defective][:parts]:
        difference = cv2.absdiff(hurt.render(index), whole.render(index))
        changed = difference.max(axis=2) if difference.ndim == 3 else difference
        mask = hurt.mask(index)
        near = cv2.dilate(mask, np.ones((61, 61), np.uint8))  # burr, rim and blur reach beyond the mask
        assert changed[mask > 0].mean() > 4.0, hurt.truth(index).kind
        assert np.count_nonzero(changed[near == 0]) == 0, hurt.truth(index).kind


def test_the_lamps_level_reaches_the_pixels() -> None:
    fading = {"drift_shape": "ramp", "drift_amplitude": 0.2, "drift_after_parts": 10, "drift_period_parts": 10}
    config = LineConfig.model_validate({**CONFIG.model_dump(), **fading, "defect_rate": 0.0, "exposure_step": 0.0})
    line = SimulatedLine(config)
    bright, dim = (np.mean([line.render(index).mean() for index in some]) for some in (range(6), range(30, 36)))
    assert dim / bright == pytest.approx(0.8, abs=0.03)


def test_a_part_looks_as_the_renderer_shows_such_parts(line: SimulatedLine) -> None:
    """Mean and texture of the metal: a model must not be able to tell the quick way from the slow one."""
    slow = SimulatedLine(CONFIG.model_copy(update={"vary": False, "pool": 0, "drift_amplitude": 0.0}))

    def figures(of: SimulatedLine, surface: str) -> tuple[float, float]:
        good = [i for i in range(60) if not of.truth(i).is_defective and of.truth(i).surface == surface][:6]
        middles = [of.render_roi(i)[300:380, 140:240].astype(np.float32) for i in good]
        fine = [middle - cv2.GaussianBlur(middle, (0, 0), 8.0) for middle in middles]
        return float(np.mean(middles)), float(np.mean([one.std() for one in fine]))

    for surface in CONFIG.surfaces:
        (quick_mean, quick_deviation), (mean, deviation) = figures(line, surface), figures(slow, surface)
        assert quick_mean == pytest.approx(mean, rel=0.08), surface
        assert quick_deviation == pytest.approx(deviation, rel=0.2), surface


def test_the_source_writes_into_the_readers_buffer_what_the_line_shows(line: SimulatedLine) -> None:
    source = SimulatedSource(line=line, clock=SystemClock(), fps=None, parts=5)
    source.open()
    buffer = np.empty((1080, 1920, 3), np.uint8)
    for index in range(5):
        grab = source.read(timeout_s=1.0, buffer=buffer if index else None)
        assert grab is not None
        assert (grab.pixels is buffer) == (index > 0)
        assert np.array_equal(grab.pixels, line.render(index))
    source.close()
    assert not source.may_repeat


def test_varying_needs_a_pool() -> None:
    with pytest.raises(ValidationError, match="give pool"):
        LineConfig(vary=True)
