from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from agent.outbox import Outbox, next_boot_epoch
from agent.wire.codec import MAX_INT
from simulator.doubles.clocks.manual_clock import ManualClock
from tests.kits.outbox import make_origin, make_verdict

if TYPE_CHECKING:
    from pathlib import Path

TODAY_S = 1_795_000_000.0
CLOCKS = {"right": TODAY_S, "1970": 3.0, "2036": 2_085_978_496.0, "beyond the last day": 1e11}


def start(state_dir: Path, utc_s: float = TODAY_S) -> int:
    epoch = next_boot_epoch(state_dir, utc_s=utc_s)
    assert 0 <= epoch <= MAX_INT
    return epoch


@pytest.mark.parametrize("clock", CLOCKS)
def test_a_thousand_starts_on_wiped_directories_never_give_one_number_twice(tmp_path: Path, clock: str) -> None:
    epochs = set()
    for _ in range(1_000):
        epochs.add(start(tmp_path / "state", CLOCKS[clock]))
        shutil.rmtree(tmp_path / "state")
    assert len(epochs) == 1_000


@pytest.mark.parametrize("clock", CLOCKS)
def test_two_devices_of_one_name_never_share_a_number_not_even_on_copies_of_one_card(
    tmp_path: Path, clock: str
) -> None:
    seen = {start(tmp_path / "one", CLOCKS[clock])}
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    for _ in range(100):
        seen |= {start(tmp_path / "one", CLOCKS[clock]), start(tmp_path / "two", CLOCKS[clock])}
    assert len(seen) == 201


def test_numbers_grow_with_every_start_whatever_the_clock_does(tmp_path: Path) -> None:
    times = [TODAY_S, 3.0, TODAY_S, CLOCKS["2036"], TODAY_S, 3.0, TODAY_S + 86_400.0] * 20
    epochs = [start(tmp_path, utc_s) for utc_s in times]
    assert epochs == sorted(set(epochs))


def test_numbers_grow_over_wiped_directories_from_day_to_day(tmp_path: Path) -> None:
    epochs = [start(tmp_path / str(day), TODAY_S + 86_400.0 * day) for day in range(50)]
    assert epochs == sorted(set(epochs))


def test_a_directory_of_an_earlier_version_goes_on_with_greater_numbers(tmp_path: Path) -> None:
    (tmp_path / "boot_epoch").write_text("41")
    assert start(tmp_path, 3.0) > 41


def test_used_up_numbers_begin_anew_instead_of_leaving_what_json_can_carry(tmp_path: Path) -> None:
    (tmp_path / "boot_epoch").write_text(str(MAX_INT))
    assert start(tmp_path) < MAX_INT


def test_a_damaged_or_missing_file_is_answered_from_what_the_outbox_has_seen(tmp_path: Path) -> None:
    (tmp_path / "boot_epoch").write_bytes(b"\x00damaged")
    clock = ManualClock()
    outbox = Outbox(state_dir=tmp_path, transport=None, clock=clock)
    seen = MAX_INT - 2**40
    outbox.append([make_verdict(1, origin=make_origin(boot_epoch=seen))])
    outbox.close(clock.monotonic_ns())
    assert start(tmp_path, 3.0) > seen
    (tmp_path / "boot_epoch").unlink()
    assert start(tmp_path, 3.0) > seen
