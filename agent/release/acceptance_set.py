"""The acceptance set: the site's labelled parts that every release must classify correctly.

Promise: the set is in `state_dir/acceptance/<inspection>/` and outlives releases; no publisher can change it. A part is
the bytes of its image under their digest, with its label, who added it and when, in `index.json`, which is replaced as
a whole. A part is classified correctly when a person would not have to correct the line: a good part must be `ok`, a
defect `defect` or `unsure` (a person checks it), a part labelled with a class must get that class too.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Final, Literal

import numpy as np
from pydantic import Field, StringConstraints, ValidationError

from agent import decision
from agent.durable import replace_durably
from agent.errors import FrameError, InferenceError, OperatorError
from agent.images.decode import MAX_IMAGE_BYTES, ImageDecoder
from agent.images.decode import validate_encoded as inspect_image
from agent.preprocess import Preprocessor
from agent.records import Outcome
from agent.strict import Strict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from agent.ports import Model
    from agent.records import Box, DecisionRule, Judgement, Pixels

MAX_PARTS: Final = 1_000
MAX_SET_BYTES: Final = 2 * 1024**3
_MAX_INDEX_BYTES: Final = 4 * 1024**2
_INDEX: Final = "index.json"
OK: Final = "ok"
DEFECT: Final = "defect"

Label = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class LabelledPart(Strict):
    """One labelled image."""

    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]  # of the encoded image
    kind: Literal["png", "jpeg", "bmp"]
    length_bytes: int = Field(gt=0, le=MAX_IMAGE_BYTES)
    label: Label  # `ok`, `defect`, or a class of the model
    added_utc: Annotated[str, StringConstraints(max_length=40)]
    by: Annotated[str, StringConstraints(max_length=128)]
    origin: Annotated[str, StringConstraints(max_length=1_024)]  # file name or verdict key

    @property
    def file_name(self) -> str:
        """Name of its file beside the index."""
        return f"{self.sha256[:32]}.{self.kind}"

    @property
    def short_digest(self) -> str:
        """The start of the digest, which people use to name it."""
        return self.sha256[:12]


class _Index(Strict):
    version: Literal[1] = 1
    parts: tuple[LabelledPart, ...] = Field(default=(), max_length=MAX_PARTS)


@dataclass(frozen=True, slots=True)
class LabelledPartResult:
    """How a release classifies one part of the set."""

    part: LabelledPart
    judgement: Judgement
    is_correct: bool


def acceptance_dir(state_dir: Path, inspection: str) -> Path:
    """Return the folder of the set of one inspection."""
    return state_dir / "acceptance" / inspection


class AcceptanceSet:
    """The labelled parts of one inspection. Adding and removing lock the folder; reading needs no lock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def parts(self) -> tuple[LabelledPart, ...]:
        """Return every part, oldest first; none without a set. Raises OperatorError for a damaged index."""
        path = self.folder / _INDEX
        try:
            with path.open("rb") as file:
                data = file.read(_MAX_INDEX_BYTES + 1)
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise OperatorError(f"{path} cannot be read: {error.strerror}") from error
        try:
            return _Index.model_validate_json(data).parts
        except ValidationError as error:
            raise OperatorError(
                f"{path} is damaged ({error.error_count()} findings, first: {error.errors()[0]['msg']}). Restore it "
                "from a backup, or remove the folder and add the parts again"
            ) from error

    def add(self, data: bytes, *, label: str, by: str, origin: str, now_utc_ns: int) -> tuple[LabelledPart, bool]:
        """Store the encoded image `data` under `label`; return the part, and whether it is new.

        The same image with another label replaces the old one. Raises OperatorError naming `origin` if `data` is no
        image, if `label` is not a name, or if the set is full.
        """
        try:
            kind = inspect_image(data).kind
            decoder = ImageDecoder()
            decoder.decode(data, None)
            decoder.close()
        except FrameError as error:
            raise OperatorError(f"{origin} is no image that the line could inspect: {error.detail}") from error
        try:
            part = LabelledPart(
                sha256=hashlib.sha256(data).hexdigest(),
                kind=kind,  # type: ignore[arg-type]  # one of the three; pydantic checks it
                length_bytes=len(data),
                label=label,
                added_utc=datetime.fromtimestamp(now_utc_ns / 1e9, UTC).isoformat(timespec="seconds"),
                by=by[:128],
                origin=origin[-1_024:],
            )
        except ValidationError as error:
            raise OperatorError(f"label {label!r}: give `ok`, `defect`, or the name of a class of the model") from error
        with self._locked():
            before = self.parts()
            others = tuple(p for p in before if p.sha256 != part.sha256)
            self._check_room(others, part)
            replace_durably(self.folder / part.file_name, data)
            self._store((*others, part))
        return part, len(others) == len(before)

    def remove(self, number: str) -> LabelledPart:
        """Remove the part whose digest starts with `number`. Raises OperatorError unless exactly one does."""
        with self._locked():
            before = self.parts()
            found = [p for p in before if number and p.sha256.startswith(number)]
            if len(found) != 1:
                raise OperatorError(
                    f"{number!r} names {len(found)} of {len(before)} parts in {self.folder}, expected one; "
                    "`kensa model acceptance list` shows their numbers"
                )
            self._store(tuple(p for p in before if p != found[0]))
            (self.folder / found[0].file_name).unlink(missing_ok=True)
        return found[0]

    def read(self, part: LabelledPart) -> bytes:
        """Return the bytes of the image, as they were added. Raises OperatorError."""
        path = self.folder / part.file_name
        try:
            with path.open("rb") as file:
                data = file.read(part.length_bytes + 1)
        except OSError as error:
            raise OperatorError(
                f"{path} cannot be read: {error.strerror}. Restore it, or remove part {part.short_digest} from the set"
            ) from error
        if hashlib.sha256(data).hexdigest() != part.sha256:
            raise OperatorError(
                f"{path} is not the image that was added: it is damaged or was changed. Restore it, or remove part "
                f"{part.short_digest} from the set"
            )
        return data

    def _check_room(self, others: tuple[LabelledPart, ...], part: LabelledPart) -> None:
        size = sum(p.length_bytes for p in others) + part.length_bytes
        if len(others) >= MAX_PARTS or size > MAX_SET_BYTES:
            raise OperatorError(
                f"{self.folder} is full: with this one {len(others) + 1:,} parts of {size / 1e6:,.0f} MB, at most "
                f"{MAX_PARTS:,} and {MAX_SET_BYTES / 1e6:,.0f} MB are kept. Remove parts that are alike"
            )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One writer at a time. Raises OperatorError when the folder cannot be written."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                yield
            finally:
                os.close(fd)
        except OSError as error:
            raise OperatorError(f"{self.folder} cannot be written: {error.strerror}") from error

    def _store(self, parts: tuple[LabelledPart, ...]) -> None:
        replace_durably(self.folder / _INDEX, (_Index(parts=parts).model_dump_json(indent=1) + "\n").encode())


