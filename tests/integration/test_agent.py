"""The composed agent accounts for every frame, whatever fails."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from agent import app, config, control, wire
from agent.adapters.image_folder import ImageFolderSource
from agent.cli import main
from agent.errors import ConfigError, InferenceError, IntegrityError, StateDirError
from agent.records import Outcome
from agent.slot import Lease
from agent.timing.clock import SystemClock
from simulator.doubles.network.memory_transport import MemoryTransport
from tests.kits.releases import spot_images, write_release

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from agent.ports import Model
    from agent.records import Pixels, Scores, Verdict

PATIENCE_S = 120.0  # a shared machine; nothing here waits that long unless it is broken


@pytest.fixture
def line(tmp_path: Path) -> Path:
    """A folder with a release, sixteen pictures of which every second has a spot, and one that is no picture."""
    write_release(tmp_path / "release")
    images = tmp_path / "images"
    images.mkdir()
    for index, image in enumerate(spot_images(16)[0]):
        cv2.imwrite(str(images / f"{index:02d}.png"), image)
    (images / "99.png").write_bytes(b"this is no picture")
    return tmp_path


def tree_of(line: Path, **changes: Any) -> dict[str, Any]:
    inspection = {
        "release": str(line / "release"),
        "intake": {"policy": "wait"},
        "cameras": {"cam": {"kind": "folder", "path": str(line / "images")}},
    }
    return {
        "thing": "thing",
        "line": "line",
        "state_dir": str(line / "state"),
        "inspections": {"spots": inspection},
        "transport": {"kind": "none"},
        **changes,
    }


def parsed(line: Path, **changes: Any) -> config.Config:
    return config.parse(tree_of(line, **changes), source="test", base=line)


def run_to_the_end(agent: app.Agent) -> None:
    with agent:
        assert agent.wait(PATIENCE_S)


def verdicts_of(transport: MemoryTransport) -> dict[str, Verdict]:
    found: dict[str, Verdict] = {}
    for message in transport.delivered:
        said = wire.decode(message.payload)
        if isinstance(said, wire.DecodedVerdicts):
            found.update({verdict.key: verdict for verdict in said.verdicts})
    return found


def test_every_picture_of_a_folder_becomes_a_verdict_and_one_that_cannot_be_read_is_unknown(line: Path) -> None:
    transport = MemoryTransport()
    agent = app.build(parsed(line), transport=transport)
    run_to_the_end(agent)
    account = agent.cameras["cam"].counters.snapshot()
    assert (account.captured, account.inspected, account.dropped, account.pending) == (17, 17, {}, 0)
    verdicts = verdicts_of(transport)
    assert len(verdicts) == 17
    assert {str(v.judgement.outcome) for v in verdicts.values()} == {"ok", "defect", "unknown"}
    (lost,) = (v for v in verdicts.values() if v.judgement.outcome is Outcome.UNKNOWN)
    assert lost.part_id == "99.png"
    assert str(lost.judgement.reason).startswith("corrupt: 99.png: ")
    assert sum(v.judgement.outcome is Outcome.DEFECT for v in verdicts.values()) == 8
    assert all(v.part_id == f"{v.seq:02d}.png" for v in verdicts.values() if v is not lost)


def test_the_heartbeat_adds_up_and_says_that_the_release_is_not_trusted(line: Path) -> None:
    transport = MemoryTransport()
    run_to_the_end(app.build(parsed(line), transport=transport))
    beats = [wire.decode(m.payload) for m in transport.delivered if m.topic == "kensa/thing/heartbeat"]
    last = beats[-1]
    assert isinstance(last, wire.Heartbeat)
    assert last.cameras[0].captured == 17
    assert last.cameras[0].pending == 0
    assert last.inspections[0].trusted is False


def test_what_the_broker_did_not_take_is_delivered_after_a_restart_under_its_own_epoch(line: Path) -> None:
    away = MemoryTransport(connected=False)
    run_to_the_end(app.build(parsed(line, drain_s=0.5), transport=away))
    assert not verdicts_of(away)
    back = MemoryTransport()
    run_to_the_end(app.build(parsed(line), transport=back))
    epochs = Counter(v.origin.boot_epoch for v in verdicts_of(back).values())
    assert list(epochs.values()) == [17, 17]


def test_frames_of_defects_are_kept_with_their_evidence_and_named_in_the_verdict(line: Path) -> None:
    transport = MemoryTransport()
    run_to_the_end(app.build(parsed(line, keep={"frames": 3, "max_per_s": 1000}), transport=transport))
    kept = sorted(p.name for p in (line / "state" / "frames" / "spots").iterdir())
    assert len([name for name in kept if name.endswith(".jpg")]) == 3
    assert len([name for name in kept if name.endswith(".npz")]) == 3
    named = [v.image for v in verdicts_of(transport).values() if v.image]
    assert {f"frames/spots/{name}" for name in kept if name.endswith(".jpg")} <= set(named)


def test_the_site_s_thresholds_go_before_the_model_s(line: Path) -> None:
    tree = tree_of(line)
    tree["inspections"]["spots"]["thresholds"] = {"spot": 1.0}
    transport = MemoryTransport()
    run_to_the_end(app.build(config.parse(tree, source="test", base=line), transport=transport))
    outcomes = {str(v.judgement.outcome) for v in verdicts_of(transport).values()}
    assert "defect" not in outcomes


def test_a_threshold_for_a_class_that_the_model_does_not_have_is_refused(line: Path) -> None:
    tree = tree_of(line)
    tree["inspections"]["spots"]["thresholds"] = {"dent": 0.5}
    agent = app.build(config.parse(tree, source="test", base=line))
    with pytest.raises(ConfigError, match=r"inspections\.spots\.thresholds: dent .* its defects are spot"):
        agent.start()


def test_a_damaged_model_file_keeps_the_agent_from_starting_and_frees_the_state_directory(line: Path) -> None:
    whole = (line / "release" / "model.onnx").read_bytes()
    (line / "release" / "model.onnx").write_bytes(whole[:-1] + b"\0")
    with pytest.raises(IntegrityError, match="fetch or export"):
        app.build(parsed(line)).start()
    (line / "release" / "model.onnx").write_bytes(whole)
    run_to_the_end(app.build(parsed(line)))


def test_a_second_agent_on_the_same_state_directory_is_refused(line: Path) -> None:
    tree = tree_of(line)
    tree["inspections"]["spots"]["cameras"]["cam"].update(fps=5, loop=True)
    second = app.build(parsed(line))
    with app.build(config.parse(tree, source="test", base=line)), pytest.raises(StateDirError, match="another agent"):
        second.start()


def test_status_and_explain_are_answered_by_the_running_agent(line: Path) -> None:
    tree = tree_of(line)
    tree["inspections"]["spots"]["cameras"]["cam"].update(fps=50, loop=True)
    agent = app.build(config.parse(tree, source="test", base=line))
    with agent:
        while agent.outbox.stats().committed < 20:
            assert not agent.wait(0.05)
        beat = control.request(line / "state", "status")["heartbeat"]
        camera = beat["cameras"][0]
        assert camera["captured"] == camera["inspected"] + sum(camera["dropped"].values()) + camera["pending"]
        found = control.request(line / "state", "explain", key=f"line/cam/{agent.boot_epoch}/1")["verdict"]
        assert found["outcome"] == "defect"


class _Broken:
    """The real model with a runtime that fails, as a flaky accelerator's would."""

    def __init__(self, model: Model) -> None:
        self.identity, self.geometry, self.rule = model.identity, model.geometry, model.rule
        self.preprocess_digest = model.preprocess_digest
        self.image_limits = model.image_limits

    def infer(self, batch: Pixels) -> Scores:
        raise InferenceError(f"no memory for a batch of {len(batch)}")


