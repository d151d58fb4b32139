"""Stores labels by the key of the verdict; the store only grows.

    STORE/labels/v1/SHA256.jsonl     one batch of labels each, one JSON object a line; never changed, never removed

Promise: a stored label stays, the latest one (by `labelled_at`) of a key holds, equal labels are stored once however
often they are imported, and the current label does not depend on the order of the imports. All input is treated as
hostile: either a label is valid, or a DatasetError names file, line and what is allowed.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections import defaultdict
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agent.errors import MessageError
from agent.wire.codec import MAX_INT, is_name, parse_strict_json
from pipeline.cloud.storage import Storage, StorageError, open_storage
from pipeline.dataset_reader import GOOD_CLASSES, DatasetError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

ROOT: Final = "labels/v1/"
EXCLUDE: Final = "exclude"  # the label that keeps an image out of data sets: no part in it, out of focus, a hand
REVIEW: Final = "review"  # the source whose label resolves a disagreement
MAX_LABELS: Final = 2_000_000
_MAX_LINE_BYTES: Final = 4_096
_MAX_TEXT: Final = 128
_KEY: Final = re.compile(r"[A-Za-z0-9_-]{1,64}/[A-Za-z0-9_-]{1,64}/(0|[1-9][0-9]{0,15})/(0|[1-9][0-9]{0,15})")
_EARLIEST: Final = datetime(2015, 1, 1, tzinfo=UTC)
_CLOCKS_APART: Final = timedelta(days=1)  # a label from further ahead would override all later ones


def utc_now() -> datetime:
    """The current time; labels from the future are refused by it."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, order=True)
