"""Collected frames survive kills, cuts, expired credentials and a full disk, each exactly once."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from agent.collection.spool_items import CollectDropReason
from agent.wire.collected_frame import CollectReason
from simulator.campaigns.crashes.collector_kills import run_collector_kills
from tests.kits.collection import new_item, settings, spool_in
from tests.kits.requirements import require

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB = 1024**2


@pytest.mark.timeout(400)
def test_nothing_that_the_collector_answered_for_is_lost_or_twice(tmp_path: Path) -> None:
    found = run_collector_kills(kills=12, seed=7, work_dir=tmp_path)
    assert found.is_clean, found
    assert found.kills >= 6
    assert found.acknowledged > 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    require(os.geteuid() == 0, "the right to mount (root)", "run the fault tests as root")
    where = tmp_path / "small"
    where.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(where)]
    mounted = subprocess.run(mount, capture_output=True, check=False)
    require(mounted.returncode == 0, "the right to mount a tmpfs", "run as root with CAP_SYS_ADMIN")
    try:
        yield where
    finally:
        subprocess.run(["umount", "--lazy", str(where)], check=True)  # whatever failed, nothing stays mounted


def test_a_full_disk_drops_and_counts_leaves_no_half_file_and_goes_on_when_there_is_room(small_disk: Path) -> None:
    spool = spool_in(small_disk / "spool")
    results = [
        spool.add(new_item(seq, bytes([seq]) * (MIB // 2)), settings=settings(), job=(1, seq + 1)) for seq in range(12)
    ]
    kept = results.count(None)
    assert 2 < kept < 12
    assert set(results[kept:]) == {CollectDropReason.DISK_FULL}
    pictures = sorted(path.stat().st_size for path in (small_disk / "spool" / "images").iterdir())
    assert pictures == [MIB // 2] * kept
    while (item := spool.next_item()) is not None:
        spool.complete(item)
    assert spool.add(new_item(20, b"again"), settings=settings(), job=(1, 21)) is None
    spool.close()
    again = spool_in(small_disk / "spool")
    figures = again.status()
    again.close()
    assert figures.kept == {CollectReason.DEFECT: kept + 1}
    assert (figures.dropped, figures.uploaded, figures.waiting) == ({"disk_full": 12 - kept}, kept, 1)
    assert figures.day_bytes == kept * (MIB // 2) + 5
