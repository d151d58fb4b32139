"""One cycle a site and model at a time, and every trigger once, whatever fails in between."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from pipeline.cloud.storage import FolderStorage
from pipeline.cycle.execution import CycleRequest, Execution
from pipeline.cycle.locks import CycleLocks
from tests.unit.pipeline.cycle.deployment.test_rollout_decision import settings

if TYPE_CHECKING:
    from pathlib import Path

SETTINGS = settings()


def execution(number: int, trigger_id: str | None = None, *, model: str = "spots") -> Execution:
    request = CycleRequest(
        trigger="manual", trigger_id=trigger_id or f"id-{number}", site="a", model=model, inspection="main"
    )
    return Execution(f"arn:aws:states:eu-central-1:1:execution:kensa:run-{number}", request, {}, SETTINGS)


def test_the_lock_is_one_executions_until_it_is_given_back(tmp_path: Path) -> None:
    locks = CycleLocks(FolderStorage(tmp_path), is_running=lambda _: True)
    first, second = execution(1), execution(2)
    assert locks.acquire(first) is None
    assert "already works" in str(locks.acquire(second))
    assert locks.acquire(execution(9, model="other")) is None  # another model
    assert not locks.unlock(second)
    assert locks.unlock(first)
    assert locks.acquire(execution(3)) is None


def test_to_take_it_twice_is_to_have_it(tmp_path: Path) -> None:
    locks = CycleLocks(FolderStorage(tmp_path), is_running=lambda _: True)
    assert locks.acquire(execution(1)) is None
    assert locks.acquire(execution(1)) is None
    assert locks.holder(execution(1).request) == execution(1).arn


def test_a_trigger_that_was_taken_counts_no_more(tmp_path: Path) -> None:
    locks = CycleLocks(FolderStorage(tmp_path), is_running=lambda _: False)
    assert locks.acquire(execution(1, "event")) is None
    locks.unlock(execution(1, "event"))
    assert "was already taken" in str(locks.acquire(execution(2, "event")))


def test_the_lock_of_an_execution_that_ended_is_taken_over(tmp_path: Path) -> None:
    locks = CycleLocks(FolderStorage(tmp_path), is_running=lambda arn: not arn.endswith("run-1"))
    assert locks.acquire(execution(1)) is None
    assert locks.acquire(execution(2)) is None
    assert locks.holder(execution(2).request) == execution(2).arn
    assert not locks.unlock(execution(1))  # who was given up on frees nothing


def test_of_many_at_once_one_gets_it(tmp_path: Path) -> None:
    locks = CycleLocks(FolderStorage(tmp_path), is_running=lambda _: True)
    answers: list[str | None] = []
    threads = [threading.Thread(target=lambda n=n: answers.append(locks.acquire(execution(n)))) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers.count(None) == 1


@given(steps=st.lists(st.tuples(st.integers(1, 3), st.booleans()), max_size=20))
def test_never_two_hold_it(tmp_path_factory: object, steps: list[tuple[int, bool]]) -> None:
    folder = tmp_path_factory.mktemp("locks")  # type: ignore[attr-defined]
    locks = CycleLocks(FolderStorage(folder), is_running=lambda _: True)
    holder: int | None = None
    for number, takes in steps:
        one = execution(number, f"id-{number}")
        if takes:
            taken = locks.acquire(one) is None
            assert taken is (holder in {None, number})
            holder = number if taken else holder
        else:
            assert locks.unlock(one) is (holder == number) or holder is None
            holder = None if holder == number else holder