# --- evaluation -------------------------------------------------------------------------------------------------------


def is_correct(label: str, judgement: Judgement, rule: DecisionRule) -> bool:
    """Whether the judgement matches the label; see the module's promise."""
    is_reject = judgement.outcome in {Outcome.DEFECT, Outcome.UNSURE}
    if label == DEFECT:
        return is_reject
    if label == OK:
        return judgement.outcome is Outcome.OK
    return judgement.class_name == label and (is_reject if label in rule.defects else judgement.outcome is Outcome.OK)


def inspect_pixels(model: Model, rule: DecisionRule, preprocessor: Preprocessor, pixels: Pixels) -> Judgement:
    """Inspect one image [H, W] or [H, W, 3] as the line does: preprocessing, inference, decision.

    An error of the model or the frame gives `unknown` with the reason.
    """
    try:
        plan = preprocessor.plan_for(pixels)
        geometry = preprocessor.geometry
        batch = np.empty((len(plan.tiles), geometry.height, geometry.width, geometry.channels), np.uint8)
        preprocessor.write_to(pixels, batch)
        result = model.infer(batch)
    except (FrameError, InferenceError) as error:
        return decision.unknown_judgement(str(error))
    return decision.decide_challenger(rule, plan, result, start=0, inputs=len(batch))


def evaluate_set(
    parts: AcceptanceSet,
    model: Model,
    rule: DecisionRule,
    *,
    roi: Box | None,
    on_part: Callable[[LabelledPartResult], None] = lambda _: None,
) -> list[LabelledPartResult]:
    """Evaluate the whole set with `model` by `rule`, which has the site's settings. Raises OperatorError."""
    preprocessor, decoder = Preprocessor(model.geometry, roi=roi), ImageDecoder()
    results = []
    try:
        for part in parts.parts():
            try:
                pixels = decoder.decode(parts.read(part), None)
            except FrameError as error:
                raise OperatorError(
                    f"part {part.short_digest} of {parts.folder} cannot be decoded: {error.detail}"
                ) from error
            judgement = inspect_pixels(model, rule, preprocessor, pixels)
            results.append(LabelledPartResult(part, judgement, is_correct(part.label, judgement, rule)))
            on_part(results[-1])
    finally:
        decoder.close()
    return results
