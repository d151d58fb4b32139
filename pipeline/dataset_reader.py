"""Reads and validates labelled images on disk; the only reader of data sets.

Two layouts are read. With `manifest.csv` in the root: columns `path`, `split`, `class` are needed; `sha256`, `group`,
`binary` (ok | defect), `mask`, `weight`, `kind`, `difficulty`, `surface` are used where they exist. Without it:
`split/class/*` (split folders are named train, val or test). Masks (bright where the defect is) come from the column
`mask`, or from `masks/<picture's name>.png`.

Invariants: every path lies in the root; splits share no group; with `verify` every file has the digest that the
manifest states. The digest of a data set depends on (path, sha256, class, split) only, not on where it lies or on the
order of rows.
"""

from __future__ import annotations

import csv
import hashlib
import logging
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from agent.errors import OperatorError
from agent.images.file_types import IMAGE_SUFFIXES, UNSUPPORTED_KINDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MANIFEST: Final = "manifest.csv"
SPLITS: Final = ("train", "val", "test")
GOOD_CLASSES: Final = frozenset({"ok", "good", "normal"})  # names of classes of good parts, where `binary` is absent
MAX_SAMPLES: Final = 1_000_000
MAX_WEIGHT: Final = 1_000.0
_log = logging.getLogger(__name__)
_NAME: Final = re.compile(r"^[A-Za-z0-9_-]{1,64}$")


class DatasetError(OperatorError):
    """The data set cannot be used: the text names the file and row, the value, and what is allowed."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled picture."""

    path: Path  # absolute
    name: str  # relative to the root, with `/`
    class_name: str
    split: str
    group: str  # images of one group never straddle splits
    sha256: str  # of the file, lower-case hex
    is_defect: bool
    mask_path: Path | None = None
    kind: str | None = None  # simulated parts only, as are the next two
    difficulty: str | None = None
    surface: str | None = None
    weight: float = 1.0  # relative frequency in training


@dataclass(frozen=True, slots=True)
class Dataset:
    """All samples in the order of their names, and the classes: good ones first, then by name."""

    root: Path
    samples: tuple[Sample, ...]
    classes: tuple[str, ...]
    defects: frozenset[str]
    digest: str  # SHA-256 over the sorted (path, sha256, class, split)

    @classmethod
    def load(cls, root: Path, *, verify: bool = True) -> Dataset:
        """Read the data set under `root`. Raises DatasetError.

        `verify` reads every image and compares its digest; without it the manifest's digests are trusted.
        """
        if not root.is_dir():
            raise DatasetError(f"{root} is not a folder. Give the folder that holds {MANIFEST} or split/class/*.png.")
        root = root.resolve()
        manifest = root / MANIFEST
        rows = _manifest_rows(manifest) if manifest.is_file() else _folder_rows(root)
        samples = tuple(sorted((_sample(root, row, verify=verify) for row in rows), key=lambda s: s.name))
        _check_consistent(root, samples)
        defects = frozenset(s.class_name for s in samples if s.is_defect)
        classes = tuple(sorted({s.class_name for s in samples}, key=lambda name: (name in defects, name)))
        return cls(root, samples, classes, defects, _digest(samples))

    def split(self, name: str) -> tuple[Sample, ...]:
        """Return the samples of one split. Raises DatasetError when there are none."""
        chosen = tuple(s for s in self.samples if s.split == name)
        if not chosen:
            held = sorted({s.split for s in self.samples})
            raise DatasetError(f"{self.root} has no split {name!r}; it has {', '.join(held)}.")
        return chosen

    @property
    def has_masks(self) -> bool:
        """Whether defects can be located: at least half of the defective samples have a mask."""
        defective = [s for s in self.samples if s.is_defect]
        return bool(defective) and 2 * sum(s.mask_path is not None for s in defective) >= len(defective)


@dataclass(frozen=True, slots=True)
class _Row:
    """One row before its files are checked; `where` names it in errors."""

    where: str
    fields: Mapping[str, str]


def _manifest_rows(manifest: Path) -> Iterator[_Row]:
    try:
        with manifest.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            missing = {"path", "split", "class"} - set(reader.fieldnames or ())
            if missing:
                raise DatasetError(
                    f"{manifest}: the columns {', '.join(sorted(missing))} are missing; found {reader.fieldnames}."
                )
            for number, fields in enumerate(reader, start=2):
                if number > MAX_SAMPLES:
                    raise DatasetError(f"{manifest}: more than {MAX_SAMPLES} rows.")
                if None in fields or None in fields.values():
                    raise DatasetError(f"{manifest}, line {number}: the number of fields differs from the header's.")
                yield _Row(f"{manifest}, line {number}", fields)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{manifest} cannot be read: {error}.") from error


