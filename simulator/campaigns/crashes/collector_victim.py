"""A process that collects frames and reports which are acknowledged, until it is killed.

Frames are noise that follows from boot epoch and number, so that whoever finds one can tell whether it is whole; every
tenth is large enough to go up in parts.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from agent.collection import Collector
from agent.config import CollectionConfig
from agent.outbox import next_boot_epoch
from agent.records import Frame, Judgement, ModelIdentity, Origin, Outcome, Verdict
from agent.timing.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Mapping
    from multiprocessing.connection import Connection
    from pathlib import Path

    from agent.records import Pixels
    from agent.wire import CollectionHealth

LARGE_EVERY: Final = 10
_SMALL: Final = (24, 32, 3)
_LARGE: Final = (1_700, 1_700, 3)  # 8.7 MB as PNG: two parts
_PAUSE_S: Final = 0.002


@dataclass(frozen=True, slots=True)
class CollectorReport:
    """What a victim says: a frame was taken, so many of those taken are answered for, or its child is another one."""

    kind: Literal["taken", "answered", "child", "empty"]
    epoch: int
    number: int = 0
    health: CollectionHealth | None = None


def frame_pixels(epoch: int, seq: int) -> Pixels:
    """Return the pixels of a frame."""
    shape = _LARGE if seq % LARGE_EVERY == LARGE_EVERY - 1 else _SMALL
    return np.random.default_rng((epoch, seq)).integers(0, 256, shape, dtype=np.uint8)


def _verdict(epoch: int, seq: int) -> Verdict:
    model = ModelIdentity("parts", "1.0.0", "0" * 64)
    origin = Origin("victim", "line", "part", "cam", epoch, "c" * 16, "p" * 16, model, ("ok", "scratch"))
    judgement = Judgement(Outcome.DEFECT, "scratch", 0.9, (0.1, 0.9))
    return Verdict(origin, seq, 1_790_000_000_000_000_000 + seq * 1_000_000, judgement, 1_000)


def run_collector(
    state_dir: Path, environment: Mapping[str, str], target: str, reports: Connection, *, drain: bool
) -> None:
    """Collect and report until killed; with `drain` collect one frame and report when nothing waits any more."""
    os.environ.update(environment)
    epoch = next_boot_epoch(state_dir, utc_s=time.time())
    settings = CollectionConfig(site="faults", target=target, format="png", max_per_s=1_000.0, min_free_disk_bytes=0)
    collector = Collector(state_dir=state_dir, settings=settings, boot_epoch=epoch, clock=SystemClock())
    collector.start()
    seq, answered, child = 0, 0, None
    while True:
        if collector.child_pid not in (None, child):
            child = collector.child_pid
            reports.send(CollectorReport("child", epoch, child or 0))
        if not (drain and collector.taken):
            before, pixels = collector.taken, frame_pixels(epoch, seq)
            height, width = pixels.shape[:2]
            collector.offer(Frame("cam", seq, 0, 0, pixels), _verdict(epoch, seq), (0, 0, width, height))
            if collector.taken > before:
                reports.send(CollectorReport("taken", epoch, seq))
                seq += 1
        if collector.settled > answered:
            answered = collector.settled
            reports.send(CollectorReport("answered", epoch, answered))
        if drain and answered and not (health := collector.health()).waiting:
            collector.close(5.0)
            reports.send(CollectorReport("empty", epoch, 0, health))
            return
        time.sleep(_PAUSE_S)
