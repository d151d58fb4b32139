"""A data set version: a manifest of digests, and images stored under their digests.

    FOLDER/dataset.json             the version: samples, parent, parameters, quality; written last
    FOLDER/manifest.csv             the same samples for `pipeline.dataset_reader.Dataset.load` and `kensa train`
    FOLDER/objects/AB/ABCD....png   the images (.png, .jpg or .bmp, as they were captured), by SHA-256
    FOLDER/masks/ABCD....png        masks, where the base version had some

Invariants: `digest` is the SHA-256 of the canonical JSON of the samples, sorted by path, and of nothing else, so that
equal contents have equal digests whenever and wherever they were built; no group is in two splits; a sample that was
ever in a split of a version or its parents is in no other one (`retired` lists those that are no longer used).
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

from pydantic import Field, StringConstraints, ValidationError, model_validator

from agent.errors import MessageError
from agent.wire.codec import Count, Name, WireModel, parse_strict_json
from pipeline.dataset_reader import MANIFEST, DatasetError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

VERSION_NAME: Final = "dataset.json"
MAX_VERSION_BYTES: Final = 1024**3  # a million samples
MAX_SAMPLES: Final = 1_000_000
SHOWN: Final = 100  # of a list of examples in the report

Split = Literal["train", "val", "test"]
SPLITS: Final[tuple[Split, ...]] = ("train", "val", "test")
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Text = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]*$")]
Share = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]


class SampleEntry(WireModel):
    """One image of a version. `class` is called `class_name` here."""

    path: Annotated[str, StringConstraints(pattern=r"^objects/[0-9a-f]{2}/[0-9a-f]{64}\.(png|jpg|bmp)$")]
    sha256: Sha256
    class_name: Annotated[Name, Field(alias="class")]
    is_defect: bool
    split: Split
    group: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:-]{1,128}$")]
    key: Text | None = None  # of the verdict; None for images that no line collected
    source: Text | None = None  # where the image was collected, relative to its storage
    label_source: Text | None = None
    crop: tuple[Count, Count, Count, Count] | None = None  # region of the camera's frame that the image shows
    view: Annotated[str, StringConstraints(max_length=256)] = ""  # site/line/camera
    part: Text | None = None  # site/line/part id
    captured_utc_us: Count | None = None
    fingerprint: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]  # near_duplicates.fingerprint
    sample_rate: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    weight: Annotated[float, Field(gt=0.0, le=1_000.0)] = 1.0  # for drawing training batches
    mask: Annotated[str, StringConstraints(pattern=r"^masks/[0-9a-f]{64}\.png$")] | None = None
    slices: dict[Name, Text] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _path_is_its_digest(self) -> Self:
        digest = self.path.rpartition("/")[2].partition(".")[0]
        if digest != self.sha256 or self.path[8:10] != digest[:2]:
            raise ValueError("the path is not that of the digest")
        return self


class Examples(WireModel):
    """A count, and the first examples."""

    count: Count = 0
    first: tuple[str, ...] = ()

    @classmethod
    def of(cls, items: Iterable[str]) -> Self:
        """Sorted, the first SHOWN."""
        found = sorted(items)
        return cls(count=len(found), first=tuple(found[:SHOWN]))


class LabelSuspicion(WireModel):
    """How far a batch of labels contradicts verdicts and earlier labels; see `pipeline.datasets.label_quality`."""

    source: Text  # of the labels; "all" for all new ones
    labels: Count
    confident: Count  # of these, with a confident verdict of the champion
    contradicted: Share  # estimated share of the line's parts on which it was confidently wrong, if the labels hold
    contradicted_low: Share  # lower end of the confidence interval
    passed_low: Share  # of confident `ok` verdicts labelled as defects, lower end
    rejected_low: Share  # of confident `defect` verdicts labelled as good, lower end
    overlap: Count  # labels of images that were labelled before
    overlap_contradicted_low: Share
    reasons: tuple[str, ...] = ()  # empty: nothing suspicious


class DatasetQuality(WireModel):
    """The quality of a version, for the person or the cycle that trains on it."""

    unreadable: Examples = Examples()  # collected objects that were left out
    unlabelled: Count = 0  # collected frames without a label
    orphans: Count = 0  # labels whose image was not collected
    excluded: Count = 0  # labelled EXCLUDE
    conflicts: Examples = Examples()  # left out until they are reviewed
    same_picture: Examples = Examples()  # equal bytes with different labels, left out
    duplicates: Count = 0  # equal bytes with equal labels, used once
    near_duplicates: Count = 0  # pairs that were put into one group
    near_conflicts: Examples = Examples()  # near-duplicates with different labels; used
    straddling: Examples = Examples()  # new images that would connect two splits, left out
    over_limit: Count = 0  # new training images beyond the class limits
    largest_group: Share = 0.0  # of the samples
    suspicions: tuple[LabelSuspicion, ...] = ()

    @property
    def is_suspicious(self) -> bool:
        """Whether the cycle should refuse to train on the version."""
        return any(suspicion.reasons for suspicion in self.suspicions)


class DatasetVersion(WireModel):
    """`dataset.json`."""

    v: Literal[1] = 1
    name: Name
    digest: Sha256
    parent: Sha256 | None = None  # the base version's digest
    label_digest: Sha256 | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)
    created_utc: Text
    samples: tuple[SampleEntry, ...]
    retired: tuple[SampleEntry, ...] = ()  # no longer used; they keep their split
    quality: DatasetQuality = DatasetQuality()

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.digest != digest_of(self.samples):
            raise ValueError("the digest is not that of the samples")
        if not 0 < len(self.samples) <= MAX_SAMPLES:
            raise ValueError(f"{len(self.samples)} samples; 1 to {MAX_SAMPLES} are allowed")
        paths = [sample.path for sample in self.samples]
        if paths != sorted(set(paths)):
            raise ValueError("the samples are not sorted, or one is listed twice")
        split_of: dict[str, str] = {}
        for sample in self.samples:
            if split_of.setdefault(sample.group, sample.split) != sample.split:
                raise ValueError(f"group {sample.group} is in two splits")
        return self

    def counts(self) -> dict[str, dict[str, int]]:
        """Class -> split -> number of samples."""
        table: dict[str, dict[str, int]] = {}
        for sample in self.samples:
            row = table.setdefault(sample.class_name, dict.fromkeys(SPLITS, 0))
            row[sample.split] += 1
        return dict(sorted(table.items()))


def digest_of(samples: Iterable[SampleEntry]) -> str:
    """SHA-256 of the samples' canonical JSON, in the order of their paths."""
    trees = [sample.model_dump(mode="json", by_alias=True) for sample in sorted(samples, key=lambda s: s.path)]
    return hashlib.sha256(canonical_json(trees)).hexdigest()