class Label:
    """One labeller's label of one image."""

    key: str  # of the verdict: line/camera/boot_epoch/seq
    labelled_at: str  # UTC, 2026-01-31T12:00:00Z: texts sort as times
    label: str  # class, or EXCLUDE
    is_defect: bool
    source: str  # where it came from: a labelling job, a file, REVIEW
    labeller: str  # a person or a team, by any name

    def line(self) -> str:
        """The label as one line of canonical JSON."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))


COLUMNS: Final = tuple(field.name for field in fields(Label))


def validate_label(values: Mapping[str, Any], where: str, *, now: datetime) -> Label:
    """Return the label with these fields. Raises DatasetError, which begins with `where`."""
    unknown, missing = set(values) - set(COLUMNS), set(COLUMNS) - set(values)
    if unknown or missing:
        raise DatasetError(f"{where}: the fields are {', '.join(COLUMNS)}; {sorted(unknown | missing)} differ.")
    texts = {name: values[name] for name in COLUMNS if name != "is_defect"}
    for name, text in texts.items():
        if not isinstance(text, str) or not 0 < len(text) <= 2 * _MAX_TEXT or not text.isprintable():
            raise DatasetError(f"{where}: {name} is {str(text)[:80]!r}; a printable text is needed.")
    if not isinstance(values["is_defect"], bool):
        raise DatasetError(f"{where}: is_defect is {values['is_defect']!r}; true or false is needed.")
    if not is_key(texts["key"]):
        raise DatasetError(f"{where}: key {texts['key']!r} is not the key of a verdict, line/camera/boot_epoch/seq.")
    if not is_name(texts["label"]):
        raise DatasetError(f"{where}: label {texts['label']!r} must be 1 to 64 of A-Z, a-z, 0-9, _ and -.")
    if max(len(texts["source"]), len(texts["labeller"])) > _MAX_TEXT:
        raise DatasetError(f"{where}: source and labeller have at most {_MAX_TEXT} characters.")
    if texts["label"] == EXCLUDE and values["is_defect"]:
        raise DatasetError(f"{where}: {EXCLUDE!r} is not a defect; it keeps an image out of data sets.")
    texts["labelled_at"] = canonical_time(texts["labelled_at"], where, now=now)
    return Label(**texts, is_defect=values["is_defect"])


def is_key(text: str) -> bool:
    """Whether `text` is line/camera/boot_epoch/seq."""
    match = _KEY.fullmatch(text)
    return match is not None and max(int(match[1]), int(match[2])) <= MAX_INT


def canonical_time(text: str, where: str, *, now: datetime) -> str:
    """Return an ISO 8601 time as UTC with whole seconds; without a zone it is UTC. Raises DatasetError."""
    try:
        given = datetime.fromisoformat(text)
        utc = given.replace(tzinfo=UTC) if given.tzinfo is None else given.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise DatasetError(f"{where}: {text!r} is not a time such as 2026-01-31T12:00:00Z.") from error
    if not _EARLIEST <= utc <= now + _CLOCKS_APART:
        raise DatasetError(
            f"{where}: the time {text!r} is before {_EARLIEST.year} or in the future: a label from the future would "
            "hold against every correction. Correct the time."
        )
    return utc.strftime("%Y-%m-%dT%H:%M:%SZ")


def is_defect_class(class_name: str, good: Iterable[str] = ()) -> bool:
    """Whether a class is a defect by its name: all are except ok, good, normal and those in `good`."""
    return class_name != EXCLUDE and class_name not in GOOD_CLASSES and class_name not in set(good)


@dataclass(frozen=True, slots=True)
class LabelHistory:
    """All labels by key; those of a key are sorted, the current one last."""

    by_key: Mapping[str, tuple[Label, ...]]

    @classmethod
    def from_labels(cls, labels: Iterable[Label]) -> LabelHistory:
        """The history of these labels; their order and repetition do not matter."""
        by_key: defaultdict[str, set[Label]] = defaultdict(set)
        for label in labels:
            by_key[label.key].add(label)
        return cls({key: tuple(sorted(by_key[key])) for key in sorted(by_key)})

    def latest(self, key: str) -> Label | None:
        """The current label of a key."""
        history = self.by_key.get(key)
        return history[-1] if history else None

    def is_repeat(self, label: Label) -> bool:
        """Whether this labeller's last label of the image in this source is the same."""
        own = [x for x in self.by_key.get(label.key, ()) if x.labeller == label.labeller]
        return bool(own) and replace(own[-1], labelled_at=label.labelled_at) == label

    def all(self) -> Iterator[Label]:
        """Every label, in the order of keys and times."""
        for history in self.by_key.values():
            yield from history

    @property
    def digest(self) -> str:
        """SHA-256 over all labels."""
        digest = hashlib.sha256()
        for label in self.all():
            digest.update(label.line().encode() + b"\n")
        return digest.hexdigest()


class LabelStore:
    """Batches of labels in a storage. Methods raise StorageError and DatasetError."""

    def __init__(self, storage: Storage, *, now: Callable[[], datetime] = utc_now) -> None:
        """Open the store; nothing is read yet."""
        self._storage = storage
        self._now = now

    def append(self, labels: Iterable[Label], *, repeats: bool = True) -> int:
        """Store the labels that are new, as one batch; returns their number.

        Without `repeats` a label that repeats the last one of its labeller is left out: a file without times gives
        the same with a new one at each import.
        """
        label_history = self.load() if self._has_labels() else LabelHistory.from_labels(())
        new = sorted(set(labels) - set(label_history.all()))
        if not repeats:
            new = [label for label in new if not label_history.is_repeat(label)]
        if new:
            data = "".join(label.line() + "\n" for label in new).encode()
            self._storage.create(f"{ROOT}{hashlib.sha256(data).hexdigest()}.jsonl", data)
        return len(new)

    def load(self) -> LabelHistory:
        """Read everything."""
        found: list[Label] = []
        for stored in self._storage.list(ROOT):
            data = self._storage.read(stored.key)
            if stored.key != f"{ROOT}{hashlib.sha256(data).hexdigest()}.jsonl":
                raise DatasetError(
                    f"{self._storage.uri}/{stored.key} does not have the name of its content: it was changed after "
                    "it was written. Restore it, or remove it and import its labels again."
                )
            found.extend(read_lines(data, f"{self._storage.uri}/{stored.key}", now=self._now()))
            if len(found) > MAX_LABELS:
                raise DatasetError(f"{self._storage.uri}: more than {MAX_LABELS:,} labels.")
        return LabelHistory.from_labels(found)

    def _has_labels(self) -> bool:
        try:
            return next(iter(self._storage.list(ROOT)), None) is not None
        except StorageError:
            return False  # a folder that the first batch creates


