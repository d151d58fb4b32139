"""A shadow takes what it can carry, holds up nobody, and gives back every buffer."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from agent.errors import InferenceError
from agent.lifecycle.shadow_deployment import ShadowDeployment
from agent.records import Frame, Geometry, Judgement, Observation, Outcome, Scores
from agent.slot import NO_OVERRIDES, OfferedFrame
from agent.timing.clock import SystemClock
from tests.kits.outbox import make_origin, make_verdict
from tests.kits.python_models import TINY, Line, PlainModel, lease_of, saying

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.records import Box, Pixels, Verdict

OK_BY_CHAMPION = Judgement(Outcome.OK, "ok", 0.1, (0.0, 0.1))
PATIENCE_S = 120.0


def verdict_of(seq: int) -> Verdict:
    return replace(make_verdict(seq, origin=make_origin(camera="cam")), judgement=OK_BY_CHAMPION)


class Watched:
    """A shadow, what it observed and what it released."""

    def __init__(
        self, model: PlainModel, *, observe: Callable[[Observation], None] | None = None, capacity: int = 2
    ) -> None:
        self.differences: list[tuple[int, Verdict, Box]] = []  # with the grey level of the frame
        self.seen: list[Observation] = []
        self.released: list[int] = []
        self.runner = ShadowDeployment(
            challenger=lease_of(model), observe=observe or self.seen.append, max_fps=1e9,
            clock=SystemClock(), capacity=capacity,
            differ=lambda frame, verdict, roi: self.differences.append((int(frame.pixels[0, 0]), verdict, roi)),
        )  # fmt: skip

    def offer(self, seq: int) -> bool:
        frame = Frame("cam", seq, time.monotonic_ns(), 0, np.full((8, 8), 100, np.uint8), buffer=seq)
        return self.runner.offer(OfferedFrame(frame, verdict_of(seq), 7, NO_OVERRIDES, self.released.append))

    def running(self) -> bool:
        return self.runner._thread.is_alive()

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.001)


class Stuck:
    """An answer that does not come before `go` is set."""

    def __init__(self) -> None:
        self.go, self.began = threading.Event(), threading.Event()

    def __call__(self, batch: Pixels) -> Scores:
        self.began.set()
        assert self.go.wait(PATIENCE_S)
        return saying(0.1)(batch)


def test_a_taken_frame_is_judged_by_the_challenger_observed_and_released() -> None:
    watched = Watched(PlainModel("2", saying(0.9), geometry=TINY))
    assert watched.offer(0)
    watched.until(lambda: bool(watched.seen))
    (observation,) = watched.seen
    assert observation.key == "line1/cam/1/0"
    assert observation.champion is OK_BY_CHAMPION
    assert observation.challenger.outcome is Outcome.DEFECT
    assert observation.champion_us == 7
    assert observation.challenger_us >= 0
    assert observation.latency_us >= 0
    assert observation.assigned
    assert watched.released == [0]
    assert watched.runner.close()


def fails(batch: Pixels) -> Scores:
    raise InferenceError(f"no memory for {len(batch)}")


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (PlainModel("2", fails), "no memory"),
        (PlainModel("2", saying(float("nan"))), "not finite"),
        (PlainModel("2", saying(1.5)), "outside 0 to 1"),
        (PlainModel("2", lambda _: Scores(np.zeros((5, 5), np.float32))), "shape"),
        (PlainModel("2", saying(0.1), geometry=Geometry("whole", 8, 8, 1, roi=(50, 50, 8, 8))), "ROI"),
    ],
    ids=["fails", "nan", "out-of-range", "shape", "roi"],
)
def test_a_challenger_that_fails_is_observed_as_unknown_and_the_shadow_goes_on(model: PlainModel, reason: str) -> None:
    watched = Watched(model)
    for seq in range(3):
        watched.until(lambda seq=seq: watched.offer(seq))  # type: ignore[misc]
        watched.until(lambda seq=seq: len(watched.seen) == seq + 1)  # type: ignore[misc]
    assert all(reason in str(o.challenger.reason) for o in watched.seen)
    assert watched.released == [0, 1, 2]
    assert watched.runner.close()


def test_a_full_shadow_refuses_and_closing_gives_back_what_waits() -> None:
    stuck = Stuck()
    watched = Watched(PlainModel("2", stuck), capacity=2)
    assert watched.offer(0)
    assert stuck.began.wait(PATIENCE_S)
    taken = [0, *(seq for seq in range(1, 50) if watched.offer(seq))]
    assert len(taken) == 3 == watched.runner.max_held_frames
    assert watched.released == []
    assert not watched.runner.close(timeout_s=0.01), "the challenger holds its frame"
    assert watched.released == taken[1:]
    assert not watched.offer(99)
    stuck.go.set()
    assert watched.runner.close(timeout_s=PATIENCE_S)
    assert sorted(watched.released) == taken
    assert watched.seen == [], "nothing is told after the end"


@pytest.mark.parametrize(("score", "told"), [(0.9, 1), (0.1, 0)])
def test_a_frame_on_which_the_challenger_differs_is_told_with_both_outcomes(score: float, told: int) -> None:
    watched = Watched(PlainModel("2", saying(score), geometry=TINY))
    assert watched.offer(0)
    watched.until(lambda: bool(watched.seen))
    assert len(watched.differences) == told
    for grey, verdict, roi in watched.differences:
        assert (grey, roi) == (100, (0, 0, 8, 8))
        assert (verdict.judgement, verdict.challenger_outcome) == (OK_BY_CHAMPION, Outcome.DEFECT)
        assert verdict.challenger_sha256 == "2".rjust(64, "0")


def test_the_rate_is_bounded_and_uneven() -> None:
    line = Line(None)  # only for its clock, which stands still until it is told to go on
    seen: list[Observation] = []
    runner = ShadowDeployment(
        challenger=lease_of(PlainModel("2", saying(0.1))), observe=seen.append, max_fps=10.0,
        clock=line.clock, capacity=2_000,
    )  # fmt: skip
    taken = []
    for step in range(10_000):  # 100 s at 100 frames/s
        frame = Frame("cam", step, 0, 0, np.zeros((8, 8), np.uint8))
        while not runner._has_frames.acquire(blocking=True):
            pass
        runner._has_frames.release()
        if runner.offer(OfferedFrame(frame, verdict_of(step), 1, NO_OVERRIDES, lambda _: None)):
            taken.append(step)
        line.clock.advance(0.01)
    runner.close()
    assert 800 < len(taken) < 1_050
    gaps = set(np.diff(taken).tolist())
    assert len(gaps) > 5, "a fixed gap would pick the same camera of several again and again"


def test_a_bug_in_the_observer_ends_the_shadow_and_not_the_line(caplog: pytest.LogCaptureFixture) -> None:
    def observe(_: Observation) -> None:
        raise RuntimeError("bug")

    watched = Watched(PlainModel("2", saying(0.1)), observe=observe)
    taken = [seq for seq in range(3) if watched.offer(seq)]
    watched.until(lambda: not watched.running())
    assert not watched.offer(9)
    assert watched.runner.close()
    assert sorted(watched.released) == taken
    assert "ended by a bug" in caplog.text


def test_the_loop_offers_every_verdict_and_releases_what_is_refused() -> None:
    line = Line(lease_of(PlainModel("1", saying(0.9))))
    kept: list[int] = []

    class Tap:
        offered = 0

        def offer(self, offered: OfferedFrame) -> bool:
            frame = offered.frame
            assert offered.verdict.key == f"line/cam/1/{frame.seq}"
            assert offered.verdict.judgement.outcome is Outcome.DEFECT
            assert offered.champion_us >= 0
            self.offered += 1
            if frame.seq % 2:
                kept.append(frame.buffer)
                return True
            return False

    tap = Tap()
    line.slot.begin_shadow_deployment(tap)
    verdicts = line.judge(8)
    assert all(v.arm is None and v.challenger_outcome is None for v in verdicts)
    assert tap.offered == 8
    assert line.pool.held == len(kept) == 4
    for buffer in kept:
        line.pool.release(buffer)
    assert line.pool.held == 0
