"""A shadow deployment: the challenger inspects live frames on a thread of its own.

The loop offers frames; those that are accepted wait in a bounded queue for the thread, which preprocesses, infers,
decides and observes. The loop is never delayed: `offer` never blocks on a lock, and refuses when the queue is full,
when the rate is used up, or when the lock is taken. Every buffer accepted is released exactly once: after the
inspection, or at `close`. At most `max_held_frames` frames are held at a time; the frame pool needs as many more.

The time between two frames varies by half around its mean: a fixed interval could pick the same camera, or the same
nest of the same tool, over and over because its rhythm divides the line's.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, Final

import numpy as np

from agent.decision import decide_challenger, unknown_judgement
from agent.errors import FrameError, InferenceError
from agent.preprocess import Preprocessor
from agent.records import Observation, Outcome
from agent.supervision import END_THREAD, ThreadSupervisor
from agent.timing.clock import NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.records import Box, Frame, Judgement, Pixels, Verdict
    from agent.slot import Lease, OfferedFrame
    from agent.supervision import Fault
    from agent.timing.clock import Clock

_JITTER: Final = 0.5  # of the mean interval, to either side


@dataclass(frozen=True, slots=True)
class _ClaimedFrame:
    """A frame that the shadow deployment owns until it has called `release`."""

    offered: OfferedFrame
    latency_us: int


class ShadowDeployment:
    """`FrameTap` with its own thread, `kensa-shadow-<version>`; created and closed by the lifecycle."""

    def __init__(
        self,
        *,
        challenger: Lease,
        observe: Callable[[Observation], None],
        max_fps: float,
        clock: Clock,
        capacity: int = 2,
        differ: Callable[[Frame, Verdict, Box], None] | None = None,
        supervisor: ThreadSupervisor | None = None,
    ) -> None:
        """Start the thread. Each frame is inspected with the site's settings that the champion had.

        Args:
            challenger: The candidate.
            observe: Called on this object's thread with every inspected frame.
            max_fps: Frames a second, at most and on average.
            clock: Monotonic time.
            capacity: Frames that may wait.
            differ: Called on this object's thread with the frame, the verdict with the challenger's outcome in it, and
                the region inspected, where both models have an outcome and these differ; the pixels are valid until it
                returns.
            supervisor: Supervises the thread; None makes one.
        """
        self._challenger = challenger
        self._observe = observe
        self._on_difference = differ
        self._clock = clock
        self._random = Random()  # noqa: S311 - spreads frames, guards nothing
        self._interval_ns = NS_PER_S / max_fps
        self._capacity = capacity
        self._preprocessors: dict[str, Preprocessor] = {}
        geometry = challenger.model.geometry
        self._inputs: Pixels = np.zeros((1, geometry.height, geometry.width, geometry.channels), np.uint8)
        self._next_ns = 0
        self._waiting: deque[_ClaimedFrame] = deque()
        self._has_frames = threading.Condition(threading.Lock())
        self._closed = False
        self._stop = threading.Event()
        self._thread = (supervisor or ThreadSupervisor(clock=clock)).thread(
            self._run,
            kind="challenger",
            name=f"kensa-shadow-{challenger.model.identity.version}",
            policy=END_THREAD,
            stop=self._stop,
            on_fault=self._failed,
        )
        self._thread.start()

    @property
    def max_held_frames(self) -> int:
        """Frames held at most: those that wait and the one being inspected."""
        return self._capacity + 1

    def offer(self, offered: OfferedFrame) -> bool:
        """See `slot.FrameTap`."""
        now = self._clock.monotonic_ns()
        if now < self._next_ns or not self._has_frames.acquire(blocking=False):
            return False
        try:
            if self._closed or now < self._next_ns or len(self._waiting) >= self._capacity:
                return False
            self._next_ns = now + round(self._interval_ns * self._random.uniform(1 - _JITTER, 1 + _JITTER))
            latency_us = (now - offered.frame.due_ns) // 1_000
            self._waiting.append(_ClaimedFrame(offered, latency_us))
            self._has_frames.notify()
        finally:
            self._has_frames.release()
        return True

    def close(self, *, timeout_s: float = 1.0) -> bool:
        """Refuse further frames, release those that wait, end the thread; safe to call twice, and from `observe`.

        False when the challenger does not return within `timeout_s`: it keeps its one frame until it does.
        """
        with self._has_frames:
            self._closed = True
            self._stop.set()
            waiting = list(self._waiting)
            self._waiting.clear()
            self._has_frames.notify()
        for claimed in waiting:
            claimed.offered.release(claimed.offered.frame.buffer)
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (claimed := self._take()) is not None:
            try:
                challenger, challenger_us = self._inspect(claimed)
                self._report_difference(claimed, challenger)
            finally:
                claimed.offered.release(claimed.offered.frame.buffer)
            if not self._closed:
                self._observe(
                    Observation(
                        key=claimed.offered.verdict.key,
                        camera=claimed.offered.frame.camera,
                        champion=claimed.offered.verdict.judgement,
                        challenger=challenger,
                        champion_us=claimed.offered.champion_us,
                        challenger_us=challenger_us,
                        latency_us=claimed.latency_us,
                    )
                )

    def _failed(self, fault: Fault) -> None:
        """A bug ends the shadow deployment; the line continues."""
        if fault.is_last:
            self.close()

    def _take(self) -> _ClaimedFrame | None:
        with self._has_frames:
            while not self._waiting and not self._closed:
                self._has_frames.wait()
            return self._waiting.popleft() if self._waiting else None

    def _inspect(self, claimed: _ClaimedFrame) -> tuple[Judgement, int]:
        """Return the challenger's judgement and how long it took in microseconds."""
        began = self._clock.monotonic_ns()
        if claimed.offered.site is not self._challenger.site:
            self._challenger = self._challenger.with_site(claimed.offered.site)
            self._preprocessors.clear()
        try:
            judgement = self._judgement(claimed.offered.frame)
        except (FrameError, InferenceError) as error:
            judgement = unknown_judgement(str(error))
        return judgement, (self._clock.monotonic_ns() - began) // 1_000

    def _report_difference(self, claimed: _ClaimedFrame, challenger: Judgement) -> None:
        outcomes = {claimed.offered.verdict.judgement.outcome, challenger.outcome}
        if self._on_difference is None or len(outcomes) == 1 or Outcome.UNKNOWN in outcomes:
            return
        verdict = replace(
            claimed.offered.verdict,
            challenger_outcome=challenger.outcome,
            challenger_sha256=self._challenger.model.identity.sha256,
        )
        plan = self._preprocessors[claimed.offered.frame.camera].plan_for(claimed.offered.frame.pixels)
        self._on_difference(claimed.offered.frame, verdict, plan.roi)

    def _judgement(self, frame: Frame) -> Judgement:
        model = self._challenger.model
        preprocessor = self._preprocessors.get(frame.camera)
        if preprocessor is None:
            preprocessor = self._preprocessors[frame.camera] = Preprocessor(
                model.geometry, roi=self._challenger.site.roi
            )
        plan = preprocessor.plan_for(frame.pixels)
        tiles = len(plan.tiles)
        if tiles > len(self._inputs):
            self._inputs = np.zeros((tiles, *self._inputs.shape[1:]), np.uint8)
        preprocessor.write_to(frame.pixels, self._inputs[:tiles])
        result = model.infer(self._inputs[:tiles])
        return decide_challenger(self._challenger.rule, plan, result, start=0, inputs=tiles)
