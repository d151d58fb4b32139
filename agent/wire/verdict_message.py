"""One verdict as one message: `defect`, `unsure`, `unknown`, or an `ok` that no envelope can hold.

Encoding builds the text directly, because it runs beside the hot loop; decoding is strict and meant for untrusted
input. Rounding: times to microseconds (down), scores to 1e-6. Where the scores of all classes would make the message
too long, the highest that fit are kept and `scores_left_out` counts the others.
"""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003  pydantic reads the annotations
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import Field

from agent.errors import MessageError
from agent.records import Judgement, ModelIdentity, Origin, Outcome, Verdict
from agent.wire.codec import MAX_UNMARKED_BYTES, Count, Digest, Fraction, Name, Text, WireModel, bounded_json, quote

if TYPE_CHECKING:
    from collections.abc import Iterable

TEXT_LIMIT: Final = 200  # bytes of a reason or an image reference on the wire
PART_ID_LIMIT: Final = 128  # bytes; a longer part id is cut and keeps a digest, see `codec.bounded_json`


class ModelOnWire(WireModel):
    """`records.ModelIdentity`."""

    name: Name
    version: Text
    sha256: Digest
    counter: Count
    trusted: bool

    def to_record(self) -> ModelIdentity:
        """Return the record of the message."""
        return ModelIdentity(self.name, self.version, self.sha256, self.counter, self.trusted)


class Challenger(WireModel):
    """Outcome of the other model of a trial for the same part."""

    outcome: Outcome
    sha256: Digest | None = None


class SharedFields(WireModel):
    """`records.Origin` without its classes: the same in a verdict message and an envelope."""

    v: Literal[1]
    thing: Name
    line: Name
    inspection: Name
    camera: Name
    boot_epoch: Count
    model: ModelOnWire | None
    preprocess_digest: Digest
    config_digest: Digest
    arm: Name | None = None
    replay: bool = False  # it waited in the device's backlog

    def to_origin(self, classes: Iterable[str]) -> Origin:
        """Return the record; `classes` are the ones whose scores the message holds."""
        model = self.model
        return Origin(
            thing=self.thing,
            line=self.line,
            inspection=self.inspection,
            camera=self.camera,
            boot_epoch=self.boot_epoch,
            config_digest=self.config_digest,
            preprocess_digest=self.preprocess_digest,
            model=None if model is None else model.to_record(),
            classes=tuple(classes),
        )


class VerdictMessage(SharedFields):
    """A single verdict on the wire."""

    kind: Literal["verdict"]
    seq: Count
    captured_utc_us: Count
    latency_us: Count
    outcome: Outcome
    class_: Annotated[Name | None, Field(alias="class")] = None
    score: Fraction
    scores: Mapping[Name, Fraction] = {}  # class -> score
    scores_left_out: Count = 0
    box: tuple[Count, Count, Count, Count] | None = None  # x, y, width, height in pixels of the frame
    reason: Text | None = None
    part_id: Text | None = None
    image: Text | None = None
    challenger: Challenger | None = None

    def to_verdict(self) -> Verdict:
        """Return the record of the message."""
        scores = tuple(self.scores.values())
        challenger = self.challenger
        return Verdict(
            origin=self.to_origin(self.scores),
            seq=self.seq,
            captured_utc_ns=self.captured_utc_us * 1_000,
            judgement=Judgement(self.outcome, self.class_, self.score, scores, self.box, self.reason),
            latency_us=self.latency_us,
            part_id=self.part_id,
            image=self.image,
            arm=self.arm,
            challenger_outcome=None if challenger is None else challenger.outcome,
            challenger_sha256=None if challenger is None else challenger.sha256,
        )


@lru_cache(maxsize=256)
def origin_text(origin: Origin) -> str:
    """Return the shared fields of a message as JSON members, from `thing` to the digests."""
    model = "null"
    if origin.model is not None:
        trusted = "true" if origin.model.trusted else "false"
        model = (
            f'{{"name":{quote(origin.model.name)},"version":{quote(origin.model.version)},'
            f'"sha256":{quote(origin.model.sha256)},"counter":{origin.model.counter},"trusted":{trusted}}}'
        )
    return (
        f'"thing":{quote(origin.thing)},"line":{quote(origin.line)},"inspection":{quote(origin.inspection)},'
        f'"camera":{quote(origin.camera)},"boot_epoch":{origin.boot_epoch},"model":{model},'
        f'"preprocess_digest":{quote(origin.preprocess_digest)},"config_digest":{quote(origin.config_digest)}'
    )


def encode_verdict(verdict: Verdict) -> bytes:
    """Return the verdict as one message. Raises MessageError for a score outside [0, 1] or a negative number."""
    judgement = verdict.judgement
    _check_numbers(verdict)
    head = (
        f'{{"v":1,"kind":"verdict",{origin_text(verdict.origin)},"seq":{verdict.seq},'
        f'"captured_utc_us":{verdict.captured_utc_ns // 1_000},"latency_us":{verdict.latency_us},'
        f'"outcome":"{judgement.outcome}","score":{_rounded(judgement.score)}'
    )
    parts = [head]
    if judgement.class_name is not None:
        parts.append(f'"class":{quote(judgement.class_name)}')
    if judgement.box is not None:
        x, y, width, height = judgement.box
        parts.append(f'"box":[{x},{y},{width},{height}]')
    if judgement.reason is not None:
        parts.append(f'"reason":{bounded_json(judgement.reason, TEXT_LIMIT)}')
    if verdict.part_id is not None:
        parts.append(f'"part_id":{bounded_json(verdict.part_id, PART_ID_LIMIT)}')
    if verdict.image is not None:
        parts.append(f'"image":{bounded_json(verdict.image, TEXT_LIMIT)}')
    if verdict.arm is not None:
        parts.append(f'"arm":{quote(verdict.arm)}')
    if verdict.challenger_outcome is not None:
        digest = "" if verdict.challenger_sha256 is None else f',"sha256":{quote(verdict.challenger_sha256)}'
        parts.append(f'"challenger":{{"outcome":"{verdict.challenger_outcome}"{digest}}}')
    text = ",".join(parts)
    return f"{text}{_scores_text(verdict, MAX_UNMARKED_BYTES - len(text) - 1)}}}".encode()


def _check_numbers(verdict: Verdict) -> None:
    judgement = verdict.judgement
    for score in (judgement.score, *judgement.scores):
        if not 0.0 <= score <= 1.0:
            raise MessageError(f"Verdict {verdict.key} has the score {score}: a score must be in 0 to 1.")
    numbers = (verdict.seq, verdict.captured_utc_ns, verdict.latency_us, *(judgement.box or ()))
    if min(numbers) < 0:
        raise MessageError(f"Verdict {verdict.key} has a negative number among seq, time, latency and box.")


def _rounded(score: float) -> str:
    return repr(round(float(score), 6))


def _scores_text(verdict: Verdict, room: int) -> str:
    """Return `,"scores":{...}` with as many classes as fit into `room` bytes, in the manifest's order."""
    scores = dict(zip(verdict.origin.classes, verdict.judgement.scores, strict=False))
    if not scores:
        return ""
    items = {name: f"{quote(name)}:{_rounded(score)}" for name, score in scores.items()}
    length = sum(map(len, items.values())) + len(items) + 12
    left_out = ""
    if length > room:
        room -= 24  # for scores_left_out
        for name in sorted(scores, key=scores.__getitem__):
            if length <= room:
                break
            length -= len(items.pop(name)) + 1
        left_out = f',"scores_left_out":{len(scores) - len(items)}'
    return f',"scores":{{{",".join(items.values())}}}{left_out}'
