"""`kensa bench swap`: what the line notices when models come and go under it.

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
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np
import numpy.typing as npt
import psutil

from agent import app
from agent.lifecycle.shadow_deployment import ShadowDeployment
from agent.records import Outcome
from agent.slot import Trial
from agent.timing.clock import NS_PER_S
from simulator.bench.inspection.frame_sources import PacedSource, render_defect, render_pool
from simulator.bench.inspection.staged_releases import measure_second_model, stage_release
from simulator.bench.inspection.throughput import LoopSettings, cpu_name, make_config
from simulator.doubles.network.mqtt_broker import open_broker

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agent.app import Agent
    from agent.ports import FrameSource
    from agent.records import Observation, Pixels, Verdict
    from agent.slot import Lease
    from simulator.bench.inspection.staged_releases import StagedRelease
    from simulator.doubles.network.mqtt_broker import LocalBroker

CAMERA_FPS: Final = 30.0
RATES: Final = (30, 120, 240)
_SHADOW_FPS: Final = 15.0
_WARM_UP_S: Final = 3.0

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


@dataclass(slots=True)
class SwapObserver:
    """What the observer saw; appended to by the workers, read when they are done."""

    due_ns: list[int] = field(default_factory=list)
    latency_us: list[int] = field(default_factory=list)
    unknown: int = 0
    batches: list[tuple[int, str, bool]] = field(default_factory=list)  # decided, champion's version, challenger asked

    def observe(self, verdicts: Sequence[Verdict]) -> None:
        """Note a batch."""
        for verdict in verdicts:
            self.due_ns.append(verdict.decided_ns - verdict.latency_us * 1_000)
            self.latency_us.append(verdict.latency_us)
            self.unknown += verdict.judgement.outcome is Outcome.UNKNOWN
        model = verdicts[0].origin.model
        version = "" if model is None else model.version
        self.batches.append((verdicts[0].decided_ns, version, verdicts[0].arm == "challenger"))


@dataclass(frozen=True, slots=True)
class TimeSpan:
    """A phase of a run, monotonic ns."""

    begin_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True)
class RollbackLatency:
    """From the decision until the first verdict without the model that was taken back."""

    batches: int  # verdicts' batches in between that still knew it: those in work at that moment
    ms: float


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
    shadowed: int  # frames that the shadow judged
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


class _AgentRun:
    """An agent at one rate, and what is done to its slot."""

    def __init__(self, agent: Agent, log: SwapObserver, staged: Sequence[StagedRelease]) -> None:
        self._agent = agent
        self._log = log
        self._slot = agent.slots["part"]
        self._staged = staged
        self.switches: list[int] = []
        self.load_ms: list[float] = []
        self.spans: list[Observation] = []

    def _lease(self) -> Lease:
        lease = self._slot.lease()
        assert lease is not None  # noqa: S101 - the benchmark never goes to NO_MODEL
        return lease

    def load(self) -> Lease:
        """The other release, loaded and warm."""
        running = self._lease()
        other = next(staged for staged in self._staged if staged.version != running.model.identity.version)
        began = time.perf_counter()
        lease = other.load(running, max_batch=self._agent.config.max_batch)
        self.load_ms.append((time.perf_counter() - began) * 1e3)
        return lease

    def swap(self, cycle_s: float, window_s: float) -> None:
        """In the middle of `cycle_s` seconds: begin to load, switch, settle, half a window from one to the next."""
        begin = time.monotonic()
        _until(begin + cycle_s / 2 - window_s / 2)
        lease = self.load()
        _until(begin + cycle_s / 2)
        self._slot.switch(lease)
        self.switches.append(time.monotonic_ns())
        _until(begin + cycle_s / 2 + window_s / 2)
        self._slot.drop_previous()
        _until(begin + cycle_s)

    def shadow(self, seconds: float) -> TimeSpan:
        """Watch the other release for `seconds`."""
        runner = ShadowDeployment(
            challenger=self.load(),
            observe=self.spans.append,
            max_fps=_SHADOW_FPS,
            clock=self._agent.clock,
        )
        begin = time.monotonic_ns()
        self._slot.begin_shadow_deployment(runner)
        time.sleep(seconds)
        self._slot.end_trial()
        runner.close()
        return TimeSpan(begin, time.monotonic_ns())

    def trial(self, seconds: float, *, share: float) -> TimeSpan:
        """Let the other release judge `share` of the parts for `seconds`."""
        trial = Trial(challenger=self.load(), share=share, salt="bench", observe=self.spans.append)
        begin = time.monotonic_ns()
        self._slot.begin_trial(trial)
        time.sleep(seconds)
        self._slot.end_trial()
        return TimeSpan(begin, time.monotonic_ns())

    def revert(self) -> RollbackLatency:
        """Switch, let some batches pass, go back; counted is what the new model still says after that."""
        lease = self.load()
        self._slot.switch(lease)
        time.sleep(0.3)
        decided = time.monotonic_ns()
        self._slot.revert()
        time.sleep(0.3)
        version = lease.model.identity.version
        return self._after(decided, lambda batch: batch[1] == version)

    def end_trial(self, challenger: Lease) -> RollbackLatency:
        """Open a trial of all parts, let some batches pass, end it."""
        self._slot.begin_trial(Trial(challenger=challenger, share=1.0, salt="bench", observe=self.spans.append))
        time.sleep(0.3)
        decided = time.monotonic_ns()
        self._slot.end_trial()
        time.sleep(0.3)
        return self._after(decided, lambda batch: batch[2])

    def _after(self, decided_ns: int, is_taken_back: Callable[[tuple[int, str, bool]], bool]) -> RollbackLatency:
        later = sorted(batch for batch in self._log.batches if batch[0] > decided_ns)
        still = sum(map(is_taken_back, later))
        first = next((batch[0] for batch in later if not is_taken_back(batch)), time.monotonic_ns())
        return RollbackLatency(still, (first - decided_ns) / 1e6)


def _until(monotonic_s: float) -> None:
    time.sleep(max(0.0, monotonic_s - time.monotonic()))


def _p50_p99(latency_us: _Integers) -> tuple[float, float]:
    if not len(latency_us):
        return float("nan"), float("nan")
    p50, p99 = np.percentile(latency_us, (50, 99))
    return float(p50) / 1e3, float(p99) / 1e3


def run_rate(
    settings: SwapSettings, *, fps: int, staged: Sequence[StagedRelease], frames: list[Pixels], broker: LocalBroker
) -> RateResult:
    """Inspect at `fps` frames a second in all, and let models come and go."""
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
            run = _AgentRun(agent, log, staged)
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
        accounts = [view.counters.snapshot() for view in agent.cameras.values()]
    captured = sum(account.captured for account in accounts)
    due, latency = np.array(log.due_ns), np.array(log.latency_us)
    inside = _within(due, swaps)
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
        shadow_ms=_p50_p99(latency[_within(due, shadow)]),
        shadowed=shadowed,
        trial_quarter_ms=_p50_p99(latency[_within(due, quarter)]),
        trial_all_ms=_p50_p99(latency[_within(due, everything)]),
        load_ms=statistics.median(run.load_ms),
        reverts=reverts,
        trial_ends=ends,
    )


def _within(due_ns: _Integers, span: TimeSpan) -> _Flags:
    found: _Flags = (due_ns >= span.begin_ns) & (due_ns < span.end_ns)
    return found


def run_swap(settings: SwapSettings, *, say: Callable[[str], None]) -> SwapResult:
    """Measure all rates; about four minutes each. Raises a KensaError when the release or a broker is missing."""
    cv2.setNumThreads(1)  # as the agent does: the workers are the parallelism
    say("rendering frames")
    frames = [*render_pool(), render_defect()]
    rates = []
    with tempfile.TemporaryDirectory(prefix="kensa-bench-") as name, open_broker() as broker:
        staged = [
            stage_release(settings.release, Path(name) / version, version=version) for version in ("1.0.1", "1.0.2")
        ]
        for fps in RATES:
            minutes = (settings.swaps * settings.cycle_s + 3 * settings.phase_s + settings.rollbacks * 1.5) / 60
            say(f"{fps} frames/s, {settings.swaps} swaps, a shadow, trials and rollbacks: {minutes:.1f} minutes")
            rates.append(run_rate(settings, fps=fps, staged=staged, frames=frames, broker=broker))
        say("a process of its own: memory of a second model")
        second_mb = measure_second_model(staged)
    cores = len(psutil.Process().cpu_affinity())
    return SwapResult(cpu=cpu_name(), cores=cores, second_model_mb=second_mb, rates=tuple(rates))
