"""An MQTT client that counts what reached the broker against the device's own frame numbers.

Promise: a verdict counts once by its key, however often it comes. A frame is lost when the device captured it and no
verdict came: numbers below the highest that are missing, and those that the last heartbeat of a start counts beyond. A
frame is counted twice when a number carries another part than the one in that place of the camera's folder.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from agent import wire
from agent.errors import MessageError, OperatorError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agent.records import Outcome, Verdict
    from agent.wire import Gap, Heartbeat, ModelReport

_START_S: Final = 15.0
_POLL_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Arrival:
    """One message; `utc_ns` is when it came."""

    utc_ns: int
    topic: str
    payload: bytes
    qos: int


@dataclass(frozen=True, slots=True)
class ArrivedFrame:
    """One frame as it arrived first."""

    outcome: Outcome
    captured_utc_ns: int
    latency_us: int  # from due time to decision
    arrived_utc_ns: int
    release: str


@dataclass(slots=True)
class CameraStream:
    """One camera in one start of the agent."""

    inspected: dict[int, ArrivedFrame] = field(default_factory=dict)  # by number
    misplaced: int = 0  # verdicts on a part that another number's frame was
    captured: int = 0  # as the last heartbeat has it
    dropped: int = 0

    @property
    def first_utc_ns(self) -> int:
        """When its first frame was captured."""
        return min(inspected.captured_utc_ns for inspected in self.inspected.values())

    @property
    def last_utc_ns(self) -> int:
        """When its newest frame was captured."""
        return max(inspected.captured_utc_ns for inspected in self.inspected.values())

    @property
    def lost(self) -> int:
        """Frames that the device captured and nobody heard of; those that it dropped among them."""
        return max(self.captured, max(self.inspected, default=-1) + 1) - len(self.inspected)


class VerdictListener:
    """Subscribes to everything of Kensa; use as a context manager. `look` decodes what came since the last look."""

    def __init__(self, *, host: str, port: int, parts: Sequence[str]) -> None:
        """`parts` are the images of a camera's folder in their order."""
        self._place = {part: index for index, part in enumerate(parts)}
        self._address = (host, port)
        self._ready = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id="bench-listener", clean_session=False)
        self._client.on_connect = lambda client, *_: client.subscribe("kensa/#", qos=1)
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.on_message = self._received
        self._decoded = 0
        self.arrivals: list[Arrival] = []
        self.streams: dict[tuple[str, int], CameraStream] = {}  # by camera and boot epoch
        self.duplicates = 0  # verdicts that came more than once
        self.refused = 0  # messages that cannot be decoded
        self.gaps: list[Gap] = []
        self.heartbeat: Heartbeat | None = None  # the newest
        self.report: ModelReport | None = None  # the newest
        self.newest: Verdict | None = None

    def __enter__(self) -> Self:
        """Connect. Raises OperatorError when the broker does not answer."""
        self._client.connect(*self._address)
        self._client.loop_start()
        if not self._ready.wait(_START_S):
            raise OperatorError(f"no broker answers at {self._address[0]}:{self._address[1]}")
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the broker."""
        self._client.disconnect()
        self._client.loop_stop()

    def wait(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Look until `condition` holds; False when it does not within `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while True:
            self.process_arrivals()
            if condition():
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_S)

    def wait_for_more(self, frames: int, timeout_s: float) -> bool:
        """Wait until so many more frames arrived."""
        self.process_arrivals()
        wanted = self.unique + frames
        return self.wait(lambda: self.unique >= wanted, timeout_s)

    @property
    def unique(self) -> int:
        """Frames that arrived, each counted once."""
        return sum(len(stream.inspected) for stream in self.streams.values())

    @property
    def lost(self) -> int:
        """Frames that were captured and did not arrive."""
        return sum(stream.lost for stream in self.streams.values())

    @property
    def dropped(self) -> int:
        """Frames that the device itself says it did not inspect."""
        return sum(stream.dropped for stream in self.streams.values())

    @property
    def double_counted(self) -> int:
        """Frames that were counted under a number that is another frame's."""
        return sum(stream.misplaced for stream in self.streams.values())

    def is_running(self, release: str) -> bool:
        """Whether the inspection says that it runs `name/version`, and nothing is on its way."""
        report = self.report
        if report is None or report.active is None or report.state != "idle":
            return False
        return f"{report.active.name}/{report.active.version}" == release

    def refusal_of(self, release: str) -> str | None:
        """Why the inspection says that it refused `name/version`; None while it does not."""
        report = self.report
        if report is None or report.refused is None or report.refusal is None:
            return None
        if f"{report.refused.name}/{report.refused.version}" != release:
            return None
        return f"{report.refusal.gate}: {report.refusal.reason}"

    def process_arrivals(self) -> None:
        """Take in what arrived."""
        while self._decoded < len(self.arrivals):
            arrival = self.arrivals[self._decoded]
            self._decoded += 1
            try:
                content = wire.decode(arrival.payload)
            except MessageError:
                self.refused += 1
                continue
            match content:
                case wire.DecodedVerdicts():
                    for verdict in content.verdicts:
                        self._take(verdict, arrival)
                case wire.Heartbeat():
                    self._take_heartbeat(content)
                case wire.ModelReport():
                    self.report = content
                case wire.Gap():
                    self.gaps.append(content)

    def _take(self, verdict: Verdict, arrival: Arrival) -> None:
        origin, model = verdict.origin, verdict.origin.model
        stream = self.streams.setdefault((origin.camera, origin.boot_epoch), CameraStream())
        if verdict.seq in stream.inspected:
            self.duplicates += 1
            return
        stream.inspected[verdict.seq] = ArrivedFrame(
            verdict.judgement.outcome,
            verdict.captured_utc_ns,
            verdict.latency_us,
            arrival.utc_ns,
            "" if model is None else f"{model.name}/{model.version}",
        )
        if self._place.get(verdict.part_id or "") != verdict.seq % len(self._place):
            stream.misplaced += 1
        if self.newest is None or verdict.captured_utc_ns > self.newest.captured_utc_ns:
            self.newest = verdict

    def _take_heartbeat(self, heartbeat: Heartbeat) -> None:
        self.heartbeat = heartbeat
        for camera in heartbeat.cameras:
            stream = self.streams.setdefault((camera.camera, heartbeat.boot_epoch), CameraStream())
            if camera.captured >= stream.captured:
                stream.captured, stream.dropped = camera.captured, sum(camera.dropped.values())

    def _received(self, _client: object, _userdata: object, message: paho.MQTTMessage) -> None:
        """Thread of paho."""
        self.arrivals.append(Arrival(time.time_ns(), message.topic, bytes(message.payload), message.qos))
