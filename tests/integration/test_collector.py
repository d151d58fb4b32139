"""The collector with its real child, from the worker to the target, through kills and stops."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
import yaml

from agent import app, cli, config
from agent.children.collect_client import check_target
from agent.collection import Collector
from agent.collection.collector import SHARED_FRAMES
from agent.commands.doctor.check_context import CheckContext
from agent.commands.doctor.check_result import CheckStatus
from agent.commands.doctor.checks import collection_target
from agent.errors import RestartNeededError
from agent.records import Frame, Outcome
from agent.timing.clock import SystemClock
from agent.wire.collected_frame import CollectReason, decode_collected
from simulator.doubles.servers.s3_server import S3Server
from tests.kits.collection import WHOLE, objects, part, picture, settings, until
from tests.kits.requirements import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from agent.config import CollectionConfig
    from agent.records import Pixels


@contextmanager
def collecting(tmp_path: Path, chosen: CollectionConfig, *, epoch: int = 1) -> Iterator[Collector]:
    collector = Collector(state_dir=tmp_path / "state", settings=chosen, boot_epoch=epoch, clock=SystemClock())
    collector.start()
    try:
        yield collector
    finally:
        collector.close(5.0)


def folder(tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    path.mkdir(exist_ok=True)
    return path


def to(tmp_path: Path, **changed: Any) -> CollectionConfig:
    return settings(**{"target": str(folder(tmp_path)), "format": "png", "max_per_s": 1_000.0, **changed})


def give(collector: Collector, seq: int, outcome: Outcome = Outcome.DEFECT) -> None:
    """Offer until it is taken."""
    before = collector.taken
    until(lambda: _offered(collector, seq, outcome) > before)


def _offered(collector: Collector, seq: int, outcome: Outcome) -> int:
    collector.offer(*part(seq, outcome), WHOLE)
    return collector.taken


def arrived(tmp_path: Path) -> dict[int, bytes]:
    """Pictures with their sidecars, by sequence number; a picture whose sidecar is missing does not count."""
    found = objects(folder(tmp_path))
    stems = {key.removesuffix(".json") for key in found if key.endswith(".json")}
    return {int(stem.rpartition("-")[2]): found[stem + ".png"] for stem in stems}


def decoded(data: bytes) -> Pixels:
    found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert found is not None
    return found.astype(np.uint8, copy=False)


def test_every_frame_arrives_lossless_and_once(tmp_path: Path) -> None:
    with collecting(tmp_path, to(tmp_path)) as collector:
        for seq in range(20):
            give(collector, seq)
        until(lambda: collector.health().uploaded == 20)
        health = collector.health()
    assert (health.kept, health.dropped, health.waiting) == ({CollectReason.DEFECT: 20}, {}, 0)
    found = arrived(tmp_path)
    assert sorted(found) == list(range(20))
    for seq, data in found.items():
        assert np.array_equal(decoded(data), picture(seq))


def test_a_child_that_is_killed_loses_and_repeats_nothing(tmp_path: Path) -> None:
    with collecting(tmp_path, to(tmp_path)) as collector:
        for seq in range(40):
            give(collector, seq)
            if seq % 8 == 3 and (pid := collector.child_pid) is not None:
                os.kill(pid, signal.SIGKILL)
        until(lambda: collector.health().uploaded == 40)
        health = collector.health()
    assert (health.kept, health.dropped) == ({CollectReason.DEFECT: 40}, {})
    assert sorted(arrived(tmp_path)) == list(range(40))


def test_a_child_that_stands_still_holds_nobody_up(tmp_path: Path) -> None:
    with collecting(tmp_path, to(tmp_path, ok_share=1.0)) as collector:
        give(collector, 0)
        until(lambda: collector.settled == 1)
        pid = collector.child_pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        began = time.monotonic()
        for seq in range(1, 101):
            collector.offer(*part(seq), WHOLE)
        defects = collector.taken - 1
        collector.offer(*part(101, Outcome.OK), WHOLE)
        assert time.monotonic() - began < 5.0
        assert (defects, collector.taken - 1) == (SHARED_FRAMES - 1, SHARED_FRAMES), "one slot is the sample's"
        assert collector.health().skipped["busy"] == 100 - defects
        os.kill(pid, signal.SIGCONT)
        until(lambda: collector.settled == collector.taken)


def test_a_stop_keeps_what_was_taken_and_is_over_in_time(tmp_path: Path) -> None:
    collector = Collector(
        state_dir=tmp_path / "state",
        settings=to(tmp_path, target=str(tmp_path / "away")),
        boot_epoch=1,
        clock=SystemClock(),
    )
    collector.start()
    for seq in range(SHARED_FRAMES - 1):
        collector.offer(*part(seq), WHOLE)
    taken = collector.taken
    began = time.monotonic()
    collector.close(20.0)
    assert time.monotonic() - began < 15.0
    assert collector.health().kept == {CollectReason.DEFECT: taken}
    collector.offer(*part(99), WHOLE)
    assert collector.taken == taken
    collector.close(1.0)


def test_a_child_that_hangs_is_killed_when_the_time_is_over(tmp_path: Path) -> None:
    collector = Collector(state_dir=tmp_path / "state", settings=to(tmp_path), boot_epoch=1, clock=SystemClock())
    collector.start()
    give(collector, 0)
    until(lambda: collector.settled == 1)
    pid = collector.child_pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    collector.offer(*part(1), WHOLE)
    collector.close(0.5)
    until(lambda: not _exists(pid))


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_what_waits_goes_out_when_the_target_comes_back(tmp_path: Path) -> None:
    disk = tmp_path / "disk" / "mounted"
    with collecting(tmp_path, to(tmp_path, target=str(disk))) as collector:
        give(collector, 0)
        until(lambda: "mount the disk" in (collector.health().error or ""))
        assert collector.health().waiting == 1
        disk.mkdir(parents=True)
        until(lambda: collector.health().uploaded == 1)
        assert collector.health().error is None


def test_settings_change_while_it_runs(tmp_path: Path) -> None:
    with collecting(tmp_path, to(tmp_path)) as collector:
        give(collector, 0)
        until(lambda: collector.health().uploaded == 1)
        collector.set_settings(to(tmp_path, unsure=False, max_bytes_per_day=1))
        collector.offer(*part(1, Outcome.UNSURE), WHOLE)
        assert collector.taken == 1
        give(collector, 2)
        until(lambda: collector.health().dropped == {"budget": 1})
        collector.set_settings(to(tmp_path, roi_only=True))
        before = collector.taken
        until(lambda: _with_roi(collector, 3) > before)
        until(lambda: collector.health().uploaded == 2)
    stem = next(key for key in objects(folder(tmp_path)) if key.endswith("-3.json"))
    sidecar = decode_collected(objects(folder(tmp_path))[stem])
    assert (sidecar.crop, sidecar.image.width, sidecar.image.height) == ((8, 4, 32, 16), 32, 16)
    assert np.array_equal(decoded(arrived(tmp_path)[3]), picture(3)[4:20, 8:40])


def _with_roi(collector: Collector, seq: int) -> int:
    collector.offer(*part(seq), (8, 4, 32, 16))
    return collector.taken


def test_a_disagreement_is_kept_once_and_not_again_what_was_kept_anyway(tmp_path: Path) -> None:
    with collecting(tmp_path, to(tmp_path)) as collector:
        for seq, outcome in enumerate((Outcome.OK, Outcome.DEFECT)):
            frame, verdict = part(seq, outcome)
            collector.offer(frame, verdict, WHOLE)
            other = Outcome.DEFECT if outcome is Outcome.OK else Outcome.OK
            collector.offer_disagreement(frame, replace(verdict, challenger_outcome=other), WHOLE)
        until(lambda: collector.health().uploaded == 2)
        assert collector.health().kept == {CollectReason.DEFECT: 1, CollectReason.DISAGREEMENT: 1}


def test_the_rate_of_copies_is_bounded(tmp_path: Path) -> None:
    with collecting(tmp_path, to(tmp_path, max_per_s=0.001)) as collector:
        deadline = time.monotonic() + 120.0
        while collector.health().skipped.get("rate", 0) < 5 and time.monotonic() < deadline:
            collector.offer(*part(collector.taken), WHOLE)
            time.sleep(0.01)
        assert collector.taken == 8, "the burst, and then nothing for a long time"


def test_frames_of_any_size_and_channels_share_the_slots(tmp_path: Path) -> None:
    shapes = [(48, 64), (480, 640, 3), (2, 3), (1080, 1920, 3), (48, 64, 3)]
    with collecting(tmp_path, to(tmp_path)) as collector:
        for seq, shape in enumerate(shapes):
            pixels = np.full(shape, seq * 10, np.uint8)
            _, verdict = part(seq)
            before = collector.taken
            frame = Frame("cam1", seq, 0, 0, pixels)
            while _take(collector, frame, verdict) == before:
                time.sleep(0.01)
        until(lambda: collector.health().uploaded == len(shapes))
    for seq, data in arrived(tmp_path).items():
        found = decoded(data)
        assert found.shape == shapes[seq]
        assert (found == seq * 10).all()


def _take(collector: Collector, frame: Frame, verdict: Any) -> int:
    height, width = frame.pixels.shape[:2]
    collector.offer(frame, verdict, (0, 0, width, height))
    return collector.taken


def test_a_state_directory_that_cannot_be_used_is_told_and_the_line_goes_on(tmp_path: Path) -> None:
    (tmp_path / "state").write_bytes(b"a file, not a folder")
    with collecting(tmp_path, to(tmp_path)) as collector:
        until(lambda: "cannot be used for collected frames" in (collector.health().error or ""))
        for seq in range(50):
            collector.offer(*part(seq), WHOLE)
        assert collector.taken == SHARED_FRAMES - 1


def test_credentials_that_expire_are_told_and_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "s3").mkdir()
    credentials = tmp_path / "credentials"
    with S3Server(tmp_path / "s3") as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
        credentials.write_text("[default]\naws_access_key_id = OLD\naws_secret_access_key = x\n")
        server.accepted = frozenset({"NEW"})
        with collecting(tmp_path, to(tmp_path, target="s3://data/line")) as collector:
            give(collector, 0)
            until(lambda: "ExpiredToken" in (collector.health().error or ""))
            give(collector, 1)
            credentials.write_text("[default]\naws_access_key_id = NEW\naws_secret_access_key = x\n")
            until(lambda: collector.health().uploaded == 2)
            assert collector.health().error is None
        assert set(server.stored.values()) == {1}
        assert len(server.stored) == 4


def test_a_frame_that_the_target_refuses_is_set_aside_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "s3").mkdir()
    with S3Server(tmp_path / "s3") as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        server.refusing("*-0.png")
        with collecting(tmp_path, to(tmp_path, target="s3://data")) as collector:
            give(collector, 0)
            give(collector, 1)
            until(lambda: collector.health().uploaded == 1, patience_s=180.0)
            assert (collector.health().set_aside, collector.health().waiting) == (1, 1)


def test_neither_the_inspecting_process_nor_a_child_with_a_folder_loads_the_cloud_sdk() -> None:
    program = (
        "import sys, agent.collection, agent.app.agent; assert 'boto3' not in sys.modules;"
        "import agent.upload.__main__, agent.upload.s3_target; assert 'boto3' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60, cwd=ROOT)


def test_the_doctors_question_is_answered_by_a_child(tmp_path: Path) -> None:
    clock = SystemClock()
    assert check_target(to(tmp_path), thing="t", timeout_s=30.0, clock=clock).usable
    away = check_target(to(tmp_path, target=str(tmp_path / "away")), thing="t", timeout_s=30.0, clock=clock)
    assert not away.usable
    assert "mount the disk" in away.text


def test_an_agent_collects_from_its_line_to_the_disk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "images").mkdir()
    for number in range(12):
        cv2.imwrite(str(tmp_path / "images" / f"{number:02}.png"), np.full((1080, 1920, 3), 128, np.uint8))
    tree: dict[str, Any] = {
        "thing": "device-7",
        "line": "line1",
        "state_dir": "state",
        "transport": {"kind": "none"},
        "inspections": {
            "part": {
                "release": str(ROOT / "releases" / "default"),
                "roi": [512, 92, 896, 896],
                "intake": {"policy": "wait"},
                "check_pictures": False,  # they are plain, so that each is judged alike
                "cameras": {"cam1": {"kind": "folder", "path": "images"}},
            }
        },
        "collect": {"site": "plant-a", "target": str(folder(tmp_path)), "ok_share": 1.0, "max_per_s": 1_000},
    }
    (tmp_path / "line.yaml").write_text(yaml.safe_dump(tree))
    agent = app.build(config.load(tmp_path / "line.yaml"))
    with agent:
        agent.wait(30.0)
        collector = agent.components.collector
        assert collector is not None
        until(lambda: collector.taken > 0 and collector.health().uploaded == collector.taken)
        beat = agent.heartbeat.preview()
        assert beat.collection is not None
        assert beat.collection.uploaded == collector.taken
        assert beat.collection.skipped.get("busy", 0) + collector.taken == 12
        assert cli.main(["status", str(tmp_path / "line.yaml")]) == 0
        fewer = config.parse({**tree, "collect": {**tree["collect"], "ok_share": 0.0}}, source="new", base=tmp_path)
        assert agent.apply(fewer).changed == ("collect.ok_share",)
        collector.offer(*part(99, Outcome.OK), WHOLE)
        assert collector.health().skipped.get("busy", 0) + collector.taken == 12, "no sample is drawn any more"
        with pytest.raises(RestartNeededError, match="collect"):
            agent.apply(fewer.model_copy(update={"collect": None}))
        assert f"{collector.taken} uploaded" in capsys.readouterr().out
    found = {finding.check: finding for finding in collection_target.run_checks(CheckContext(agent.config))}
    assert (found["collect target"].status, "GB free" in found["collect target"].seen) == (CheckStatus.OK, True)
    assert len([key for key in objects(folder(tmp_path)) if key.endswith(".json")]) == collector.taken
