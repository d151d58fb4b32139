"""A process that rolls releases out and back until it is killed.

It says what it sees in one line of text after each step: what the slot holds, and the floor and the active release that
the journal has promised. Time is compressed: waiting costs nothing, and parts pass in between.
"""

from __future__ import annotations

import contextlib
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from agent.errors import LifecycleError
from agent.lifecycle.state.transitions import LifecycleState
from simulator.doubles.lifecycle.lifecycle_harness import LifecycleHarness

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from pathlib import Path

RELEASES: Final = 24  # published beforehand, counters 1 to 24
_QUIET_STEPS: Final = 3  # at rest, before the next wish


@dataclass(frozen=True, slots=True)
class LifecycleReport:
    """What a victim reports after a step."""

    state: str
    sha256: str  # of the model in the slot; empty for none
    floor: int
    active: str  # digest of the active release; empty for the factory's


def open_lifecycle_harness(folder: Path) -> LifecycleHarness:
    """Make the device of `folder`, with all releases published."""
    harness = LifecycleHarness(folder)
    for _ in range(RELEASES):
        harness.publish()
    return harness


def run_lifecycle(folder: Path, seed: int, reports: Connection) -> None:
    """Step and report until killed."""
    source = random.Random(seed)
    harness = open_lifecycle_harness(folder)
    harness.clock.utc_offset_ns = time.time_ns()  # starts are minutes apart, so that starts are forgiven and limits end
    harness.healthy_after_s = source.choice((0.0, 60.0))
    harness.start()
    _report(harness, reports)
    quiet = 0
    while True:
        harness.step(failing=source.random() < 0.02)  # noqa: PLR2004  one look in fifty finds a bad model
        state = harness.lifecycle.status().state
        quiet = quiet + 1 if state in {LifecycleState.IDLE, LifecycleState.NO_MODEL, LifecycleState.AB} else 0
        if quiet > _QUIET_STEPS:
            _request_change(harness, source)
            quiet = 0
        _report(harness, reports)


def _request_change(harness: LifecycleHarness, source: random.Random) -> None:
    """Ask for something: mostly the next release."""
    lifecycle, floor = harness.lifecycle, harness.lifecycle.status().counter_floor
    with contextlib.suppress(LifecycleError):
        match source.randrange(8):
            case 0:
                lifecycle.rollback("a test")
            case 1:
                bad = lifecycle.deny_list()
                lifecycle.retry(source.choice(bad)["release_id"] if bad else None)
            case 2:
                lifecycle.stop_ab()
            case 3:
                lifecycle.promote()
            case 4:
                harness.desire(source.choice(harness.published), mode="ab")
            case _:
                harness.desire(harness.published[min(floor + source.randrange(3), RELEASES - 1)])


def _report(harness: LifecycleHarness, reports: Connection) -> None:
    lease, status = harness.slot.lease(), harness.lifecycle.status()
    active = "" if status.active is None else status.active.digest
    sha256 = "" if lease is None else lease.model.identity.sha256
    reports.send(LifecycleReport(status.state, sha256, status.counter_floor, active))
