"""A part with an id always ends in a verdict, whatever is wrong with its image."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from agent import app, config, wire
from agent.errors import FrameError
from agent.images.decode import MAX_IMAGE_BYTES
from agent.records import DroppedFrames, Grab, Outcome
from agent.timing.clock import SystemClock
from simulator.doubles.cameras.simulated_cameras import StillCamera
from simulator.doubles.network.memory_transport import MemoryTransport
from tests.kits.releases import spot_images, write_release

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from agent.records import Pixels, Verdict

PATIENCE_S = 120.0
GOOD = spot_images(4)[0]


def _cut(path: Path) -> None:
    path.write_bytes(cv2.imencode(".png", GOOD[0])[1].tobytes()[:400])


def _too_large(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(MAX_IMAGE_BYTES + 1)  # takes no space


# What a picture of a manifest can be, and the reason that its verdict gives.
PICTURES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no picture": (lambda path: path.write_bytes(b"this is no picture"), "corrupt"),
    "empty": (lambda path: path.write_bytes(b""), "corrupt"),
    "missing": (lambda _path: None, "corrupt"),
    "cut": (_cut, "corrupt"),
    "a folder": (lambda path: path.mkdir(), "corrupt"),
    "a loop of links": (lambda path: path.symlink_to(path.name), "corrupt"),
    "too large": (_too_large, "size"),
    "another size": (lambda path: cv2.imwrite(str(path), np.full((9, 9, 3), 128, np.uint8)), "size"),
}


def run(
    folder: Path, *, sources: dict[str, Any] | None = None, **camera: Any
) -> tuple[app.Agent, list[Verdict], list[DroppedFrames]]:
    write_release(folder / "release")
    height, width = GOOD[0].shape[:2]
    settings = {"kind": "folder", "path": str(folder / "images"), "width": width, "height": height, **camera}
    tree = {
        "thing": "thing", "line": "line", "state_dir": str(folder / "state"), "transport": {"kind": "none"},
        "inspections": {"spots": {
            "release": str(folder / "release"), "intake": {"policy": "wait"}, "cameras": {"cam": settings},
        }},
    }  # fmt: skip
    transport, dropped = MemoryTransport(), list[DroppedFrames]()
    agent = app.build(
        config.parse(tree, source="test", base=folder), transport=transport, sources=sources, on_drop=dropped.append
    )
    with agent:
        assert agent.wait(PATIENCE_S) is app.StopReason.FINISHED
    found: list[Verdict] = []
    for message in transport.delivered:
        said = wire.decode(message.payload)
        if isinstance(said, wire.DecodedVerdicts):
            found += said.verdicts
    return agent, sorted(found, key=lambda verdict: verdict.seq), dropped


def test_each_part_of_a_manifest_has_its_verdict_in_order_whatever_its_picture_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    names: list[str] = []
    for index, (what, (spoil, _)) in enumerate(PICTURES.items()):
        good, bad = f"{index}-good.png", f"{index}-{what}.png"
        cv2.imwrite(str(images / good), GOOD[index % len(GOOD)])
        spoil(images / bad)
        names += [good, bad]
    (images / "manifest.csv").write_text("path\n" + "".join(f"{name}\n" for name in names))
    agent, verdicts, dropped = run(tmp_path)

    assert [verdict.part_id for verdict in verdicts] == names
    assert [verdict.seq for verdict in verdicts] == list(range(len(names)))
    for (what, (_, reason)), verdict in zip(PICTURES.items(), verdicts[1::2], strict=True):
        assert verdict.judgement.outcome is Outcome.UNKNOWN, what
        assert str(verdict.judgement.reason).startswith(f"{reason}: "), what
        assert f"camera cam: {verdict.part_id} is unknown: {reason}: " in caplog.text
    assert all(verdict.judgement.outcome is not Outcome.UNKNOWN for verdict in verdicts[::2])
    account = agent.cameras["cam"].counters.snapshot()
    assert (account.captured, account.inspected, account.dropped, account.pending) == (len(names), len(names), {}, 0)
    assert account.outcomes["unknown"] == len(PICTURES)
    assert not dropped


class Triggered(StillCamera):
    """Each exposure shows a part; what is wrong with it comes in turn."""

    def __init__(self, spoil: Sequence[Callable[[Grab], Grab]], *, part_ids: bool) -> None:
        super().__init__(pictures=[image[..., 0] for image in GOOD], clock=SystemClock(), count=len(spoil))
        self._spoil = list(spoil)
        self._part_ids = part_ids
        self._number = 0

    def read(self, *, timeout_s: float, buffer: Pixels | None) -> Grab | None:
        grab = super().read(timeout_s=timeout_s, buffer=None)
        assert grab is not None
        self._number += 1
        part_id = f"part-{self._number}" if self._part_ids else None
        return self._spoil.pop(0)(Grab(pixels=grab.pixels, due_ns=grab.due_ns, part_id=part_id))


def _replaced(**changes: Any) -> Callable[[Grab], Grab]:
    def spoil(grab: Grab) -> Grab:
        members = {name: getattr(grab, name) for name in grab.__slots__}
        return Grab(**{**members, **changes})

    return spoil


def _refused(grab: Grab) -> Grab:
    raise FrameError("corrupt", "the decoder gave up", part_id=grab.part_id)


EXPOSURES: dict[str, Callable[[Grab], Grab]] = {
    "size": _replaced(pixels=np.zeros((7, 9, 3), np.uint8)),
    "channels": _replaced(pixels=np.zeros((8, 8, 4), np.uint8)),
    "incomplete": _replaced(incomplete=True),
    "corrupt": _refused,
}


@pytest.mark.parametrize("part_ids", [True, False], ids=["with part ids", "without"])
def test_an_exposure_that_cannot_be_judged_is_unknown_for_a_part_and_a_counted_drop_without(
    tmp_path: Path, *, part_ids: bool
) -> None:
    source = Triggered([_replaced(), *EXPOSURES.values()] * 3, part_ids=part_ids)
    (tmp_path / "images").mkdir()
    agent, verdicts, dropped = run(tmp_path, sources={"cam": source})
    account = agent.cameras["cam"].counters.snapshot()
    assert (account.captured, account.pending) == (15, 0)
    reasons = dict.fromkeys(EXPOSURES, 3)
    if part_ids:
        assert [verdict.part_id for verdict in verdicts] == [f"part-{number}" for number in range(1, 16)]
        assert (account.inspected, account.dropped) == (15, {})
        told = [str(v.judgement.reason).split(":")[0] for v in verdicts if v.judgement.outcome is Outcome.UNKNOWN]
        assert {reason: told.count(reason) for reason in told} == reasons
    else:
        assert (account.inspected, account.dropped) == (3, reasons)
        assert {(drop.seq, str(drop.reason)) for drop in dropped} == {
            (index, reason) for cycle in range(3) for index, reason in enumerate(EXPOSURES, 1 + 5 * cycle)
        }


def test_very_many_parts_that_cannot_be_read_hold_the_camera_back_and_none_is_lost(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    (images / "broken.png").write_bytes(b"x")
    count = 2_000
    for index in range(count):
        os.link(images / "broken.png", images / f"{index:04d}.png")
    agent, verdicts, _ = run(tmp_path)
    assert len(verdicts) == count + 1
    assert agent.cameras["cam"].counters.snapshot().pending == 0
