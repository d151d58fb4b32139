"""Any frame, any geometry.

The inputs cover the region, boxes come back to where they were, bytes do not depend on what came before.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from agent import preprocess
from agent.preprocess import Preprocessor
from agent.records import Box, Geometry

if TYPE_CHECKING:
    from agent.records import Pixels

SIDES = st.integers(4, 256)  # px; at least the largest reduction


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    height, width = draw(st.integers(16, 64)), draw(st.integers(16, 64))
    return Geometry(
        mode=draw(st.sampled_from(["whole", "tiles"])),
        height=height,
        width=width,
        channels=draw(st.sampled_from([1, 3])),
        reduction=draw(st.sampled_from([1, 2, 4])),
        overlap_px=draw(st.integers(0, min(height, width) - 8)),  # fewer than MAX_TILES tiles
    )


@st.composite
def regions(draw: st.DrawFn, height: int, width: int) -> Box | None:
    if draw(st.booleans()):
        return None
    x, y = draw(st.integers(0, width - 4)), draw(st.integers(0, height - 4))
    return (x, y, draw(st.integers(4, width - x)), draw(st.integers(4, height - y)))


def tiles_of(placed: preprocess.InputPlan) -> int:
    return len(placed.tiles)


@settings(max_examples=150, deadline=None)
@given(geometries(), SIDES, SIDES, st.sampled_from([1, 3]), st.data())
def test_every_input_byte_is_written_and_comes_from_the_region(
    geometry: Geometry, height: int, width: int, channels: int, data: st.DataObject
) -> None:
    roi = data.draw(regions(height, width))
    shape = (height, width, 3) if channels == 3 else (height, width)
    frame = np.zeros(shape, np.uint8)  # outside the region: a value that never occurs inside
    x, y, w, h = roi or (0, 0, width, height)
    frame[y : y + h, x : x + w] = 200
    worker = Preprocessor(geometry, roi=roi)
    count = tiles_of(worker.plan_for(frame))

    out = np.full((count, geometry.height, geometry.width, geometry.channels), 9, np.uint8)
    worker.write_to(frame, out)

    assert (out == 200).all()


@settings(max_examples=200, deadline=None)
@given(geometries(), SIDES, SIDES, st.data())
def test_tiles_cover_the_reduced_region_and_overlap_enough(
    geometry: Geometry, height: int, width: int, data: st.DataObject
) -> None:
    placed = preprocess.plan_inputs(geometry, height=height, width=width, roi=data.draw(regions(height, width)))
    full_h, full_w = placed.padded
    for starts, tile, full in (
        (sorted({t.x for t in placed.tiles}), geometry.width, full_w),
        (sorted({t.y for t in placed.tiles}), geometry.height, full_h),
    ):
        assert starts[0] == 0
        assert starts[-1] + tile == full
        overlap = geometry.overlap_px if geometry.mode == "tiles" else 0
        assert all(b - a <= tile - overlap for a, b in itertools.pairwise(starts))


@settings(max_examples=200, deadline=None)
@given(geometries(), SIDES, SIDES, st.data())
def test_boxes_always_lie_in_the_region(geometry: Geometry, height: int, width: int, data: st.DataObject) -> None:
    placed = preprocess.plan_inputs(geometry, height=height, width=width, roi=data.draw(regions(height, width)))
    x0, y0 = data.draw(st.floats(0, 0.99)), data.draw(st.floats(0, 0.99))
    x1, y1 = data.draw(st.floats(x0 + 0.01, 1.0)), data.draw(st.floats(y0 + 0.01, 1.0))
    tile = data.draw(st.integers(0, tiles_of(placed) - 1))

    x, y, w, h = placed.original_box(tile, (x0, y0, x1, y1))

    left, top, roi_w, roi_h = placed.roi
    assert left <= x < x + w <= left + roi_w
    assert top <= y < y + h <= top + roi_h


@settings(max_examples=100, deadline=None)
@given(geometries(), st.integers(64, 256), st.integers(64, 256), st.data())
def test_a_bright_spot_is_found_where_it_was(geometry: Geometry, height: int, width: int, data: st.DataObject) -> None:
    spot = 24  # px; wide enough to survive every reduction
    x, y = data.draw(st.integers(0, width - spot)), data.draw(st.integers(0, height - spot))
    frame = np.zeros((height, width), np.uint8)
    frame[y : y + spot, x : x + spot] = 255
    worker = Preprocessor(geometry)
    placed = worker.plan_for(frame)
    out = np.empty((tiles_of(placed), geometry.height, geometry.width, geometry.channels), np.uint8)
    worker.write_to(frame, out)

    tile, row, column, _ = np.unravel_index(int(out.argmax()), out.shape)
    fractions = (
        column / geometry.width,
        row / geometry.height,
        (column + 1) / geometry.width,
        (row + 1) / geometry.height,
    )
    box_x, box_y, box_w, box_h = placed.original_box(int(tile), fractions)

    slack = 2 * max(placed.scale_x, placed.scale_y) + 1
    assert x - slack <= box_x + box_w / 2 <= x + spot + slack
    assert y - slack <= box_y + box_h / 2 <= y + spot + slack


@settings(max_examples=50, deadline=None)
@given(
    geometries(), st.lists(st.tuples(SIDES, SIDES, st.booleans()), min_size=2, max_size=4), st.integers(0, 2**32 - 1)
)
def test_the_bytes_do_not_depend_on_what_came_before(
    geometry: Geometry, sizes: list[tuple[int, int, bool]], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    used = Preprocessor(geometry)
    for height, width, colour in sizes:
        frame = rng.integers(0, 256, (height, width, 3) if colour else (height, width), np.uint8)
        count = tiles_of(used.plan_for(frame))
        outs = []
        for worker in (used, Preprocessor(geometry)):
            out = np.full((count, geometry.height, geometry.width, geometry.channels), 3, np.uint8)
            worker.write_to(frame, out)
            outs.append(out)
        assert np.array_equal(outs[0], outs[1])


def pyramid(frame: Pixels, roi: Box | None, geometry: Geometry) -> Pixels:
    """The module's promise, literally: whole cells, one area step after the other, one bilinear step at the end."""
    x, y, w, h = roi or (0, 0, frame.shape[1], frame.shape[0])
    work = frame[y : y + h, x : x + w].copy()
    while work.shape[0] // 2 >= geometry.height and work.shape[1] // 2 >= geometry.width:
        cells = work[: work.shape[0] // 2 * 2, : work.shape[1] // 2 * 2].astype(np.uint16)
        quads = cells[::2, ::2] + cells[1::2, ::2] + cells[::2, 1::2] + cells[1::2, 1::2]
        work = ((quads + 2) >> 2).astype(np.uint8)
    if work.shape[:2] == (geometry.height, geometry.width):
        return work
    return cv2.resize(work, (geometry.width, geometry.height), interpolation=cv2.INTER_LINEAR).astype(np.uint8)


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3]), st.data(), st.integers(0, 2**32 - 1))
def test_whole_parts_are_bit_for_bit_means_of_four_then_one_bilinear_step(
    height: int, width: int, channels: Literal[1, 3], data: st.DataObject, seed: int
) -> None:
    geometry = Geometry(mode="whole", height=height, width=width, channels=channels)
    frame_h, frame_w = data.draw(st.integers(height, 300)), data.draw(st.integers(width, 300))
    roi = None
    if data.draw(st.booleans()):
        w, h = data.draw(st.integers(width, frame_w)), data.draw(st.integers(height, frame_h))
        roi = (data.draw(st.integers(0, frame_w - w)), data.draw(st.integers(0, frame_h - h)), w, h)
    rng = np.random.default_rng(seed)
    larger = rng.integers(0, 256, (frame_h, frame_w + 7, 3)[: 3 if channels == 3 else 2], np.uint8)
    frame = larger[:, 3:-4] if data.draw(st.booleans()) else np.ascontiguousarray(larger[:, 3:-4])

    out = np.empty((1, height, width, channels), np.uint8)
    Preprocessor(geometry, roi=roi).write_to(frame, out)

    assert np.array_equal(out[0] if channels == 3 else out[0, :, :, 0], pyramid(frame, roi, geometry))
