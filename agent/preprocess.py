"""Turns a frame into model inputs, by the manifest's geometry.

Training, evaluation and the line share this one preprocessing. Promise: pixels are reduced by exact 2x2 area steps
(`cv2.INTER_AREA` at a factor of two), so thin defects fade but never break up; at most one bilinear step follows. The
bytes written are the model's quantised input: there is no float and no normalisation here. A `Preprocessor` allocates
its work buffers once for a frame shape; after that `write_to` allocates nothing of a frame's size. One instance belongs
to one thread.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np

from agent.errors import FrameError
from agent.records import DropReason

if TYPE_CHECKING:
    from agent.records import Box, Geometry, Pixels

MAX_TILES: Final = 1_024  # of one frame: bounds the batch buffer for any manifest
cv2.setNumThreads(1)  # the workers are the parallelism; OpenCV's own threads would compete for the cores

VERSION: Final = 1  # raise it when the same geometry gives other bytes: it is part of the digest


def digest(geometry: Geometry) -> str:
    """Return the SHA-256 (hex) of geometry and `VERSION`; equal digests mean equal bytes from equal frames."""
    canonical = {
        "version": VERSION,
        "mode": geometry.mode,
        "height": geometry.height,
        "width": geometry.width,
        "channels": geometry.channels,
        "reduction": geometry.reduction,
        "overlap_px": geometry.overlap_px,
        "roi": geometry.roi,
    }
    return hashlib.sha256(json.dumps(canonical, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class InputTile:
    """Where one model input lies: `x`, `y` in reduced pixels of the ROI."""

    x: int
    y: int


@dataclass(frozen=True, slots=True)
class InputPlan:
    """The placement for one frame shape: everything that `write_to` and the decision's box need."""

    roi: Box  # clipped to the frame, original pixels
    halvings: int  # number of 2x2 area steps
    padded: tuple[int, int]  # (height, width) in reduced pixels after padding; the tiles lie in it
    tiles: tuple[InputTile, ...]
    scale_x: float  # original pixels per model-input pixel
    scale_y: float
    input_hw: tuple[int, int]

    def original_box(self, tile: int, box: tuple[float, float, float, float]) -> Box:
        """Map (x0, y0, x1, y1), fractions of input `tile`, to (x, y, w, h) in original pixels, clipped to the ROI."""
        height, width = self.input_hw
        place = self.tiles[tile]
        left, top, roi_w, roi_h = self.roi
        x0 = (place.x + box[0] * width) * self.scale_x
        y0 = (place.y + box[1] * height) * self.scale_y
        x1 = (place.x + box[2] * width) * self.scale_x
        y1 = (place.y + box[3] * height) * self.scale_y
        x0, x1 = max(0.0, min(x0, roi_w - 1)), min(x1, roi_w)
        y0, y1 = max(0.0, min(y0, roi_h - 1)), min(y1, roi_h)
        return (left + int(x0), top + int(y0), max(1, round(x1 - x0)), max(1, round(y1 - y0)))


