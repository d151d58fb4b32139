"""One agent in lock-step: real capture, intake, worker, outbox and lifecycle on a lasting disk.

`Site` is what stays when the process ends: the disk, the clock, the cloud, the broker, the weather, and the book of
what was promised. `AgentProcess` is one process on it, made by `start`, ended by `kill` or `close`.
"""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from agent.config import RolloutLimits
from agent.counters import CameraCounters
from agent.errors import CameraError, FetchError, FrameError
from agent.inspection.capture import CaptureThread
from agent.inspection.frame_pool import FramePool
from agent.inspection.intake import IntakeHub
from agent.inspection.worker import Worker
from agent.inspection.worker_state import CameraContext, InspectionContext
from agent.lifecycle.lifecycle import Lifecycle
from agent.lifecycle.lifecycle_dependencies import LifecycleDependencies
from agent.lifecycle.shadow_deployment import ShadowDeployment
from agent.outbox import Outbox, OutboxLimits, next_boot_epoch
from agent.records import DropReason, Grab
from agent.slot import ModelSlot
from agent.timing.clock import NS_PER_S
from simulator.campaigns.soak.synthetic_models import SIDE, draw_part, load_synthetic
from simulator.campaigns.soak.verdict_tracker import VerdictTracker
from simulator.doubles.lifecycle.fake_repository import (
    FakeReleaseFetcher,
    FakeRepository,
    FakeSelfTester,
    SimulatedKill,
)
from simulator.doubles.network.memory_transport import DeliveryFaults, MemoryTransport

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from agent.ports import FetchJob
    from agent.records import Observation, Pixels, Verdict
    from agent.release_records import FetchedRelease, ModelStatus
    from agent.slot import Lease, OfferedFrame
    from simulator.doubles.clocks.lockstep_clock import LockstepClock, SteppedThread

CAMERAS: Final = ("free", "triggered")
INSPECTION: Final = "top"
_PARTS_PER_CYCLE: Final = 4  # parts side by side, exposed at once
_PERIOD_NS: Final = round(1.6 * NS_PER_S)  # of each camera; the two alternate
_DEFECTS: Final = 0.02
_UNUSABLE: Final = 0.001  # exposures
_POLL_S: Final = 1.0  # between two looks of the lifecycle, at least: the line is slow
_HANG_S: Final = 900.0  # then the fetch gives up by itself
_WAITING: Final = 8  # frames a camera
_SHADOW_FRAMES: Final = 3
_JOIN_TIMEOUT_S: Final = 60.0  # for what other threads do while the clock stands still
_OUTBOX_LIMITS: Final = OutboxLimits(max_bytes=256 * 1024, commit_s=5.0, seal_s=10.0)  # an outage of hours must fill it
_TROUBLE: Final = DeliveryFaults(refuse=0.002, lose=0.002, lose_ack=0.002, duplicate=0.002)


@dataclass(slots=True)
class ActiveFaults:
    """What is wrong at present: until when (monotonic ns), or how often from now on."""

    silent_until: dict[str, int] = field(default_factory=dict)  # by camera: open, but nothing comes
    unplugged_until: dict[str, int] = field(default_factory=dict)
    worker_stalled_until: int = 0  # the worker gets no processor
    broker_is_up: bool = True
    fetch_hangs: int = 0  # fetches that will hang


def no_boundary_fault(_boundary: str) -> None:
    """Let every boundary between persisting and acting pass."""


@dataclass(slots=True)
class SoakEnvironment:
    """What a process finds, and leaves behind."""

    folder: Path
    clock: LockstepClock
    random: random.Random
    factory: Path
    limits: RolloutLimits = field(default_factory=RolloutLimits)
    repository: FakeRepository = field(default_factory=FakeRepository)
    faults: ActiveFaults = field(default_factory=ActiveFaults)
    tracker: VerdictTracker = field(default_factory=VerdictTracker)
    boundary_fault: Callable[[str], None] = no_boundary_fault

    def checkpoint(self, name: str) -> None:
        """Be between persisting and acting; see `simulator.doubles.lifecycle.lifecycle_harness.BoundaryFault`."""
        self.boundary_fault(name)


