"""Builds the next version of a data set from collected frames, labels and a base version.

Promise: equal inputs (base, labels, collected objects, parameters) give a version with the same digest, in whatever
order they are listed; samples of the base version keep their splits; untrusted images are left out and reported in the
version's `quality`. The folder appears complete or not at all: it is built beside its place and renamed, and an
interrupted build resumes with the images that it had. Building an existing version again changes nothing.

Training sees the pixels that the line inspected: a collected image is the region of the frame that the model was given
(`crop`), so it is fed whole, with a geometry without ROI, and a PNG gives the model's input bit for bit. The release is
then run with the same region in the site's configuration (docs/datasets.md).
"""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agent.wire.codec import is_name
from pipeline.cloud.storage import ObjectMissingError, Storage, open_storage
from pipeline.dataset_reader import MANIFEST, SPLITS, DatasetError
from pipeline.datasets import dataset_version as versions
from pipeline.datasets.class_balance import sample_weights, samples_over_limit
from pipeline.datasets.collected_frames import fetch_image, fetch_mask, map_concurrently, scan_frames
from pipeline.datasets.dataset_version import (
    VERSION_NAME,
    DatasetVersion,
    Examples,
    SampleEntry,
    digest_of,
    manifest_csv,
    to_json,
)
from pipeline.datasets.label_quality import LabelQualityLimits, check_labels
from pipeline.datasets.label_store import load_labels, utc_now
from pipeline.datasets.sample_selection import LabelledFrame, select_samples
from pipeline.datasets.split_assignment import Member, SplitShares, assign_splits
from pipeline.datasets.version_images import ImageFeatures, VersionImages, extract_features, import_folder, object_path
from pipeline.model_inputs import read_image
from pipeline.progress import no_progress

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from pipeline.datasets.collected_frames import FrameScan
    from pipeline.datasets.label_store import LabelHistory
    from pipeline.datasets.split_assignment import SplitAssignment
    from pipeline.progress import Progress

_MAX_NEIGHBOUR_S: Final = 3_600.0
_MAX_WEIGHT: Final = 1_000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildSettings:
    """The settings of a build; they are recorded in the version."""

    site: str | None = None  # collected at this site only; None: all
    inspection: str | None = None  # collected for this inspection only: a model belongs to one view; None: all
    shares: SplitShares = field(default_factory=SplitShares)
    neighbour_s: float = 1.0  # frames of a camera this close together show the same part; 0: rule off
    max_per_class: int | None = None  # training samples of a class
    max_good_per_defect: float | None = None  # in training
    max_weight: float = 10.0  # of a sample, and the reciprocal of the smallest
    guard: LabelQualityLimits = field(default_factory=LabelQualityLimits)

    def check(self) -> None:
        """Raise DatasetError for settings out of range."""
        shares = self.shares
        wrong = []
        if not (0 < shares.train <= 1 and 0 < shares.val < 1 and 0 <= shares.test < 1):
            wrong.append(f"shares {shares.train:g}, {shares.val:g}, {shares.test:g} (train and val need some)")
        elif abs(shares.train + shares.val + shares.test - 1) > 1e-6:  # noqa: PLR2004 - rounding
            wrong.append("shares whose sum is not 1")
        if not 0 <= self.neighbour_s <= _MAX_NEIGHBOUR_S:
            wrong.append(f"neighbour_s {self.neighbour_s:g} (0 to {_MAX_NEIGHBOUR_S:g})")
        if self.max_per_class is not None and self.max_per_class < 1:
            wrong.append(f"max_per_class {self.max_per_class} (1 or more)")
        if self.max_good_per_defect is not None and not 0 < self.max_good_per_defect < float("inf"):
            wrong.append(f"max_good_per_defect {self.max_good_per_defect:g} (above 0)")
        if not 1 <= self.max_weight <= _MAX_WEIGHT:
            wrong.append(f"max_weight {self.max_weight:g} (1 to {_MAX_WEIGHT:g})")
        if wrong:
            raise DatasetError(f"The data set cannot be built with {'; '.join(wrong)}.")


