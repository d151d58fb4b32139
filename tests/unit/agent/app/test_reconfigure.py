"""Reconfiguring slot, camera, recorder and heartbeat, and comparing configurations."""

from __future__ import annotations

import random
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from agent import config
from agent.app.config_differences import differences
from agent.app.reconfigure import _ReversibleStep, _run_or_undo
from agent.counters import CameraCounters
from agent.health.heartbeat_publisher import HeartbeatPublisher
from agent.health.process_usage import ProcessUsage
from agent.health.snapshot import AgentIdentity, AgentSnapshot
from agent.inspection.capture import CaptureSettings, CaptureThread
from agent.inspection.frame_pool import FramePool
from agent.inspection.intake import IntakeHub
from agent.lifecycle.shadow_deployment import ShadowDeployment
from agent.records import CameraState, Frame, Observation, Outcome
from agent.slot import NO_OVERRIDES, ModelSlot, OfferedFrame, SiteOverrides, Trial
from agent.timing.backoff import Backoff
from agent.timing.clock import SystemClock
from agent.wire import Heartbeat, OutboxHealth
from simulator.doubles.cameras.simulated_cameras import FaultyCamera, FrameFault, StillCamera
from tests.kits.outbox import make_verdict
from tests.kits.python_models import Line, PlainModel, lease_of, saying

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from agent.ports import FrameSource

CLOCK = SystemClock()
LONG_S = 20.0  # a safety bound, never an expectation


