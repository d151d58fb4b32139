"""A running line with two inspections and three looping cameras to reconfigure."""

from __future__ import annotations

import copy
import time
from typing import TYPE_CHECKING, Any

import cv2

from agent import app, config, wire
from tests.kits.releases import spot_images, write_release

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from agent.records import Verdict
    from simulator.doubles.network.memory_transport import MemoryTransport

PATIENCE_S = 120.0  # a shared machine; nothing here waits that long unless it is broken
Tree = dict[str, Any]


def write_line(folder: Path) -> Tree:
    """Write release and pictures, every second with a spot in its upper half; return the configuration's tree."""
    write_release(folder / "release")
    for name, count in (("images", 16), ("others", 8)):
        (folder / name).mkdir()
        for index, image in enumerate(spot_images(count)[0]):
            cv2.imwrite(str(folder / name / f"{name}-{index:02d}.png"), image)

    def camera(fps: float) -> Tree:
        return {"kind": "folder", "path": str(folder / "images"), "fps": fps, "loop": True}

    def inspection(**cameras: Tree) -> Tree:
        return {"release": str(folder / "release"), "intake": {"policy": "wait"}, "cameras": cameras}

    return {
        "thing": "thing",
        "line": "line",
        "state_dir": str(folder / "state"),
        "workers": 1,
        "inspections": {
            "spots": inspection(cam=camera(100.0), twin=camera(50.0)),
            "rims": inspection(rim=camera(50.0)),
        },
        "transport": {"kind": "none"},
    }


def changed(tree: Tree, path: str, value: object) -> Tree:
    """Return a copy with `value` at the dotted `path`; None removes what is there."""
    new = copy.deepcopy(tree)
    *way, last = path.split(".")
    at = new
    for key in way:
        at = at.setdefault(key, {})
    if value is None:
        del at[last]
    else:
        at[last] = value
    return new


def parsed(tree: Tree, folder: Path) -> config.Config:
    return config.parse(tree, source="test", base=folder)


def until(agent: app.Agent, is_reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_reached():
        assert time.monotonic() < deadline, [view.capture.status for view in agent.cameras.values()]
        assert not agent.wait(0.02)


def judge_more(agent: app.Agent, parts: int = 30, *, camera: str = "cam") -> None:
    """Let `parts` more parts of `camera` pass."""
    counters = agent.cameras[camera].counters
    enough = counters.snapshot().inspected + parts
    until(agent, lambda: counters.snapshot().inspected >= enough)


def verdicts_of(transport: MemoryTransport, camera: str = "cam") -> list[Verdict]:
    """What a consumer has of `camera`, by sequence number."""
    found: dict[str, Verdict] = {}
    for message in transport.delivered:
        said = wire.decode(message.payload)
        if isinstance(said, wire.DecodedVerdicts):
            found.update({verdict.key: verdict for verdict in said.verdicts})
    return sorted((v for v in found.values() if v.origin.camera == camera), key=lambda v: v.seq)


def assert_nothing_lost(agent: app.Agent, transport: MemoryTransport) -> None:
    """Every exposure has its verdict at the consumer's, in this boot epoch, without a gap in the numbers."""
    for camera, view in agent.cameras.items():
        account = view.counters.snapshot()
        assert (account.pending, account.dropped) == (0, {}), (camera, account)
        verdicts = verdicts_of(transport, camera)
        assert [v.seq for v in verdicts] == list(range(account.captured))
        assert {v.origin.boot_epoch for v in verdicts} == {agent.boot_epoch}