def canonical_json(tree: Any) -> bytes:
    """JSON with sorted keys and no spaces, so that equal values have equal bytes."""
    return json.dumps(tree, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def to_json(version: DatasetVersion) -> bytes:
    """The content of `dataset.json`."""
    return canonical_json(version.model_dump(mode="json", by_alias=True)) + b"\n"


def parse_version(data: bytes, where: str) -> DatasetVersion:
    """Read `dataset.json`. Raises DatasetError for anything that `to_json` would not have written."""
    try:
        tree = parse_strict_json(data, limit=MAX_VERSION_BYTES)
        return DatasetVersion.model_validate_json(json.dumps(tree), strict=True)
    except MessageError as error:
        raise DatasetError(f"{where} is refused: {error}") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or VERSION_NAME
        raise DatasetError(f"{where} is refused: {place}: {first['msg']}. Build the version again.") from error


def read_version(folder: Path) -> DatasetVersion:
    """Read the version in `folder`, or of a `dataset.json` itself. Raises DatasetError."""
    path = folder / VERSION_NAME if folder.is_dir() else folder
    try:
        if path.stat().st_size > MAX_VERSION_BYTES:
            raise DatasetError(f"{path} is longer than {MAX_VERSION_BYTES:,} bytes.")
        data = path.read_bytes()
    except OSError as error:
        raise DatasetError(
            f"{path} cannot be read: {error.strerror}. Give the folder of a version that `kensa cloud dataset build` "
            "has finished."
        ) from error
    return parse_version(data, str(path))


def manifest_csv(samples: Iterable[SampleEntry]) -> bytes:
    """Return `manifest.csv` (see `pipeline.dataset_reader`) with the further columns `weight` and the slices."""
    rows = sorted(samples, key=lambda s: s.path)
    slices = sorted({name for row in rows for name in row.slices})
    columns = ("path", "split", "class", "binary", "sha256", "group", "mask", "weight", *slices)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        binary = "defect" if row.is_defect else "ok"
        fixed = (row.path, row.split, row.class_name, binary, row.sha256, row.group, row.mask or "", f"{row.weight:g}")
        writer.writerow((*fixed, *(row.slices.get(name, "") for name in slices)))
    return text.getvalue().encode()


__all__ = [
    "MANIFEST",
    "SPLITS",
    "DatasetQuality",
    "DatasetVersion",
    "SampleEntry",
    "Split",
    "manifest_csv",
    "parse_version",
    "read_version",
]
