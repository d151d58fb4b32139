"""A refused configuration is named by its key, and changes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agent import app, control
from agent.app.last_good_config import LAST_GOOD_NAME
from simulator.doubles.network.memory_transport import MemoryTransport
from tests.kits.reconfiguration import assert_nothing_lost, changed, judge_more, parsed, verdicts_of, write_line

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.kits.reconfiguration import Tree

CAM = "inspections.spots.cameras.cam"
FOLDER = {"kind": "folder", "path": "/tmp", "loop": True}  # noqa: S108 - it is never opened
PLUGIN = {"kind": "plugin", "source": "simulated"}

WRONG = [  # where, what, and what is said of it
    ("hartbeat_s", 5, "hartbeat_s: unknown key. Did you mean 'heartbeat_s'?"),
    ("heartbeat_s", 0.1, "heartbeat_s: given 0.1"),
    ("heartbeat_s", "soon", 'heartbeat_s: given "soon"'),
    ("drain_s", 0, "drain_s: given 0"),
    ("inspections.spots.treshold", 0.5, "inspections.spots.treshold: unknown key. Did you mean 'thresholds'?"),
    ("inspections.spots.thresholds", {"spot": 1.5}, "inspections.spots.thresholds.spot: given 1.5"),
    ("inspections.spots.thresholds", {"spot": "high"}, 'inspections.spots.thresholds.spot: given "high"'),
    ("inspections.spots.thresholds", {"dent": 0.5}, "inspections.spots.thresholds: dent is no defect class of spots"),
    ("inspections.rims.thresholds", {"ok": 0.5}, "inspections.rims.thresholds: ok is no defect class of spots"),
    ("inspections.spots.unsure_band", -0.1, "inspections.spots.unsure_band: given -0.1"),
    ("inspections.spots.unsure_band", [0.1], "inspections.spots.unsure_band: given [0.1]"),
    ("inspections.spots.roi", [0, 0, 8], "inspections.spots.roi.3: is required"),
    ("inspections.spots.roi", [-1, 0, 8, 8], "inspections.spots.roi.0: given -1"),
    ("inspections.spots.roi", [0, 0, 0, 8], "inspections.spots.roi.2: given 0"),
    ("inspections.spots.roi", [0, 0, 64, 64], "inspections.spots.roi: camera cam: ROI x=0 y=0 w=64 h=64 does not lie"),
    (f"{CAM}.fps", 0, f"{CAM}.fps: given 0"),
    (f"{CAM}.fps", "fast", f'{CAM}.fps: given "fast"'),
    (f"{CAM}.kind", "telepathy", f'{CAM}.kind: given "telepathy"'),
    (f"{CAM}.path", None, f"{CAM}.path: is required"),
    (f"{CAM}.path", "/nowhere", f"{CAM}.path: /nowhere does not exist"),
    (f"{CAM}.stall_ms", 5, f"{CAM}.stall_ms: given 5"),
    (f"{CAM}.width", 640, f"{CAM}: give both width and height, or neither"),
    (f"{CAM}.device", "/dev/video0", f"{CAM}.device: unknown key"),
    (CAM, {"kind": "video", "path": "/nowhere.mp4"}, f"{CAM}.path: /nowhere.mp4 does not exist"),
    (CAM, {"kind": "plugin", "source": "warp"}, f"{CAM}: camera source 'warp' is not installed"),
    (CAM, {**PLUGIN, "options": {"fps": -3}}, f"{CAM}: the simulated camera is refused"),
    (CAM, {"kind": "rtsp", "url": "http://127.0.0.1/"}, f"{CAM}.url: given"),
    (CAM, {"kind": "rtsp", "url": "rtsp://[bad"}, f"{CAM}.url: is no address"),
    (CAM, {"kind": "mjpeg", "url": "http://h:99999999/x"}, f"{CAM}.url: is no address"),
    ("keep.jpeg_quality", 10, "keep.jpeg_quality: given 10"),
    ("keep.frames", -1, "keep.frames: given -1"),
    ("keep.max_per_s", float("inf"), "keep.max_per_s: given Infinity"),
    ("outbox.max_bytes", "lots", 'outbox.max_bytes: given "lots"'),
    ("thing", "a/b", 'thing: given "a/b"'),
    ("transport", {"kind": "mqtt", "host": "h", "password_file": "p"}, "transport: password_file is given without"),
]

RESTART = [
    ("thing", "other", "thing"),
    ("line", "other", "line"),
    ("state_dir", "/nowhere", "state_dir"),
    ("transport", {"kind": "mqtt", "host": "localhost"}, "transport.kind"),
    ("workers", 2, "workers"),
    ("max_batch", 4, "max_batch"),
    ("metrics", {"port": 0}, "metrics"),
    ("outbox.commit_ms", 100, "outbox.commit_ms"),
    ("updates", {"repository": "/r", "root": "/r", "site": "s"}, "updates"),
    ("inspections.spots.release", "/elsewhere", "inspections.spots.release"),
    ("inspections.spots.intake.capacity", 3, "inspections.spots.intake.capacity"),
    ("inspections.spots.cameras.new", FOLDER, "inspections.spots.cameras.new"),
    ("inspections.spots.cameras.twin", None, "inspections.spots.cameras.twin"),
    ("inspections.rims", None, "inspections.rims"),
    ("inspections.more", {"release": "/r", "cameras": {"more": FOLDER}}, "inspections.more"),
]


class Site:
    """A line under traffic that no case may disturb."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tree: Tree = write_line(folder)
        self.transport = MemoryTransport()
        self.agent = app.build(parsed(self.tree, folder), transport=self.transport)

    def refused(self, tree: Tree) -> dict[str, object]:
        """Apply `tree`, look that nothing has changed and frames come; return the answer."""
        agent, good = self.agent, self.folder / "state" / LAST_GOOD_NAME
        before = (agent.config, [slot.lease() for slot in agent.slots.values()], good.read_bytes())
        setups = [view.settings for view in agent.cameras.values()]
        answer = control.request(self.folder / "state", "config.apply", config=tree)
        assert (agent.config, [slot.lease() for slot in agent.slots.values()], good.read_bytes()) == before
        assert [view.settings for view in agent.cameras.values()] == setups
        judge_more(agent, 2)
        return answer


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    line = Site(tmp_path_factory.mktemp("line"))
    with line.agent:
        judge_more(line.agent)
        yield line
    assert_nothing_lost(line.agent, line.transport)
    digests = {v.origin.config_digest for camera in line.agent.cameras for v in verdicts_of(line.transport, camera)}
    assert digests == {parsed(line.tree, line.folder).digest()}


