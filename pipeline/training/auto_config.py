"""Chooses geometry and head from the data when the user names neither.

Geometry:
1. images of one size with sides up to 256 px: whole, at their size rounded up to a multiple of 16;
2. else, with masks: tiles, so that small defects stay visible;
3. else: whole, 224 x 224.
One channel when none of the sampled images has colour, else three. Head: an evidence map when there are masks and good
images to distinguish defects from, else class scores.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Literal

from agent.errors import OperatorError
from agent.records import Geometry
from pipeline.model_inputs import is_greyscale, read_image

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.dataset_reader import Dataset, Sample

Head = Literal["classifier", "evidence"]
SMALL_PX: Final = 256  # up to here an image is fed at its own size
WHOLE_PX: Final = 224  # side for images that have to be reduced
TILE_PX: Final = 128
TILE_REDUCTION: Final = 2
TILE_OVERLAP_PX: Final = 32
STRIDE_PX: Final = 16  # sides are multiples of it: the coarsest network's stride
DEFAULT_EPOCHS: Final[dict[Head, int]] = {"classifier": 40, "evidence": 24}
SAMPLED_IMAGES: Final = 200  # images, evenly spread over the training split

_GEOMETRY: Final = re.compile(
    r"^(?P<mode>whole|tiles):(?P<h>\d{2,4})x(?P<w>\d{2,4})(x(?P<c>[13]))?(:r(?P<r>[124]))?(:o(?P<o>\d{1,4}))?$"
)
GEOMETRY_HELP: Final = (
    "whole:HxW[xC] or tiles:HxW[xC][:rREDUCTION][:oOVERLAP], such as whole:224x224x3 or tiles:128x128x1:r2:o32"
)


def choose_head(dataset: Dataset) -> Head:
    """Choose the head by the rule of the module."""
    has_good = len(dataset.classes) > len(dataset.defects)
    return "evidence" if dataset.has_masks and has_good else "classifier"


def choose_geometry(dataset: Dataset, samples: Sequence[Sample]) -> Geometry:
    """Choose the geometry by the rule of the module, from the training `samples`."""
    sizes, channels = _image_shapes(samples)
    if len(sizes) == 1:
        height, width = next(iter(sizes))
        if max(height, width) <= SMALL_PX:
            return Geometry("whole", _round_up_to_stride(height), _round_up_to_stride(width), channels)
    if dataset.has_masks:
        return Geometry("tiles", TILE_PX, TILE_PX, channels, reduction=TILE_REDUCTION, overlap_px=TILE_OVERLAP_PX)
    return Geometry("whole", WHOLE_PX, WHOLE_PX, channels)


def parse_geometry(text: str, samples: Sequence[Sample]) -> Geometry:
    """Read the user's --geometry; without C the channels follow from the images. Raises OperatorError."""
    match = _GEOMETRY.match(text)
    if match is None or (match["mode"] == "whole" and (match["r"] or match["o"])):
        raise OperatorError(f"--geometry {text!r} is invalid; write {GEOMETRY_HELP}.")
    height, width, overlap = int(match["h"]), int(match["w"]), int(match["o"] or 0)
    if height % STRIDE_PX or width % STRIDE_PX or not STRIDE_PX <= min(height, width) <= max(height, width) <= 2048:  # noqa: PLR2004
        raise OperatorError(
            f"--geometry {text!r}: sides must be multiples of {STRIDE_PX} between {STRIDE_PX} and 2048 px."
        )
    if overlap >= min(height, width):
        raise OperatorError(f"--geometry {text!r}: the overlap must be less than the tile's shorter side.")
    channels: Literal[1, 3] = 3
    if match["c"] == "1" or (match["c"] is None and _image_shapes(samples)[1] == 1):
        channels = 1
    reduction: Literal[1, 2, 4] = {None: 1, "1": 1, "2": 2, "4": 4}[match["r"]]  # type: ignore[assignment]
    return Geometry("tiles" if match["mode"] == "tiles" else "whole", height, width, channels, reduction, overlap)


def describe_geometry(geometry: Geometry) -> str:
    """The geometry as `parse_geometry` reads it."""
    size = f"{geometry.mode}:{geometry.height}x{geometry.width}x{geometry.channels}"
    return size if geometry.mode == "whole" else f"{size}:r{geometry.reduction}:o{geometry.overlap_px}"


def _round_up_to_stride(side: int) -> int:
    return -(-side // STRIDE_PX) * STRIDE_PX


def _image_shapes(samples: Sequence[Sample]) -> tuple[set[tuple[int, int]], Literal[1, 3]]:
    """Sizes (height, width) and channels of evenly spread images."""
    sizes: set[tuple[int, int]] = set()
    grey = True
    for sample in samples[:: max(1, len(samples) // SAMPLED_IMAGES)]:
        pixels = read_image(sample.path)
        sizes.add((pixels.shape[0], pixels.shape[1]))
        grey = grey and is_greyscale(pixels)
    return sizes, 1 if grey else 3
