"""The seams: Protocols, only where two real implementations exist.

FrameSource: folder, streams, MJPEG, the simulated line. Transport: MQTT through paho, the simulator's broker in memory.
VerdictSink: the outbox, and what stands before it in `agent.app.sinks`. Model: ONNX Runtime; challengers come with the
model lifecycle.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agent.records import DecisionRule, Geometry, Grab, ModelIdentity, Pixels, Scores, Verdict


class FrameSource(Protocol):
    """One camera. Used from one capture thread only; that thread does the retries, the source only reports.

    Triggered sources set `part_id` in each Grab. `read` may block up to `timeout_s`; it must never block longer.
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
        """Which bytes these are."""

    @property
    def geometry(self) -> Geometry:
        """How frames become its inputs."""

    @property
    def rule(self) -> DecisionRule:
        """How its scores become outcomes."""

    @property
    def preprocess_digest(self) -> str:
        """Digest of the geometry and the preprocessing version, as the manifest states it."""

    def infer(self, batch: Pixels) -> Scores:
        """Judge `batch` [N, H, W, C] uint8, N >= 1. Raises InferenceError when the runtime fails."""


class Transport(Protocol):
    """A way to the broker. The outbox stays in charge: nothing is queued here beyond the in-flight bound."""

    @property
    def max_in_flight(self) -> int:
        """How many unacknowledged publishes it accepts at once."""

    def start(self, *, on_ack: Callable[[int], None], on_connection: Callable[[bool, str], None]) -> None:
        """Connect in the background and keep reconnecting with jittered back-off.

        `on_ack(token)` is called once a publish is acknowledged; `on_connection(up, reason)` on every change. Both are
        called from the transport's own thread, may only put to a queue, and never block.
        """

    def publish(self, token: int, topic: str, payload: bytes) -> None:
        """Hand over one QoS 1 message without waiting. Raises TransportError when it cannot be taken now."""

    def close(self, *, timeout_s: float) -> None:
        """Disconnect cleanly within `timeout_s` seconds; safe to call twice."""


class VerdictSink(Protocol):
    """Where the hot loop puts verdicts. Called from worker threads; must return in microseconds and never drop."""

    def append(self, verdicts: Sequence[Verdict]) -> None:
        """Take ownership of the verdicts; blocks only when the bounded hand-over is full."""
