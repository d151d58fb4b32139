"""Frame buffers: never shared by two frames, never waited for."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from agent.inspection.frame_pool import FramePool

SHAPES = [(4, 6, 3), (4, 6), (8, 8)]


class Pool(RuleBasedStateMachine):
    """Any order of acquiring and releasing, with sizes that change."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = FramePool(buffers=3)
        self.held: dict[int, tuple[int, ...]] = {}
        self.misses = 0

    @rule(shape=st.sampled_from(SHAPES))
    def acquire(self, shape: tuple[int, ...]) -> None:
        index = self.pool.acquire(shape)
        if len(self.held) == 3:
            assert index == -1
            self.misses += 1
        else:
            assert index not in self.held
            assert self.pool.buffer(index).shape == shape
            self.held[index] = shape
        self.check_held()

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        index = data.draw(st.sampled_from(sorted(self.held)))
        self.pool.release(index)
        del self.held[index]
        self.check_held()

    def check_held(self) -> None:
        for index, shape in self.held.items():
            assert self.pool.buffer(index).shape == shape
        assert self.pool.held == len(self.held)
        assert self.pool.misses == self.misses


TestPool = Pool.TestCase
TestPool.settings = settings(max_examples=50, stateful_step_count=30)


def test_a_buffer_released_twice_is_a_bug_that_is_told() -> None:
    pool = FramePool(buffers=2)
    index = pool.acquire((2, 2))
    pool.release(index)
    with pytest.raises(ValueError, match="released twice"):
        pool.release(index)


def test_frames_that_own_their_pixels_need_no_special_case() -> None:
    FramePool(buffers=1).release(-1)


def test_the_same_arrays_come_back_in_steady_state() -> None:
    pool = FramePool(buffers=2)
    seen = set()
    for _ in range(100):
        index = pool.acquire((16, 16, 3))
        seen.add(id(pool.buffer(index)))
        pool.release(index)
    assert len(seen) == 1
