"""The frozen records of the inspection, from an exposure to a message.

Data flows one way: Grab -> Frame -> (batch) -> Scores -> Judgement -> Verdict -> Outgoing; the records of releases are
in `release_records`. Pixels are uint8, [H, W] for mono or [H, W, 3] for BGR. Boxes are (x, y, width, height) in pixels
of the original frame.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import numpy.typing as npt

    Pixels = npt.NDArray[np.uint8]
    Floats = npt.NDArray[np.float32]

Box = tuple[int, int, int, int]


class Outcome(StrEnum):
    """The outcome for a part. `UNKNOWN` means no judgement was possible and is never treated as `OK`."""

    OK = "ok"
    DEFECT = "defect"
    UNSURE = "unsure"
    UNKNOWN = "unknown"


class DropReason(StrEnum):
    """Why a captured frame was not inspected; every drop is counted under exactly one of these."""

    OVERRUN = "overrun"  # the line is slower than the camera: a newer frame replaced it
    CORRUPT = "corrupt"  # could not be decoded
    INCOMPLETE = "incomplete"  # the transport reported missing data
    SIZE = "size"  # outside what camera or geometry declares
    CHANNELS = "channels"  # neither mono nor BGR uint8
    SHUTDOWN = "shutdown"  # still waiting when the drain's deadline passed


class ImageFault(StrEnum):
    """Why an image proves nothing about its part: the verdict is `unknown`, without any model."""

    DARK = "dark"  # far below the golden set's brightness: lamp, lens cap, exposure
    BRIGHT = "bright"  # far above it: exposure, gain, stray light
    FLAT = "flat"  # no contrast: covered, far out of focus, or nothing in view
    FROZEN = "frozen"  # a live camera repeats one image


# --- capture ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Grab:
    """One exposure as a `FrameSource` returns it; valid until the source's next `read` into the same buffer."""

    pixels: Pixels
    due_ns: int  # monotonic: when the exposure was due (paced and triggered sources) or arrived
    part_id: str | None = None  # set by triggered sources only
    incomplete: bool = False  # the transport lost data of the image
    hardware_ns: int | None = None  # the camera's own timestamp, where it has one
    skipped: int = 0  # older exposures that arrived since the last one returned, and were skipped for this one


@dataclass(frozen=True, slots=True)
class Frame:
    """A counted, numbered exposure on its way to a worker. `seq` starts at 0 for each camera and boot epoch."""

    camera: str
    seq: int
    due_ns: int  # monotonic
    captured_utc_ns: int
    pixels: Pixels
    part_id: str | None = None
    hardware_ns: int | None = None
    buffer: int = -1  # index of the pool buffer that holds the pixels; -1 when the source owns them
    is_frozen: bool = False  # a live camera has repeated this image for longer than its kind may
    refused: str | None = None  # why it cannot be inspected; it has no pixels then, and its part gets `unknown`


@dataclass(frozen=True, slots=True)
class DroppedFrames:
    """A captured frame that gets no verdict, or several at once."""

    camera: str
    reason: DropReason
    seq: int | None = None  # None where it is not known, or of several
    count: int = 1
    detail: str | None = None  # the problem and what was expected
    name: str | None = None  # the source's name of the image


class CameraState(StrEnum):
    """The state of a camera's capture thread; the heartbeat reports it."""

    CONNECTING = "connecting"  # no frame yet
    RUNNING = "running"  # exposures arrive, usable or not
    STALLED = "stalled"  # open, but nothing arrived for longer than its limit; reopening follows
    RECONNECTING = "reconnecting"  # lost; waiting for or trying the next opening
    ENDED = "ended"  # a finite source has ended
    STOPPED = "stopped"  # by request, or by a bug that the log shows


@dataclass(frozen=True, slots=True)
class CameraStatus:
    """The heartbeat's data on one camera; replaced as a whole, never changed."""

    camera: str
    state: CameraState
    since_ns: int  # monotonic: when this state began
    frames: int = 0  # exposures since the start, usable or not
    fps: float = 0.0  # smoothed over about ten exposures
    stalls: int = 0
    reopenings: int = 0  # times the camera was lost or stalled
    last_error: str | None = None  # without credentials; kept after recovery
    skipped_files: str | None = None  # files that the source skips, such as images of a kind that is not read


