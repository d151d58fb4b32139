from __future__ import annotations

from typing import TYPE_CHECKING

from agent.outbox import find_verdict
from agent.outbox.outbox_records import Priority, Row, Stream
from agent.outbox.storage.history import HISTORY_NAME, History
from agent.records import Outcome
from agent.timing.clock import NS_PER_S
from agent.wire import encode_verdict
from tests.kits.outbox import ORIGIN, make_verdict

if TYPE_CHECKING:
    from pathlib import Path

STREAM = Stream.of(ORIGIN)


def rows(first: int, count: int) -> list[Row]:
    return [
        Row(seq, Priority.DEFECT, STREAM, seq, seq, 1, 0, encode_verdict(make_verdict(seq, Outcome.DEFECT)))
        for seq in range(first, first + count)
    ]


def kept(path: Path, seqs: range) -> list[int]:
    return [seq for seq in seqs if find_verdict(path, f"line1/cam1/1/{seq}") is not None]


def test_the_oldest_go_when_the_history_is_full(tmp_path: Path) -> None:
    history = History(tmp_path / HISTORY_NAME, max_bytes=64 * 1024, max_age_s=1e9)
    for first in range(0, 500, 20):
        history.add(rows(first, 20), now_ns=1_000 * NS_PER_S)
    found = kept(tmp_path, range(500))
    assert 50 < len(found) < 150
    assert found == list(range(500 - len(found), 500))
    history.close()


def test_the_oldest_go_when_they_are_too_old(tmp_path: Path) -> None:
    history = History(tmp_path / HISTORY_NAME, max_bytes=1024 * 1024, max_age_s=100.0)
    history.add(rows(0, 5), now_ns=1_000 * NS_PER_S)
    history.add(rows(5, 5), now_ns=1_060 * NS_PER_S)
    history.add(rows(10, 5), now_ns=1_120 * NS_PER_S)
    assert kept(tmp_path, range(15)) == list(range(5, 15))
    history.close()


def test_the_history_goes_on_after_a_restart(tmp_path: Path) -> None:
    for first in (0, 5):
        history = History(tmp_path / HISTORY_NAME, max_bytes=1024 * 1024, max_age_s=100.0)
        history.add(rows(first, 5), now_ns=1_000 * NS_PER_S)
        history.close()
    assert kept(tmp_path, range(10)) == list(range(10))


def test_a_damaged_history_is_set_aside_and_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / HISTORY_NAME
    path.write_bytes(b"this is no database" * 1_000)
    history = History(path, max_bytes=1024 * 1024, max_age_s=100.0)
    history.add(rows(0, 3), now_ns=1_000 * NS_PER_S)
    assert kept(tmp_path, range(3)) == [0, 1, 2]
    assert path.with_name(HISTORY_NAME + ".damaged").exists()
    history.close()
