"""`kensa bench collect`: the cost of collecting one frame in fifty, and whether the budget holds.

Two agents, the same but for the section `collect`, in interleaved rounds; a round's loss is taken inside the round, the
medians are reported. Saturated: frames come as fast as they are taken, so whatever collecting costs shows. Offered 480
frames/s: sixteen paced cameras. One part in a hundred is a defect, and one `ok` part in a hundred belongs to the random
sample. Frames are encoded, spooled with fsync, and moved to a folder, all of it while the line is measured.

Budget: the same line with a budget that is used up in the middle; bytes are counted at the target and in the spool.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np
import psutil

from agent import app, config
from simulator.bench.bench_report import BenchReport, ResultTable
from simulator.bench.inspection.bench_agent import ROI, GatedAgent, LoopSettings, cpu_name, make_config
from simulator.bench.inspection.frame_sources import PacedSource, render_defect, render_pool
from simulator.doubles.network.mqtt_broker import open_broker

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping, Sequence

    from agent.ports import FrameSource
    from agent.records import Pixels, Verdict
    from agent.wire import CollectionHealth
    from simulator.doubles.network.mqtt_broker import LocalBroker

CAMERAS: Final = 16
CAMERA_FPS: Final = 30.0
_CYCLE: Final = 100  # frames, of which one is a defect
_OK_SHARE: Final = 0.01
_BUDGET_FRAMES: Final = 20  # of about half a megabyte
_BUDGET_BYTES: Final = _BUDGET_FRAMES * 500_000
_WARM_UP_S: Final = 1.0
_MOST_LOST: Final = 0.02  # of the throughput


@dataclass(frozen=True, slots=True)
class CollectSettings:
    """How much is measured."""

    release: Path
    rounds: int = 5
    calls: int = 3_000  # frames of each saturated measurement
    paced_s: float = 10.0
    format: str = "jpg"


@dataclass(frozen=True, slots=True)
class PacedCollectionRun:
    """One paced run."""

    fps: float  # inspected
    dropped: int
    p99_ms: float
    cpu_cores: float  # of the inspecting process
    collection: CollectionHealth | None
    picture_bytes: int  # of every image in the spool or at the target

    @property
    def frames_kept(self) -> int:
        """Frames in the spool or beyond it."""
        return 0 if self.collection is None else sum(self.collection.kept.values())


@dataclass(frozen=True, slots=True)
class SaturatedRun:
    """Frames as fast as they are taken."""

    fps: float
    cpu_us: float  # of the inspecting process, a frame


@dataclass(frozen=True, slots=True)
class CollectionRound:
    """The same line without and with the collector."""

    plain: PacedCollectionRun
    collecting: PacedCollectionRun
    saturated: SaturatedRun
    saturated_collecting: SaturatedRun


@dataclass(frozen=True, slots=True)
class BudgetResult:
    """A day's budget that was used up."""

    limit_bytes: int
    booked_bytes: int  # as the spool says
    counted_bytes: int  # of every image that there is, at the target or waiting
    frames: int
    refused: int


@dataclass(frozen=True, slots=True)
class CollectResult:
    """Everything that `kensa bench collect` measured."""

    cpu: str
    cores: int
    broker: str
    format: str
    rounds: tuple[CollectionRound, ...]
    budget: BudgetResult
    saturated: CollectionHealth

    def summary(self) -> dict[str, Any]:
        """Flat figures under stable names."""
        kept = sum(r.collecting.frames_kept for r in self.rounds)
        skipped = sum(sum(_skipped(r.collecting)) for r in self.rounds)
        return {
            "loss_480fps": median(1.0 - r.collecting.fps / r.plain.fps for r in self.rounds),
            "loss_saturated": median(1.0 - r.saturated_collecting.fps / r.saturated.fps for r in self.rounds),
            "fps_480": median(r.plain.fps for r in self.rounds),
            "fps_480_collecting": median(r.collecting.fps for r in self.rounds),
            "fps_saturated": median(r.saturated.fps for r in self.rounds),
            "fps_saturated_collecting": median(r.saturated_collecting.fps for r in self.rounds),
            "cpu_us_a_frame": median(r.saturated.cpu_us for r in self.rounds),
            "cpu_us_a_frame_collecting": median(r.saturated_collecting.cpu_us for r in self.rounds),
            "drops_480fps": sum(r.plain.dropped for r in self.rounds),
            "drops_480fps_collecting": sum(r.collecting.dropped for r in self.rounds),
            "p99_ms": median(r.plain.p99_ms for r in self.rounds),
            "p99_ms_collecting": median(r.collecting.p99_ms for r in self.rounds),
            "cpu_cores": median(r.plain.cpu_cores for r in self.rounds),
            "cpu_cores_collecting": median(r.collecting.cpu_cores for r in self.rounds),
            "kept": kept,
            "left_out": skipped,
            "kept_saturated": sum(self.saturated.kept.values()),
            "left_out_saturated": sum(self.saturated.skipped.values()),
            "budget": asdict(self.budget),
            "budget_exceeded": max(self.budget.booked_bytes, self.budget.counted_bytes) > self.budget.limit_bytes,
            "format": self.format,
            "cpu": self.cpu,
            "cores": self.cores,
            "broker": self.broker,
            "rounds": len(self.rounds),
        }


