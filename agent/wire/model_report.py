"""The report on a model: the state of one inspection's lifecycle, sent whenever it changes.

Promise: a report always fits into one message. Figures are finite numbers (infinity becomes the largest number, NaN is
omitted); where texts and figures would be too long together they are shortened step by step, and `shortened` is set.
The output of `kensa model show` on the device is never shortened.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping  # noqa: TC003  pydantic reads the annotations
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import Field, StringConstraints

from agent.errors import MessageError
from agent.release_records import DesiredRelease, Gate, ModelStatus, Refusal, ReleaseRef
from agent.wire.codec import MAX_INT, MAX_MESSAGE_BYTES, Count, Digest, Fraction, Name, WireModel, truncate

if TYPE_CHECKING:
    from collections.abc import Iterable

_FIGURE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_LARGEST: Final = 1.7e308
# (bytes of a text, figures of a kind), from the preferred size to one that always fits
_SHORTENING_STEPS: Final = ((1_000, 64), (1_000, 24), (600, 12), (300, 8), (100, 4))

RELEASE_ID_PATTERN: Final = (
    r"^[A-Za-z0-9_-]{1,64}/[0-9]{1,6}\.[0-9]{1,6}\.[0-9]{1,6}(-[0-9A-Za-z.-]{1,32})?$"  # as the manifest has them
)
_RELEASE_ID = re.compile(RELEASE_ID_PATTERN.removeprefix("^").removesuffix("$"))

ReleaseId = Annotated[str, StringConstraints(pattern=RELEASE_ID_PATTERN)]
Code = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
LongText = Annotated[str, StringConstraints(max_length=1_024)]
FigureName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
Figure = Annotated[float, Field(allow_inf_nan=False)]


def is_release_id(text: str) -> bool:
    """Whether `text` is `name/version`, as a release is named: a name that fits into a topic, a semantic version."""
    return _RELEASE_ID.fullmatch(text) is not None


class ReleaseOnWire(WireModel):
    """`release_records.ReleaseRef`."""

    name: Name
    version: Annotated[str, StringConstraints(max_length=64)]
    counter: Count
    digest: Digest  # of manifest.json as it was signed
    model_sha256: Digest

    def to_record(self) -> ReleaseRef:
        """Return the record of the message."""
        return ReleaseRef(self.name, self.version, self.counter, self.digest, self.model_sha256)


class DesiredOnWire(WireModel):
    """`release_records.DesiredRelease`."""

    release: ReleaseId
    mode: Literal["release", "ab"]
    share: Fraction
    source: Code

    def to_record(self) -> DesiredRelease:
        """Return the record of the message."""
        return DesiredRelease(self.release, self.mode, self.share, self.source)


class RefusalOnWire(WireModel):
    """`release_records.Refusal`."""

    gate: Gate
    reason: Code
    text: LongText
    figures: Mapping[FigureName, Figure] = {}
    limits: Mapping[FigureName, Figure] = {}

    def to_record(self) -> Refusal:
        """Return the record of the message."""
        return Refusal(self.gate, self.reason, self.text, dict(self.figures), dict(self.limits))


class ModelReport(WireModel):
    """The whole message."""

    v: Literal[1] = 1
    kind: Literal["model"] = "model"
    thing: Name
    line: Name
    inspection: Name
    boot_epoch: Count
    utc_us: Count  # when it was made, microseconds since 1970 UTC
    state: Code  # of the lifecycle
    since_utc_us: Count  # of that state
    active: ReleaseOnWire | None  # null: the factory release, or none at all in NO_MODEL
    previous: ReleaseOnWire | None = None
    candidate: ReleaseOnWire | None = None
    desired: DesiredOnWire | None = None
    share: Fraction = 0.0  # of the parts that the candidate inspects too
    progress: Mapping[FigureName, Figure] = {}  # of the present state
    refusal: RefusalOnWire | None = None  # the last one
    refused: ReleaseOnWire | None = None  # and of which release
    alarm: LongText | None = None  # a person must check
    counter_floor: Count = 0
    shortened: bool = False  # texts or figures did not fit

    def to_model_status(self) -> ModelStatus:
        """Return the record of the message."""
        return ModelStatus(
            inspection=self.inspection,
            state=self.state,
            since_utc_s=self.since_utc_us / 1e6,
            active=None if self.active is None else self.active.to_record(),
            previous=None if self.previous is None else self.previous.to_record(),
            candidate=None if self.candidate is None else self.candidate.to_record(),
            desired=None if self.desired is None else self.desired.to_record(),
            share=self.share,
            progress=dict(self.progress),
            refusal=None if self.refusal is None else self.refusal.to_record(),
            refused=None if self.refused is None else self.refused.to_record(),
            alarm=self.alarm,
            counter_floor=self.counter_floor,
        )


@dataclass(frozen=True, slots=True)
class ReportingAgent:
    """The reporting agent: fields that do not change while it runs."""

    thing: str
    line: str
    boot_epoch: int


def encode_report(status: ModelStatus, *, reporter: ReportingAgent, utc_ns: int) -> bytes:
    """Return the report as one message. Raises MessageError for a name that does not fit into a topic."""
    fields = _fields(status)
    shared: dict[str, Any] = {
        "thing": reporter.thing,
        "line": reporter.line,
        "boot_epoch": reporter.boot_epoch,
        "utc_us": _count(utc_ns // 1_000),
    }
    for text_bytes, figures in _SHORTENING_STEPS:
        fitted = _fitted(fields, text_bytes, figures)
        try:
            report = ModelReport.model_validate({**shared, **fitted, "shortened": fitted != fields})
        except ValueError as error:
            raise MessageError(f"the state of {status.inspection[:80]!r} breaks the wire format: {error}") from error
        payload = report.model_dump_json(ensure_ascii=True).encode()
        if len(payload) < MAX_MESSAGE_BYTES:
            return payload
    raise MessageError(f"the report on {status.inspection[:80]!r} is longer than one message")  # pragma: no cover


def finite_figures(figures: Mapping[str, float]) -> dict[str, float]:
    """Return the figures that can be encoded: finite, with a name of letters, digits, `_`, `.` and `-`."""
    return {
        name: max(-_LARGEST, min(_LARGEST, float(value)))
        for name, value in figures.items()
        if _FIGURE.fullmatch(name) and not math.isnan(value)
    }


def _fields(status: ModelStatus) -> dict[str, Any]:
    desired, refusal = status.desired, status.refusal
    return {
        "inspection": status.inspection,
        "state": status.state,
        "since_utc_us": _count(round(status.since_utc_s * 1e6)),
        "active": _release(status.active),
        "previous": _release(status.previous),
        "candidate": _release(status.candidate),
        "desired": desired
        and DesiredOnWire(
            release=desired.release_id, mode=desired.mode, share=float(desired.share), source=desired.source
        ),
        "share": float(status.share),
        "progress": finite_figures(status.progress),
        "refusal": refusal
        and {
            "gate": Gate(refusal.gate),
            "reason": refusal.reason,
            "text": refusal.text,
            "figures": finite_figures(refusal.figures),
            "limits": finite_figures(refusal.limits),
        },
        "refused": _release(status.refused),
        "alarm": status.alarm,
        "counter_floor": _count(status.counter_floor),
    }


def _fitted(fields: Mapping[str, Any], text_bytes: int, figures: int) -> dict[str, Any]:
    """Return the fields with texts of at most `text_bytes` bytes and that many figures of each kind."""
    fitted = {**fields, "progress": _first(fields["progress"].items(), figures)}
    if fields["alarm"] is not None:
        fitted["alarm"] = truncate(fields["alarm"], text_bytes)
    if (refusal := fields["refusal"]) is not None:
        fitted["refusal"] = {
            **refusal,
            "text": truncate(refusal["text"], text_bytes),
            "figures": _first(refusal["figures"].items(), figures),
            "limits": _first(refusal["limits"].items(), figures),
        }
    return fitted


def _first(items: Iterable[tuple[str, float]], count: int) -> dict[str, float]:
    return dict(islice(items, count))


def _release(ref: ReleaseRef | None) -> ReleaseOnWire | None:
    if ref is None:
        return None
    return ReleaseOnWire(
        name=ref.name, version=ref.version, counter=ref.counter, digest=ref.digest, model_sha256=ref.model_sha256
    )


def _count(number: int) -> int:
    return max(0, min(number, MAX_INT))


__all__ = [
    "RELEASE_ID_PATTERN",
    "ModelReport",
    "ReleaseId",
    "ReportingAgent",
    "encode_report",
    "finite_figures",
    "is_release_id",
]
