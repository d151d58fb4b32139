"""Camera health as pure logic: stalls, back-off, states."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.inspection.camera_health import CAMERA_BACKOFF, CameraStateMachine
from agent.records import CameraState

S = 1_000_000_000


def watch(stall_s: float | None = 2.0) -> CameraStateMachine:
    return CameraStateMachine(
        camera="top", stall_s=stall_s, first_exposure_s=10.0, backoff=CAMERA_BACKOFF, random=random.Random(3), now_ns=0
    )


def state(camera: CameraStateMachine) -> CameraState:
    return camera.status.state


def test_silence_after_frames_is_a_stall_once_the_limit_has_passed() -> None:
    camera = watch()
    camera.on_opening(0)
    camera.on_exposure(1 * S)
    assert camera.check_stall(2 * S) is None
    assert state(camera) is CameraState.RUNNING
    assert "no frame for 2.0 s" in str(camera.check_stall(3 * S))
    assert state(camera) is CameraState.STALLED
    assert camera.status.stalls == 1


def test_the_next_wait_ends_when_the_limit_passes() -> None:
    camera = watch()
    camera.on_opening(0)
    assert camera.read_timeout_s(0, 0.2) == 0.2
    camera.on_exposure(1 * S)
    assert camera.read_timeout_s(2 * S, 0.2) == 0.2
    assert camera.read_timeout_s(2_900_000_000, 0.2) == pytest.approx(0.1)
    assert 0 < camera.read_timeout_s(4 * S, 0.2) < 0.01
    assert watch(stall_s=None).read_timeout_s(10**6 * S, 0.2) == 0.2


def test_a_camera_that_opens_gets_longer_for_its_first_frame() -> None:
    camera = watch()
    camera.on_opening(0)
    assert camera.check_stall(9 * S) is None
    assert "since it was opened" in str(camera.check_stall(10 * S))


def test_a_triggered_camera_may_be_silent_for_ever() -> None:
    camera = watch(stall_s=None)
    camera.on_opening(0)
    camera.on_exposure(0)
    assert camera.check_stall(10**6 * S) is None


def test_time_spent_waiting_for_room_in_the_intake_is_no_silence() -> None:
    camera = watch()
    camera.on_opening(0)
    camera.on_exposure(0)
    camera.on_waiting(60 * S)
    assert camera.check_stall(61 * S) is None


def test_a_stall_stays_visible_until_the_next_opening_and_a_frame_ends_it() -> None:
    camera = watch()
    camera.on_opening(0)
    camera.on_exposure(0)
    stall = camera.check_stall(5 * S)
    assert stall is not None
    camera.on_lost(5 * S, stall)
    assert state(camera) is CameraState.STALLED
    camera.on_opening(6 * S)
    assert state(camera) is CameraState.RECONNECTING
    camera.on_exposure(7 * S)
    assert (camera.status.state, camera.status.since_ns) == (CameraState.RUNNING, 7 * S)
    assert camera.status.reopenings == 1


def test_the_delay_doubles_to_30_s_and_starts_over_with_a_frame_not_with_an_opening() -> None:
    camera = watch()
    delays = []
    for attempt in range(12):
        camera.on_opening(attempt * 100 * S)
        delays.append(camera.on_lost(attempt * 100 * S, "refused"))
    for number, delay in enumerate(delays):
        longest = min(30.0, 0.5 * 2**number)
        assert longest / 2 <= delay <= longest
    camera.on_opening(2_000 * S)
    camera.on_exposure(2_000 * S)
    assert camera.on_lost(2_001 * S, "gone") <= 0.5


def test_the_frame_rate_is_estimated() -> None:
    camera = watch()
    camera.on_opening(0)
    for number in range(100):
        camera.on_exposure(number * S // 25)
    assert camera.status.fps == pytest.approx(25, rel=0.01)
    assert camera.status.frames == 100


def test_an_event_that_a_state_does_not_know_raises_and_changes_nothing() -> None:
    camera = watch()
    camera.on_opening(0)
    camera.on_exposure(0)
    camera.on_ended(1)
    before = camera.status
    with pytest.raises(RuntimeError, match="exposure in state ended"):
        camera.on_exposure(2)
    assert camera.status == before
    camera.on_stopped(3)
    assert state(camera) is CameraState.ENDED


@given(failures=st.integers(1, 10**6), seed=st.integers())
def test_the_delay_is_always_between_a_quarter_second_and_half_a_minute(failures: int, seed: int) -> None:
    assert 0.25 <= CAMERA_BACKOFF.delay_s(failures, random.Random(seed)) <= 30.0
