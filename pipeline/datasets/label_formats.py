"""Reads and writes labels of other tools: SageMaker Ground Truth, CSV and class folders.

Also exports images for labelling.

An image may be named by its location (s3://.../collected/v1/...), by its file name or by its bytes; it is looked up
among the collected frames. Entries that cannot be found or used are reported, and the rest is imported.

Ground Truth writes one JSON object a line (an output manifest): `source-ref`, the label attribute, and
`ATTRIBUTE-metadata` with `type`, `class-name` or `class-map`, `confidence`, `human-annotated`, `creation-date` and
`job-name`. The label is the consolidated one of its workers. Supported are image classification, multi-label
classification with one class, and object detection (no box: ok; else the class of the largest box).
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agent.errors import MessageError
from agent.images.file_types import IMAGE_SUFFIXES, UNSUPPORTED_KINDS
from agent.wire.codec import parse_strict_json
from agent.wire.collected_frame import ROOT, CollectReason
from pipeline.dataset_reader import DatasetError
from pipeline.datasets.label_conflicts import find_disagreements
from pipeline.datasets.label_store import EXCLUDE, Label, is_defect_class, read_table, validate_label

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    from pipeline.datasets.collected_frames import CollectedFrame, FrameScan
    from pipeline.datasets.label_store import LabelHistory

ATTRIBUTE: Final = "kensa"  # name of the label in our own manifests
GOOD: Final = "ok"  # the class of an image in which no box was drawn
_META: Final = "-metadata"
_MAX_LINE_BYTES: Final = 256 * 1024  # a manifest's line with boxes
_MAX_PICTURE_BYTES: Final = 64 * 1024**2
_TYPE: Final = "groundtruth/"
# What a person should label first.
_URGENCY: Final = (CollectReason.UNSURE, CollectReason.DISAGREEMENT, CollectReason.DEFECT, CollectReason.SAMPLE)


@dataclass(frozen=True, slots=True)
class LabelImport:
    """Imported labels, and why other entries gave none."""

    labels: tuple[Label, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """Fields that a file of labels leaves open."""

    now: datetime
    source: str | None = None  # None: what the format suggests
    labeller: str | None = None
    good: tuple[str, ...] = ()  # classes that are not defects, besides ok, good and normal
    min_confidence: float = 0.0  # of Ground Truth's consolidation
    machine: bool = False  # also use labels that Ground Truth made by itself
    attribute: str | None = None  # of Ground Truth, where a manifest has several


class FrameIndex:
    """Collected frames by location, file name and digest."""

    def __init__(self, found: FrameScan) -> None:
        self._by_path = {frame.image_path: frame for frame in found.frames}
        self._by_sha = {frame.sidecar.image.sha256: frame for frame in reversed(found.frames)}
        self._by_stem: defaultdict[str, list[CollectedFrame]] = defaultdict(list)
        for frame in found.frames:
            self._by_stem[frame.stem].append(frame)

    def by_name(self, name: str) -> CollectedFrame | str:
        """The frame with a location or file name, or why there is none."""
        at = name.find(f"{ROOT}/")
        if at >= 0 and name[at:] in self._by_path:
            return self._by_path[name[at:]]
        found = self._by_stem.get(Path(name).stem, [])
        if len(found) == 1:
            return found[0]
        return f"{name[:200]} is {'the name of several collected frames' if found else 'no collected frame'}"

    def by_content(self, path: Path) -> CollectedFrame | str:
        """The frame with the bytes of a file, otherwise the one with its name."""
        try:
            if path.stat().st_size > _MAX_PICTURE_BYTES:
                return f"{path} is longer than any collected frame"
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            return f"{path} cannot be read: {error.strerror}"
        return self._by_sha.get(digest) or self.by_name(path.name)


# --- reading ----------------------------------------------------------------------------------------------------------


def read_ground_truth(data: bytes, where: str, index: FrameIndex, defaults: ImportOptions) -> LabelImport:
    """Read an output manifest. Raises DatasetError for a line that is not JSON or has no unique label attribute."""
    labels: list[Label] = []
    problems: list[str] = []
    for number, line in enumerate(data.splitlines(), start=1):
        if not line.strip():
            continue
        place = f"{where}, line {number}"
        try:
            entry = parse_strict_json(line, limit=_MAX_LINE_BYTES)
        except MessageError as error:
            raise DatasetError(f"{place}: {error} Give the output manifest of a labelling job.") from error
        attribute = _attribute(entry, place, defaults.attribute)
        try:
            labels.append(_label_of_entry(entry, attribute, index, defaults))
        except (_UnusableError, DatasetError) as error:
            problems.append(f"{place}: {error}")
    return LabelImport(tuple(labels), tuple(problems))


class _UnusableError(Exception):
    """An entry of a manifest gives no label; the text states why."""


def _label_of_entry(entry: dict[str, Any], attribute: str, index: FrameIndex, defaults: ImportOptions) -> Label:
    meta, reference = entry.get(attribute + _META), entry.get("source-ref")
    if not isinstance(meta, dict) or not isinstance(reference, str):
        raise _UnusableError(f"source-ref or {attribute}{_META} is missing")
    if "failure-reason" in meta:
        raise _UnusableError(f"it could not be labelled: {str(meta['failure-reason'])[:200]}")
    if meta.get("human-annotated") != "yes" and not defaults.machine:
        raise _UnusableError("it was labelled by a machine; import those with --machine")
    class_name, confidence = _class_of(meta, entry.get(attribute))
    if confidence < defaults.min_confidence:
        raise _UnusableError(f"the labellers' confidence is {confidence:.2f}")
    frame = index.by_name(reference)
    if isinstance(frame, str):
        raise _UnusableError(frame)
    job = str(meta.get("job-name", attribute))
    values = {
        "key": frame.key,
        "label": class_name,
        "is_defect": is_defect_class(class_name, defaults.good),
        "source": defaults.source or f"groundtruth:{job}"[:128],
        "labeller": defaults.labeller or job[:128],
        "labelled_at": str(meta.get("creation-date", "")),
    }
    return validate_label(values, reference[:200], now=defaults.now)


def _attribute(entry: Mapping[str, Any], place: str, wanted: str | None) -> str:
    names = sorted(key.removesuffix(_META) for key in entry if key.endswith(_META))
    if wanted is not None:
        return wanted
    if len(names) != 1:
        raise DatasetError(
            f"{place}: the label attributes are {', '.join(names) or 'none'}; name one with --attribute, or give the "
            "output manifest of a labelling job."
        )
    return names[0]


def _class_of(meta: Mapping[str, Any], value: Any) -> tuple[str, float]:
    """The class and the confidence, in [0, 1]. Raises _UnusableError."""
    kind = str(meta.get("type", "")).removeprefix(_TYPE)
    if kind == "image-classification":
        return _checked_class(meta.get("class-name"), meta.get("confidence"))
    if kind == "image-classification-multilabel" and isinstance(value, list):
        if len(value) != 1:
            raise _UnusableError(f"it has {len(value)} classes; one is needed")
        return _checked_class(
            _object(meta, "class-map").get(str(value[0])), _object(meta, "confidence-map").get(str(value[0]))
        )
    if kind == "object-detection" and isinstance(value, dict) and isinstance(value.get("annotations"), list):
        boxes = [box for box in value["annotations"] if isinstance(box, dict)]
        if not boxes:
            return GOOD, 1.0
        largest = max(boxes, key=lambda box: _number(box.get("width")) * _number(box.get("height")))
        return _checked_class(_object(meta, "class-map").get(str(largest.get("class_id"))), 1.0)
    raise _UnusableError(
        f"labels of type {str(meta.get('type'))[:80]!r} are not supported; image-classification, "
        "image-classification-multilabel and object-detection are"
    )


def _object(meta: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = meta.get(name, {})
    if not isinstance(found, dict):
        raise _UnusableError(f"{name} is no object")
    return found


def _checked_class(name: Any, confidence: Any) -> tuple[str, float]:
    if not isinstance(name, str):
        raise _UnusableError("the class has no name")
    return re.sub(r"\s+", "_", name.strip()), _number(confidence)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return 0.0
    return float(value)


def read_csv(data: bytes, where: str, index: FrameIndex | None, defaults: ImportOptions) -> LabelImport:
    """Read a CSV with `label`, and `key` or (to be looked up) `path`. Raises DatasetError for a row that is wrong."""
    problems: list[str] = []

    def key_of(row: Mapping[str, str]) -> str | None:
        if row.get("key"):
            return row["key"]
        found = "no collected frames to look it up in" if index is None else index.by_name(row.get("path") or "")
        if isinstance(found, str):
            problems.append(f"{where}: {found}")
            return None
        return found.key

    base = {
        "source": defaults.source or f"csv:{Path(where).name}"[:128],
        "labeller": defaults.labeller or "unknown",
        "labelled_at": defaults.now.isoformat(),
    }
    labels = read_table(data, where, now=defaults.now, defaults=base, good=defaults.good, key_of=key_of)
    return LabelImport(tuple(labels), tuple(problems))


def read_folder(folder: Path, index: FrameIndex, defaults: ImportOptions) -> LabelImport:
    """Read CLASS/IMAGE files, as an export to a folder writes them and a person sorted them. Raises DatasetError."""
    labels: list[Label] = []
    problems: list[str] = []
    for path in sorted(folder.glob("*/*")):
        if path.suffix.lower() in UNSUPPORTED_KINDS:
            problems.append(f"{path}: this kind of image is not supported; save it as PNG, JPEG or BMP")
        if path.suffix.lower() not in IMAGE_SUFFIXES or not path.is_file():
            continue
        frame = index.by_content(path)
        if isinstance(frame, str):
            problems.append(frame)
            continue
        class_name = path.parent.name
        values = {
            "key": frame.key,
            "label": class_name,
            "is_defect": is_defect_class(class_name, defaults.good),
            "source": defaults.source or f"folder:{folder.name}"[:128],
            "labeller": defaults.labeller or "unknown",
            "labelled_at": defaults.now.isoformat(),
        }
        labels.append(validate_label(values, str(path), now=defaults.now))
    if not labels and not problems:
        raise DatasetError(
            f"{folder} holds no images as CLASS/NAME.png; endings are {', '.join(sorted(IMAGE_SUFFIXES))}."
        )
    return LabelImport(tuple(labels), tuple(problems))


# --- writing ----------------------------------------------------------------------------------------------------------


def to_ground_truth(label_history: LabelHistory, found: FrameScan, uri: str) -> Iterator[str]:
    """The current labels, as lines of an output manifest whose attribute is `kensa`."""
    classes = sorted({history[-1].label for history in label_history.by_key.values()})
    for frame in found.frames:
        label = label_history.latest(frame.key)
        if label is not None and label.label != EXCLUDE:
            meta = {
                "class-name": label.label,
                "confidence": 1.0,
                "human-annotated": "yes",
                "creation-date": label.labelled_at.removesuffix("Z"),
                "job-name": label.source,
                "type": f"{_TYPE}image-classification",
            }
            line = {
                "source-ref": f"{uri}/{frame.image_path}",
                ATTRIBUTE: classes.index(label.label),
                ATTRIBUTE + _META: meta,
            }
            yield json.dumps(line, separators=(",", ":"))


def frames_to_label(
    found: FrameScan, label_history: LabelHistory, *, conflicts: bool, limit: int | None
) -> Sequence[CollectedFrame]:
    """Frames to be labelled: without a label or in conflict; the most informative ones first."""
    open_ones = find_disagreements(label_history)
    wanted = [k for k in found.frames if (k.key in open_ones if conflicts else k.key not in label_history.by_key)]
    return sorted(wanted, key=lambda k: (_URGENCY.index(k.sidecar.reason), k.image_path))[:limit]


def suggested_class(frame: CollectedFrame, label_history: LabelHistory) -> str:
    """The class folder in which an image is exported: its label, otherwise the class of the verdict."""
    label = label_history.latest(frame.key)
    return label.label if label is not None else frame.verdict.judgement.class_name or GOOD
