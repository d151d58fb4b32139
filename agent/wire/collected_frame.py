"""The sidecar of a collected frame, and the keys of image and sidecar in a bucket or folder.

`collected/v1/site=S/thing=T/day=YYYY-MM-DD/model=NAME-VERSION/INSPECTION/CAMERA-EPOCH-SEQ.png|jpg` and `.json` beside
it. The sidecar is written after its image, so a sidecar always has one. `day` is that of the capture, UTC.

`sample_rate` is present exactly when the frame belongs to the random sample of `ok` parts, which is drawn by the hash
of the verdict's key: those frames, weighted by 1 / sample_rate, are an unbiased view of the parts that the line calls
`ok`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import Field, ValidationError
from pydantic_core import to_json

from agent.errors import MessageError
from agent.timing.clock import NS_PER_S
from agent.wire.codec import Count, Name, WireModel, checked_name, parse_strict_json
from agent.wire.verdict_message import VerdictMessage  # noqa: TC001  pydantic reads the annotations

if TYPE_CHECKING:
    from agent.records import Box, Verdict

ROOT: Final = "collected/v1"

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Pixels = Annotated[int, Field(ge=1, le=65_536)]


class CollectReason(StrEnum):
    """Why a frame was kept; the first that applies, in this order."""

    DEFECT = "defect"
    UNSURE = "unsure"
    DISAGREEMENT = "disagreement"  # champion and challenger differ, in a shadow deployment or a trial
    SAMPLE = "sample"  # a random `ok` part


class CollectedImage(WireModel):
    """The image beside the sidecar."""

    sha256: Sha256  # of the file
    bytes: Annotated[int, Field(ge=1)]
    format: Literal["png", "jpg"]  # png is lossless
    width: Pixels
    height: Pixels


class FrameSidecar(WireModel):
    """The sidecar."""

    v: Literal[1] = 1
    kind: Literal["collected"] = "collected"
    reason: CollectReason
    sample_rate: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    site: Name
    image: CollectedImage
    crop: tuple[Count, Count, Pixels, Pixels] | None = None  # x, y, width, height of the frame; null: all of it
    verdict: VerdictMessage


def encode_collected(
    *,
    reason: CollectReason,
    sample_rate: float | None,
    site: str,
    image: CollectedImage,
    crop: Box | None,
    verdict: dict[str, Any],
) -> bytes:
    """Return the sidecar; `verdict` is what `encode_verdict` wrote, parsed. Raises MessageError."""
    fields: dict[str, Any] = {
        "v": 1,
        "kind": "collected",
        "reason": str(reason),
        "sample_rate": sample_rate,
        "site": site,
        "image": image.model_dump(mode="json"),
        "crop": None if crop is None else list(crop),
        "verdict": verdict,
    }
    payload: bytes = to_json(fields)
    decode_collected(payload)
    return payload


def decode_collected(payload: bytes) -> FrameSidecar:
    """Return the content of a sidecar. Raises MessageError for anything that Kensa would not have written."""
    value = parse_strict_json(payload)
    try:
        return FrameSidecar.model_validate_json(to_json(value), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the sidecar"
        raise MessageError(f"The sidecar of a collected frame was refused: {where}: {first['msg']}.") from error


def collected_stem(site: str, verdict: Verdict) -> str:
    """Return the key of image and sidecar without the suffix. Raises MessageError for a verdict without a model."""
    origin = verdict.origin
    if origin.model is None:
        raise MessageError(f"{verdict.key} was inspected by no model, so there is no key for its frame.")
    day = datetime.fromtimestamp(verdict.captured_utc_ns / NS_PER_S, UTC).date().isoformat()
    return "/".join(
        (
            ROOT,
            f"site={checked_name('site', site)}",
            f"thing={origin.thing}",
            f"day={day}",
            f"model={origin.model.name}-{origin.model.version}",
            origin.inspection,
            f"{origin.camera}-{origin.boot_epoch}-{verdict.seq}",
        )
    )