def until(is_reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LONG_S
    while not is_reached():
        assert time.monotonic() < deadline
        time.sleep(0.002)


# --- slot -------------------------------------------------------------------------------------------------------------

STRICT = SiteOverrides(thresholds={"spot": 0.25, "of another model": 0.1}, unsure_band=0.0, config_digest="strict")


def nobody(_: Observation) -> None:
    """Observe nothing."""


def test_settings_are_laid_over_champion_challenger_and_the_model_that_is_kept_in_one_store() -> None:
    first, second, third = (lease_of(PlainModel(version, saying(0.5))) for version in "123")
    slot = ModelSlot(first)
    slot.switch(second)
    slot.begin_trial(Trial(third, 0.5, "salt", nobody))
    slot.set_site(STRICT)
    lease = slot.lease()
    assert lease is not None
    assert lease.trial is not None
    for judging in (lease, lease.trial.challenger):
        assert judging.site is STRICT
        assert judging.rule.unsure_band == 0.0
        assert dict(judging.rule.thresholds) == {**second.rule.thresholds, "spot": 0.25}
    assert (lease.trial.share, lease.trial.salt) == (0.5, "salt")
    assert slot.revert()
    back = slot.lease()
    assert back is not None
    assert back.model is first.model
    assert back.rule.thresholds["spot"] == 0.25


def test_a_model_that_was_loaded_before_a_change_does_not_bring_the_old_settings_back() -> None:
    slot = ModelSlot(lease_of(PlainModel("1", saying(0.5))))
    loaded = lease_of(PlainModel("2", saying(0.5)))
    slot.set_site(STRICT)
    slot.begin_trial(Trial(loaded, 0.5, "salt", nobody))
    trial = slot.lease()
    assert trial is not None
    assert trial.trial is not None
    assert trial.trial.challenger.site is STRICT
    slot.switch(loaded)
    lease = slot.lease()
    assert lease is not None
    assert lease.rule.thresholds["spot"] == 0.25


def test_the_thresholds_of_two_changes_do_not_add_up() -> None:
    slot = ModelSlot(lease_of(PlainModel("1", saying(0.5))))
    slot.set_site(STRICT)
    slot.set_site(NO_OVERRIDES)
    lease = slot.lease()
    assert lease is not None
    assert lease.rule == lease.model.rule


def test_no_reader_ever_sees_a_model_under_settings_that_are_not_those_of_its_lease() -> None:
    models = [lease_of(PlainModel(str(n), saying(0.5))) for n in range(3)]
    slot, done = ModelSlot(models[0]), threading.Event()
    settings = [SiteOverrides(thresholds={"spot": n / 10}, config_digest=str(n)) for n in range(1, 9)]

    def live() -> None:
        rng = random.Random(3)
        while not done.is_set():
            slot.switch(rng.choice(models))
            slot.begin_trial(Trial(rng.choice(models), 0.5, "salt", nobody))
            if rng.random() < 0.5:
                slot.revert()
            slot.end_trial()
            slot.drop_previous()

    def lay() -> None:
        rng = random.Random(4)
        while not done.is_set():
            slot.set_site(rng.choice(settings))

    threads = [threading.Thread(target=target) for target in (live, lay)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3_000):
            lease = slot.lease()
            assert lease is not None
            judging = [lease, *([lease.trial.challenger] if lease.trial else [])]
            assert all(j.site is lease.site and j.rule == j.site.apply_to_rule(j.model) for j in judging)
    finally:
        done.set()
        for thread in threads:
            thread.join(LONG_S)


@pytest.mark.parametrize("safe", [False, True])
def test_a_batch_has_either_all_old_or_all_new_settings_and_says_which(safe: bool) -> None:  # noqa: FBT001
    line = Line(None if safe else lease_of(PlainModel("1", saying(0.3))))
    (before,) = line.judge()
    line.slot.set_site(STRICT)
    (after,) = line.judge()
    assert (before.origin.config_digest, after.origin.config_digest) == ("", "strict")
    if not safe:
        assert before.judgement.outcome is not Outcome.DEFECT
        assert after.judgement.outcome is Outcome.DEFECT


def test_a_shadow_judges_a_part_with_the_settings_that_the_champion_had_for_it() -> None:
    seen: list[Observation] = []
    runner = ShadowDeployment(
        challenger=lease_of(PlainModel("2", saying(0.3))), observe=seen.append, max_fps=1e9, clock=CLOCK
    )

    def offer(seq: int, site: SiteOverrides) -> bool:
        frame = Frame("cam", seq, CLOCK.monotonic_ns(), 0, np.full((8, 8), 100, np.uint8))
        return runner.offer(OfferedFrame(frame, make_verdict(seq), 1, site, lambda _: None))

    for seq, site in enumerate((NO_OVERRIDES, STRICT, NO_OVERRIDES)):
        until(partial(offer, seq, site))
        until(partial(lambda count: len(seen) == count, seq + 1))
    assert runner.close()
    assert [s.challenger.outcome is Outcome.DEFECT for s in seen] == [False, True, False]


# --- camera -----------------------------------------------------------------------------------------------------------


def pictures(level: int, side: int = 8) -> StillCamera:
    return StillCamera(pictures=[np.full((side, side), level, np.uint8)], clock=CLOCK, count=5)


class Camera:
    """One camera whose frames nobody judges."""

    def __init__(self, source: FrameSource) -> None:
        self.hub = IntakeHub(workers=1, max_batch=1)
        self.counters = CameraCounters()
        self.pool = FramePool(buffers=8)
        self.frames: list[Frame] = []
        self.capture = CaptureThread(
            camera="top", source=source, pool=self.pool, counters=self.counters, clock=CLOCK, random=random.Random(5),
            intake=self.hub.add_camera(inspection=0, capacity=4, policy="wait", counters=self.counters, pool=self.pool),
            stall_ms=None, backoff=Backoff(first_s=30.0, longest_s=30.0),
        )  # fmt: skip

    def take(self, count: int) -> None:
        """Take frames until there are `count`."""

        def took() -> bool:
            batch = self.hub.take(0.01)
            for frame in () if batch is None else batch.frames:
                self.frames.append(frame)
                self.pool.release(frame.buffer)
            return len(self.frames) >= count

        until(took)


def test_another_source_goes_on_with_the_numbers_also_after_the_first_has_ended() -> None:
    camera = Camera(pictures(1))
    camera.capture.start()
    camera.take(5)
    until(lambda: not camera.capture.is_running)
    assert camera.capture.status.state is CameraState.ENDED
    camera.capture.reconfigure(CaptureSettings(pictures(2, side=16), None, (16, 16)))
    camera.take(10)
    until(lambda: not camera.capture.is_running)
    camera.capture.reconfigure(CaptureSettings(pictures(3), None, (16, 16)))  # whose size is not as declared
    until(lambda: camera.counters.snapshot().captured == 15)
    until(lambda: not camera.capture.is_running)
    assert camera.capture.stop()
    assert [f.seq for f in camera.frames] == list(range(10))
    assert [int(f.pixels[0, 0]) for f in camera.frames[5:]] == [2] * 5
    assert camera.counters.snapshot().dropped == {"size": 5}
    assert camera.pool.held == 0


def test_a_change_does_not_wait_for_the_back_off_of_a_lost_camera() -> None:
    lost = FaultyCamera(camera=pictures(1), faults=iter([FrameFault.LOST] * 100), clock=CLOCK)
    camera = Camera(lost)
    camera.capture.start()
    until(lambda: camera.capture.status.state is CameraState.RECONNECTING)
    camera.capture.reconfigure(CaptureSettings(pictures(2), None, (None, None)))
    camera.take(5)  # within the 15 s at least that it would have waited
    assert camera.capture.status.last_error is None
    assert camera.capture.stop()


def test_a_camera_that_was_stopped_does_not_come_back_by_a_change() -> None:
    camera = Camera(pictures(1))
    camera.capture.start()
    camera.take(5)
    assert camera.capture.stop()
    camera.capture.reconfigure(CaptureSettings(pictures(2), None, (None, None)))
    assert not camera.capture.is_running
    assert camera.counters.snapshot().captured == 5


# --- heartbeat --------------------------------------------------------------------------------------------------------


def nothing() -> AgentSnapshot:
    outbox = OutboxHealth(
        rows=0, verdicts=0, bytes=0, oldest_age_s=0.0, evicted=0, damaged=0, gaps=0, storage_error=None
    )
    usage = ProcessUsage(cpu_s=0.0, rss_bytes=0, temperature_c=None, memory_used=None)
    return AgentSnapshot(CLOCK.monotonic_ns(), CLOCK.utc_ns(), (), (), outbox, usage)


def test_a_shorter_period_counts_at_once() -> None:
    beats: list[Heartbeat] = []
    thread = HeartbeatPublisher(
        identity=AgentIdentity("thing", "line", 1, "0", CLOCK.monotonic_ns()),
        snapshot=nothing, sink=beats.append, clock=CLOCK, period_s=3_600.0,
    )  # fmt: skip
    thread.start()
    until(lambda: len(beats) == 1)
    thread.set_period(period_s=0.01)
    until(lambda: len(beats) > 5)
    thread.close()
    count = len(beats)
    thread.set_period(period_s=0.01)
    time.sleep(0.05)
    assert len(beats) == count


# --- comparing, all or nothing ----------------------------------------------------------------------------------------

CAMERA = {"kind": "folder", "path": "/pictures"}


def tree(**changes: Any) -> dict[str, Any]:
    inspection = {"release": "/release", "cameras": {"cam": CAMERA}, "thresholds": {"spot": 0.5}}
    inspection.update(changes.pop("inspection", {}))
    return {
        "thing": "t", "line": "l", "state_dir": "/s", "inspections": {"top": inspection},
        "transport": {"kind": "none"}, **changes,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "paths"),
    [
        ({}, []),
        ({"keep": {"frames": 500}}, []),  # the default, written down
        ({"inspection": {"thresholds": {"spot": 0.6, "dent": 0.1}}},
         ["inspections.top.thresholds.spot", "inspections.top.thresholds.dent"]),
        ({"inspection": {"thresholds": {}}}, ["inspections.top.thresholds.spot"]),
        ({"inspection": {"roi": [0, 0, 1, 1]}}, ["inspections.top.roi"]),
        ({"inspection": {"cameras": {"cam": {**CAMERA, "loop": True, "stall_ms": 500}}}},
         ["inspections.top.cameras.cam.stall_ms", "inspections.top.cameras.cam.loop"]),
        ({"inspection": {"cameras": {"cam": {"kind": "v4l2"}}}}, ["inspections.top.cameras.cam.kind"]),
        ({"inspection": {"cameras": {"eye": CAMERA}}},
         ["inspections.top.cameras.cam", "inspections.top.cameras.eye"]),
        ({"transport": {"kind": "mqtt", "host": "h"}}, ["transport.kind"]),
        ({"updates": {"repository": "/r", "root": "/r", "site": "s"}}, ["updates"]),
        ({"collect": {"site": "s"}}, ["collect"]),
    ],
)  # fmt: skip
def test_two_configurations_differ_by_these_keys(tmp_path: Path, changes: dict[str, Any], paths: list[str]) -> None:
    old = config.parse(tree(), source="old", base=tmp_path)
    new = config.parse(tree(**changes), source="new", base=tmp_path)
    assert [".".join(path) for path in differences(old, new)] == paths
    assert (old.digest() == new.digest()) is not bool(paths)


@pytest.mark.parametrize("failing", range(4))
def test_a_change_that_fails_in_the_middle_goes_back_in_reverse_order(failing: int) -> None:
    done: list[str] = []

    def step(number: int) -> _ReversibleStep:
        def do() -> None:
            if number == failing:
                raise OSError("this step fails")
            done.append(f"do {number}")

        return _ReversibleStep(do, lambda: done.append(f"undo {number}"))

    if failing < 3:
        with pytest.raises(OSError, match="this step fails"):
            _run_or_undo([step(number) for number in range(3)])
    else:
        _run_or_undo([step(number) for number in range(3)])
    undone = [f"undo {number}" for number in reversed(range(failing + 1))] if failing < 3 else []
    assert done == [*(f"do {number}" for number in range(min(failing, 3))), *undone]
