"""`kensa bench publish`: age of a verdict at a subscriber, packed and published at once.

The whole agent inspects paced frames of the simulated line with the bundled release, one in ten with a defect, and
publishes to a broker of its own on the loopback; a subscriber in the same process notes when each message arrives. The
age runs from the exposure (`captured_utc_us`) to the subscriber's callback, both by the same clock: inspection, the
commit to disk with fsync, and the way through the broker are in it. Verdicts that the warm-up made do not count.
"""

from __future__ import annotations

import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from agent import app
from agent.wire import DecodedVerdicts, decode
from simulator.bench.bench_report import BenchReport, ResultTable
from simulator.bench.inspection.bench_agent import LoopSettings, make_config
from simulator.bench.inspection.frame_sources import PacedSource, render_defect, render_pool
from simulator.doubles.network.mqtt_broker import open_broker

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from agent.ports import FrameSource
    from simulator.doubles.network.mqtt_broker import LocalBroker

_WARM_S: Final = 3.0
_PUBLISH_MODES: Final[tuple[Literal["packed", "at_once"], ...]] = ("packed", "at_once")
_GOOD_FRAMES: Final = 9  # before each defect
TARGET_MS: Final = 50.0


@dataclass(frozen=True, slots=True)
class PublishLatency:
    """Milliseconds from exposure to subscriber."""

    publish: str
    outcome: str
    verdicts: int
    p50_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True, slots=True)
class PublishResult:
    """One row for each way of publishing and each outcome that was seen."""

    fps: float
    seconds: float
    broker: str
    ages: tuple[PublishLatency, ...]

    @property
    def at_once_p99_ms(self) -> float:
        """The worst p99 with `publish: at_once`, over all outcomes."""
        return max(row.p99_ms for row in self.ages if row.publish == "at_once")

    def to_json(self) -> dict[str, Any]:
        """Return plain values for `json.dumps`."""
        return asdict(self) | {"at_once_p99_ms": self.at_once_p99_ms}


class _Subscriber:
    """Notes the age of each verdict once, by outcome."""

    def __init__(self, broker: LocalBroker) -> None:
        self.ages_ms: dict[str, list[float]] = {}
        self.since_ns = 0  # verdicts of before do not count
        self._seen: set[str] = set()
        self._subscribed = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id="bench-subscriber")
        self._client.on_connect = lambda client, *_: client.subscribe("kensa/+/verdicts/+", qos=1)
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = self._take
        self._client.connect(broker.host, broker.port)
        self._client.loop_start()
        if not self._subscribed.wait(30.0):
            raise TimeoutError("the broker did not answer the subscription within 30 s")

    def _take(self, _client: object, _userdata: object, message: paho.MQTTMessage) -> None:
        now_ns = time.time_ns()
        found = decode(bytes(message.payload))
        for verdict in found.verdicts if isinstance(found, DecodedVerdicts) else ():
            if verdict.captured_utc_ns >= self.since_ns and verdict.key not in self._seen:
                self._seen.add(verdict.key)
                age_ms = (now_ns - verdict.captured_utc_ns) / 1e6
                self.ages_ms.setdefault(str(verdict.judgement.outcome), []).append(age_ms)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def run_publish(
    *, release: Path, fps: float = 30.0, seconds: float = 60.0, report: Callable[[str], None]
) -> PublishResult:
    """Measure both ways for `seconds` each. Raises a KensaError when the release or a broker is missing."""
    report("rendering frames")
    settings = LoopSettings(release=release)
    frames = [*render_pool()[:_GOOD_FRAMES], render_defect()]
    rows: list[PublishLatency] = []
    with open_broker() as broker:
        for publish in _PUBLISH_MODES:
            report(f"publish: {publish}, {fps:g} frames/s for {seconds:g} s")
            source = PacedSource(frames, fps=fps, phase=0.0)
            rows += _measure_latency(settings, source, broker=broker, publish=publish, seconds=seconds)
        kind = broker.kind
    return PublishResult(fps, seconds, kind, tuple(rows))


def _measure_latency(
    settings: LoopSettings,
    source: FrameSource,
    *,
    broker: LocalBroker,
    publish: Literal["packed", "at_once"],
    seconds: float,
) -> list[PublishLatency]:
    with tempfile.TemporaryDirectory(prefix="kensa-bench-") as folder:
        tree = make_config(
            settings, broker=broker, state_dir=Path(folder), cameras=1, policy="newest", roi=settings.roi
        )
        part = tree.inspections["part"].model_copy(update={"publish": publish})
        subscriber = _Subscriber(broker)
        with app.build(tree.model_copy(update={"inspections": {"part": part}}), sources={"cam00": source}) as agent:
            agent.wait(_WARM_S)
            subscriber.since_ns = time.time_ns()
            agent.wait(seconds)
        subscriber.close()
    return [
        PublishLatency(
            publish=publish,
            outcome=outcome,
            verdicts=len(ages),
            p50_ms=round(float(np.percentile(ages, 50)), 2),
            p99_ms=round(float(np.percentile(ages, 99)), 2),
            max_ms=round(max(ages), 2),
        )
        for outcome, ages in sorted(subscriber.ages_ms.items())
    ]


def run_command(arguments: argparse.Namespace, *, report: Callable[[str], None]) -> BenchReport:
    """`kensa bench publish`."""
    result = run_publish(release=arguments.release, seconds=6.0 if arguments.quick else 60.0, report=report)
    title = f"kensa bench publish · {result.fps:g} frames/s, {result.broker} on the loopback"
    table = ResultTable(title, "p99", what="from exposure to subscriber")
    for age in result.ages:
        name = f"{age.publish}: {age.outcome} ({age.verdicts:,} verdicts, p50 {age.p50_ms:.1f} ms)"
        if age.publish == "at_once":
            table.add_result(name, f"<= {TARGET_MS:g} ms", f"{age.p99_ms:.1f} ms", met=age.p99_ms <= TARGET_MS)
        else:
            table.add_shown(name, f"{age.p99_ms:.1f} ms", "")
    return BenchReport(table, result.to_json())
