"""`kensa bench loop`: compares the agent with its upper bounds, the samples' loop and the clock.

Throughput: per round, interleaved in one run: inference alone, preprocessing alone, the agent (full frame), the agent
(ROI), the samples' loop; the ratios are taken inside the round, their medians are reported. The agent is the product,
composed by `app.build`: capture thread, intake, workers, decision, outbox on disk, QoS 1 to the broker. Its rate is
that of frames inspected while outbox and sender work beside it; between rounds it drains. Paced: cameras on a fixed
grid, evenly staggered; latency is exact, from due time to decision.
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

from agent import app
from agent.adapters.onnx import OnnxModel
from simulator.bench.bench_report import BenchReport, ResultTable
from simulator.bench.inspection import ideal_throughput
from simulator.bench.inspection.bench_agent import GatedAgent, LoopSettings, cpu_name, make_config
from simulator.bench.inspection.frame_sources import PacedSource, render_defect, render_pool
from simulator.bench.inspection.naive_loop import NaiveLoop
from simulator.bench.inspection.process_footprint import measure_process
from simulator.doubles.network.mqtt_broker import open_broker

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from agent.ports import FrameSource
    from agent.records import Pixels, Verdict
    from simulator.doubles.network.mqtt_broker import LocalBroker

# Targets.
_LEAST_FULL: Final = 0.95
_LEAST_ROI: Final = 0.93
_LEAST_NAIVE: Final = 3.5
_LEAST_PREPROCESS: Final = 7
_MOST_RMSE: Final = 2  # grey levels
_MOST_P99_MS: Final = (5.0, 10.0)  # at 30 and 480 frames/s
_MOST_CORES: Final = 0.12
_MOST_MB: Final = 110
_MOST_START_S: Final = 1.5


@dataclass(frozen=True, slots=True)
class ThroughputRound:
    """Frames per second of one interleaved round."""

    raw: float
    preprocess: float
    preprocess_roi: float
    direct_area: float
    loop: float
    loop_roi: float
    naive: float

    @property
    def ideal_fps(self) -> float:
        """1 / (1/raw + 1/preprocess), whole frame."""
        return 1.0 / (1.0 / self.raw + 1.0 / self.preprocess)

    @property
    def ideal_fps_roi(self) -> float:
        """The same with the ROI."""
        return 1.0 / (1.0 / self.raw + 1.0 / self.preprocess_roi)


@dataclass(frozen=True, slots=True)
class PacedResult:
    """Cameras on a grid."""

    cameras: int
    fps: float  # all cameras together
    inspected: int
    dropped: int
    p50_ms: float
    p99_ms: float
    commit_p99_ms: float | None  # of defect, unsure and unknown parts, from due time until they are on disk
    cpu_cores: float  # of the process, the cameras' pacing included


@dataclass(frozen=True, slots=True)
class LoopResult:
    """Everything that `kensa bench loop` measured."""

    cpu: str
    cores: int
    broker: str
    model: str
    rounds: tuple[ThroughputRound, ...]
    rmse_against_area: float  # grey levels, whole frames
    rmse_against_area_roi: float
    paced: tuple[PacedResult, ...]
    rss_mb: float
    rss_peak_mb: float
    first_verdict_s: float
    forbidden_modules: tuple[str, ...]  # of boto3, tuf, torch: those that the process imported

    def summary(self) -> dict[str, Any]:
        """Flat figures under stable names."""
        by_fps = {round(p.fps): p for p in self.paced}
        return {
            "floor_ratio_full": median(r.loop / r.ideal_fps for r in self.rounds),
            "floor_ratio_roi": median(r.loop_roi / r.ideal_fps_roi for r in self.rounds),
            "naive_ratio": median(r.loop / r.naive for r in self.rounds),
            "preprocess_ratio": median(r.preprocess / r.direct_area for r in self.rounds),
            "rmse_against_area": self.rmse_against_area,
            "rmse_against_area_roi": self.rmse_against_area_roi,
            "p99_ms_30fps": by_fps[30].p99_ms,
            "p99_ms_480fps": by_fps[480].p99_ms,
            "commit_p99_ms_30fps": by_fps[30].commit_p99_ms,
            "commit_p99_ms_480fps": by_fps[480].commit_p99_ms,
            "drops_480fps": by_fps[480].dropped,
            "cpu_cores_30fps": by_fps[30].cpu_cores,
            "rss_mb": self.rss_mb,
            "rss_peak_mb": self.rss_peak_mb,
            "first_verdict_s": self.first_verdict_s,
            "forbidden_modules": list(self.forbidden_modules),
            "fps": {name: median(getattr(r, name) for r in self.rounds) for name in asdict(self.rounds[0])},
            "cpu": self.cpu,
            "cores": self.cores,
            "broker": self.broker,
            "model": self.model,
            "rounds": len(self.rounds),
        }


def run_rounds(
    settings: LoopSettings,
    *,
    model: OnnxModel,
    frames: list[Pixels],
    broker: LocalBroker,
    report: Callable[[str], None],
) -> tuple[ThroughputRound, ...]:
    """Measure all rounds, interleaved; the first, which warms everything up, does not count."""
    threads = len(psutil.Process().cpu_affinity())
    inputs = ideal_throughput.preprocess_inputs(model, frames, roi=None)
    full = GatedAgent(settings, broker=broker, frames=frames, roi=None)
    part = GatedAgent(settings, broker=broker, frames=frames, roi=settings.roi)
    naive = NaiveLoop(
        float_model=settings.release / "float.onnx", geometry=model.geometry, host=broker.host, port=broker.port
    )
    rounds = []
    try:
        for number in range(settings.rounds + 1):
            calls = settings.calls if number else settings.calls // 10
            rounds.append(
                ThroughputRound(
                    raw=ideal_throughput.inference_throughput(model, inputs, threads=threads, calls=calls),
                    preprocess=ideal_throughput.preprocess_throughput(
                        model, frames, roi=None, threads=threads, calls=calls
                    ),
                    loop=full.measure(calls),
                    preprocess_roi=ideal_throughput.preprocess_throughput(
                        model, frames, roi=settings.roi, threads=threads, calls=calls
                    ),
                    loop_roi=part.measure(calls),
                    direct_area=ideal_throughput.area_resize_throughput(
                        model, frames, threads=threads, calls=max(2, calls // 8)
                    ),
                    naive=naive.run(frames, settings.naive_calls if number else 50),
                )
            )
            report(f"round {number} of {settings.rounds}" if number else "warmed up")
    finally:
        naive.close()
        full.close()
        part.close()
    return tuple(rounds[1:])


def run_paced(
    settings: LoopSettings, *, frames: list[Pixels], broker: LocalBroker, cameras: int, fps: float
) -> PacedResult:
    """Run `cameras` x `fps` for `paced_s` seconds after one of warming up."""
    sources: dict[str, FrameSource] = {
        f"cam{i:02d}": PacedSource(frames, fps=fps, phase=i / cameras) for i in range(cameras)
    }
    decided: list[int] = []
    committed: list[int] = []

    def observe(verdicts: Sequence[Verdict]) -> None:
        decided.extend(v.latency_us for v in verdicts)

    def on_commit(verdicts: Sequence[Verdict], commit_ns: int) -> None:
        committed.extend(v.latency_us + (commit_ns - v.decided_ns) // 1_000 for v in verdicts)

    with tempfile.TemporaryDirectory(prefix="kensa-bench-") as state_dir:
        tree = make_config(
            settings, broker=broker, state_dir=Path(state_dir), cameras=cameras, policy="newest", roi=settings.roi
        )
        agent = app.build(tree, sources=sources, on_commit=on_commit, observe=observe)
        with agent:
            agent.wait(1.0)
            decided.clear()
            committed.clear()
            usage, began = psutil.Process().cpu_times(), time.monotonic()
            agent.wait(settings.paced_s)
            used, wall = psutil.Process().cpu_times(), time.monotonic() - began
        accounts = [view.counters.snapshot() for view in agent.cameras.values()]
    cpu_s = used.user + used.system - usage.user - usage.system
    return PacedResult(
        cameras=cameras,
        fps=cameras * fps,
        inspected=sum(a.inspected for a in accounts),
        dropped=sum(a.dropped_total for a in accounts),
        p50_ms=float(np.percentile(decided, 50)) / 1e3,
        p99_ms=float(np.percentile(decided, 99)) / 1e3,
        commit_p99_ms=float(np.percentile(committed, 99)) / 1e3 if committed else None,
        cpu_cores=cpu_s / wall,
    )


def run_loop(settings: LoopSettings, *, report: Callable[[str], None]) -> LoopResult:
    """Measure everything; several minutes. Raises a KensaError when the release or a broker is missing."""
    cv2.setNumThreads(1)  # as the agent does: the workers are the parallelism
    model = OnnxModel.load(settings.release)
    report("rendering frames")
    frames = render_pool()
    with open_broker() as broker:
        rounds = run_rounds(settings, model=model, frames=frames, broker=broker, report=report)
        paced = []
        mixed = [*frames, render_defect()]
        for cameras, fps in ((1, 30.0), (16, 30.0)):
            report(f"paced: {cameras} camera(s) x {fps:.0f} fps for {settings.paced_s:.0f} s")
            paced.append(run_paced(settings, frames=mixed, broker=broker, cameras=cameras, fps=fps))
        report("a process of its own: memory and first verdict")
        process = measure_process(settings.release, frames=frames[:8], broker=broker, roi=settings.roi)
        kind = broker.kind
    return LoopResult(
        cpu=cpu_name(),
        cores=len(psutil.Process().cpu_affinity()),
        broker=kind,
        model=f"{model.identity.name} {model.identity.version}",
        rounds=rounds,
        rmse_against_area=ideal_throughput.rmse_against_area_resize(model, frames, roi=None),
        rmse_against_area_roi=ideal_throughput.rmse_against_area_resize(model, frames, roi=settings.roi),
        paced=tuple(paced),
        rss_mb=process.rss_mb,
        rss_peak_mb=process.rss_peak_mb,
        first_verdict_s=process.first_verdict_s,
        forbidden_modules=process.forbidden_modules,
    )


def run_command(arguments: argparse.Namespace, *, report: Callable[[str], None]) -> BenchReport:
    """`kensa bench loop`."""
    settings = LoopSettings(
        release=arguments.release, rounds=arguments.rounds, calls=arguments.calls, paced_s=arguments.paced_seconds
    )
    result = run_loop(settings, report=report)
    title = f"kensa bench loop · {result.model} · {result.cpu}, {result.cores} cores · {result.broker}"
    table = ResultTable(title, "median")
    _add_throughput(table, result)
    for paced, limit in zip(result.paced, _MOST_P99_MS, strict=True):
        commit = "none seen" if paced.commit_p99_ms is None else f"{paced.commit_p99_ms:.1f} ms"
        table.add_result(
            f"{paced.cameras} camera(s), {paced.fps:.0f} fps: p99 due time to decision (p50 {paced.p50_ms:.1f} ms); "
            f"defects to commit {commit}; {paced.dropped} drops",
            f"<= {limit:.0f} ms, 0",
            f"{paced.p99_ms:.1f} ms",
            met=paced.p99_ms <= limit and paced.dropped == 0,
        )
    cores, rss, first = result.summary()["cpu_cores_30fps"], result.rss_mb, result.first_verdict_s
    table.add_result("CPU at 30 fps", f"<= {_MOST_CORES} core", f"{cores:.3f} core", met=cores <= _MOST_CORES)
    memory = f"memory of kensa run, one camera (peak {result.rss_peak_mb:.0f} MB)"
    table.add_result(memory, f"<= {_MOST_MB} MB", f"{rss:.0f} MB", met=rss <= _MOST_MB)
    met = first <= _MOST_START_S
    table.add_result("process start to first verdict", f"<= {_MOST_START_S} s", f"{first:.2f} s", met=met)
    return BenchReport(table, result.summary())


def _add_throughput(table: ResultTable, result: LoopResult) -> None:
    figures = result.summary()
    fps = figures["fps"]
    for name, figure, least in (
        (f"agent, 1080p whole frame: {fps['loop']:.0f} frames/s of its floor", "floor_ratio_full", _LEAST_FULL),
        (f"agent, ROI: {fps['loop_roi']:.0f} frames/s of its floor", "floor_ratio_roi", _LEAST_ROI),
    ):
        table.add_result(name, f">= {100 * least:.0f} %", f"{figures[figure]:.1%}", met=figures[figure] >= least)
    ratio = figures["naive_ratio"]
    name = f"agent against the samples' loop ({fps['naive']:.0f} frames/s)"
    table.add_result(name, f">= {_LEAST_NAIVE} x", f"{ratio:.2f} x", met=ratio >= _LEAST_NAIVE)
    ratio = figures["preprocess_ratio"]
    table.add_result(
        f"preprocessing against direct INTER_AREA; RMSE {result.rmse_against_area:.2f} "
        f"grey levels on whole frames, {result.rmse_against_area_roi:.2f} on the ROI",
        f">= {_LEAST_PREPROCESS} x, <= {_MOST_RMSE}",
        f"{ratio:.1f} x",
        met=ratio >= _LEAST_PREPROCESS and result.rmse_against_area <= _MOST_RMSE,
    )
