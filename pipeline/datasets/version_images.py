"""Stores images and masks of a version under their digests, and imports plain folders.

An imported folder is treated as a version without a parent.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pipeline.dataset_reader import Dataset, DatasetError
from pipeline.datasets.dataset_version import SampleEntry
from pipeline.datasets.near_duplicates import fingerprint
from pipeline.model_inputs import read_image

if TYPE_CHECKING:
    from pathlib import Path

    from agent.records import Pixels
    from pipeline.dataset_reader import Sample

EXPOSURE_STEP: Final = 32  # grey levels of a bucket
_SUFFIXES: Final = {".jpeg": ".jpg"}
_LEVELS: Final = 256
# When an imported data set has the same bytes in two splits, the split that evaluates models keeps them.
_SPLIT_ORDER: Final = {"test": 0, "val": 1, "train": 2}


@dataclass(frozen=True, slots=True)
class ImageFeatures:
    """Features of an image's pixels."""

    fingerprint: bytes
    exposure: str  # bucket of the mean grey level, such as 096-127


def extract_features(pixels: Pixels) -> ImageFeatures:
    """Measure an image [H, W] or [H, W, 3] BGR uint8."""
    low = int(pixels.mean()) // EXPOSURE_STEP * EXPOSURE_STEP
    return ImageFeatures(fingerprint(pixels), f"{low:03}-{min(low + EXPOSURE_STEP, _LEVELS) - 1:03}")


def object_path(sha256: str, suffix: str) -> str:
    """The path of the image in a version's folder; `suffix` is such as `.png`."""
    return f"objects/{sha256[:2]}/{sha256}{_SUFFIXES.get(suffix, suffix)}"


class VersionImages:
    """The files of a version that is being built. Thread-safe. Methods raise DatasetError."""

    def __init__(self, folder: Path) -> None:
        """`folder` may hold the files of an interrupted build."""
        self.folder = folder

    def has(self, path: str, sha256: str) -> bool:
        """Whether an earlier attempt added that image."""
        file = self.folder / path
        return file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == sha256

    def write(self, path: str, data: bytes) -> None:
        """Write an image, completely or not at all."""
        target = self.folder / path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            beside = target.with_name(f".{target.name}.new")
            beside.write_bytes(data)
            beside.replace(target)
        except OSError as error:
            raise _write_error(target, error) from error

    def link(self, source: Path, path: str) -> None:
        """Link an image of another version, or copy it where links are not possible."""
        target = self.folder / path
        if target.exists():
            return
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(source, target)
            except FileNotFoundError:
                raise
            except OSError:  # another disk, or one without links
                shutil.copyfile(source, target)
        except FileNotFoundError as error:
            raise DatasetError(
                f"{source} is missing: the base version is incomplete. Restore it or build it again."
            ) from error
        except OSError as error:
            raise _write_error(target, error) from error

    def remove_others(self, paths: set[str]) -> None:
        """Remove files that an interrupted build with other inputs left."""
        for file in [*self.folder.glob("objects/*/*"), *self.folder.glob("masks/*")]:
            if file.relative_to(self.folder).as_posix() not in paths:
                file.unlink()


def _write_error(path: Path, error: OSError) -> DatasetError:
    return DatasetError(f"{path} cannot be written: {error.strerror}. Free space, or check owner and permissions.")


def import_folder(root: Path, into: VersionImages) -> tuple[str, tuple[SampleEntry, ...]]:
    """Import a folder that `Dataset.load` reads: its digest, and its samples with their splits. Raises DatasetError.

    Of equal bytes one sample is kept: that of test before that of val before that of train.
    """
    dataset = Dataset.load(root)
    chosen: dict[str, Sample] = {}
    for sample in sorted(dataset.samples, key=lambda s: (_SPLIT_ORDER[s.split], s.name)):
        chosen.setdefault(sample.sha256, sample)
    return dataset.digest, tuple(_import_sample(sample, into) for sample in chosen.values())


def _import_sample(sample: Sample, into: VersionImages) -> SampleEntry:
    path = object_path(sample.sha256, sample.path.suffix.lower())
    into.link(sample.path, path)
    mask = None
    if sample.mask_path is not None:
        mask = f"masks/{sample.sha256}.png"
        into.link(sample.mask_path, mask)
    features = extract_features(read_image(sample.path))
    known = {"kind": sample.kind, "difficulty": sample.difficulty, "surface": sample.surface}
    slices = {name: value for name, value in known.items() if value is not None}
    return SampleEntry.model_validate(
        {
            "path": path,
            "sha256": sample.sha256,
            "class": sample.class_name,
            "is_defect": sample.is_defect,
            "split": sample.split,
            "group": _group_id(sample.group),
            "fingerprint": features.fingerprint.hex(),
            "mask": mask,
            "slices": {**slices, "exposure": features.exposure},
        }
    )


def _group_id(name: str) -> str:
    """The name of any group as one that a version accepts."""
    return "g-" + hashlib.sha256(name.encode()).hexdigest()[:32]
