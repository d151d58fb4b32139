"""The spool: budgets are never exceeded, drops are ordered, counts survive."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
from typing import TYPE_CHECKING

import pytest

from agent.collection.spool_items import CollectDropReason, UploadedChunk, UploadState
from agent.collection.spool_opening import open_spool
from agent.errors import StateDirError
from agent.wire.collected_frame import CollectReason
from simulator.doubles.clocks.manual_clock import ManualClock
from tests.kits.collection import new_item, settings, spool_in

if TYPE_CHECKING:
    from pathlib import Path

    from agent.collection.spool import Spool
    from agent.config import CollectionConfig

KIB = 1024
ROOMY = settings()


def add(
    spool: Spool,
    seq: int,
    *,
    size: int = KIB,
    reason: CollectReason = CollectReason.DEFECT,
    class_name: str = "scratch",
    by: CollectionConfig = ROOMY,
    epoch: int = 1,
) -> CollectDropReason | None:
    item = new_item(seq, bytes([seq % 256]) * size, reason=reason, class_name=class_name, epoch=epoch)
    return spool.add(item, settings=by, job=(epoch, seq + 1))


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "images").iterdir())


def test_what_is_kept_comes_out_oldest_first_and_leaves_when_it_is_done(tmp_path: Path) -> None:
    spool = spool_in(tmp_path)
    assert [add(spool, seq) for seq in range(3)] == [None] * 3
    seen: list[str] = []
    while (item := spool.next_item()) is not None:
        assert item.path.read_bytes() == bytes([len(seen)]) * KIB
        seen.append(item.key.rpartition("/")[2])
        spool.complete(item)
    assert seen == ["cam1-1-0.jpg", "cam1-1-1.jpg", "cam1-1-2.jpg"]
    assert files(tmp_path) == []
    figures = spool.status()
    assert (figures.kept, figures.uploaded, figures.waiting, figures.waiting_bytes) == ({"defect": 3}, 3, 0, 0)


def test_everything_is_the_same_after_a_restart(tmp_path: Path) -> None:
    spool = spool_in(tmp_path)
    for seq in range(4):
        add(spool, seq, by=settings(max_bytes_per_day=3 * KIB))
    item = spool.next_item()
    assert item is not None
    spool.begin_multipart(item, "upload-7")
    spool.record_chunk(item, UploadedChunk(1, "etag", "sha"))
    before = spool.status()
    spool.close()
    again = spool_in(tmp_path)
    assert again.status() == before
    assert before.dropped == {"budget": 1}
    resumed = again.next_item()
    assert resumed is not None
    assert (resumed.upload_id, resumed.chunks, resumed.state) == (
        "upload-7",
        (UploadedChunk(1, "etag", "sha"),),
        UploadState.WAITING,
    )
    again.mark_image_uploaded(resumed)
    after = again.next_item()
    assert after is not None
    assert after.state is UploadState.SIDECAR


def test_a_job_is_done_once_however_often_it_is_given(tmp_path: Path) -> None:
    spool = spool_in(tmp_path)
    assert not spool.is_known_job(1, 1)
    add(spool, 0)
    assert spool.is_known_job(1, 1)
    assert not spool.is_known_job(1, 2)
    assert not spool.is_known_job(2, 1), "another start of the agent counts anew"
    spool.drop(CollectDropReason.BUDGET, job=(1, 2))
    assert spool.is_known_job(1, 2)
    assert add(spool, 0, epoch=1) is CollectDropReason.REPEATED
    assert spool.status().kept == {"defect": 1}


@pytest.mark.parametrize(
    "limits",
    [
        {"max_bytes_per_day": 5 * KIB},
        {"max_bytes_per_day_of_reason": {"defect": 5 * KIB}},
        {"max_bytes_per_day_of_class": {"scratch": 5 * KIB}},
    ],
)
def test_a_budget_is_never_exceeded_and_ends_with_the_day(tmp_path: Path, limits: dict[str, object]) -> None:
    clock = ManualClock()
    spool, by = spool_in(tmp_path, clock), settings(**limits)
    results = [add(spool, seq, size=KIB + 100, by=by) for seq in range(10)]
    assert results == [None] * 4 + [CollectDropReason.BUDGET] * 6
    assert spool.status().day_bytes <= 5 * KIB
    assert not spool.has_room(CollectReason.DEFECT, "scratch", by, need=KIB)
    clock.advance(86_400)
    assert spool.status().day_bytes == 0
    assert add(spool, 10, by=by) is None


def test_other_reasons_and_classes_do_not_use_a_budget_of_its_own_up(tmp_path: Path) -> None:
    spool = spool_in(tmp_path)
    by = settings(max_bytes_per_day_of_reason={"sample": KIB}, max_bytes_per_day_of_class={"dent": 2 * KIB})
    assert add(spool, 0, reason=CollectReason.SAMPLE, class_name="ok", by=by) is None
    assert add(spool, 1, reason=CollectReason.SAMPLE, class_name="ok", by=by) is CollectDropReason.BUDGET
    assert [add(spool, seq, class_name="dent", by=by) for seq in (2, 3, 4)] == [None, None, CollectDropReason.BUDGET]
    assert add(spool, 5, class_name="scratch", by=by) is None


def test_the_cap_drops_the_oldest_of_the_sample_first_and_never_what_is_being_uploaded(tmp_path: Path) -> None:
    spool, by = spool_in(tmp_path), settings(max_disk_bytes=1024 * KIB)
    size = 200 * KIB  # five fit
    reasons = [CollectReason.SAMPLE, CollectReason.DEFECT, CollectReason.SAMPLE, CollectReason.UNSURE]
    for seq, reason in enumerate([*reasons, CollectReason.DISAGREEMENT]):
        add(spool, seq, size=size, reason=reason, by=by)
    in_flight = spool.next_item()
    assert in_flight is not None
    assert in_flight.key.endswith("cam1-1-0.jpg")
    for seq, gone in ((5, 2), (6, 4), (7, 3), (8, 1), (9, 5)):
        add(spool, seq, size=size, by=by)
        assert f"cam1-1-{gone}.jpg" not in files(tmp_path)
        assert len(files(tmp_path)) == 5
    assert "cam1-1-0.jpg" in files(tmp_path)
    figures = spool.status()
    assert (figures.dropped, figures.waiting, figures.waiting_bytes) == ({"disk_cap": 5}, 5, 5 * size)


def test_a_picture_without_a_row_is_no_frame_and_a_row_without_its_picture_is_counted_as_lost(tmp_path: Path) -> None:
    spool = spool_in(tmp_path)
    for seq in range(3):
        add(spool, seq)
    spool.close()
    (tmp_path / "images" / "cam1-1-9.jpg").write_bytes(b"written, not kept")
    (tmp_path / "images" / "cam1-1-8.jpg.part").write_bytes(b"half")
    (tmp_path / "images" / "cam1-1-0.jpg").unlink()
    (tmp_path / "images" / "cam1-1-1.jpg").write_bytes(b"cut")
    figures = spool_in(tmp_path).status()
    assert files(tmp_path) == ["cam1-1-2.jpg"]
    assert (figures.kept, figures.dropped, figures.waiting) == ({"defect": 3}, {"missing": 2}, 1)


def test_a_disk_with_too_little_room_drops_counts_and_recovers(tmp_path: Path) -> None:
    spool = spool_in(tmp_path)
    assert add(spool, 0, by=settings(min_free_disk_bytes=1024**5)) is CollectDropReason.DISK_FULL
    assert add(spool, 1) is None
    assert spool.status().dropped == {"disk_full": 1}
    assert files(tmp_path) == ["cam1-1-1.jpg"]


def test_a_database_that_takes_nothing_leaves_no_picture_behind_and_is_counted_later(tmp_path: Path) -> None:
    spool = spool_in(tmp_path)
    add(spool, 0)
    spool._db.execute("PRAGMA query_only=ON")
    assert add(spool, 1) is CollectDropReason.DISK_FULL
    assert files(tmp_path) == ["cam1-1-0.jpg"]
    assert spool.status().dropped == {"disk_full": 1}
    spool._db.execute("PRAGMA query_only=OFF")
    assert add(spool, 2) is None
    spool.close()
    figures = spool_in(tmp_path).status()
    assert (figures.kept, figures.dropped) == ({"defect": 2}, {"disk_full": 1})


def test_what_conflicts_is_set_aside_and_the_others_go_on(tmp_path: Path) -> None:
    spool = spool_in(tmp_path)
    add(spool, 0)
    add(spool, 1)
    first = spool.next_item()
    assert first is not None
    spool.set_aside(first)
    second = spool.next_item()
    assert second is not None
    assert second.key.endswith("cam1-1-1.jpg")
    spool.close()
    figures = spool_in(tmp_path).status()
    assert (figures.set_aside, figures.waiting) == (1, 2)


def test_another_target_gets_everything_from_the_beginning(tmp_path: Path) -> None:
    spool = spool_in(tmp_path)
    add(spool, 0)
    add(spool, 1)
    spool.set_target("s3://one")
    for end in (spool.set_aside, spool.mark_image_uploaded):
        item = spool.next_item()
        assert item is not None
        end(item)
    spool.set_target("s3://one")
    before = spool.next_item()
    assert before is not None
    assert (before.state, spool.status().set_aside) == (UploadState.SIDECAR, 1)
    spool.begin_multipart(before, "upload-1")
    spool.set_target("s3://two")
    spool.close()
    again = spool_in(tmp_path)
    again.set_target("s3://two")
    item = again.next_item()
    assert item is not None
    assert (item.id, item.state, item.upload_id, again.status().set_aside) == (1, UploadState.WAITING, None, 0)


def test_a_damaged_database_is_put_aside_and_collecting_goes_on(tmp_path: Path) -> None:
    spool = spool_in(tmp_path)
    add(spool, 0)
    spool.close()
    (tmp_path / "spool.db").write_bytes(b"no database at all" * 1_000)
    for beside in ("spool.db-wal", "spool.db-shm"):
        (tmp_path / beside).unlink(missing_ok=True)
    again = spool_in(tmp_path)
    assert add(again, 1) is None
    assert files(tmp_path) == ["cam1-1-1.jpg"]
    assert list(tmp_path.glob("spool.damaged-*.db"))


def test_a_spool_belongs_to_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.collection.spool_opening._LOCK_WAIT_S", 0.1)
    spool = spool_in(tmp_path)
    with pytest.raises(StateDirError, match="cannot be used for collected frames"):
        open_spool(tmp_path, clock=ManualClock())
    spool.close()
    spool_in(tmp_path).close()


def test_a_folder_that_cannot_be_made_is_named_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StateDirError, match="free disk space"):
        open_spool(tmp_path / "file" / "spool", clock=ManualClock())


@pytest.mark.parametrize("step", ["write", "sync", "insert", "commit", "unlink"])
def test_a_kill_between_any_two_steps_leaves_a_whole_spool(tmp_path: Path, step: str) -> None:
    """The process dies for real, right after the step; a fresh one: a fork would inherit whatever runs here."""
    process = multiprocessing.get_context("spawn").Process(target=_die_after, args=(step, tmp_path))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    process.close()
    figures = spool_in(tmp_path).status()
    kept = figures.kept.get(CollectReason.DEFECT, 0)
    assert kept == figures.waiting + figures.uploaded
    assert len(files(tmp_path)) == figures.waiting
    assert figures.day_bytes == kept * KIB
    assert (kept, figures.uploaded) == {"commit": (2, 0), "unlink": (2, 1)}.get(step, (1, 0))


def _die_after(step: str, folder: Path) -> None:
    def die(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    spool = spool_in(folder)
    add(spool, 0)
    patch = pytest.MonkeyPatch()
    if step == "write":
        patch.setattr("agent.collection.spool.os.fsync", die)
    elif step == "sync":
        patch.setattr("agent.collection.spool.sync_directory", die)
    elif step == "insert":
        patch.setattr(spool, "_count", die)
    elif step == "commit":
        patch.setattr(spool, "_enforce_cap", die)
    else:
        add(spool, 1)
        item = spool.next_item()
        assert item is not None
        patch.setattr(spool, "_remove_row", die)
        spool.complete(item)
    add(spool, 1)


def test_the_rows_are_what_the_counts_say(tmp_path: Path) -> None:
    spool = spool_in(tmp_path)
    for seq in range(5):
        add(spool, seq, reason=CollectReason.SAMPLE if seq % 2 else CollectReason.UNSURE)
    spool.close()
    rows = sqlite3.connect(tmp_path / "spool.db")
    assert dict(rows.execute("SELECT reason, count(*) FROM item GROUP BY reason")) == {"sample": 2, "unsure": 3}
    rows.close()