class _SoakCamera:
    """A `ports.FrameSource` that exposes four parts every 1.6 s, when the weather lets it."""

    def __init__(self, site: SoakEnvironment, name: str) -> None:
        self._site = site
        self._name = name
        self._never = threading.Event()
        self._next_ns = 0
        self._part = 0

    def open(self) -> None:
        """See `ports.FrameSource`."""
        now_ns = self._site.clock.now_ns
        if now_ns < self._site.faults.unplugged_until.get(self._name, 0):
            raise CameraError("the simulated camera is unplugged")
        phase = CAMERAS.index(self._name) * _PERIOD_NS // len(CAMERAS)
        self._next_ns = (now_ns // _PERIOD_NS + 1) * _PERIOD_NS + phase

    def read(self, *, timeout_s: float, buffer: Pixels | None) -> Grab | None:
        """See `ports.FrameSource`; as some drivers do, it may return somewhat later than `timeout_s`."""
        site = self._site
        now_ns = site.clock.now_ns
        if now_ns < site.faults.silent_until.get(self._name, 0):
            site.clock.wait(self._never, timeout_s)
            return None
        if self._next_ns > now_ns:
            site.clock.wait(self._never, (self._next_ns - now_ns) / NS_PER_S)
        if site.clock.now_ns < site.faults.unplugged_until.get(self._name, 0):
            raise CameraError("the simulated camera was unplugged")
        due_ns = self._next_ns
        self._part += 1
        if self._part % _PARTS_PER_CYCLE == 0:
            self._next_ns += _PERIOD_NS
        chance = site.random.random()
        if chance < _UNUSABLE:
            raise FrameError(DropReason.CORRUPT, "the simulated exposure is damaged")
        pixels = np.zeros((SIDE, SIDE), np.uint8) if buffer is None else buffer
        draw_part(pixels, defective=site.random.random() < _DEFECTS, source=site.random)
        part_id = f"part-{self._part}" if self._name == "triggered" else None
        return Grab(pixels, due_ns, part_id, incomplete=chance < 2 * _UNUSABLE)

    def close(self) -> None:
        """See `ports.FrameSource`."""


class _HangingFetcher(FakeReleaseFetcher):
    """Hangs where the weather says so, until it is told to stop or its own limit ends it."""

    def __init__(self, site: SoakEnvironment, is_dead: Callable[[], bool]) -> None:
        super().__init__(site.repository)
        self._site = site
        self._is_dead = is_dead

    def fetch(self, job: FetchJob) -> FetchedRelease:
        """See `ports.ReleaseFetcher`."""
        if self._site.faults.fetch_hangs:
            self._site.faults.fetch_hangs -= 1
            self._site.clock.wait(job.stop, _HANG_S)
            if self._is_dead():
                raise SimulatedKill
            raise FetchError("timeout", "The simulated server said nothing for 15 minutes.")
        return super().fetch(job)


class _SynchronousShadow:
    """A real shadow whose thread is done before the line goes on: nothing of it is left to chance."""

    def __init__(self, challenger: Lease, observe: Callable[[Observation], None], site: SoakEnvironment) -> None:
        self._observe = observe
        self._seen = threading.Event()
        self.runner = ShadowDeployment(
            challenger=challenger,
            observe=self._forward,
            max_fps=site.limits.shadow_max_fps,
            clock=site.clock,
            capacity=_SHADOW_FRAMES - 1,
        )

    def _forward(self, seen: Observation) -> None:
        self._observe(seen)
        self._seen.set()

    def offer(self, offered: OfferedFrame) -> bool:
        """See `slot.FrameTap`."""
        self._seen.clear()
        taken = self.runner.offer(offered)
        if taken and not self._seen.wait(_JOIN_TIMEOUT_S):
            raise RuntimeError("the shadow deployment did not inspect")
        return taken

    def close(self) -> bool:
        """See `ShadowDeployment.close`."""
        return self.runner.close()


class _TrackingSink:
    """Notes what was appended, and by which model, on its way to the outbox."""

    def __init__(self, outbox: Outbox, site: SoakEnvironment) -> None:
        self._outbox = outbox
        self._book = site.tracker

    def append(self, verdicts: Sequence[Verdict]) -> None:
        """See `ports.VerdictSink`."""
        self._outbox.append(verdicts)
        self._book.record_appended(verdicts)


class AgentProcess:
    """One process. `work` inspects what waits; `keep` moves the outbox; both belong between two steps of the clock."""

    def __init__(self, site: SoakEnvironment, on_status: Callable[[ModelStatus], None]) -> None:
        """`on_status` hears of the lifecycle, on its thread."""
        self._site = site
        self._on_status = on_status
        self._ending = False
        self._is_killed = False
        self._wake = threading.Event()
        # ask it to end, wait
        self._players: list[tuple[SteppedThread, Callable[[], object], Callable[[], object]]] = []
        self._shadows: list[_SynchronousShadow] = []
        self.is_dead = False

    def start(self) -> None:
        """Begin as the agent does. Raises Killed where a trap goes off; then `kill` it."""
        site = self._site
        state_dir = site.folder / "state"
        # Seeded by the moment, so that a day can be run again.
        draw = random.Random(site.clock.now_ns).randrange
        self.epoch = next_boot_epoch(state_dir, utc_s=site.clock.utc_ns() / NS_PER_S, draw=draw)
        self.transport = MemoryTransport(
            connected=site.faults.broker_is_up, faults=_TROUBLE, seed=site.random.getrandbits(32)
        )
        self.outbox = Outbox(state_dir=state_dir, transport=self.transport, clock=site.clock, limits=_OUTBOX_LIMITS)
        self.slot = ModelSlot()
        self.lifecycle = Lifecycle(
            LifecycleDependencies(
                inspection=INSPECTION,
                state_dir=state_dir,
                slot=self.slot,
                fetcher=_HangingFetcher(site, lambda: self._is_killed),
                self_tester=FakeSelfTester(site.repository),
                load=partial(load_synthetic, spend=site.clock.advance),
                factory=site.factory,
                limits=site.limits,
                clock=site.clock,
                open_shadow_deployment=self._open_shadow,
                on_status=self._on_status,
                checkpoint=site.checkpoint,
            )
        )
        self._compose_line()
        self.lifecycle.start()
        if self.outbox.sender is not None:
            self.outbox.sender.start()
        for capture in self.captures.values():
            self._start_thread(capture.start, capture.request_stop, partial(capture.stop, timeout_s=_JOIN_TIMEOUT_S))
        thread = threading.Thread(target=self._run_lifecycle, name="soak-lifecycle", daemon=True)
        self._start_thread(thread.start, self._wake.set, partial(thread.join, _JOIN_TIMEOUT_S))

    def _start_thread(self, start: Callable[[], None], ask: Callable[[], object], join: Callable[[], object]) -> None:
        self._players.append((self._site.clock.start_thread(start), ask, join))

    def _compose_line(self) -> None:
        site = self._site
        self.hub = IntakeHub(workers=1, max_batch=8)
        self.pool = FramePool(buffers=len(CAMERAS) * (_WAITING + 2) + 8 + _SHADOW_FRAMES)
        self.counters = {name: CameraCounters() for name in CAMERAS}
        self.captures: dict[str, CaptureThread] = {}
        stations = {}
        for name, counters in self.counters.items():
            intake = self.hub.add_camera(
                inspection=0, capacity=_WAITING, policy="newest", counters=counters, pool=self.pool
            )
            self.captures[name] = CaptureThread(
                camera=name,
                source=_SoakCamera(site, name),
                intake=intake,
                pool=self.pool,
                counters=counters,
                clock=site.clock,
                random=random.Random(site.random.getrandbits(32)),
            )
            stations[name] = CameraContext("thing", "line", INSPECTION, name, self.epoch, counters, self.pool)
        self._worker = Worker(
            hub=self.hub,
            contexts=[InspectionContext(self.slot, None, stations)],
            sink=_TrackingSink(self.outbox, site),
            clock=site.clock,
            max_batch=8,
            on_fault=self._count_fault,
        )

    def _count_fault(self, _text: str) -> None:
        raise AssertionError(f"the worker of the soak met a bug: {_text}")

    def _open_shadow(self, challenger: Lease, observe: Callable[[Observation], None]) -> _SynchronousShadow:
        self._shadows.append(_SynchronousShadow(challenger, observe, self._site))
        return self._shadows[-1]

    def _run_lifecycle(self) -> None:
        """The lifecycle's thread; `Lifecycle.launch` is the same without Killed."""
        try:
            while not self._ending:
                self._wake.clear()
                delay_s = self.lifecycle.step()
                self._site.clock.wait(self._wake, max(delay_s, _POLL_S) if delay_s else 0.0)
        except SimulatedKill:
            self.is_dead = True
        finally:
            self._site.clock.end_thread()

    def wake_lifecycle(self) -> None:
        """Let the lifecycle see what it was asked."""
        self._wake.set()

    def inspect_pending(self) -> None:
        """Judge all that waits."""
        if self._site.clock.now_ns < self._site.faults.worker_stalled_until:
            return
        while (batch := self.hub.take(0.0)) is not None:
            self._worker.inspect(batch)

    def flush_outbox(self) -> None:
        """Commit and deliver what is due."""
        outbox = self.outbox
        outbox.writer.step()
        if outbox.writer.waiting == 0:
            self._site.tracker.record_committed()
        if outbox.sender is not None:
            outbox.sender.step()

    def receive(self) -> None:
        """Take in what the broker got."""
        messages, self.transport.delivered = self.transport.delivered, []
        self._site.tracker.record_delivered(messages)

    def kill(self) -> None:
        """End without a good-bye: what is not on the disk, or with the broker, is gone."""
        self._is_killed = True
        self._end_threads()
        self._site.tracker.record_killed()
        self.receive()
        self.outbox.writer.close()

    def close(self) -> None:
        """End as `kensa run` does at a stop. Raises OutboxError."""
        self._end_threads()
        self.hub.discard_pending()
        self.lifecycle.close()
        self.outbox.close(self._site.clock.now_ns)
        self._site.tracker.record_committed()
        self.receive()

    def _end_threads(self) -> None:
        """One after the other: what a thread does on its way out must not be left to chance."""
        self._ending = True
        for player, ask, join in self._players:
            ask()
            self._site.clock.release_thread(player)
            join()
        for shadow in self._shadows:
            shadow.close()
