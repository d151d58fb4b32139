"""The golden set: images with the outputs that the release gave where it was made.

Promise: `golden.npz` is read as hostile bytes (no pickles, bounded before unpacking, shapes as the manifest has them),
and `compare_with_golden` measures how far this machine's outputs are from those. Pure, except that it runs the model.
"""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from agent import decision
from agent.errors import SelfTestError

if TYPE_CHECKING:
    from agent.ports import Model
    from agent.records import Floats, Pixels
    from agent.release.manifest import Manifest

MAX_UNPACKED_BYTES: Final = 512 * 1024 * 1024
_BATCH: Final = 8
_FIRST_IMAGES: Final = 64  # and their bytes: bounds what a load spends on measuring the golden set
_FIRST_BYTES: Final = 24 * 1024 * 1024
_NAMES: Final = frozenset({"images", "scores", "evidence", "labels"})


@dataclass(frozen=True, slots=True)
class GoldenSet:
    """`images` uint8 [N, H, W, C], `scores` float32 [N, classes], `evidence` float32 [N, h, w] or None.

    `labels` [N] are indices into the manifest's classes: what the parts are, whatever a model says; None: not known.
    """

    images: Pixels
    scores: Floats
    evidence: Floats | None
    labels: npt.NDArray[np.int64] | None = None


@dataclass(frozen=True, slots=True)
class GoldenComparison:
    """This machine's outputs against the golden ones."""

    images: int
    same_outcome: int  # images on the same side of the threshold
    largest_difference: float  # of any score


def read_golden_set(data: bytes, manifest: Manifest, *, source: str) -> GoldenSet:
    """Unpack the bytes of `golden.npz`. Raises SelfTestError naming `source`."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > MAX_UNPACKED_BYTES:
            raise SelfTestError(f"{source} unpacks to {unpacked:,} bytes, at most {MAX_UNPACKED_BYTES:,} are read")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files if name in _NAMES}
    except (zipfile.BadZipFile, zlib.error, ValueError, KeyError, EOFError, OSError, NotImplementedError) as error:
        raise SelfTestError(f"{source} is no golden set: {error}. Export the release again") from error
    _check(found, manifest, source)
    labels = found.get("labels")
    return GoldenSet(
        found["images"], found["scores"], found.get("evidence"), None if labels is None else labels.astype(np.int64)
    )


def first_images(data: bytes, manifest: Manifest, *, source: str) -> Pixels:
    """Unpack the first images [n, H, W, C] uint8 of the bytes of `golden.npz`, n >= 1, and nothing after them.

    Raises SelfTestError naming `source`.
    """
    geometry = manifest.geometry
    wanted = (geometry.height, geometry.width, geometry.channels)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive, archive.open("images.npy") as file:
            np.lib.format.read_magic(file)
            shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
            if dtype != np.uint8 or is_fortran or tuple(shape[1:]) != wanted or not shape[0]:
                raise SelfTestError(f"{source}: images are {dtype} {list(shape)}, expected uint8 {['N', *wanted]}")
            count = max(1, min(shape[0], _FIRST_IMAGES, _FIRST_BYTES // math.prod(wanted)))
            return np.frombuffer(file.read(count * math.prod(wanted)), np.uint8).reshape(count, *wanted)
    except (zipfile.BadZipFile, zlib.error, ValueError, KeyError, EOFError, OSError, NotImplementedError) as error:
        raise SelfTestError(f"{source} is no golden set: {error}. Export the release again") from error


def _check(found: dict[str, Any], manifest: Manifest, source: str) -> None:
    geometry, count = manifest.geometry, len(found.get("images", ()))
    expected: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {
        "images": (np.uint8, (count, geometry.height, geometry.width, geometry.channels)),
        "scores": (np.float32, (count, len(manifest.classes))),
    }
    for name, (dtype, shape) in expected.items():
        array = found.get(name)
        if array is None or array.dtype != dtype or array.shape != shape or not count:
            seen = "missing" if array is None else f"{array.dtype} {list(array.shape)}"
            raise SelfTestError(f"{source}: {name} is {seen}, expected {dtype.__name__} {['N', *shape[1:]]}")
    evidence = found.get("evidence")
    if evidence is not None and (evidence.dtype != np.float32 or evidence.ndim != 3 or len(evidence) != count):  # noqa: PLR2004
        raise SelfTestError(
            f"{source}: evidence is {evidence.dtype} {list(evidence.shape)}, expected float32 [N, h, w]"
        )
    labels, classes = found.get("labels"), len(manifest.classes)
    if labels is not None and (
        labels.dtype.kind not in "iu" or labels.shape != (count,) or labels.min() < 0 or labels.max() >= classes
    ):
        raise SelfTestError(
            f"{source}: labels are {labels.dtype} {list(labels.shape)}, expected {count} from 0 to {classes - 1}"
        )


def compare_with_golden(model: Model, golden: GoldenSet) -> GoldenComparison:
    """Run the golden images. Raises InferenceError, or SelfTestError when the evidence has another shape."""
    rule, same, largest = model.rule, 0, 0.0
    for start in range(0, len(golden.images), _BATCH):
        part = slice(start, start + _BATCH)
        result = model.infer(np.ascontiguousarray(golden.images[part]))
        evidence = None if golden.evidence is None else golden.evidence[part]
        if (evidence is None) != (result.evidence is None) or (
            evidence is not None and result.evidence is not None and evidence.shape != result.evidence.shape
        ):
            raise SelfTestError("the golden set's evidence has another shape than the model's")
        difference = float(np.abs(result.scores - golden.scores[part]).max())
        largest = max(largest, math.inf if math.isnan(difference) else difference)  # max() would ignore a NaN
        for i in range(len(result.scores)):
            sides = []
            for scores, cells in ((result.scores, result.evidence), (golden.scores[part], evidence)):
                cut = None if cells is None else cells[i : i + 1]
                value, index, _ = decision.part_score(rule, scores[i : i + 1], cut)
                sides.append(index >= 0 and value >= rule.thresholds[rule.classes[index]])
            same += sides[0] == sides[1]
    return GoldenComparison(len(golden.images), same, largest)
