from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from simulator.line import CLASSES, DEFECT_KINDS, DIFFICULTIES, SURFACES, LineConfig, SimulatedLine
from simulator.line.defects import detection_index
from simulator.line.part_sequence import drift_at, exposure_at

DEFECTIVE = LineConfig(seed=3, defect_rate=1.0)


@pytest.fixture(scope="module")
def line() -> SimulatedLine:
    return SimulatedLine(DEFECTIVE)


def test_a_part_has_the_same_pixels_in_two_lines_of_one_seed_in_any_order(line: SimulatedLine) -> None:
    again = SimulatedLine(DEFECTIVE)
    backwards = {index: again.render_roi(index) for index in (2, 1, 0)}
    assert all(np.array_equal(line.render_roi(index), backwards[index]) for index in (0, 1, 2))


def test_another_seed_shows_other_parts(line: SimulatedLine) -> None:
    other = SimulatedLine(DEFECTIVE.model_copy(update={"seed": 4}))
    assert not np.array_equal(line.render_roi(0), other.render_roi(0))


def test_the_roi_alone_equals_the_roi_of_the_frame(line: SimulatedLine) -> None:
    x, y, width, height = line.roi
    frame = line.render(5)
    assert frame.shape == (1080, 1920, 3)
    assert np.array_equal(frame[y : y + height, x : x + width], line.render_roi(5))


def test_the_mono_camera_sees_the_same_line_at_twice_the_resolution() -> None:
    line = SimulatedLine(LineConfig(camera="mono5mp", surfaces=("brushed",), defect_rate=1.0))
    x, y, width, height = line.roi
    frame = line.render(0)
    assert frame.shape == (2048, 2448)
    assert (width, height) == (1792, 1792)
    assert np.array_equal(frame[y : y + height, x : x + width], line.render_roi(0))


def test_the_part_keeps_clear_of_the_rois_border_in_every_pose() -> None:
    config = LineConfig(defect_rate=0.0, jitter_px=30.0, jitter_deg=4.0, noise=0.0)
    jumpy = SimulatedLine(config)
    for index in range(12):
        roi = jumpy.render_roi(index)
        border = np.concatenate([roi[:12].ravel(), roi[-12:].ravel(), roi[:, :12].ravel(), roi[:, -12:].ravel()])
        assert border.max() < 100, f"part {index} reaches the border"  # belt is dark, metal is bright


def test_a_defect_changes_the_part_where_its_mask_is_and_nowhere_else(line: SimulatedLine) -> None:
    for index in range(30):
        recipe = line._recipe(index)
        good = line._expose(replace(recipe, kind="none", difficulty="none"), line.roi).astype(np.int16)
        changed = np.abs(line.render_roi(index).astype(np.int16) - good).max(axis=2)
        mask = line.mask_roi(index)
        assert mask.any(), recipe
        assert changed[mask > 0].mean() > changed[mask == 0].mean() + 3.0, recipe
        far = cv2.dilate(mask, np.ones((61, 61), dtype=np.uint8)) == 0
        assert not changed[far].any(), recipe


def test_the_box_of_the_truth_holds_the_mask_in_frame_pixels(line: SimulatedLine) -> None:
    truth = line.truth(7)
    box = truth.box()
    assert box is not None
    x, y, width, height = box
    rows, columns = np.nonzero(truth.mask())
    assert (columns.min(), rows.min()) == (x, y)
    assert (columns.max(), rows.max()) == (x + width - 1, y + height - 1)


def test_a_good_part_has_an_empty_mask_and_no_box() -> None:
    line = SimulatedLine(LineConfig(defect_rate=0.0, surfaces=("turned",)))
    truth = line.truth(0)
    assert (truth.class_name, truth.kind, truth.difficulty) == ("ok", "none", "none")
    assert not truth.is_defective
    assert not truth.mask().any()
    assert truth.box() is None