def _switch(agent: app.Agent, make: Callable[[Lease], Lease | None]) -> None:
    slot = agent.slots["spots"]
    lease = slot.lease()
    assert lease is not None
    slot.switch(make(lease))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda lease: Lease(_Broken(lease.model), lease.rule), "inference failed"),
        (lambda _: None, "no usable model"),
    ],
    ids=["runtime-fails", "no-model"],
)
def test_without_a_working_model_every_part_is_unknown_and_never_ok(
    line: Path, make: Callable[[Lease], Lease | None], reason: str
) -> None:
    tree = tree_of(line)
    tree["inspections"]["spots"]["cameras"]["cam"].update(fps=100, loop=True)
    transport = MemoryTransport()
    agent = app.build(config.parse(tree, source="test", base=line), transport=transport)
    with agent:
        _switch(agent, make)
        counters = agent.cameras["cam"].counters
        while counters.snapshot().outcomes.get("unknown", 0) < 10:
            assert not agent.wait(0.05)
    verdicts = sorted(verdicts_of(transport).values(), key=lambda v: v.seq)
    unknown = [v for v in verdicts if v.judgement.outcome is Outcome.UNKNOWN]
    assert reason in str(unknown[-1].judgement.reason)
    first = unknown[0].seq
    assert all(v.judgement.outcome is Outcome.UNKNOWN for v in verdicts if v.seq > first + agent.config.max_batch * 8)
    assert agent.cameras["cam"].counters.snapshot().pending == 0