def read_lines(data: bytes, where: str, *, now: datetime) -> Iterator[Label]:
    """Yield the labels of a file of JSON lines. Raises DatasetError."""
    for number, line in enumerate(data.splitlines(), start=1):
        place = f"{where}, line {number}"
        try:
            values = parse_strict_json(line, limit=_MAX_LINE_BYTES)
        except MessageError as error:
            raise DatasetError(f"{place}: {error}") from error
        yield validate_label(values, place, now=now)


def read_table(
    data: bytes,
    where: str,
    *,
    now: datetime,
    defaults: Mapping[str, Any],
    good: Iterable[str] = (),
    key_of: Callable[[Mapping[str, str]], str | None] | None = None,
) -> Iterator[Label]:
    """Yield the labels of a CSV file with a header; `defaults` fill columns that it lacks. Raises DatasetError.

    `is_defect` is true or false, 1 or 0, or empty: then the class name decides, and the classes in `good` are none.
    `key_of` finds the key of a row (None: leave it out); without it the column `key` is needed. Further columns are
    ignored.
    """
    try:
        reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""))
        needed = {"label"} if key_of is not None else {"key", "label"}
        missing = needed - set(reader.fieldnames or ())
        if missing:
            raise DatasetError(
                f"{where}: the columns {', '.join(sorted(missing))} are missing; found {reader.fieldnames}."
            )
        for number, row in enumerate(reader, start=2):
            place = f"{where}, line {number}"
            if None in row or None in row.values():
                raise DatasetError(f"{place}: the number of fields differs from the header's.")
            key = row["key"] if key_of is None else key_of(row)
            if key is None:
                continue
            values = {**defaults, **{name: row[name] for name in COLUMNS if row.get(name)}, "key": key}
            values["is_defect"] = _parse_is_defect(values.get("is_defect"), str(values.get("label", "")), place, good)
            yield validate_label(values, place, now=now)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{where} cannot be read as CSV in UTF-8: {error}.") from error


def _parse_is_defect(given: Any, class_name: str, where: str, good: Iterable[str]) -> bool:
    if given is None or given == "":
        return is_defect_class(class_name, good)
    found = {"true": True, "1": True, "false": False, "0": False}.get(str(given).lower())
    if found is None:
        raise DatasetError(f"{where}: is_defect is {given!r}; true, false, 1, 0 or nothing are allowed.")
    return found


def load_labels(labels: Storage | Path | str, *, now: Callable[[], datetime] = utc_now) -> LabelHistory:
    """Read labels from a store (folder, s3://, or an open one) or from one .jsonl or .csv file."""
    if isinstance(labels, Path | str):
        if "://" not in str(labels) and Path(labels).is_file():
            return LabelHistory.from_labels(_read_file(Path(labels), now()))
        labels = open_storage(labels)
    return LabelStore(labels, now=now).load()


def _read_file(path: Path, now: datetime) -> Iterator[Label]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}.") from error
    if path.suffix == ".csv":
        defaults = {"source": f"file:{path.name}"[:_MAX_TEXT], "labeller": "unknown"}
        return read_table(data, str(path), now=now, defaults=defaults)
    return read_lines(data, str(path), now=now)


def to_csv(labels: Iterable[Label]) -> bytes:
    """The labels as CSV, as `read_table` reads them."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for label in labels:
        writer.writerow({**asdict(label), "is_defect": str(label.is_defect).lower()})
    return text.getvalue().encode()
