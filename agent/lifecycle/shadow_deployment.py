"""A shadow: the challenger judges live frames on a thread of its own, and nobody waits for it.

The loop offers frames; what is taken waits in a bounded queue for the shadow's thread, which preprocesses, infers,
decides and observes. The loop is never held up: `offer` takes no lock that it would have to wait for, and refuses when
the queue is full, when the rate is used up, or when anything is in doubt. Every buffer taken is released exactly once:
after the judgement, or at `close`. At most `held` frames are the shadow's at a time; the frame pool needs as many more.

The time between two frames varies by half around its mean: a limit must not pick the same camera, or the same nest of
the same tool, over and over because its rhythm divides the line's.
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
    from agent.slot import Lease, SiteOverrides
    from agent.supervision import Fault
    from agent.timing.clock import Clock

_JITTER: Final = 0.5  # of the mean interval, to either side


@dataclass(frozen=True, slots=True)
class _ClaimedFrame:
    """A frame that the shadow owns until it has called `release`."""

    frame: Frame
    verdict: Verdict  # the champion's
    champion_us: int
    latency_us: int
    site: SiteOverrides
    release: Callable[[int], None]


class ShadowDeployment:
    """`FrameTap` with its own thread, `kensa-shadow-<version>`; made, and closed, by the lifecycle."""

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
        """Judge at most `max_fps` frames a second (on average) with `challenger` and tell `observe` of each.

        Each is judged with the settings of the site that the champion had. `differ` gets the frame, the verdict with
        the challenger's outcome in it, and the region judged, where both models judged and their outcomes differ; the
        pixels are valid until it returns. Both are called on the shadow's thread. `capacity` frames may wait.
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
        """Frames that the shadow holds at most: those that wait and the one in work."""
        return self._capacity + 1

    def offer(
        self,
        frame: Frame,
        *,
        verdict: Verdict,
        champion_us: int,
        site: SiteOverrides,
        release: Callable[[int], None],
    ) -> bool:
        """See `slot.FrameTap`."""
        now = self._clock.monotonic_ns()
        if now < self._next_ns or not self._has_frames.acquire(blocking=False):
            return False
        try:
            if self._closed or now < self._next_ns or len(self._waiting) >= self._capacity:
                return False
            self._next_ns = now + round(self._interval_ns * self._random.uniform(1 - _JITTER, 1 + _JITTER))
            latency_us = (now - frame.due_ns) // 1_000
            self._waiting.append(_ClaimedFrame(frame, verdict, champion_us, latency_us, site, release))
            self._has_frames.notify()
        finally:
            self._has_frames.release()
        return True

    def close(self, *, timeout_s: float = 1.0) -> bool:
        """Take no more frames, release those that wait, end the thread; safe to call twice, and from `observe`.

        False when the challenger does not come back within `timeout_s`: it keeps the one frame in its hands until then.
        """
        with self._has_frames:
            self._closed = True
            self._stop.set()
            waiting = list(self._waiting)
            self._waiting.clear()
            self._has_frames.notify()
        for taken in waiting:
            taken.release(taken.frame.buffer)
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (taken := self._take()) is not None:
            try:
                challenger, challenger_us = self._inspect(taken)
                self._report_difference(taken, challenger)
            finally:
                taken.release(taken.frame.buffer)
            if not self._closed:
                self._observe(
                    Observation(
                        key=taken.verdict.key,
                        camera=taken.frame.camera,
                        champion=taken.verdict.judgement,
                        challenger=challenger,
                        champion_us=taken.champion_us,
                        challenger_us=challenger_us,
                        latency_us=taken.latency_us,
                    )
                )

    def _failed(self, fault: Fault) -> None:
        """A bug ends the shadow; the line goes on."""
        if fault.is_last:
            self.close()

    def _take(self) -> _ClaimedFrame | None:
        with self._has_frames:
            while not self._waiting and not self._closed:
                self._has_frames.wait()
            return self._waiting.popleft() if self._waiting else None

    def _inspect(self, taken: _ClaimedFrame) -> tuple[Judgement, int]:
        """Return the challenger's judgement and the microseconds that it took."""
        began = self._clock.monotonic_ns()
        if taken.site is not self._challenger.site:
            self._challenger = self._challenger.with_site(taken.site)
            self._preprocessors.clear()
        try:
            judgement = self._judgement(taken.frame)
        except (FrameError, InferenceError) as error:
            judgement = unknown_judgement(str(error))
        return judgement, (self._clock.monotonic_ns() - began) // 1_000

    def _report_difference(self, taken: _ClaimedFrame, challenger: Judgement) -> None:
        outcomes = {taken.verdict.judgement.outcome, challenger.outcome}
        if self._on_difference is None or len(outcomes) == 1 or Outcome.UNKNOWN in outcomes:
            return
        verdict = replace(
            taken.verdict,
            challenger_outcome=challenger.outcome,
            challenger_sha256=self._challenger.model.identity.sha256,
        )
        plan = self._preprocessors[taken.frame.camera].plan_for(taken.frame.pixels)
        self._on_difference(taken.frame, verdict, plan.roi)

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