def build_dataset(
    collected: Storage | Path | str | None,
    labels: Storage | Path | str | None,
    base: Path | None,
    out: Path,
    *,
    seed: int = 0,
    name: str | None = None,
    settings: BuildSettings | None = None,
    now: Callable[[], datetime] = utc_now,
    progress: Progress = no_progress,
) -> DatasetVersion:
    """Build the version in the folder `out` and return it.

    `collected` and `labels` are folders, s3:// addresses or open storages (`labels` also one .jsonl or .csv file);
    `base` is the folder of an earlier version, or any folder that `Dataset.load` reads. Raises DatasetError,
    StorageError; nothing is in `out` then.
    """
    settings = settings or BuildSettings()
    settings.check()
    name = name or out.name
    if not is_name(name):
        raise DatasetError(f"The name {name!r} must be 1 to 64 of A-Z, a-z, 0-9, _ and -; give one with name.")
    if out.exists() and not (out / VERSION_NAME).is_file():
        raise DatasetError(f"{out} exists and holds no finished version. Give another folder, or remove it.")
    aside = out.with_name(f".{out.name}.building")
    storage = None if collected is None else _as_storage(collected)
    work = _DatasetBuild(
        storage, base, VersionImages(aside), name=name, seed=seed, settings=settings, progress=progress
    )
    version = work.run(
        load_labels(labels, now=now) if labels is not None else None, now().strftime("%Y-%m-%dT%H:%M:%SZ")
    )
    if (out / VERSION_NAME).is_file():
        return _existing_version(version, out, aside)
    _publish(version, aside, out)
    return version


def _as_storage(collected: Storage | Path | str) -> Storage:
    return open_storage(collected) if isinstance(collected, Path | str) else collected


def _existing_version(version: DatasetVersion, out: Path, aside: Path) -> DatasetVersion:
    there = versions.read_version(out)
    shutil.rmtree(aside, ignore_errors=True)
    if there.digest != version.digest:
        raise DatasetError(
            f"{out} holds another version, {there.digest[:12]}... (this one is {version.digest[:12]}...): a version is "
            "never changed. Give another folder."
        )
    return there


def _publish(version: DatasetVersion, aside: Path, out: Path) -> None:
    try:
        (aside / MANIFEST).write_bytes(manifest_csv(version.samples))
        (aside / VERSION_NAME).write_bytes(to_json(version))
        aside.replace(out)
    except OSError as error:
        raise DatasetError(
            f"{out} cannot be written: {error.strerror}. Free space there, or give another folder."
        ) from error


@dataclass(frozen=True, slots=True)
class _AddedImage:
    """A new image that is in the version's folder."""

    sample: LabelledFrame
    path: str
    mask: str | None
    features: ImageFeatures


