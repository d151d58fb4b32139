"""The product's own composition with cameras and rates that a benchmark controls."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psutil

from agent import app, config
from agent.adapters.onnx import OnnxModel
from simulator.bench.inspection.frame_sources import GatedSource

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agent.records import Pixels
    from agent.wire import CollectionHealth
    from simulator.doubles.network.mqtt_broker import LocalBroker

ROI: Final = (512, 92, 896, 896)  # of the simulated line's 1080p camera
_LEAST_FRAME_S: Final = 0.0002  # no frame takes less of a core: sleeping for as many never sleeps past the end
_SETTLE_S: Final = 30.0  # longest wait for the outbox to drain between measurements


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """How much is measured."""

    release: Path
    rounds: int = 5
    calls: int = 2_000  # frames for each figure of a round
    naive_calls: int = 600
    paced_s: float = 20.0
    roi: tuple[int, int, int, int] = ROI


def make_config(
    settings: LoopSettings,
    *,
    broker: LocalBroker,
    state_dir: Path,
    cameras: int,
    policy: str,
    roi: Sequence[int] | None,
    thresholds: Mapping[str, float] | None = None,
) -> config.Config:
    """The product's own configuration with cameras that the bench brings itself."""
    named = {f"cam{i:02d}": {"kind": "plugin", "source": "bench"} for i in range(cameras)}
    tree = {
        "thing": "bench",
        "line": "bench",
        "state_dir": str(state_dir),
        "transport": {
            "kind": "mqtt",
            "host": broker.host,
            "port": broker.port,
            "protocol": broker.protocol,
        },
        "inspections": {
            "part": {
                "release": str(settings.release.resolve()),
                "roi": None if roi is None else list(roi),
                "intake": {"policy": policy, "capacity": 32},
                "cameras": named,
                **({"thresholds": dict(thresholds)} if thresholds else {}),
            }
        },
    }
    return config.parse(tree, source="bench", base=state_dir)


class GatedAgent:
    """An agent with one gated camera, which stays up over all rounds."""

    def __init__(
        self,
        settings: LoopSettings,
        *,
        broker: LocalBroker,
        frames: list[Pixels],
        roi: Sequence[int] | None,
        collect: config.CollectionConfig | None = None,
    ) -> None:
        self._dir = tempfile.TemporaryDirectory(prefix="kensa-bench-")
        self._source = GatedSource(frames)
        # Whole frames are not what the bundled release was trained on: no score may turn them into a flood of defects.
        model = OnnxModel.load(settings.release)
        tree = make_config(
            settings,
            broker=broker,
            state_dir=Path(self._dir.name),
            cameras=1,
            policy="wait",
            roi=roi,
            thresholds=dict.fromkeys(model.rule.defects, 1.0),
        )
        self._agent = app.build(tree.model_copy(update={"collect": collect}), sources={"cam00": self._source})
        self._agent.start()
        self._least_s = _LEAST_FRAME_S / len(psutil.Process().cpu_affinity())

    def measure(self, calls: int) -> float:
        """Frames per second from the first capture to the last decision."""
        counters = self._agent.cameras["cam00"].counters
        target = counters.snapshot().inspected + calls
        began = time.perf_counter()
        self._source.allow(calls)
        while (left := target - counters.snapshot().inspected) > 0:
            # Looking every 2 ms, which is no part of the agent, cost 30 us of CPU a frame on a busy machine; this: 3.
            time.sleep(left * self._least_s)
        rate = calls / (time.perf_counter() - began)
        self.settle()
        return rate

    def settle(self) -> None:
        """Wait until everything is delivered, so that nothing runs into the next measurement."""
        deadline = time.monotonic() + _SETTLE_S
        while (
            self._agent.outbox.stats().verdicts + self._agent.outbox.stats().uncommitted and time.monotonic() < deadline
        ):
            time.sleep(0.05)

    def collection(self) -> CollectionHealth | None:
        """What the collector says; None where there is none."""
        return None if self._agent.components.collector is None else self._agent.components.collector.health()

    def close(self) -> None:
        """Stop and remove the state."""
        self._agent.stop()
        self._dir.cleanup()


def cpu_name() -> str:
    """The processor, as /proc/cpuinfo names it."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown"