@pytest.mark.parametrize(("path", "value", "said"), WRONG)
def test_what_is_wrong_is_named_by_its_key_and_changes_nothing(site: Site, path: str, value: object, said: str) -> None:
    tree = changed(site.tree, "inspections.rims.unsure_band", 0.2)  # good by itself: it is not applied either
    answer = site.refused(changed(tree, path, value))
    assert said in str(answer["wrong"])


@pytest.mark.parametrize(("path", "value", "key"), RESTART)
def test_what_needs_a_restart_is_named_and_changes_nothing(site: Site, path: str, value: object, key: str) -> None:
    tree = changed(site.tree, "inspections.rims.unsure_band", 0.2)
    assert site.refused(changed(tree, path, value))["restart"] == [key]


def test_a_declared_size_that_the_roi_does_not_lie_in_is_refused_with_both(site: Site) -> None:
    tree = changed(site.tree, "inspections.spots.roi", [0, 0, 32, 32])
    tree = changed(tree, CAM, {**site.tree["inspections"]["spots"]["cameras"]["cam"], "width": 16, "height": 16})
    assert "roi: camera cam: ROI x=0 y=0 w=32 h=32 does not lie in a frame of 16x16 px" in str(
        site.refused(tree)["wrong"]
    )


@pytest.mark.parametrize("tree", [None, [], "text", 5])
def test_what_is_no_configuration_at_all_is_refused(site: Site, tree: Tree) -> None:
    assert "expected a mapping of keys" in str(site.refused(tree)["wrong"])


def test_a_camera_in_two_inspections_is_refused(site: Site) -> None:
    answer = site.refused(changed(site.tree, "inspections.rims.cameras.cam", FOLDER))
    assert "camera 'cam' is in inspections 'spots' and 'rims'" in str(answer["wrong"])