class _DatasetBuild:
    """One build; `run` is its order of steps."""

    def __init__(
        self,
        storage: Storage | None,
        base: Path | None,
        images: VersionImages,
        *,
        name: str,
        seed: int,
        settings: BuildSettings,
        progress: Progress,
    ) -> None:
        """Prepare the build.

        Args:
            storage: of the collected frames; None builds from the base alone.
            base: folder of the base version; None starts a new data set.
            images: files of the version.
            name: of the data set.
            seed: of the splits and the class balance.
            settings: of the build.
            progress: receives the number of images.
        """
        self._storage, self._images, self._progress = storage, images, progress
        self._name, self._seed, self._settings = name, seed, settings
        self._base = base

    def run(self, label_history: LabelHistory | None, created_utc: str) -> DatasetVersion:
        parent, old, retired = self._load_base()
        found = (
            None
            if self._storage is None
            else scan_frames(self._storage, site=self._settings.site, inspection=self._settings.inspection)
        )
        choice = select_samples(found, label_history, old)
        taken, problems = self._add_images(choice.new)
        class_of = {**{s.sha256: s.class_name for s in (*choice.old, *choice.retired, *retired)},
                    **{t.sample.sha256: t.sample.label.label for t in taken}}  # fmt: skip
        once = {s.sha256: s for s in retired}
        settled = {s.sha256: s for s in (*retired, *choice.retired, *choice.old)}
        members = [_member_of_base(sample, class_of[sample.sha256]) for sample in settled.values()]
        members += [_member_of_new(t) for t in taken if t.sample.sha256 not in settled]
        arrangement = assign_splits(
            members, seed=self._seed, neighbour_s=self._settings.neighbour_s, shares=self._settings.shares
        )
        new = [self._sample_entry(t, arrangement) for t in taken if t.sample.sha256 in arrangement.places]
        dropped = samples_over_limit(
            choice.old,
            new,
            seed=self._seed,
            max_per_class=self._settings.max_per_class,
            max_good_per_defect=self._settings.max_good_per_defect,
        )
        samples = self._with_weights([*choice.old, *(s for s in new if s.sha256 not in dropped)])
        used = {s.sha256 for s in samples}
        gone = {s.sha256: s for s in (*once.values(), *choice.retired) if s.sha256 not in used}
        quality = choice.quality.model_copy(
            update={
                **_read_quality(found, problems),
                **_split_quality(arrangement, samples, class_of),
                "over_limit": len(dropped),
                "suspicions": self._suspicions(choice.newly_labelled, label_history, old),
            }
        )
        self._images.remove_others({s.path for s in samples} | {s.mask for s in samples if s.mask})
        return DatasetVersion(
            name=self._name,
            digest=digest_of(samples),
            parent=parent,
            label_digest=None if label_history is None else label_history.digest,
            parameters=self._parameters(),
            created_utc=created_utc,
            samples=samples,
            retired=tuple(gone[sha256] for sha256 in sorted(gone)),
            quality=quality,
        )

    def _parameters(self) -> dict[str, Any]:
        return {"seed": self._seed, **asdict(self._settings)}

    def _load_base(self) -> tuple[str | None, tuple[SampleEntry, ...], tuple[SampleEntry, ...]]:
        base = self._base
        if base is None:
            return None, (), ()
        if not (base / VERSION_NAME).is_file():
            digest, samples = import_folder(base, self._images)
            return digest, samples, ()
        parent = versions.read_version(base)
        for number, sample in enumerate(parent.samples, start=1):
            self._images.link(base / sample.path, sample.path)
            if sample.mask is not None:
                self._images.link(base / sample.mask, sample.mask)
            self._progress("base", number, len(parent.samples))
        return parent.digest, parent.samples, parent.retired

    def _add_images(self, new: tuple[LabelledFrame, ...]) -> tuple[list[_AddedImage], list[str]]:
        """Add the new images; unusable ones are reported in the quality."""
        taken: list[_AddedImage] = []
        problems: list[str] = []
        for number, found in enumerate(map_concurrently(self._add_image, new), start=1):
            if isinstance(found, str):
                problems.append(found)
            else:
                taken.append(found)
            self._progress("pictures", number, len(new))
        return taken, problems

    def _add_image(self, chosen: LabelledFrame) -> _AddedImage | str:
        assert self._storage is not None  # noqa: S101 - only scanned frames are selected
        path = object_path(chosen.sha256, f".{chosen.frame.sidecar.image.format}")
        try:
            if not self._images.has(path, chosen.sha256):
                self._images.write(path, fetch_image(self._storage, chosen.frame))
            features = extract_features(read_image(self._images.folder / path))
            marked = fetch_mask(self._storage, chosen.frame) if chosen.label.is_defect else None
        except ObjectMissingError as error:
            return str(error)
        except DatasetError as error:
            if isinstance(error.__cause__, OSError):
                raise  # this machine's disk, not the image
            return str(error)
        mask_path = None if marked is None else f"masks/{chosen.sha256}.png"
        if marked is not None and mask_path is not None:
            self._images.write(mask_path, marked)
        return _AddedImage(chosen, path, mask_path, features)

    def _sample_entry(self, taken: _AddedImage, arrangement: SplitAssignment) -> SampleEntry:
        frame, label, place = taken.sample.frame, taken.sample.label, arrangement.places[taken.sample.sha256]
        sidecar = frame.sidecar
        origin = frame.verdict.origin
        model = sidecar.verdict.model
        slices = {
            "site": sidecar.site,
            "line": origin.line,
            "camera": origin.camera,
            "inspection": origin.inspection,
            "reason": str(sidecar.reason),
            "exposure": taken.features.exposure,
        }
        if model is not None:
            slices["model"] = f"{model.name}-{model.version}"
        return SampleEntry.model_validate(
            {
                "path": taken.path,
                "mask": taken.mask,
                "sha256": taken.sample.sha256,
                "class": label.label,
                "is_defect": label.is_defect,
                "split": place.split,
                "group": place.group,
                "key": frame.key,
                "source": frame.image_path,
                "label_source": label.source,
                "crop": sidecar.crop,
                "view": frame.view,
                "part": frame.part_key,
                "captured_utc_us": sidecar.verdict.captured_utc_us,
                "fingerprint": taken.features.fingerprint.hex(),
                "sample_rate": sidecar.sample_rate,
                "slices": slices,
            }
        )

    def _with_weights(self, samples: list[SampleEntry]) -> tuple[SampleEntry, ...]:
        if not samples:
            raise DatasetError(
                "Nothing is left to build a version of: no collected frame has a usable label and there is no base. "
                "Import labels with `kensa cloud labels import`; `kensa cloud labels conflicts` shows what is in doubt."
            )
        weight_of = sample_weights(samples, max_weight=self._settings.max_weight)
        entries = (s.model_copy(update={"weight": weight_of[s.sha256]}) for s in samples)
        return tuple(sorted(entries, key=lambda s: s.path))

    def _suspicions(
        self, news: tuple[LabelledFrame, ...], label_history: LabelHistory | None, old: tuple[SampleEntry, ...]
    ) -> Any:
        if label_history is None:
            return ()
        established = {s.key: s.class_name for s in old if s.key is not None}
        return check_labels([(c.label, c.frame) for c in news], label_history, established, self._settings.guard)


