"""`kensa bench swap`: latency and losses while models are loaded, switched and rolled back.

The product, composed by `app.build`, inspects paced cameras of 30 fps each. A thread like the lifecycle's loads the
other release (its optimised graph, through a memfd), warms it up, switches, and lets the old one go: all of it within
one second of the switch. Latency is exact, from due time to decision. The frames within one second of a switch, before
and after it, are pooled and compared with all others of the same run. Then, each shown by itself: a shadow, a trial at
a quarter and at all of the parts, and rollbacks: `revert` of a switch, and the end of a trial.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np
import numpy.typing as npt
import psutil

from agent import app
from agent.timing.clock import NS_PER_S
from simulator.bench.bench_report import BenchReport, ResultTable
from simulator.bench.inspection.bench_agent import LoopSettings, cpu_name, make_config
from simulator.bench.inspection.frame_sources import PacedSource, render_defect, render_pool
from simulator.bench.inspection.staged_releases import measure_second_model, stage_release
from simulator.bench.inspection.swapped_agent import RollbackLatency, SwapObserver, SwappedAgent, TimeSpan
from simulator.doubles.network.mqtt_broker import open_broker

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from agent.ports import FrameSource
    from agent.records import Pixels
    from simulator.bench.inspection.staged_releases import StagedRelease
    from simulator.doubles.network.mqtt_broker import LocalBroker

CAMERA_FPS: Final = 30.0
RATES: Final = (30, 120, 240)
_WARM_UP_S: Final = 3.0
_HIGH_FPS: Final = 120  # above it a p99 of 1.5 times the others' is allowed, else of 1.2 times
_MOST_MB: Final = 10  # of the second model

_Integers = npt.NDArray[np.int64]
_Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class SwapSettings:
    """How much is measured."""

    release: Path
    swaps: int = 50  # at each rate
    cycle_s: float = 3.0  # from one switch to the next; more than twice the window, or no other frames are left
    window_s: float = 1.0  # frames due within it of a switch, before or after, count as its neighbours
    phase_s: float = 15.0  # of the shadow, and of each trial
    rollbacks: int = 20  # of each kind, at each rate


@dataclass(frozen=True, slots=True)
class RateResult:
    """One rate."""

    fps: int
    workers: int
    swaps: int
    frames: int
    lost: int  # dropped, without a verdict, or `unknown`
    near_frames: int
    near_ms: tuple[float, float]  # p50, p99 of frames near a switch
    other_ms: tuple[float, float]
    shadow_ms: tuple[float, float]
    shadowed: int  # frames that the shadow inspected
    trial_quarter_ms: tuple[float, float]
    trial_all_ms: tuple[float, float]
    load_ms: float  # median time to load and warm up
    reverts: tuple[RollbackLatency, ...]
    trial_ends: tuple[RollbackLatency, ...]

    @property
    def ratio(self) -> float:
        """p99 near a switch to p99 of all other frames."""
        return self.near_ms[1] / self.other_ms[1]

    def to_json(self) -> dict[str, Any]:
        """Flat figures, the rate in each name."""
        figures = {
            "p99_ratio": self.ratio,
            "p50_ms_swap": self.near_ms[0],
            "p99_ms_swap": self.near_ms[1],
            "p50_ms_other": self.other_ms[0],
            "p99_ms_other": self.other_ms[1],
            "p99_ms_shadow": self.shadow_ms[1],
            "p99_ms_trial_25": self.trial_quarter_ms[1],
            "p99_ms_trial_100": self.trial_all_ms[1],
            "frames": self.frames,
            "frames_near_a_switch": self.near_frames,
            "frames_shadowed": self.shadowed,
            "frames_lost": self.lost,
            "load_ms": self.load_ms,
            "revert_batches_max": max((r.batches for r in self.reverts), default=0),
            "revert_ms_median": statistics.median(r.ms for r in self.reverts) if self.reverts else None,
            "trial_end_batches_max": max((r.batches for r in self.trial_ends), default=0),
            "trial_end_ms_median": statistics.median(r.ms for r in self.trial_ends) if self.trial_ends else None,
        }
        return {f"{name}_{self.fps}fps": value for name, value in figures.items()}


@dataclass(frozen=True, slots=True)
class SwapResult:
    """Everything that `kensa bench swap` measured."""

    cpu: str
    cores: int
    second_model_mb: float  # resident, more with two warm models than with one
    rates: tuple[RateResult, ...]

    def to_json(self) -> dict[str, Any]:
        """Flat figures under stable names."""
        result: dict[str, Any] = {
            "frames_lost": sum(rate.lost for rate in self.rates),
            "swaps": sum(rate.swaps for rate in self.rates),
            "second_model_mb": self.second_model_mb,
            "rollback_batches_max": max(
                (r.batches for rate in self.rates for r in (*rate.reverts, *rate.trial_ends)), default=0
            ),
            "cpu": self.cpu,
            "cores": self.cores,
            "workers": self.rates[0].workers,
        }
        for rate in self.rates:
            result |= rate.to_json()
        return result


def _p50_p99(latency_us: _Integers) -> tuple[float, float]:
    if not len(latency_us):
        return float("nan"), float("nan")
    p50, p99 = np.percentile(latency_us, (50, 99))
    return float(p50) / 1e3, float(p99) / 1e3


@dataclass(frozen=True, slots=True)
class _Phases:
    """What one run went through."""

    swaps: TimeSpan
    shadow: TimeSpan
    shadowed: int
    trial_quarter: TimeSpan
    trial_all: TimeSpan
    reverts: tuple[RollbackLatency, ...]
    trial_ends: tuple[RollbackLatency, ...]


def _run_phases(run: SwappedAgent, settings: SwapSettings) -> _Phases:
    begin = time.monotonic_ns()
    for _ in range(settings.swaps):
        run.swap(settings.cycle_s, settings.window_s)
    swaps = TimeSpan(begin, time.monotonic_ns())
    shadow = run.shadow(settings.phase_s)
    shadowed = len(run.spans)
    quarter = run.trial(settings.phase_s, share=0.25)
    everything = run.trial(settings.phase_s, share=1.0)
    reverts = tuple(run.revert() for _ in range(settings.rollbacks))
    challenger = run.load()
    ends = tuple(run.end_trial(challenger) for _ in range(settings.rollbacks))
    return _Phases(swaps, shadow, shadowed, quarter, everything, reverts, ends)


def run_rate(
    settings: SwapSettings, *, fps: int, staged: Sequence[StagedRelease], frames: list[Pixels], broker: LocalBroker
) -> RateResult:
    """Inspect at `fps` frames a second in all while models are loaded, switched and removed."""
    cameras = round(fps / CAMERA_FPS)
    sources: dict[str, FrameSource] = {
        f"cam{i:02d}": PacedSource(frames, fps=CAMERA_FPS, phase=i / cameras) for i in range(cameras)
    }
    log = SwapObserver()
    with tempfile.TemporaryDirectory(prefix="kensa-bench-") as state_dir:
        loop = LoopSettings(release=staged[0].folder)
        tree = make_config(
            loop, broker=broker, state_dir=Path(state_dir), cameras=cameras, policy="newest", roi=loop.roi
        )
        agent = app.build(tree, sources=sources, observe=log.observe)
        with agent:
            agent.wait(_WARM_UP_S)
            run = SwappedAgent(agent, log, staged)
            phases = _run_phases(run, settings)
        captured = sum(view.counters.snapshot().captured for view in agent.cameras.values())
    due, latency = np.array(log.due_ns), np.array(log.latency_us)
    inside = _within(due, phases.swaps)
    near = np.zeros(len(due), bool)
    for switch in run.switches:
        near |= np.abs(due - switch) <= settings.window_s * NS_PER_S
    return RateResult(
        fps=fps,
        workers=tree.worker_count(),
        swaps=len(run.switches),
        frames=captured,
        lost=captured - len(due) + log.unknown,
        near_frames=int((inside & near).sum()),
        near_ms=_p50_p99(latency[inside & near]),
        other_ms=_p50_p99(latency[inside & ~near]),
        shadow_ms=_p50_p99(latency[_within(due, phases.shadow)]),
        shadowed=phases.shadowed,
        trial_quarter_ms=_p50_p99(latency[_within(due, phases.trial_quarter)]),
        trial_all_ms=_p50_p99(latency[_within(due, phases.trial_all)]),
        load_ms=statistics.median(run.load_ms),
        reverts=phases.reverts,
        trial_ends=phases.trial_ends,
    )


def _within(due_ns: _Integers, span: TimeSpan) -> _Flags:
    found: _Flags = (due_ns >= span.begin_ns) & (due_ns < span.end_ns)
    return found


def run_swap(settings: SwapSettings, *, report: Callable[[str], None]) -> SwapResult:
    """Measure all rates; about four minutes each. Raises a KensaError when the release or a broker is missing."""
    cv2.setNumThreads(1)  # as the agent does: the workers are the parallelism
    report("rendering frames")
    frames = [*render_pool(), render_defect()]
    rates = []
    with tempfile.TemporaryDirectory(prefix="kensa-bench-") as name, open_broker() as broker:
        staged = [
            stage_release(settings.release, Path(name) / version, version=version) for version in ("1.0.1", "1.0.2")
        ]
        for fps in RATES:
            minutes = (settings.swaps * settings.cycle_s + 3 * settings.phase_s + settings.rollbacks * 1.5) / 60
            report(f"{fps} frames/s, {settings.swaps} swaps, a shadow, trials and rollbacks: {minutes:.1f} minutes")
            rates.append(run_rate(settings, fps=fps, staged=staged, frames=frames, broker=broker))
        report("a process of its own: memory of a second model")
        second_mb = measure_second_model(staged)
    cores = len(psutil.Process().cpu_affinity())
    return SwapResult(cpu=cpu_name(), cores=cores, second_model_mb=second_mb, rates=tuple(rates))


def run_command(arguments: argparse.Namespace, *, report: Callable[[str], None]) -> BenchReport:
    """`kensa bench swap`."""
    settings = SwapSettings(release=arguments.release, swaps=arguments.swaps)
    if arguments.quick:
        settings = SwapSettings(release=arguments.release, swaps=2, cycle_s=1.2, window_s=0.5, phase_s=1.0, rollbacks=2)
    result = run_swap(settings, report=report)
    table = ResultTable(f"kensa bench swap · {result.cpu}, {result.cores} cores")
    for rate in result.rates:
        _add_rate(table, rate)
    mb = result.second_model_mb
    table.add_result("memory of the second model", f"<= {_MOST_MB} MB", f"{mb:.1f} MB", met=mb <= _MOST_MB)
    return BenchReport(table, result.to_json())


def _add_rate(table: ResultTable, rate: RateResult) -> None:
    text, limit = f"{rate.fps} frames/s", 1.5 if rate.fps > _HIGH_FPS else 1.2
    name = f"{text}: frames lost over {rate.swaps} swaps, a shadow, two trials and {2 * len(rate.reverts)} rollbacks"
    table.add_result(name, "0", f"{rate.lost} of {rate.frames:,}", met=not rate.lost)
    table.add_result(
        f"{text}: p99 due time to decision within 1 s of a switch ({rate.near_ms[1]:.1f} ms) "
        f"against all others ({rate.other_ms[1]:.1f} ms)",
        f"<= {limit} x",
        f"{rate.ratio:.2f} x",
        met=rate.ratio <= limit,
    )
    figure = f"{rate.shadow_ms[1]:.1f}, {rate.trial_quarter_ms[1]:.1f}, {rate.trial_all_ms[1]:.1f} ms"
    table.add_shown(f"{text}: p99 in a shadow deployment, a trial of 25 %, of 100 %", figure)
    batches, workers = max((r.batches for r in (*rate.reverts, *rate.trial_ends)), default=0), rate.workers
    name = f"{text}: batches still inspected with the old choice after a rollback: those in work ({workers} workers)"
    table.add_result(name, f"<= {workers}", str(batches), met=batches <= workers)
