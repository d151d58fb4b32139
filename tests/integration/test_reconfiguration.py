"""A running agent takes a new configuration between two batches without losing a frame."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING

import pytest

from agent import app, config, control
from agent.adapters.onnx import OnnxModel
from agent.app import reconfigure
from agent.app.last_good_config import LAST_GOOD_NAME, load_last_good
from agent.cli import main
from agent.errors import ConfigError, ControlError, RestartNeededError, StateDirError
from agent.records import CameraState, Outcome
from agent.slot import Lease, Trial
from agent.timing.clock import SystemClock
from simulator.doubles.cameras.simulated_cameras import StillCamera
from simulator.doubles.network.memory_transport import MemoryTransport
from tests.kits.reconfiguration import assert_nothing_lost, changed, judge_more, parsed, until, verdicts_of, write_line
from tests.kits.releases import spot_images, write_release
from tests.kits.requirements import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from agent.records import Observation, Verdict
    from tests.kits.reconfiguration import Tree


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return write_line(tmp_path)


def defects(verdicts: list[Verdict], digest: str) -> int:
    return sum(v.judgement.outcome is Outcome.DEFECT for v in verdicts if v.origin.config_digest == digest)


def test_a_threshold_takes_effect_with_the_next_batch_and_the_digest_says_from_which_part_on(
    tmp_path: Path, tree: Tree
) -> None:
    transport = MemoryTransport()
    before = parsed(tree, tmp_path)
    blind = parsed(changed(tree, "inspections.spots.thresholds", {"spot": 1.0}), tmp_path)
    agent = app.build(before, transport=transport)
    with agent:
        judge_more(agent)
        applied = agent.apply(blind)
        assert applied == reconfigure.AppliedConfig(("inspections.spots.thresholds.spot",), (), blind.digest())
        judge_more(agent)
    assert_nothing_lost(agent, transport)
    for camera in ("cam", "twin", "rim"):
        verdicts = verdicts_of(transport, camera)
        digests = [digest for digest, _ in itertools.groupby(v.origin.config_digest for v in verdicts)]
        assert digests == [before.digest(), blind.digest()], camera  # one worker: it changes once
    verdicts = verdicts_of(transport)
    for verdict in verdicts:  # a spot is on every second picture, counted from the first
        sees = verdict.origin.config_digest == before.digest() and verdict.seq % 2
        assert (verdict.judgement.outcome is Outcome.DEFECT) is bool(sees)
    assert defects(verdicts_of(transport, "rim"), blind.digest()) > 0  # the other inspection judges as before


def test_with_several_workers_every_verdict_is_by_the_configuration_that_it_names(tmp_path: Path, tree: Tree) -> None:
    transport = MemoryTransport()
    see = parsed(changed(tree, "workers", 2), tmp_path)
    blind = parsed(changed(changed(tree, "workers", 2), "inspections.spots.thresholds", {"spot": 1.0}), tmp_path)
    agent = app.build(see, transport=transport)
    with agent:
        for _ in range(4):
            judge_more(agent, 10)
            agent.apply(blind)
            judge_more(agent, 10)
            agent.apply(see)
    assert_nothing_lost(agent, transport)
    for camera in ("cam", "twin"):
        for verdict in verdicts_of(transport, camera):
            sees = verdict.origin.config_digest == see.digest() and verdict.seq % 2
            assert (verdict.judgement.outcome is Outcome.DEFECT) is bool(sees), verdict


def test_a_challenger_on_trial_gets_the_thresholds_with_the_champion(tmp_path: Path, tree: Tree) -> None:
    transport = MemoryTransport()
    before = parsed(tree, tmp_path)
    blind = parsed(changed(tree, "inspections.spots.thresholds", {"spot": 1.0}), tmp_path)
    seen: list[Observation] = []
    agent = app.build(before, transport=transport)
    with agent:
        slot = agent.slots["spots"]
        model = OnnxModel.load(write_release(tmp_path / "newer", version="1.1.0"))
        slot.begin_trial(Trial(Lease(model, model.rule), 1.0, "salt", seen.append))
        judge_more(agent)
        agent.apply(blind)
        judge_more(agent)
    assert_nothing_lost(agent, transport)
    tried = [v for v in verdicts_of(transport) if v.arm == "challenger"]
    for verdict in tried:
        sees = verdict.origin.config_digest == before.digest() and verdict.seq % 2
        assert (verdict.challenger_outcome is Outcome.DEFECT) is bool(sees)
    assert {v.origin.config_digest for v in tried} == {before.digest(), blind.digest()}
    assert all(o.champion.outcome is o.challenger.outcome for o in seen)  # no part was judged by both rules


def test_an_roi_changes_what_the_model_sees(tmp_path: Path, tree: Tree) -> None:
    transport = MemoryTransport()
    lower = parsed(changed(tree, "inspections.spots.roi", [0, 16, 32, 16]), tmp_path)  # the spots are above it
    agent = app.build(parsed(tree, tmp_path), transport=transport)
    with agent:
        judge_more(agent)
        assert agent.apply(lower).changed == ("inspections.spots.roi",)
        judge_more(agent)
    assert_nothing_lost(agent, transport)
    verdicts = verdicts_of(transport)
    assert defects(verdicts, lower.digest()) == 0
    assert defects(verdicts, parsed(tree, tmp_path).digest()) > 0
    assert {v.judgement.outcome for v in verdicts} <= {Outcome.OK, Outcome.UNSURE, Outcome.DEFECT}


def test_an_inspection_begins_to_publish_each_verdict_at_once_while_it_runs(tmp_path: Path, tree: Tree) -> None:
    transport = MemoryTransport()
    agent = app.build(parsed(tree, tmp_path), transport=transport)
    with agent:
        judge_more(agent)
        at_once = changed(tree, "inspections.spots.publish", "at_once")
        assert agent.apply(parsed(at_once, tmp_path)).changed == ("inspections.spots.publish",)
        judge_more(agent)
        alone = '"kind":"verdict"', '"outcome":"ok"'
        until(agent, lambda: any(all(text in m.payload.decode() for text in alone) for m in list(transport.delivered)))
    assert_nothing_lost(agent, transport)


def test_a_camera_is_opened_again_with_its_settings_while_the_others_go_on(tmp_path: Path, tree: Tree) -> None:
    transport = MemoryTransport()
    other = changed(tree, "inspections.spots.cameras.cam.path", str(tmp_path / "others"))
    agent = app.build(parsed(tree, tmp_path), transport=transport)
    with agent:
        judge_more(agent)
        judge_more(agent, 1, camera="rim")
        since = {name: view.capture.status.since_ns for name, view in agent.cameras.items()}
        applied = agent.apply(parsed(other, tmp_path))
        assert applied.changed == ("inspections.spots.cameras.cam.path",)
        assert applied.reopened == ("cam",)
        judge_more(agent)
        until(agent, lambda: agent.cameras["cam"].capture.status.state is CameraState.RUNNING)
        assert agent.cameras["cam"].capture.status.since_ns > since["cam"]
        assert all(agent.cameras[name].capture.status.since_ns == since[name] for name in ("twin", "rim"))
    assert_nothing_lost(agent, transport)  # numbers go on, in the same epoch
    shown = [folder for folder, _ in itertools.groupby(str(v.part_id).split("-")[0] for v in verdicts_of(transport))]
    assert shown == ["images", "others"]


def test_a_camera_whose_folder_is_used_up_starts_again_with_another_one(tmp_path: Path, tree: Tree) -> None:
    transport = MemoryTransport()
    once = changed(tree, "inspections.spots.cameras.cam.loop", value=False)
    agent = app.build(parsed(once, tmp_path), transport=transport)
    with agent:
        until(agent, lambda: not agent.cameras["cam"].capture.is_running)
        agent.apply(parsed(changed(once, "inspections.spots.cameras.cam.path", str(tmp_path / "others")), tmp_path))
        until(agent, lambda: agent.cameras["cam"].counters.snapshot().inspected == 16 + 8)
    assert_nothing_lost(agent, transport)


def test_camera_settings_change_again_and_again_without_losing_a_frame(tmp_path: Path, tree: Tree) -> None:
    transport = MemoryTransport()
    agent = app.build(parsed(tree, tmp_path), transport=transport)
    with agent:
        for turn in range(12):
            new = changed(tree, "inspections.spots.cameras.cam.fps", 100.0 + turn)
            new = changed(new, "inspections.spots.thresholds", {"spot": 0.3 + turn / 100})
            agent.apply(parsed(changed(new, "inspections.spots.cameras.twin.stall_ms", 2_000 + turn), tmp_path))
            judge_more(agent, 3)
    assert_nothing_lost(agent, transport)


def test_what_is_kept_how_often_it_reports_and_how_long_it_drains_change_as_well(tmp_path: Path, tree: Tree) -> None:
    transport = MemoryTransport()
    agent = app.build(parsed(changed(tree, "keep.max_per_s", 1_000), tmp_path), transport=transport)
    frames = tmp_path / "state" / "frames" / "spots"
    with agent:
        until(agent, lambda: len(list(frames.glob("*.jpg"))) > 3)
        new = changed(tree, "keep", {"frames": 2, "max_per_s": 1_000, "jpeg_quality": 60})
        new = changed(changed(new, "heartbeat_s", 0.5), "drain_s", 4.0)
        applied = agent.apply(parsed(new, tmp_path))
        assert sorted(applied.changed) == ["drain_s", "heartbeat_s", "keep.frames", "keep.jpeg_quality"]
        until(agent, lambda: len(list(frames.glob("*.jpg"))) == 2)
        said = len([m for m in transport.delivered if m.topic == "kensa/thing/heartbeat"])
        until(agent, lambda: len([m for m in transport.delivered if m.topic == "kensa/thing/heartbeat"]) >= said + 3)
    assert_nothing_lost(agent, transport)


def test_the_last_good_configuration_is_on_disk_from_the_start_on(tmp_path: Path, tree: Tree) -> None:
    state = tmp_path / "state"
    assert load_last_good(state) is None
    first, second = parsed(tree, tmp_path), parsed(changed(tree, "heartbeat_s", 7.0), tmp_path)
    agent = app.build(first)
    with agent:
        assert load_last_good(state) == first
        agent.apply(second)
        assert load_last_good(state) == second
        assert (load_last_good(state) or first).digest() == second.digest()
        with pytest.raises(RestartNeededError):
            agent.apply(parsed(changed(tree, "line", "other"), tmp_path))
        assert load_last_good(state) == second
    (state / LAST_GOOD_NAME).write_text('{"thing": ', encoding="utf-8")
    assert load_last_good(state) is None


def test_a_disk_that_does_not_take_it_leaves_everything_as_it_was(tmp_path: Path, tree: Tree) -> None:
    agent = app.build(parsed(tree, tmp_path), transport=MemoryTransport())
    with agent:
        judge_more(agent, 5)
        leases = {name: slot.lease() for name, slot in agent.slots.items()}
        (tmp_path / "state" / f"{LAST_GOOD_NAME}.new").mkdir()  # nothing can be written under this name
        with pytest.raises(StateDirError, match=r"config\.good\.json cannot be written"):
            agent.apply(parsed(changed(tree, "inspections.spots.thresholds", {"spot": 1.0}), tmp_path))
        assert agent.config == parsed(tree, tmp_path)
        assert load_last_good(tmp_path / "state") == agent.config
        assert {name: slot.lease() for name, slot in agent.slots.items()} == leases


def test_cameras_that_the_program_brought_need_a_restart(tmp_path: Path, tree: Tree) -> None:
    camera = StillCamera(pictures=list(spot_images(4)[0]), clock=SystemClock())
    agent = app.build(parsed(tree, tmp_path), sources={"cam": camera})
    with agent, pytest.raises(RestartNeededError) as refused:
        agent.apply(parsed(changed(tree, "inspections.spots.cameras.cam.fps", 9.0), tmp_path))
    assert refused.value.paths == ("inspections.spots.cameras.cam.fps",)


def test_an_agent_that_does_not_run_takes_no_configuration(tmp_path: Path, tree: Tree) -> None:
    agent = app.build(parsed(tree, tmp_path))
    with pytest.raises(ControlError, match="does not run"):
        agent.apply(parsed(tree, tmp_path))
    with agent:
        assert agent.apply(parsed(tree, tmp_path)).changed == ()
    with pytest.raises(ControlError, match="does not run"):
        agent.apply(parsed(tree, tmp_path))


def test_the_limits_of_rollouts_change_and_a_loaded_model_gets_the_thresholds(tmp_path: Path, tree: Tree) -> None:
    updates = {"repository": str(tmp_path), "root": str(tmp_path / "1.root.json"), "site": "hall", "shadow": False}
    tree = changed(tree, "updates", updates)
    agent = app.build(parsed(tree, tmp_path), transport=MemoryTransport())
    with agent:
        new = changed(tree, "updates.limits", {"min_shadow_parts": 7, "probation_s": 1.5})
        applied = agent.apply(parsed(changed(new, "inspections.spots.unsure_band", 0.33), tmp_path))
        assert sorted(applied.changed) == [
            "inspections.spots.unsure_band", "updates.limits.min_shadow_parts", "updates.limits.probation_s",
        ]  # fmt: skip
        assert agent.lifecycle_manager is not None
        deps = agent.lifecycle_manager.lifecycles["spots"]._deps
        limits = deps.active_release._limits.current
        assert (deps.limits.current.min_shadow_parts, limits.probation_s) == (7, 1.5)
        loaded = deps.active_release.load(None)  # what is loaded from now on comes with the new settings
        lease = agent.slots["spots"].lease()
        assert lease is not None
        assert loaded.rule.unsure_band == lease.rule.unsure_band == 0.33
        with pytest.raises(RestartNeededError, match=r"updates\.site: needs a restart"):
            agent.apply(parsed(changed(tree, "updates.site", "elsewhere"), tmp_path))


# --- kensa apply ------------------------------------------------------------------------------------------------------


def test_kensa_apply_says_what_it_changed_or_why_not(
    tmp_path: Path, tree: Tree, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "line.yaml"

    def apply(new: Tree, *options: str) -> tuple[int, str]:
        path.write_text(json.dumps(new), encoding="utf-8")  # JSON is YAML
        code = main(["apply", str(path), *options])
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    assert apply(tree)[0] == 5  # nobody runs
    agent = app.build(parsed(tree, tmp_path), transport=MemoryTransport())
    with agent:
        judge_more(agent, 5)
        assert apply(tree) == (0, "the agent runs with this configuration already\n")
        faster = changed(tree, "inspections.spots.cameras.cam.fps", 90.0)
        code, said = apply(faster, "--dry-run")
        assert (code, agent.config) == (0, parsed(tree, tmp_path))
        assert said.startswith("inspections.spots.cameras.cam.fps\ncamera cam: opened again\nwould apply;")
        assert "\napplied; config_digest " in apply(faster)[1]
        code, said = apply(changed(tree, "heartbeat_s", 9.0), "--json")
        assert code == 0
        assert json.loads(said)["changed"] == ["inspections.spots.cameras.cam.fps", "heartbeat_s"]
        code, said = apply(changed(tree, "inspections.spots.thresholds", {"dent": 0.5}))
        assert code == 2
        assert "nothing was changed" in said
        assert "inspections.spots.thresholds: dent is no defect class of spots 1.0.0" in said
        code, said = apply(changed(tree, "line", "other"))
        assert code == 5
        assert "line: needs a restart" in said
        assert apply(changed(tree, "hartbeat_s", 9.0))[0] == 2
        with pytest.raises(ControlError, match="dry_run must be true or false"):
            control.request(tmp_path / "state", "config.apply", config=tree, dry_run=1)
    assert agent.config.heartbeat_s == 9.0


def test_the_digest_of_what_is_sent_is_the_digest_of_what_was_read(tmp_path: Path) -> None:
    example = config.load(ROOT / "docs" / "config.example.yaml")
    again = config.parse(example.model_dump(mode="json"), source="again", base=tmp_path)
    assert again.digest() == example.digest()


def test_what_is_wrong_for_this_line_is_a_configuration_error(tmp_path: Path, tree: Tree) -> None:
    agent = app.build(parsed(tree, tmp_path))
    with agent, pytest.raises(ConfigError, match="does not exist"):
        agent.apply(parsed(changed(tree, "inspections.spots.cameras.cam.path", "missing"), tmp_path))
