"""Model swaps under real cameras lose no frame, share no buffer and mix no versions in a batch."""

from __future__ import annotations

import random
import threading
import time
from typing import TYPE_CHECKING

import numpy as np

from agent.counters import CameraCounters
from agent.errors import InferenceError
from agent.inspection.frame_pool import FramePool
from agent.inspection.intake import IntakeHub
from agent.inspection.worker import CameraContext, InspectionContext, Worker, start_worker
from agent.lifecycle.shadow_deployment import ShadowDeployment
from agent.records import Frame, Observation, Outcome, Scores
from agent.slot import ModelSlot, Trial
from agent.supervision import ThreadSupervisor
from agent.timing.clock import SystemClock
from tests.kits.python_models import SMALL, TINY, PlainModel, lease_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agent.records import Pixels, Verdict

SWAPS = 2_000
CAMERAS = ("a", "b")
CRASHES = 7  # every model whose number divides by this one fails on every second batch


def answer_of(number: int) -> Callable[[Pixels], Scores]:
    """An answer that names the model and the pixels that it saw."""
    calls = 0

    def answer(batch: Pixels) -> Scores:
        nonlocal calls
        calls += 1
        if number % CRASHES == 0 and calls % 2:
            raise InferenceError("crash")
        grey = batch.reshape(len(batch), -1).astype(np.float32)
        assert np.ptp(grey, axis=1).max() == 0, "the pixels were changed while a model looked at them"
        return Scores(np.stack([np.full(len(batch), number / 10_000), grey[:, 0] / 1_000], axis=1, dtype=np.float32))

    return answer


def grey_of(seq: int) -> int:
    return seq * 7 % 251


class Plant:
    """Two cameras, two workers, one inspection."""

    def __init__(self) -> None:
        self.slot = ModelSlot(lease_of(PlainModel("1", answer_of(1))))
        self.batches: list[Sequence[Verdict]] = []
        self.seen: list[Observation] = []
        self.supervisor = ThreadSupervisor()
        self.faults: list[str] = []
        self.stop, self.drained = threading.Event(), threading.Event()
        self.hub = IntakeHub(workers=2, max_batch=4)
        self.pool = FramePool(buffers=40)
        self.counters = {camera: CameraCounters() for camera in CAMERAS}
        stations = {
            camera: CameraContext("thing", "line", "part", camera, 1, self.counters[camera], self.pool)
            for camera in CAMERAS
        }
        context = InspectionContext(self.slot, None, stations)
        self.workers = [
            start_worker(
                Worker(
                    hub=self.hub, contexts=[context], sink=self, clock=SystemClock(), max_batch=4,
                    on_fault=self.faults.append,
                ),
                index=index, drained=self.drained, supervisor=self.supervisor,
            )
            for index in range(2)
        ]  # fmt: skip
        self.cameras = [threading.Thread(target=self._capture, args=(c,), name=f"camera {c}") for c in CAMERAS]
        self.intakes = {
            camera: self.hub.add_camera(
                inspection=0, capacity=4, policy="wait", counters=self.counters[camera], pool=self.pool
            )
            for camera in CAMERAS
        }

    def append(self, verdicts: Sequence[Verdict]) -> None:
        """See `VerdictSink.append`."""
        self.batches.append(verdicts)

    def _capture(self, camera: str) -> None:
        seq = 0
        while not self.stop.is_set():
            buffer = self.pool.acquire((8, 8))
            assert buffer >= 0
            self.pool.buffer(buffer)[...] = grey_of(seq)
            frame = Frame(camera, seq, time.monotonic_ns(), 0, self.pool.buffer(buffer), buffer=buffer)
            self.counters[camera].count_captured()
            assert self.intakes[camera].offer(frame, threading.Event())
            seq += 1

    def run(self, steps: int, rng: random.Random) -> None:
        """Do `steps` random things to the slot, as the lifecycle's thread would."""
        shadow: ShadowDeployment | None = None
        for camera in self.cameras:
            camera.start()
        for number in range(2, steps + 2):
            challenger = lease_of(
                PlainModel(str(number), answer_of(number), geometry=SMALL if rng.random() < 0.6 else TINY)
            )
            act = rng.randrange(7)
            if act == 0:
                mine = ShadowDeployment(
                    challenger=challenger, observe=self.seen.append, max_fps=1e6, clock=SystemClock()
                )
                self.slot.begin_shadow_deployment(mine)
                shadow, mine_before = mine, shadow
                if mine_before is not None:
                    assert mine_before.close()
            elif act <= 2:
                share = rng.choice([0.01, 0.25, 0.5, 1.0])
                self.slot.begin_trial(
                    Trial(challenger=challenger, share=share, salt=str(number), observe=self.seen.append)
                )
            elif act <= 4:
                self.slot.switch(challenger)
            elif act == 5:
                self.slot.revert()
            else:
                self.slot.drop_previous()
                self.slot.end_trial()
            time.sleep(rng.random() * 0.001)
            assert self.supervisor.failure is None
        if shadow is not None:
            assert shadow.close()

    def end(self) -> None:
        """Drain."""
        self.stop.set()
        for camera in self.cameras:
            camera.join()
        self.hub.close()
        self.drained.set()
        for worker in self.workers:
            worker.join()


def check(verdict: Verdict) -> None:
    """The verdict's numbers are of the model and of the pixels that it names."""
    model = verdict.origin.model
    assert model is not None
    if verdict.judgement.outcome is Outcome.UNKNOWN:
        assert int(model.version) % CRASHES == 0
        return
    version, grey = verdict.judgement.scores
    assert round(version * 10_000) == int(model.version), "judged by another model than the verdict names"
    assert round(grey * 1_000) == grey_of(verdict.seq), "judged by other pixels than its own"


def test_thousands_of_swaps_shadows_and_trials_lose_nothing_and_mix_nothing() -> None:
    plant = Plant()
    try:
        plant.run(SWAPS, random.Random(3))
    finally:
        plant.end()
    assert plant.supervisor.failure is None
    assert plant.pool.held == 0, "a buffer was lost"
    assert plant.pool.misses == 0
    keys = set()
    for batch in plant.batches:
        assert len({v.origin.model for v in batch}) == 1, "a batch mixes versions"
        assert len({v.challenger_sha256 for v in batch}) == 1
        for verdict in batch:
            check(verdict)
            keys.add(verdict.key)
    captured = {camera: counters.snapshot() for camera, counters in plant.counters.items()}
    for camera, account in captured.items():
        assert account.inspected == account.captured
        assert {f"line/{camera}/1/{seq}" for seq in range(account.captured)} <= keys
    assert len(keys) == sum(len(batch) for batch in plant.batches), "a part has two verdicts"
    assert len({o.assigned for o in plant.seen}) == 2, "shadows and trials took place"
    both = [o for o in plant.seen if Outcome.UNKNOWN not in {o.champion.outcome, o.challenger.outcome}]
    assert both
    for observation in both:
        assert observation.champion.scores[1] == observation.challenger.scores[1], "the models saw different pixels"
