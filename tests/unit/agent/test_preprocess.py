"""Every frame shape, ROI and geometry ends in the right bytes, or in a counted drop."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from agent import preprocess
from agent.errors import FrameError
from agent.preprocess import Preprocessor
from agent.records import DropReason, Geometry

if TYPE_CHECKING:
    from agent.records import Box, Pixels


def whole(height: int = 32, width: int = 32, channels: Any = 3) -> Geometry:
    return Geometry(mode="whole", height=height, width=width, channels=channels)


def tiles(channels: Any = 1, reduction: Any = 1, overlap: int = 0) -> Geometry:
    return Geometry(mode="tiles", height=32, width=32, channels=channels, reduction=reduction, overlap_px=overlap)


def texture(height: int, width: int, channels: int = 3, seed: int = 1) -> Pixels:
    rng = np.random.default_rng(seed)
    shape = (height, width, 3) if channels == 3 else (height, width)
    return cv2.GaussianBlur(rng.integers(0, 256, shape, np.uint8), (0, 0), 2).astype(np.uint8)


def run(geometry: Geometry, pixels: Pixels, roi: Box | None = None) -> Pixels:
    worker = Preprocessor(geometry, roi=roi)
    count = len(worker.plan_for(pixels).tiles)
    out = np.full((count, geometry.height, geometry.width, geometry.channels), 77, np.uint8)
    worker.write_to(pixels, out)
    return out


# --- whole ------------------------------------------------------------------------------------------------------------


def test_a_frame_of_the_input_size_is_copied() -> None:
    frame = texture(32, 32)

    assert np.array_equal(run(whole(), frame)[0], frame)


def test_powers_of_two_are_pure_area_averages() -> None:
    frame = texture(128, 128)
    exact = cv2.resize(frame, (32, 32), interpolation=cv2.INTER_AREA)

    assert np.abs(run(whole(), frame)[0].astype(int) - exact).max() <= 1  # the mean of means rounds twice


def test_other_factors_stay_within_two_grey_levels_of_a_direct_area_reduction() -> None:
    frame = texture(1080, 1920)
    exact = cv2.resize(frame, (224, 224), interpolation=cv2.INTER_AREA)

    error = run(whole(224, 224), frame)[0].astype(float) - exact

    assert np.sqrt((error**2).mean()) <= 2.0


def test_the_roi_alone_is_looked_at() -> None:
    frame = texture(100, 120)
    inside = run(whole(), frame, roi=(20, 10, 64, 64))
    frame[:10], frame[74:], frame[:, :20], frame[:, 84:] = 0, 0, 255, 255

    assert np.array_equal(run(whole(), frame, roi=(20, 10, 64, 64)), inside)
    assert np.array_equal(inside[0], run(whole(), np.ascontiguousarray(frame[10:74, 20:84]))[0])


def test_the_inspections_roi_goes_before_the_manifests() -> None:
    frame = texture(64, 64)
    geometry = Geometry(mode="whole", height=32, width=32, channels=3, roi=(32, 32, 32, 32))

    assert np.array_equal(run(geometry, frame)[0], frame[32:, 32:])
    assert np.array_equal(run(geometry, frame, roi=(0, 0, 32, 32))[0], frame[:32, :32])


@pytest.mark.parametrize("side", [33, 47, 63, 65, 129])
def test_odd_sizes_cost_at_most_their_last_row_and_column(side: int) -> None:
    gradient = np.broadcast_to(np.linspace(0, 255, side).astype(np.uint8), (side, side)).copy()

    row = run(whole(channels=1), gradient)[0, 16, :, 0].astype(int)

    assert (np.diff(row) >= 0).all()
    assert row[0] <= 16
    assert row[-1] >= 235


def test_a_picture_smaller_than_the_input_is_padded_with_its_border() -> None:
    frame = texture(20, 24)

    out = run(whole(), frame)[0]

    assert np.array_equal(out[:20, :24], frame)
    assert np.array_equal(out[:20, 24:], np.repeat(frame[:, -1:], 8, axis=1))
    assert np.array_equal(out[20:], np.repeat(out[19:20], 12, axis=0))


def test_a_picture_small_on_one_side_only_is_padded_there_and_reduced_on_the_other() -> None:
    frame = np.full((20, 100), 50, np.uint8)
    frame[:, 50:] = 200

    out = run(whole(channels=1), frame)[0, :, :, 0]

    assert (out[:, :15] == 50).all()
    assert (out[:, 17:] == 200).all()


# --- channels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(32, 32), (128, 128), (100, 90), (20, 20)])
@pytest.mark.parametrize("geometry", [whole(channels=1), tiles(channels=1)])
def test_a_colour_frame_for_a_mono_model_is_its_luma(geometry: Geometry, size: tuple[int, int]) -> None:
    frame = texture(*size)
    out = run(geometry, frame)
    luma = run(geometry, cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY).astype(np.uint8))

    assert out.shape[-1] == 1
    assert np.abs(out.astype(int) - luma).max() <= 2


@pytest.mark.parametrize("size", [(32, 32), (128, 128), (100, 90), (20, 20)])
@pytest.mark.parametrize("geometry", [whole(channels=3), tiles(channels=3)])
def test_a_mono_frame_for_a_colour_model_has_three_equal_channels(geometry: Geometry, size: tuple[int, int]) -> None:
    frame = texture(*size, channels=1)
    mono = Geometry(mode=geometry.mode, height=32, width=32, channels=1)

    assert np.array_equal(run(geometry, frame), np.repeat(run(mono, frame), 3, axis=3))


# --- tiles ------------------------------------------------------------------------------------------------------------


def test_tiles_are_cut_from_where_the_plan_says() -> None:
    frame = texture(64, 100, channels=1)
    out = run(tiles(overlap=4), frame)
    plan = preprocess.plan_inputs(tiles(overlap=4), height=64, width=100)

    assert len(out) == 12
    for cut, tile in zip(out, plan.tiles, strict=True):
        assert np.array_equal(cut[:, :, 0], frame[tile.y : tile.y + 32, tile.x : tile.x + 32])


@pytest.mark.parametrize("reduction", [1, 2, 4])
def test_reduced_tiles_are_cut_from_the_area_pyramid(reduction: int) -> None:
    frame = texture(64 * reduction, 96 * reduction)
    reduced = frame
    for _ in range(reduction.bit_length() - 1):
        reduced = cv2.resize(reduced, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA).astype(np.uint8)

    out = run(tiles(channels=3, reduction=reduction), frame)

    assert np.array_equal(np.concatenate(out[3:], axis=1), reduced[32:])


def test_a_picture_smaller_than_one_tile_gives_one_padded_tile() -> None:
    frame = texture(10, 12, channels=1)

    out = run(tiles(), frame)

    assert out.shape == (1, 32, 32, 1)
    assert np.array_equal(out[0, :10, :12, 0], frame)
    assert (out[0, 10:, 11:, 0] == frame[-1, -1]).all()


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (np.zeros((0, 32, 3), np.uint8), DropReason.SIZE),
        (np.zeros((32, 0), np.uint8), DropReason.SIZE),
        (np.zeros((32, 32, 4), np.uint8), DropReason.CHANNELS),
        (np.zeros((32, 32, 1), np.uint8), DropReason.CHANNELS),
        (np.zeros((32, 32, 2), np.uint8), DropReason.CHANNELS),
        (np.zeros((32,), np.uint8), DropReason.CHANNELS),
        (np.zeros((1, 32, 32, 3), np.uint8), DropReason.CHANNELS),
        (np.zeros((32, 32), np.uint16), DropReason.CHANNELS),
        (np.zeros((32, 32, 3), np.float32), DropReason.CHANNELS),
    ],
)
def test_what_is_no_frame_is_refused_under_its_reason(pixels: Any, reason: DropReason) -> None:
    with pytest.raises(FrameError) as caught:
        run(whole(), pixels)

    assert caught.value.reason == reason


@pytest.mark.parametrize("roi", [(0, 0, 65, 64), (-1, 0, 10, 10), (60, 60, 5, 4), (0, 0, 0, 4), (64, 0, 1, 1)])
def test_a_roi_outside_the_frame_is_refused_with_both_sizes(roi: Box) -> None:
    with pytest.raises(FrameError, match="does not lie in a frame of 64x64 px") as caught:
        run(whole(), texture(64, 64), roi=roi)

    assert caught.value.reason == DropReason.SIZE


@pytest.mark.parametrize("size", [(1, 100), (100, 3), (1, 1)])
def test_a_frame_narrower_than_the_reduction_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(FrameError, match="leave nothing at reduction 4") as caught:
        run(tiles(reduction=4), texture(*size, channels=1))

    assert caught.value.reason == DropReason.SIZE


def test_a_manifest_cannot_ask_for_tiles_without_end() -> None:
    with pytest.raises(FrameError, match="72,361 tiles, at most 1,024 are allowed"):
        run(tiles(overlap=31), texture(300, 300, channels=1))


def test_a_refused_frame_does_not_spoil_the_next_one() -> None:
    worker = Preprocessor(whole())
    frame, out = texture(128, 128), np.empty((1, 32, 32, 3), np.uint8)
    worker.write_to(frame, out)
    expected = out.copy()
    with pytest.raises(FrameError):
        worker.write_to(np.zeros((5, 5, 4), np.uint8), out)

    worker.write_to(frame, out)

    assert np.array_equal(out, expected)


def test_a_camera_that_changes_its_size_gets_a_new_plan() -> None:
    worker, out = Preprocessor(whole()), np.empty((1, 32, 32, 3), np.uint8)
    for size in ((128, 128), (90, 70), (128, 128)):
        frame = texture(*size)
        worker.write_to(frame, out)
        assert np.array_equal(out, run(whole(), frame))


# --- steady state and digest ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "geometry",
    [whole(224, 224), whole(224, 224, 1), tiles(3, 2, 8), tiles(1, 2, 8)],
    ids=lambda g: f"{g.mode}{g.channels}",
)
def test_nothing_of_a_frames_size_is_allocated_once_the_plan_stands(geometry: Geometry) -> None:
    frame = texture(540, 960)
    worker = Preprocessor(geometry)
    out = np.empty((len(worker.plan_for(frame).tiles), geometry.height, geometry.width, geometry.channels), np.uint8)
    worker.write_to(frame, out)

    tracemalloc.start()
    try:
        worker.write_to(frame, out)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 32 * 1024  # views and tuples; numpy reports its arrays to tracemalloc


def test_rows_of_a_frame_may_be_strided() -> None:
    frame = texture(128, 256)[:, 64:192]

    assert np.array_equal(run(whole(), frame), run(whole(), frame.copy()))


def test_the_digest_names_everything_that_changes_the_bytes() -> None:
    base = Geometry(mode="tiles", height=32, width=48, channels=1, reduction=2, overlap_px=4, roi=(1, 2, 300, 400))
    others = [
        Geometry(mode="whole", height=32, width=48, channels=1, reduction=2, overlap_px=4, roi=(1, 2, 300, 400)),
        Geometry(mode="tiles", height=33, width=48, channels=1, reduction=2, overlap_px=4, roi=(1, 2, 300, 400)),
        Geometry(mode="tiles", height=32, width=49, channels=1, reduction=2, overlap_px=4, roi=(1, 2, 300, 400)),
        Geometry(mode="tiles", height=32, width=48, channels=3, reduction=2, overlap_px=4, roi=(1, 2, 300, 400)),
        Geometry(mode="tiles", height=32, width=48, channels=1, reduction=4, overlap_px=4, roi=(1, 2, 300, 400)),
        Geometry(mode="tiles", height=32, width=48, channels=1, reduction=2, overlap_px=5, roi=(1, 2, 300, 400)),
        Geometry(mode="tiles", height=32, width=48, channels=1, reduction=2, overlap_px=4, roi=(1, 2, 300, 401)),
        Geometry(mode="tiles", height=32, width=48, channels=1, reduction=2, overlap_px=4),
    ]

    digests = {preprocess.digest(g) for g in (base, *others)}

    assert len(digests) == len(others) + 1
    assert preprocess.digest(base) == preprocess.digest(base)