def _offsets(length: int, tile: int, overlap: int) -> list[int]:
    """Return evenly spaced starts of tiles that cover `length`; neighbours share at least `overlap` pixels."""
    if length <= tile:
        return [0]
    count = 1 + -(-(length - tile) // (tile - overlap))
    return [round(i * (length - tile) / (count - 1)) for i in range(count)]


def plan_inputs(geometry: Geometry, *, height: int, width: int, roi: Box | None = None) -> InputPlan:
    """Place the model inputs on a frame of `height` x `width` pixels; pure.

    `roi` (x, y, w, h) overrides the geometry's own; both default to the whole frame. Raises FrameError (`size`) when
    the ROI does not lie within the frame, is narrower than the reduction, or gives more than MAX_TILES tiles.
    """
    x, y, w, h = roi or geometry.roi or (0, 0, width, height)
    if w <= 0 or h <= 0 or x < 0 or y < 0 or x + w > width or y + h > height:
        raise FrameError(DropReason.SIZE, f"ROI x={x} y={y} w={w} h={h} does not lie in a frame of {width}x{height} px")
    if geometry.mode == "whole":
        halvings = 0
        while w >> (halvings + 1) >= geometry.width and h >> (halvings + 1) >= geometry.height:
            halvings += 1
        reduced_h, reduced_w = h >> halvings, w >> halvings
        if reduced_h <= geometry.height and reduced_w <= geometry.width:
            scale_x = scale_y = float(1 << halvings)
        else:  # one bilinear step to the input follows; a side that is too short is padded first
            scale_x = max(reduced_w, geometry.width) / geometry.width * (1 << halvings)
            scale_y = max(reduced_h, geometry.height) / geometry.height * (1 << halvings)
        return InputPlan(
            (x, y, w, h),
            halvings,
            (geometry.height, geometry.width),
            (InputTile(0, 0),),
            scale_x,
            scale_y,
            (geometry.height, geometry.width),
        )
    halvings = {1: 0, 2: 1, 4: 2}[geometry.reduction]
    if min(w, h) < geometry.reduction:
        raise FrameError(DropReason.SIZE, f"{w}x{h} px leave nothing at reduction {geometry.reduction}")
    padded_h = max(h >> halvings, geometry.height)
    padded_w = max(w >> halvings, geometry.width)
    rows = _offsets(padded_h, geometry.height, geometry.overlap_px)
    columns = _offsets(padded_w, geometry.width, geometry.overlap_px)
    if len(rows) * len(columns) > MAX_TILES:
        raise FrameError(
            DropReason.SIZE,
            f"{w}x{h} px give {len(rows) * len(columns):,} tiles, at most {MAX_TILES:,} are allowed: "
            "set a ROI, a larger reduction or less overlap",
        )
    tiles = tuple(InputTile(tx, ty) for ty in rows for tx in columns)
    scale = float(1 << halvings)
    return InputPlan(
        (x, y, w, h), halvings, (padded_h, padded_w), tiles, scale, scale, (geometry.height, geometry.width)
    )


def check_pixels(pixels: Pixels) -> None:
    """Check that `pixels` can be a frame. Raises FrameError (`channels` or `size`)."""
    if pixels.dtype != np.uint8:
        raise FrameError(DropReason.CHANNELS, f"pixels are {pixels.dtype}, expected uint8")
    if pixels.ndim not in {2, 3} or (pixels.ndim == 3 and pixels.shape[2] != 3):  # noqa: PLR2004 - BGR
        raise FrameError(DropReason.CHANNELS, f"shape {pixels.shape}, expected [H, W] mono or [H, W, 3] BGR")
    if 0 in pixels.shape:
        raise FrameError(DropReason.SIZE, f"empty frame of shape {pixels.shape}")


class Preprocessor:
    """Writes frames into batch slots; keeps the plan and work buffers of the last frame shape."""

    def __init__(self, geometry: Geometry, *, roi: Box | None = None) -> None:
        """Serve `geometry`; `roi` (x, y, w, h) overrides the manifest's."""
        self.geometry = geometry
        self._roi = roi
        self._shape: tuple[int, ...] | None = None
        self._plan: InputPlan | None = None
        self._steps: list[Pixels] = []
        self._padded: Pixels | None = None
        self._converted: Pixels | None = None

    def plan_for(self, pixels: Pixels) -> InputPlan:
        """Return the plan for frames of this shape, made once. Raises FrameError for a shape that cannot be placed."""
        if self._plan is None or pixels.shape != self._shape:
            self._prepare(pixels)
        assert self._plan is not None  # noqa: S101 - set by _prepare
        return self._plan

    def write_to(self, pixels: Pixels, out: Pixels) -> None:
        """Write the inputs of one frame to `out` [tiles, H, W, C] uint8, in place.

        `pixels` is [H, W] or [H, W, 3] uint8; its rows may be strided. Raises FrameError when it cannot be used.
        """
        placed = self.plan_for(pixels)
        x, y, w, h = placed.roi
        work = pixels[y : y + h, x : x + w]
        for step in self._steps:
            # Odd last rows and columns are left out: an area step needs whole 2x2 cells.
            even = work[: step.shape[0] * 2, : step.shape[1] * 2]
            cv2.resize(even, (step.shape[1], step.shape[0]), dst=step, interpolation=cv2.INTER_AREA)
            work = step
        if self._padded is not None:
            work = self._pad(work, self._padded)
        if self.geometry.mode == "whole":
            self._finish_whole(work, out[0])
            return
        work = self._convert(work)
        height, width = self.geometry.height, self.geometry.width
        for slot, tile in zip(out, placed.tiles, strict=True):
            cut = work[tile.y : tile.y + height, tile.x : tile.x + width]
            slot[...] = cut if cut.ndim == slot.ndim else cut[:, :, None]

    def _finish_whole(self, work: Pixels, slot: Pixels) -> None:
        """Bilinear step (when sizes differ) and channel conversion, the latter on the smaller image."""
        height, width = self.geometry.height, self.geometry.width
        same_channels = (work.ndim == 3) == (self.geometry.channels == 3)  # noqa: PLR2004 - BGR
        target = slot if self.geometry.channels == 3 else slot[:, :, 0]  # noqa: PLR2004
        if work.shape[:2] == (height, width):
            if same_channels:
                target[...] = work
            else:
                cv2.cvtColor(work, self._conversion(work), dst=target)
            return
        if same_channels:
            cv2.resize(work, (width, height), dst=target, interpolation=cv2.INTER_LINEAR)
            return
        assert self._converted is not None  # noqa: S101 - made by _prepare for this case
        cv2.resize(work, (width, height), dst=self._converted, interpolation=cv2.INTER_LINEAR)
        cv2.cvtColor(self._converted, self._conversion(work), dst=target)

    def _convert(self, work: Pixels) -> Pixels:
        """Give the reduced image the model's channels (tiles mode)."""
        if self._converted is None:
            return work
        cv2.cvtColor(work, self._conversion(work), dst=self._converted)
        return self._converted

    @staticmethod
    def _conversion(work: Pixels) -> int:
        return cv2.COLOR_GRAY2BGR if work.ndim == 2 else cv2.COLOR_BGR2GRAY  # noqa: PLR2004 - mono

    @staticmethod
    def _pad(work: Pixels, padded: Pixels) -> Pixels:
        """Copy `work` to the top left of `padded` and replicate its last column and row."""
        h, w = work.shape[:2]
        padded[:h, :w] = work
        padded[:h, w:] = work[:, -1:]
        padded[h:] = padded[h - 1 : h]
        return padded

    def _prepare(self, pixels: Pixels) -> None:
        """Make plan and buffers for a new frame shape."""
        check_pixels(pixels)
        geometry = self.geometry
        placed = plan_inputs(geometry, height=pixels.shape[0], width=pixels.shape[1], roi=self._roi)
        tail = pixels.shape[2:]
        _, _, w, h = placed.roi
        self._steps = [np.empty((h >> i, w >> i, *tail), np.uint8) for i in range(1, placed.halvings + 1)]
        reduced = (h >> placed.halvings, w >> placed.halvings)
        least = (max(reduced[0], geometry.height), max(reduced[1], geometry.width))
        self._padded = np.empty((*least, *tail), np.uint8) if least != reduced else None
        mono_frame, mono_model = not tail, geometry.channels == 1
        self._converted = None
        if mono_frame != mono_model:
            if geometry.mode == "tiles":
                size: tuple[int, ...] = least
                self._converted = np.empty(size if mono_model else (*size, 3), np.uint8)
            elif least != (geometry.height, geometry.width):
                self._converted = np.empty((geometry.height, geometry.width, *tail), np.uint8)
        self._plan, self._shape = placed, pixels.shape
