"""The ports: protocols between layers, only where two real implementations exist.

FrameSource: folder, streams, MJPEG, the simulated line. Transport: MQTT through paho, the simulator's broker in memory.
VerdictSink: the outbox, and the sinks before it in `agent.app.composition`. Model: ONNX Runtime, the simulator's.
ReleaseFetcher and SelfTester: child processes on a device, the simulator's in-process ones for a virtual day.
DesiredState: the control socket, the named shadow over MQTT, and on Greengrass the deployment.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from agent.images.plausibility import ImageLimits
    from agent.records import DecisionRule, Geometry, Grab, ModelIdentity, Pixels, Scores, TransportStats, Verdict
    from agent.release_records import (
        DesiredRelease,
        FetchedRelease,
        ModelStatus,
        RepositoryStatus,
        SelfTestLimits,
        SelfTestResult,
    )


class FrameSource(Protocol):
    """One camera. Used from one capture thread only; that thread does the retries, the source only reports.

    Triggered sources set `part_id` in each Grab. `read` may block up to `timeout_s`; it must never block longer. A live
    camera's source returns the newest exposure, stamped with its arrival, and reports how many older ones it `skipped`
    for it: an image must not age in a queue without being counted (`agent.inspection.latest_frames` does this for any
    source). A source of another package is live if it has an attribute `live` that is True. A finite source that skips
    files (images of a kind that is not read) describes them in an attribute `skipped_files`, one sentence or None, once
    it is open. A camera that repeats an image is classified as frozen, unless its source has an attribute `may_repeat`
    that is True, such as a source that replays images.
    """

    def open(self) -> None:
        """Connect and start delivering. Raises CameraError with what to do; safe to call again after `close`."""

    def read(self, *, timeout_s: float, buffer: Pixels | None) -> Grab | None:
        """Return the next exposure, or None when none arrived within `timeout_s` seconds.

        `buffer` is a free [H, W, C] or [H, W] uint8 array of the size that the last frame had, or None; a source that
        can decodes into it so that nothing is allocated, a source that owns its pixels ignores it. Raises FrameError
        for an exposure that cannot be used (it counts as captured and dropped), CameraError when the camera is gone
        (the caller closes and reopens), SourceEndedError when it is finite and done.
        """

    def close(self) -> None:
        """Release the camera; safe to call twice and after a failed `open`."""


class Model(Protocol):
    """A loaded model: immutable, and safe to call from several threads at once."""

    @property
    def identity(self) -> ModelIdentity:
        """The identity of its bytes."""

    @property
    def geometry(self) -> Geometry:
        """How frames become its inputs."""

    @property
    def rule(self) -> DecisionRule:
        """How its scores become outcomes."""

    @property
    def preprocess_digest(self) -> str:
        """Digest of the geometry and the preprocessing version, as the manifest states it."""

    @property
    def image_limits(self) -> ImageLimits | None:
        """The range of its golden set's images; None where it is not known: no image is checked then."""

    def infer(self, batch: Pixels) -> Scores:
        """Run the model on `batch` [N, H, W, C] uint8, N >= 1. Raises InferenceError when the runtime fails."""


class Transport(Protocol):
    """A connection to the broker. The outbox owns the queue: nothing is queued here beyond the in-flight bound."""

    @property
    def max_in_flight(self) -> int:
        """The number of unacknowledged publishes that it accepts at once.

        It may change with each connection, down to the broker's Receive Maximum: read it each time, from any thread.
        """

    @property
    def stats(self) -> TransportStats:
        """What was dropped and what the broker does not support; from any thread."""

    def start(
        self,
        *,
        on_ack: Callable[[int], None],
        on_reject: Callable[[int, str], None],
        on_connection: Callable[[bool, str], None],
    ) -> None:
        """Connect in the background and keep reconnecting with jittered back-off.

        `on_ack(token)` is called once a publish is acknowledged; `on_reject(token, reason)` when the broker refused
        that one message while the connection stays: the token is finished, as after an acknowledgement;
        `on_connection(up, reason)` on every change. All are called from the transport's own threads (`on_ack` and
        `on_reject` also from within `publish`), may only put to a queue, and never block.
        """

    def subscribe(self, topic: str, on_message: Callable[[str, bytes], None]) -> None:
        """Deliver what arrives on `topic` (no wildcards) to `on_message(topic, payload)`. Call before `start`.

        Subscriptions are renewed on every connection, before `on_connection(True, ...)`. `on_message` is called from
        the transport's own thread and never blocks; a payload over the transport's limit is dropped and counted.
        """

    def publish(self, token: int, topic: str, payload: bytes) -> None:
        """Publish one QoS 1 message without waiting. Raises TransportError when it cannot be accepted now."""

    def close(self, *, timeout_s: float) -> None:
        """Disconnect cleanly within `timeout_s` seconds; safe to call twice."""


class VerdictSink(Protocol):
    """Takes verdicts from the hot loop. Called from worker threads; must return in microseconds and never drop."""

    def append(self, verdicts: Sequence[Verdict]) -> None:
        """Take ownership of the verdicts; blocks only when the bounded hand-over is full."""


# --- model lifecycle --------------------------------------------------------------------------------------------------


def _ignore_progress(_done: int, _total: int) -> None:
    """Report nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchJob:
    """One fetch.

    `into` is the folder for the files; it may hold some of them from an earlier attempt. The expiry of metadata is
    checked at `trusted_utc_s` or now, whichever is later. `on_progress(done, total)` counts bytes and is called from
    the fetching thread.
    """

    release_id: str  # name/version
    into: Path
    trusted_utc_s: float
    stop: threading.Event
    on_progress: Callable[[int, int], None] = _ignore_progress


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfTestJob:
    """One self-test of the release folder `candidate`."""

    candidate: Path
    champion: Path | None  # the folder of the active release
    acceptance: Path | None  # the folder of labelled parts
    limits: SelfTestLimits
    stop: threading.Event


class ReleaseFetcher(Protocol):
    """Fetches a release to this disk, every byte verified against metadata signed under `1.root.json`."""

    def fetch(self, job: FetchJob) -> FetchedRelease:
        """Fetch the release of `job`.

        Raises ReleaseRefusedError (gate `fetch`, `contract` or `revoked`: do not retry), FetchError (retry
        later), and ends with FetchError `stopped` soon after `job.stop` is set.
        """

    def refresh(self, *, trusted_utc_s: float, stop: threading.Event) -> RepositoryStatus:
        """Refresh the metadata only: which releases are revoked, and when that was signed.

        Takes at most a minute or so. Raises FetchError, `stopped` soon after `stop` is set.
        """


class SelfTester(Protocol):
    """Tests a fetched release apart from the line, under limits, before it may inspect a live frame."""

    def run_self_test(self, job: SelfTestJob) -> SelfTestResult:
        """Test the candidate of `job` on its golden set, the site's labelled parts and against the champion.

        Raises ReleaseRefusedError naming the gate, FetchError `self_test_*` when this machine could not run the test
        now, FetchError `stopped` soon after `job.stop` is set.
        """


class DesiredState(Protocol):
    """Receives desired releases and reports the state. Hints have no authority; duplicates are harmless."""

    def start(self, *, on_desired: Callable[[str, DesiredRelease], None]) -> None:
        """Start; `on_desired(inspection, desired)` is called from any thread, and never blocks."""

    def report(self, status: ModelStatus) -> None:
        """Report a status; never blocks, the newest status of an inspection wins."""

    def close(self) -> None:
        """Stop; safe to call twice."""