def _folder_rows(root: Path) -> Iterator[_Row]:
    found = False
    others: list[str] = []
    for split in SPLITS:
        for path in sorted((root / split).glob("*/*")):
            if path.suffix.lower() in UNSUPPORTED_KINDS:
                others.append(path.relative_to(root).as_posix())
            elif path.suffix.lower() in IMAGE_SUFFIXES:
                found = True
                name = path.relative_to(root).as_posix()
                yield _Row(str(path), {"path": name, "split": split, "class": path.parent.name})
    if others:
        shown = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")  # noqa: PLR2004
        _log.warning("%s: images of unsupported kinds ignored: %d (%s)", root, len(others), shown)
    if not found:
        raise DatasetError(
            f"{root} holds neither {MANIFEST} nor images as split/class/NAME.png with split one of "
            f"{', '.join(SPLITS)}; images end in {', '.join(sorted(IMAGE_SUFFIXES))}."
        )


def _resolve_inside(root: Path, relative: str, where: str) -> Path:
    """Resolve a path of the manifest. Raises DatasetError when it leaves the root by `..`, as absolute or by a link."""
    pure = PurePosixPath(relative)
    path = (root / pure).resolve()
    if not relative or "\0" in relative or pure.is_absolute() or ".." in pure.parts or not path.is_relative_to(root):
        raise DatasetError(f"{where}: path {relative!r} must be relative and stay in {root}.")
    return path


def _sample(root: Path, row: _Row, *, verify: bool) -> Sample:
    fields, where = row.fields, row.where
    path = _resolve_inside(root, fields["path"], where)
    class_name, split = fields["class"], fields["split"]
    if not _NAME.match(class_name):
        raise DatasetError(f"{where}: class {class_name!r} must match {_NAME.pattern}.")
    if split not in SPLITS:
        raise DatasetError(f"{where}: split {split!r} must be one of {', '.join(SPLITS)}.")
    if not path.is_file():
        raise DatasetError(f"{where}: {path} does not exist. Restore the file or remove its row.")
    stated = fields.get("sha256", "").lower()
    digest = stated
    if verify or not stated:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if stated and stated != digest:
            raise DatasetError(
                f"{where}: {path} has sha256 {digest[:12]}..., the manifest states {stated[:12]}...: "
                "the file was changed; fetch the data set again or correct the manifest."
            )
    binary = fields.get("binary", "")
    if binary not in {"", "ok", "defect"}:
        raise DatasetError(f"{where}: binary is {binary!r}, allowed are ok and defect.")
    is_defect = binary == "defect" if binary else class_name not in GOOD_CLASSES
    mask = fields.get("mask", "")
    mask_path = _resolve_inside(root, mask, where) if mask else root / "masks" / f"{path.stem}.png"
    if mask and not mask_path.is_file():
        raise DatasetError(f"{where}: the mask {mask_path} does not exist.")
    return Sample(
        path=path,
        name=PurePosixPath(fields["path"]).as_posix(),
        class_name=class_name,
        split=split,
        group=fields.get("group", "") or digest,
        sha256=digest,
        is_defect=is_defect,
        mask_path=mask_path if is_defect and mask_path.is_file() else None,
        kind=fields.get("kind") or None,
        difficulty=fields.get("difficulty") or None,
        surface=fields.get("surface") or None,
        weight=_weight(fields.get("weight", ""), where),
    )


def _weight(given: str, where: str) -> float:
    try:
        weight = float(given) if given else 1.0
    except ValueError:
        weight = -1.0
    if not 0.0 < weight <= MAX_WEIGHT:  # NaN is refused, too
        raise DatasetError(f"{where}: weight is {given[:40]!r}; a number above 0 and up to {MAX_WEIGHT:g} is needed.")
    return weight


def _check_consistent(root: Path, samples: tuple[Sample, ...]) -> None:
    """Check the rows together: repeated paths, classes that are both good and defective, groups in two splits."""
    if not samples:
        raise DatasetError(f"{root / MANIFEST} has no rows.")
    defective: dict[str, bool] = {}
    split_of: dict[str, str] = {}
    last = None
    for sample in samples:
        if sample.name == last:
            raise DatasetError(f"{root / MANIFEST}: {sample.name} is listed twice.")
        last = sample.name
        if defective.setdefault(sample.class_name, sample.is_defect) != sample.is_defect:
            raise DatasetError(f"{root / MANIFEST}: class {sample.class_name} is both ok and defect in column binary.")
        if split_of.setdefault(sample.group, sample.split) != sample.split:
            raise DatasetError(
                f"{root}: group {sample.group} of {sample.name} is in the splits {split_of[sample.group]} and "
                f"{sample.split}: results would be too optimistic. Keep images of one group in one split."
            )


def _digest(samples: tuple[Sample, ...]) -> str:
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(f"{sample.name}\t{sample.sha256}\t{sample.class_name}\t{sample.split}\n".encode())
    return digest.hexdigest()