def _skipped(run: PacedCollectionRun) -> list[int]:
    return [] if run.collection is None else list(run.collection.skipped.values())


def _section(target: Path, settings: CollectSettings, **changed: Any) -> config.CollectionConfig:
    target.mkdir()
    section = {"site": "bench", "target": str(target), "ok_share": _OK_SHARE, "format": settings.format, **changed}
    return config.CollectionConfig.model_validate(section)


def mix_defects(frames: Sequence[Pixels], defect: Pixels) -> list[Pixels]:
    """A cycle of parts of which one in a hundred is defective."""
    good = [frames[index % len(frames)] for index in range(_CYCLE - 1)]
    return [*good, defect]


def _paced(
    settings: CollectSettings,
    *,
    frames: list[Pixels],
    broker: LocalBroker,
    collects: Mapping[str, Any] | None,
    seconds: float,
) -> PacedCollectionRun:
    """Run the cameras for `seconds`; `collects` are changes to the section of an agent that collects."""
    sources: dict[str, FrameSource] = {
        f"cam{i:02d}": PacedSource(frames, fps=CAMERA_FPS, phase=i / CAMERAS) for i in range(CAMERAS)
    }
    latencies: list[int] = []

    def observe(verdicts: Sequence[Verdict]) -> None:
        latencies.extend(v.latency_us for v in verdicts)

    with tempfile.TemporaryDirectory(prefix="kensa-bench-") as name:
        base = Path(name)
        tree = make_config(
            LoopSettings(settings.release),
            broker=broker,
            state_dir=base / "state",
            cameras=CAMERAS,
            policy="newest",
            roi=ROI,
        )
        collect = None if collects is None else _section(base / "target", settings, **collects)
        agent = app.build(tree.model_copy(update={"collect": collect}), sources=sources, observe=observe)
        with agent:
            agent.wait(_WARM_UP_S)
            latencies.clear()
            usage, began = psutil.Process().cpu_times(), time.monotonic()
            agent.wait(seconds)
            inspected, used, wall = len(latencies), psutil.Process().cpu_times(), time.monotonic() - began
        accounts = [view.counters.snapshot() for view in agent.cameras.values()]
        collection = None if agent.components.collector is None else agent.components.collector.health()
        pictures = {path.name: path.stat().st_size for path in base.rglob(f"collected/**/*.{settings.format}")}
    return PacedCollectionRun(
        fps=inspected / wall,
        dropped=sum(account.dropped_total for account in accounts),
        p99_ms=float(np.percentile(latencies, 99)) / 1e3,
        cpu_cores=(used.user + used.system - usage.user - usage.system) / wall,
        collection=collection,
        picture_bytes=sum(pictures.values()),
    )


def _saturated(agent: GatedAgent, calls: int) -> SaturatedRun:
    before = psutil.Process().cpu_times()
    fps = agent.measure(calls)
    used = psutil.Process().cpu_times()
    return SaturatedRun(fps, 1e6 * (used.user + used.system - before.user - before.system) / calls)