# --- model ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Geometry:
    """How a frame becomes model inputs; part of the signed manifest, so training and serving cannot differ.

    `whole`: the ROI is reduced by the largest power of two (2x2 area steps) that leaves it no smaller than the input,
    then at most one bilinear step to `height` x `width`. `tiles`: the ROI is reduced by `reduction` (1, 2 or 4) and cut
    into evenly spaced tiles of `height` x `width` that overlap by at least `overlap_px` reduced pixels.
    An image smaller than the geometry is padded at the right and bottom by replicating its border.
    """

    mode: Literal["whole", "tiles"]
    height: int  # of the model's input, px
    width: int
    channels: Literal[1, 3]
    reduction: Literal[1, 2, 4] = 1  # tiles only
    overlap_px: int = 0  # tiles only
    roi: Box | None = None  # default region of the frame; an inspection's own `roi` overrides it


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """The model bytes that decided; part of every verdict."""

    name: str
    version: str
    sha256: str  # of model.onnx, lower-case hex
    counter: int = 0  # monotonic release counter; 0 for an unsigned local release
    trusted: bool = False  # True only for bytes that came through the trust chain


@dataclass(frozen=True, slots=True)
class DecisionRule:
    """How scores become an outcome; from the manifest, with the site's own thresholds applied.

    `score` selects the number that is compared with the thresholds: `classes` takes each defect class's own score (the
    largest over tiles); `evidence` takes one defect score from the evidence cells of all tiles, aggregated as
    `aggregation` says, and the class scores only name the defect.
    """

    classes: tuple[str, ...]  # in the order of the model's `scores` output
    defects: frozenset[str]  # which classes are defects; the others are good parts
    thresholds: Mapping[str, float]  # defect class -> score in [0, 1] from which the part is a defect
    unsure_band: float = 0.0  # scores less than this below a threshold are `unsure`
    score: Literal["classes", "evidence"] = "classes"
    aggregation: Literal["max", "top_mean"] = "max"
    top_fraction: float = 0.2  # of all evidence cells; for `top_mean`


@dataclass(frozen=True, slots=True)
class Scores:
    """A batch's raw result; row i belongs to input i. `evidence` is per cell, in [0, 1], or None."""

    scores: Floats  # [N, classes], in [0, 1]
    evidence: Floats | None = None  # [N, h, w]


@dataclass(frozen=True, slots=True)
class Judgement:
    """The pure decision on one part."""

    outcome: Outcome
    class_name: str | None  # the most suspicious defect class for `defect` and `unsure`, the good class for `ok`
    score: float  # the number that was compared with the threshold; NaN never appears here
    scores: tuple[float, ...]  # per class, in the manifest's order
    box: Box | None = None  # where the defect is, original pixels; None for `ok` or without evidence
    reason: str | None = None  # for `unknown`: why no judgement was possible


# --- verdict ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Origin:
    """The part of a verdict that does not change from frame to frame; one object is shared by many verdicts."""

    thing: str
    line: str
    inspection: str
    camera: str
    boot_epoch: int  # names one start of the agent for good, below 2^53; later starts of a device have greater ones
    config_digest: str
    preprocess_digest: str
    model: ModelIdentity | None  # None while there is no usable model
    classes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict on one frame. The key `line/camera/boot_epoch/seq` de-duplicates it downstream."""

    origin: Origin
    seq: int
    captured_utc_ns: int
    judgement: Judgement
    latency_us: int  # from the frame's due time to the decision
    part_id: str | None = None
    image: str | None = None  # reference of the kept frame, relative to the state directory
    arm: str | None = None  # "champion" or "challenger" in a trial or an A/B test
    challenger_outcome: Outcome | None = None
    challenger_sha256: str | None = None
    decided_ns: int = field(default=0, compare=False)  # monotonic; stays on the device, for time to commit

    @property
    def key(self) -> str:
        """`line/camera/boot_epoch/seq`."""
        origin = self.origin
        return f"{origin.line}/{origin.camera}/{origin.boot_epoch}/{self.seq}"


@dataclass(frozen=True, slots=True)
class Observation:
    """One part as both models saw it, in a shadow, a trial or an A/B test. Raw outcomes: what each said by itself."""

    key: str  # of the verdict
    camera: str
    champion: Judgement
    challenger: Judgement  # `unknown` with a reason when it failed
    champion_us: int  # preprocessing, inference and decision, for this part
    challenger_us: int
    latency_us: int  # from the part's due time to the decision that counts
    image: str | None = None  # reference of the kept frame, where it was kept
    assigned: bool = True  # False: the part was inspected by the champion alone, and `challenger` repeats it


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message of the outbox as the sender publishes it. `token` identifies it towards the transport."""

    token: int
    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class TransportStats:
    """What a transport dropped since its start, and what its broker does not carry."""

    dropped: Mapping[str, int]  # cause -> messages or answers from the broker that were of no use
    refused: Mapping[str, str]  # feature (`shadow`, `status` ...) -> why the broker does not carry it