def test_an_roi_outside_the_picture_gives_unknown_for_triggered_parts(line: Path) -> None:
    tree = tree_of(line)
    tree["inspections"]["spots"]["roi"] = [0, 0, 4000, 4000]
    transport = MemoryTransport()
    run_to_the_end(app.build(config.parse(tree, source="test", base=line), transport=transport))
    verdicts = verdicts_of(transport).values()
    assert {v.judgement.outcome for v in verdicts} == {Outcome.UNKNOWN}
    reasons = [str(v.judgement.reason) for v in verdicts]
    assert sum("ROI" in reason for reason in reasons) == 16
    assert len(reasons) == 17


def test_sources_for_cameras_that_do_not_exist_are_refused(line: Path) -> None:
    source = ImageFolderSource(path=line / "images", clock=SystemClock())
    with pytest.raises(ConfigError, match="other, which no inspection names"):
        app.build(parsed(line), sources={"other": source})


def _run(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main(list(arguments))
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_kensa_run_judges_a_folder_and_ends_with_0(line: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (line / "kensa.yaml").write_text(json.dumps(tree_of(line)), encoding="utf-8")  # JSON is YAML
    code, _, _ = _run(["run", str(line / "kensa.yaml")], capsys)
    assert code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["run", "missing.yaml"], 2, "No such file"),
        (["inspect"], 64, "there is no command 'inspect'"),
        (["status", "missing.yaml"], 2, "No such file"),
        ([], 64, "usage: kensa COMMAND"),
        (["run"], 64, "required: CONFIG"),
        (["run", "--help"], 0, "usage: kensa run"),
        (["--version"], 0, "0."),
    ],
)
def test_commands_end_with_a_code_and_a_sentence_and_no_traceback(
    arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    got, out, err = _run(arguments, capsys)
    assert got == code
    assert said in out + err
    assert "Traceback" not in out + err


def test_a_plugin_that_is_not_installed_is_named_with_those_that_are(line: Path) -> None:
    tree = tree_of(line)
    tree["inspections"]["spots"]["cameras"] = {"cam": {"kind": "plugin", "source": "warp"}}
    with pytest.raises(ConfigError, match="'warp' is not installed; installed: simulated"):
        app.build(config.parse(tree, source="test", base=line))


def test_every_frame_of_a_steady_camera_finds_a_free_buffer(line: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    big = np.zeros((1080, 1920), np.uint8)
    for path in (line / "images").iterdir():
        path.unlink()
    for index in range(4):
        cv2.imwrite(str(line / "images" / f"{index}.png"), big)
    tree = tree_of(line)
    tree["inspections"]["spots"]["cameras"]["cam"].update(loop=True)
    agent = app.build(config.parse(tree, source="test", base=line))
    with agent:
        counters = agent.cameras["cam"].counters
        while counters.snapshot().inspected < 200:
            assert not agent.wait(0.02)
        assert agent.components.pools["spots"].misses == 0
