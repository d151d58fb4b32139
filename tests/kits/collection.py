"""Settings, sidecars, a spool on a manual clock, and frames for tests of collection."""

from __future__ import annotations

import hashlib
import json
import time
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from agent.collection.spool_items import NewSpoolItem
from agent.collection.spool_opening import open_spool
from agent.config import CollectionConfig
from agent.records import Frame, Outcome
from agent.wire import encode_verdict
from agent.wire.collected_frame import CollectedImage, CollectReason, collected_stem, encode_collected
from simulator.doubles.clocks.manual_clock import ManualClock
from tests.kits.outbox import make_origin, make_verdict

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from agent.collection.spool import Spool
    from agent.records import Box, Pixels, Verdict

SITE: Final = "plant-a"
WHOLE: Final[Box] = (0, 0, 64, 48)
PATIENCE_S: Final = 120.0  # far longer than anything here takes; only a test that fails waits for so long


def settings(**changed: Any) -> CollectionConfig:
    return CollectionConfig.model_validate({"site": SITE, "min_free_disk_bytes": 0, **changed})


def sidecar(verdict: Verdict, image: bytes = b"picture", reason: CollectReason = CollectReason.DEFECT) -> bytes:
    return encode_collected(
        reason=reason,
        sample_rate=0.01 if reason is CollectReason.SAMPLE else None,
        site=SITE,
        image=CollectedImage(
            sha256=hashlib.sha256(image).hexdigest(), bytes=len(image), format="jpg", width=640, height=480
        ),
        crop=None,
        verdict=json.loads(encode_verdict(verdict)),
    )


def new_item(
    seq: int, image: bytes, *, reason: CollectReason = CollectReason.DEFECT, class_name: str = "scratch", epoch: int = 1
) -> NewSpoolItem:
    verdict = make_verdict(seq, Outcome.DEFECT, origin=make_origin(boot_epoch=epoch))
    sha256 = hashlib.sha256(image).hexdigest()
    stem = collected_stem(SITE, verdict)
    return NewSpoolItem(stem, "jpg", reason, class_name, image, sha256, sidecar(verdict, image, reason))


def spool_in(folder: Path, clock: ManualClock | None = None) -> Spool:
    return open_spool(folder, clock=clock or ManualClock())


def part(seq: int, outcome: Outcome = Outcome.DEFECT, *, epoch: int = 1) -> tuple[Frame, Verdict]:
    """A frame of 64 x 48 whose pixels say which it is, and its verdict."""
    return Frame("cam1", seq, 0, 0, picture(seq)), make_verdict(seq, outcome, origin=make_origin(boot_epoch=epoch))


def picture(seq: int) -> Pixels:
    return np.random.default_rng(seq).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def objects(root: Path) -> dict[str, bytes]:
    """Everything below a folder target or a stand-in's bucket, by key."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def until(condition: Callable[[], bool], *, patience_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)