def test_every_kind_difficulty_and_surface_occurs_and_maps_to_a_class(line: SimulatedLine) -> None:
    truths = [line.truth(index) for index in range(1500)]
    assert {(t.kind, t.difficulty, t.surface) for t in truths} == {
        (kind, difficulty, surface) for kind in DEFECT_KINDS for difficulty in DIFFICULTIES for surface in SURFACES
    }
    assert {t.class_name for t in truths} == set(CLASSES) - {"ok"}


def test_the_defect_rate_is_kept_with_and_without_a_pool() -> None:
    for pool in (0, 40):
        line = SimulatedLine(LineConfig(defect_rate=0.04, pool=pool, surfaces=("turned",)))
        share = sum(line.truth(index).is_defective for index in range(4000)) / 4000
        assert 0.028 < share < 0.052


def test_a_grade_is_a_band_of_the_detection_index(line: SimulatedLine) -> None:
    by_grade: dict[str, list[float]] = {grade: [] for grade in DIFFICULTIES}
    for index in range(120):
        recipe = line._recipe(index)
        damage = line.draw_defect(recipe)
        by_grade[recipe.difficulty].append(detection_index(damage.brightness_change, line._sigma[recipe.surface], 1))
    weak, medium, strong = (sorted(by_grade[grade]) for grade in DIFFICULTIES)
    assert weak[0] > 8.0
    assert medium[0] > 30.0
    assert strong[0] > 50.0
    assert np.median(weak) < np.median(medium) < np.median(strong)


def test_parts_that_share_a_picture_share_truth_and_pixels_but_not_their_id() -> None:
    line = SimulatedLine(LineConfig(pool=4, defect_rate=0.5, surfaces=("turned",)))
    first = line.truth(0)
    twin = next(line.truth(index) for index in range(1, 99) if line.truth(index).picture == first.picture)
    assert twin.part_id != first.part_id
    assert (twin.kind, twin.pose, twin.light) == (first.kind, first.pose, first.light)
    assert np.array_equal(line.render_roi(first.index), line.render_roi(twin.index))


def test_a_pooled_line_follows_the_drift_of_the_light() -> None:
    config = LineConfig(pool=64, drift_amplitude=0.2, drift_shape="ramp", drift_period_parts=100, surfaces=("turned",))
    line = SimulatedLine(config)
    for index in (0, 30, 60, 100, 5000):
        assert line.truth(index).light.drift == pytest.approx(drift_at(config, index), abs=0.2 / 16 + 1e-9)


def test_light_drifts_with_the_parts_and_exposure_jumps_between_steps() -> None:
    config = LineConfig(drift_amplitude=0.1, drift_period_parts=100, exposure_step=0.2, exposure_step_every_parts=10)
    assert drift_at(config, 25) == pytest.approx(1.1)
    assert drift_at(config, 75) == pytest.approx(0.9)
    assert exposure_at(config, 10) == exposure_at(config, 19)
    assert len({exposure_at(config, index) for index in range(0, 100, 10)}) == 10
    assert all(0.8 <= exposure_at(config, index) <= 1.2 for index in range(0, 100, 10))


def test_a_darker_lamp_gives_darker_pixels() -> None:
    config = LineConfig(drift_amplitude=0.5, drift_shape="ramp", drift_period_parts=10, surfaces=("cast",))
    line = SimulatedLine(config)
    assert line.render_roi(20).mean() < 0.7 * line.render_roi(0).mean()


def test_the_truth_is_found_by_part_id(line: SimulatedLine) -> None:
    assert line.truth("S3-0000042") == line.truth(42)


@pytest.mark.parametrize("part_id", ["S4-0000042", "0000042", "S3-42", "S3-0000042 ", ""])
def test_a_part_id_of_another_line_is_refused(line: SimulatedLine, part_id: str) -> None:
    with pytest.raises(ValueError, match="not a part of this line"):
        line.truth(part_id)


def test_a_negative_index_is_refused(line: SimulatedLine) -> None:
    with pytest.raises(ValueError, match="negative"):
        line.truth(-1)


@pytest.mark.parametrize(
    "wrong", [{"camera": "phone"}, {"surfaces": []}, {"kinds": ["none"]}, {"defect_rate": 1.5}, {"hue": 1}]
)
def test_a_line_that_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        LineConfig.model_validate(wrong)