def _member_of_new(taken: _AddedImage) -> Member:
    frame = taken.sample.frame
    return Member(
        sha256=taken.sample.sha256,
        class_name=taken.sample.label.label,
        view=frame.view,
        part=frame.part_key,
        captured_utc_us=frame.sidecar.verdict.captured_utc_us,
        fingerprint=taken.features.fingerprint,
    )


def _member_of_base(sample: SampleEntry, class_name: str) -> Member:
    return Member(
        sha256=sample.sha256,
        class_name=class_name,
        view=sample.view,
        part=sample.part,
        captured_utc_us=sample.captured_utc_us,
        fingerprint=bytes.fromhex(sample.fingerprint),
        group=sample.group,
        split=sample.split,
    )


def _read_quality(found: FrameScan | None, problems: list[str]) -> dict[str, Any]:
    return {"unreadable": Examples.of([*problems, *(found.problems if found is not None else ())])}


def _split_quality(
    arrangement: SplitAssignment, samples: tuple[SampleEntry, ...], class_of: dict[str, str]
) -> dict[str, Any]:
    groups = Counter(s.group for s in samples)
    apart = [
        f"{one[:12]} {class_of[one]} = {other[:12]} {class_of[other]}"
        for one, other in arrangement.near_duplicates
        if class_of[one] != class_of[other]
    ]
    return {
        "near_duplicates": len(arrangement.near_duplicates),
        "near_conflicts": Examples.of(apart),
        "straddling": Examples.of(arrangement.straddling),
        "largest_group": round(max(groups.values()) / len(samples), 4),
    }


__all__ = ["SPLITS", "BuildSettings", "LabelQualityLimits", "SplitShares", "build_dataset"]
