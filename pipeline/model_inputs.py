"""Turns images and masks into the exact bytes that a device feeds its model.

Promise: every input comes out of `agent.preprocess.Preprocessor`; training, calibration, golden set and evaluation use
these functions and no other way to read an image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from agent.errors import FrameError
from agent.images.decode import ImageDecoder
from agent.preprocess import InputPlan, Preprocessor
from agent.records import Geometry
from pipeline.dataset_reader import DatasetError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

    from agent.records import Pixels
    from pipeline.dataset_reader import Sample


@dataclass(frozen=True, slots=True, eq=False)
class ModelInputs:
    """The model inputs of several images, concatenated. Row i comes from image `sample_index[i]`."""

    pixels: Pixels  # [N, H, W, C]
    sample_index: npt.NDArray[np.int64]  # [N], index into the samples, not decreasing
    plans: tuple[InputPlan, ...]  # one for each image


def read_image(path: Path) -> Pixels:
    """Decode to [H, W] mono or [H, W, 3] BGR uint8, as the line's folder source does. Raises DatasetError."""
    decoder = ImageDecoder()
    try:
        return decoder.decode(path.read_bytes(), None)
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}.") from error
    except FrameError as error:
        raise DatasetError(f"{path}: {error.detail}. Repair the image or remove it from the data set.") from error
    finally:
        decoder.close()


def is_greyscale(pixels: Pixels) -> bool:
    """Whether the image has no colour, however it is stored."""
    return pixels.ndim == 2 or bool((pixels == pixels[:, :, :1]).all())  # noqa: PLR2004 - mono


def prepare(preprocessor: Preprocessor, pixels: Pixels) -> tuple[Pixels, InputPlan]:
    """Return the inputs [tiles, H, W, C] of one image and where they lie."""
    geometry = preprocessor.geometry
    plan = preprocessor.plan_for(pixels)
    out = np.empty((len(plan.tiles), geometry.height, geometry.width, geometry.channels), np.uint8)
    preprocessor.write_to(pixels, out)
    return out, plan


def load_inputs(samples: Sequence[Sample], geometry: Geometry) -> ModelInputs:
    """Read and preprocess all `samples`. Raises DatasetError for an image that cannot be read."""
    preprocessor = Preprocessor(geometry)
    parts, plans = [], []
    for sample in samples:
        pixels, plan = prepare(preprocessor, read_image(sample.path))
        parts.append(pixels)
        plans.append(plan)
    owner = np.repeat(np.arange(len(parts)), [len(p) for p in parts])
    return ModelInputs(np.concatenate(parts), owner, tuple(plans))


def read_mask(sample: Sample) -> Pixels | None:
    """Return the mask [H, W], 255 where the defect is and 0 elsewhere, or None where there is none.

    Grey values of 128 and more are defect: masks that were resampled or stored as JPEG have soft edges.
    """
    if sample.mask_path is None:
        return None
    mask = read_image(sample.mask_path)
    flat = mask if mask.ndim == 2 else mask.max(axis=2)  # noqa: PLR2004 - mono
    level = 128 if int(flat.max()) > 1 else 1  # masks of 0 and 1 exist
    return np.where(flat >= level, np.uint8(255), np.uint8(0))


def load_masks(samples: Sequence[Sample], geometry: Geometry) -> Pixels:
    """Return the masks of all model inputs, [N, H, W] uint8: the share of each pixel that is defect, 255 for all of it.

    Row i belongs to row i of `load_inputs(samples, geometry)`. Images without a mask give zeros.
    """
    preprocessor = Preprocessor(
        Geometry(
            mode=geometry.mode,
            height=geometry.height,
            width=geometry.width,
            channels=1,
            reduction=geometry.reduction,
            overlap_px=geometry.overlap_px,
            roi=geometry.roi,
        )
    )
    parts = []
    for sample in samples:
        mask = read_mask(sample)
        if mask is None:
            mask = np.zeros(read_image(sample.path).shape[:2], np.uint8)
        parts.append(prepare(preprocessor, mask)[0][..., 0])
    return np.concatenate(parts)
