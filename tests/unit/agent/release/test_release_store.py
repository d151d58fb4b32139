"""Releases in the store are complete, read-only and compared at each load."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from agent.errors import IntegrityError, StateDirError
from agent.release.release_store import ReleaseStore, read_ref
from agent.release_records import FetchedRelease, SelfTestResult
from simulator.doubles.lifecycle.fake_repository import SimulatedKill
from simulator.doubles.lifecycle.lifecycle_harness import BoundaryFault, ignore_boundary
from simulator.doubles.lifecycle.release_fixtures import write_release

if TYPE_CHECKING:
    from pathlib import Path

    from agent.release_records import ReleaseRef


def adopted(store: ReleaseStore, *, version: str = "1.0.0") -> ReleaseRef:
    staging = write_release(store.staging_dir(f"stand-in/{version}"), version=version, counter=1)
    ref = read_ref(staging)
    store.adopt(FetchedRelease(ref, staging, 0.0))
    return ref


def make(folder: Path) -> ReleaseStore:
    return ReleaseStore(folder, checkpoint=ignore_boundary)


def test_an_adopted_release_lies_read_only_under_the_digest_of_its_manifest(tmp_path: Path) -> None:
    store = make(tmp_path)
    ref = adopted(store)
    folder = store.verified_dir(ref)
    assert folder == tmp_path / "releases" / ref.digest
    assert folder.stat().st_mode & 0o222 == 0
    assert all(path.stat().st_mode & 0o222 == 0 for path in folder.iterdir())
    assert not list((tmp_path / "staging").iterdir())


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx", "golden.npz"])
@pytest.mark.parametrize("damage", ["bit", "cut", "gone", "link"])
def test_every_byte_is_compared_at_each_load(tmp_path: Path, name: str, damage: str) -> None:
    store = make(tmp_path)
    ref = adopted(store)
    path = store.verified_dir(ref) / name
    content = bytearray(path.read_bytes())
    path.parent.chmod(0o755)
    path.unlink()
    if damage == "bit":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "cut":
        path.write_bytes(content[:-1])
    elif damage == "link":
        (tmp_path / "elsewhere").write_bytes(content[:-1] + b"x")
        path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(IntegrityError, match="fetch"):
        store.verified_dir(ref)
    assert not store.contains(ref)


def test_a_release_that_is_not_what_was_signed_is_not_adopted(tmp_path: Path) -> None:
    store = make(tmp_path)
    staging = write_release(store.staging_dir("stand-in/1.0.0"), version="1.0.0", counter=1)
    ref = read_ref(staging)
    write_release(staging, version="1.0.0", counter=2)
    with pytest.raises(IntegrityError, match="not the one that was signed"):
        store.adopt(FetchedRelease(ref, staging, 0.0))
    assert not store.contains(ref)


@pytest.mark.parametrize("boundary", ["store: synced", "store: moved", "store: adopted"])
def test_a_kill_while_adopting_never_leaves_half_a_release(tmp_path: Path, boundary: str) -> None:
    store = ReleaseStore(tmp_path, checkpoint=BoundaryFault(boundary))
    with pytest.raises(SimulatedKill):
        adopted(store)
    again = make(tmp_path)
    ref = adopted(again)
    assert again.contains(ref)


def test_a_damaged_release_is_replaced_when_it_is_adopted_again(tmp_path: Path) -> None:
    store = make(tmp_path)
    ref = adopted(store)
    path = store.verified_dir(ref) / "model.onnx"
    path.chmod(0o644)
    path.write_bytes(b"x")
    assert adopted(store) == ref
    assert store.contains(ref)


def test_a_full_disk_is_a_clear_error_and_what_was_fetched_stays(tmp_path: Path) -> None:
    store = ReleaseStore(tmp_path, checkpoint=BoundaryFault("store", os_errno=errno.ENOSPC))
    staging = write_release(store.staging_dir("stand-in/1.0.0"), version="1.0.0", counter=1)
    fetched = FetchedRelease(read_ref(staging), staging, 0.0)
    with pytest.raises(StateDirError, match="the line continues with the model it has"):
        store.adopt(fetched)
    store.adopt(fetched)
    assert store.contains(fetched.ref)


def test_a_sweep_keeps_what_it_is_told_to_and_removes_the_rest(tmp_path: Path) -> None:
    store = make(tmp_path)
    kept, gone = adopted(store), adopted(store, version="2.0.0")
    (store.staging_dir("stand-in/3.0.0") / "part").write_bytes(b"half a download")
    store.staging_dir("stand-in/4.0.0")
    optimised = tmp_path / "made.onnx"
    optimised.write_bytes(b"graph")
    store.add_optimised(gone, SelfTestResult({}, optimised, "0" * 64))
    removed = store.sweep(keep={kept.digest}, staging="stand-in/3.0.0")
    assert removed == 3
    assert store.contains(kept)
    assert not store.release_dir(gone).exists()
    assert not optimised.exists()
    assert [path.name for path in (tmp_path / "staging").iterdir()] == ["stand-in--3.0.0"]


def test_an_optimised_file_that_was_changed_is_done_without(tmp_path: Path) -> None:
    store = make(tmp_path)
    ref = adopted(store)
    made = tmp_path / "made.onnx"
    made.write_bytes(b"graph")
    digest = "e1cbb0c3879af8347246f12c559a86b5"  # of other bytes
    assert store.find_optimised(store.add_optimised(ref, SelfTestResult({}, made, digest))) is None