def _budget(settings: CollectSettings, *, frames: list[Pixels], broker: LocalBroker) -> BudgetResult:
    changed = {"ok_share": 1.0, "max_bytes_per_day": _BUDGET_BYTES}
    run = _paced(settings, frames=frames, broker=broker, collects=changed, seconds=settings.paced_s)
    health = run.collection
    if health is None:
        raise RuntimeError("this agent collects")
    return BudgetResult(
        limit_bytes=_BUDGET_BYTES,
        booked_bytes=health.day_bytes,
        counted_bytes=run.picture_bytes,
        frames=run.frames_kept,
        refused=health.dropped.get("budget", 0),
    )


def run_collect(settings: CollectSettings, *, report: Callable[[str], None]) -> CollectResult:
    """Measure everything; some minutes. Raises a KensaError when the release or a broker is missing."""
    cv2.setNumThreads(1)  # as the agent does: the workers are the parallelism
    report("rendering frames")
    frames = mix_defects(render_pool(), render_defect())
    rounds: list[CollectionRound] = []
    with open_broker() as broker, tempfile.TemporaryDirectory(prefix="kensa-bench-") as target:
        section = _section(Path(target) / "saturated", settings)
        plain = GatedAgent(LoopSettings(settings.release), broker=broker, frames=frames, roi=ROI)
        collecting = GatedAgent(LoopSettings(settings.release), broker=broker, frames=frames, roi=ROI, collect=section)
        try:
            for number in range(settings.rounds + 1):  # the first, which warms everything up, does not count
                calls = settings.calls if number else settings.calls // 10
                saturated, saturated_collecting = _saturated(plain, calls), _saturated(collecting, calls)
                seconds = settings.paced_s if number else _WARM_UP_S
                sections: tuple[Mapping[str, Any] | None, ...] = (None, {})
                runs = [
                    _paced(settings, frames=frames, broker=broker, collects=collects, seconds=seconds)
                    for collects in sections
                ]
                rounds.append(CollectionRound(runs[0], runs[1], saturated, saturated_collecting))
                report(f"round {number} of {settings.rounds}" if number else "warmed up")
            saturation = collecting.collection()
        finally:
            plain.close()
            collecting.close()
        report("a budget that is used up")
        budget = _budget(settings, frames=frames, broker=broker)
        kind = broker.kind
    if saturation is None:
        raise RuntimeError("this agent collects")
    return CollectResult(
        cpu=cpu_name(),
        cores=len(psutil.Process().cpu_affinity()),
        broker=kind,
        format=settings.format,
        rounds=tuple(rounds[1:]),
        budget=budget,
        saturated=saturation,
    )


def run_command(arguments: argparse.Namespace, *, report: Callable[[str], None]) -> BenchReport:
    """`kensa bench collect`."""
    settings = CollectSettings(release=arguments.release, rounds=arguments.rounds, format=arguments.format)
    if arguments.quick:
        settings = CollectSettings(release=arguments.release, rounds=1, calls=300, paced_s=1.5, format=arguments.format)
    figures = run_collect(settings, report=report).summary()
    table = ResultTable(
        f"kensa bench collect · {figures['cpu']}, {figures['cores']} cores · {figures['format']}", "median"
    )
    for what, loss, plain, collecting in (
        ("480 frames/s offered", "loss_480fps", "fps_480", "fps_480_collecting"),
        ("saturated", "loss_saturated", "fps_saturated", "fps_saturated_collecting"),
    ):
        name = f"{what}: throughput lost to collecting ({figures[plain]:.0f} and {figures[collecting]:.0f} frames/s)"
        table.add_result(name, f"<= {100 * _MOST_LOST:.0f} %", f"{figures[loss]:.2%}", met=figures[loss] <= _MOST_LOST)
    table.add_shown(
        f"480 frames/s offered: p99 due time to decision ({figures['kept']} kept, {figures['left_out']} left out)",
        f"{figures['p99_ms']:.1f}, {figures['p99_ms_collecting']:.1f} ms",
    )
    budget = figures["budget"]
    name = f"bytes beyond a budget of {budget['limit_bytes']:,} ({budget['frames']} kept, {budget['refused']} refused)"
    beyond = max(0, max(budget["booked_bytes"], budget["counted_bytes"]) - budget["limit_bytes"])
    table.add_result(name, "0", f"{beyond:,}", met=not beyond)
    return BenchReport(table, figures)
