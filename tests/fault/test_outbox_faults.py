"""Damaged files, a full disk, an interrupted recovery: losses are named and the line continues."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from agent.outbox import Outbox, OutboxLimits
from agent.outbox.storage.store_recovery import DAMAGED_SUFFIX
from agent.records import Outcome
from agent.timing.clock import NS_PER_S, SystemClock
from agent.wire import Gap, GapReason
from simulator.doubles.clocks.manual_clock import ManualClock
from simulator.doubles.network.memory_transport import MemoryTransport
from tests.kits.outbox import lost, make_verdict, read
from tests.kits.requirements import require

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COUNT = 600
LIMITS = OutboxLimits(max_bytes=4 * 1024 * 1024)


def fill(state_dir: Path, *, limits: OutboxLimits = LIMITS) -> None:
    """Commit COUNT verdicts, one in ten a defect, in many rows, and stop as a kill would."""
    clock = ManualClock()
    outbox = Outbox(state_dir=state_dir, transport=None, clock=clock, limits=limits)
    for start in range(0, COUNT, 10):
        verdicts = [make_verdict(seq) for seq in range(start, start + 9)]
        outbox.append([*verdicts, make_verdict(start + 9, Outcome.DEFECT)])
        clock.advance(0.7)
        outbox.writer.step()
    assert outbox.stats().committed == COUNT
    outbox.writer.close()


def drain(state_dir: Path, *, limits: OutboxLimits = LIMITS) -> tuple[set[int], list[Gap], int]:
    """Deliver everything; return the numbers that arrived, the gaps, and the known losses."""
    transport, clock = MemoryTransport(), SystemClock()
    outbox = Outbox(state_dir=state_dir, transport=transport, clock=clock, limits=limits)
    outbox.start()
    outbox.append([make_verdict(COUNT, Outcome.DEFECT)])  # the line goes on
    while not outbox.stats().connected:
        outbox.publish_now("kensa/device-7/heartbeat", ())
    stats = outbox.close(clock.monotonic_ns() + 30 * NS_PER_S)
    assert stats.rows == 0
    verdicts, gaps = read(transport.delivered)
    return {verdict.seq for verdict, _ in verdicts}, gaps, stats.damaged


@pytest.fixture(scope="module")
def full_outbox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("full") / "state"
    fill(path)
    return path


@pytest.mark.parametrize("seed", range(30))
def test_a_damaged_file_gives_back_what_is_whole_and_names_the_rest(
    full_outbox: Path, tmp_path: Path, seed: int
) -> None:
    state_dir = tmp_path / "state"
    shutil.copytree(full_outbox, state_dir)
    source = random.Random(seed)
    path = state_dir / "outbox.db"
    data = bytearray(path.read_bytes())
    for _ in range(source.randint(1, 4)):
        at, length = source.randrange(len(data)), source.choice([1, 16, 512, 4_096])
        data[at : at + length] = source.randbytes(len(data[at : at + length]))
    path.write_bytes(data)
    arrived, gaps, _damaged = drain(state_dir)
    missing = set(range(COUNT)) - arrived
    assert COUNT in arrived
    if missing:
        assert missing <= lost(gaps) or not all(gap.exact for gap in gaps)
        assert any(gap.reason is GapReason.DAMAGED for gap in gaps), f"{len(missing)} verdicts vanished silently"


def test_most_rows_of_damaged_files_are_saved(full_outbox: Path, tmp_path: Path) -> None:
    saved = 0
    for seed in range(10):
        state_dir = tmp_path / str(seed)
        shutil.copytree(full_outbox, state_dir)
        path = state_dir / "outbox.db"
        data = bytearray(path.read_bytes())
        at = random.Random(seed).randrange(4_096, len(data))
        data[at : at + 64] = os.urandom(len(data[at : at + 64]))
        path.write_bytes(data)
        saved += len(drain(state_dir)[0] - {COUNT})
    assert saved >= 0.95 * 10 * COUNT


def test_a_file_that_is_no_database_is_set_aside_and_cameras_are_told(tmp_path: Path) -> None:
    (tmp_path / "outbox.db").write_bytes(b"not a database at all" * 500)
    arrived, gaps, _ = drain(tmp_path)
    assert arrived == {COUNT}
    assert [(gap.camera, gap.reason, gap.exact, gap.ranges) for gap in gaps] == [("cam1", GapReason.DAMAGED, False, ())]
    assert (tmp_path / f"outbox.db{DAMAGED_SUFFIX}").exists()


def test_damage_while_the_agent_runs_is_repaired_from_file_and_memory(tmp_path: Path) -> None:
    clock = ManualClock()
    outbox = Outbox(state_dir=tmp_path, transport=None, clock=clock, limits=LIMITS)
    for start in range(0, 300, 10):
        outbox.append([make_verdict(seq, Outcome.DEFECT) for seq in range(start, start + 10)])
        outbox.writer.step()
    outbox.writer.store._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with (tmp_path / "outbox.db").open("r+b") as file:
        for page in range(2, 12):
            file.seek(page * 4_096)
            file.write(b"\xff" * 4_096)
    outbox.writer.store._connection.execute("PRAGMA cache_size=0")
    outbox.append([make_verdict(300, Outcome.DEFECT)])
    for _ in range(5):
        clock.advance(2.0)
        outbox.writer.step()
    assert outbox.stats().storage_error is None
    outbox.close(clock.monotonic_ns())
    arrived, gaps, _ = drain(tmp_path)
    assert 300 in arrived
    assert set(range(300)) <= arrived | lost(gaps) or not all(gap.exact for gap in gaps)


def test_a_cut_in_the_middle_of_a_repair_is_finished_at_the_next_start(tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    fill(state_dir)
    shutil.copy(state_dir / "outbox.db", state_dir / "outbox.db.fresh")
    (state_dir / "outbox.db").rename(state_dir / "outbox.db.damaged")
    arrived, gaps, _ = drain(state_dir)
    assert arrived == set(range(COUNT + 1))
    assert gaps == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    require(os.geteuid() == 0, "the right to mount (root)", "run the fault tests as root")
    where = tmp_path / "disk"
    where.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(where)]
    mounted = subprocess.run(mount, capture_output=True, check=False)
    require(mounted.returncode == 0, "the right to mount a tmpfs", "run as root with CAP_SYS_ADMIN")
    try:
        yield where
    finally:
        subprocess.run(["umount", str(where)], check=True)


def test_a_full_disk_keeps_defects_and_recovers_when_there_is_room(small_disk: Path) -> None:
    state_dir, clock = small_disk / "state", ManualClock()
    outbox = Outbox(state_dir=state_dir, transport=None, clock=clock, limits=LIMITS)
    outbox.append([make_verdict(seq, Outcome.DEFECT) for seq in range(100)])
    outbox.writer.step()
    hog = small_disk / "hog"
    with contextlib.suppress(OSError), hog.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4_096))
    assert shutil.disk_usage(small_disk).free == 0
    seq = 100
    while seq < 1_500:
        if outbox.stats().uncommitted < 1_000:
            outbox.append(
                [make_verdict(n, Outcome.DEFECT if n % 10 == 0 else Outcome.OK) for n in range(seq, seq + 20)]
            )
            seq += 20
        clock.advance(2.0)
        outbox.writer.step()
    hog.unlink()
    for _ in range(40):
        clock.advance(2.0)
        outbox.writer.step()
    assert outbox.stats().storage_error is None
    stats = outbox.close(clock.monotonic_ns())
    assert stats.committed == 1_500
    arrived, gaps, _ = drain(state_dir)
    assert set(range(1_500)) - arrived <= lost(gaps)
    assert sum(n % 10 == 0 for n in arrived) >= 140
