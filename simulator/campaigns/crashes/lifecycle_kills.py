"""kill -9 at random moments of the model lifecycle, again and again on the same disk.

After every kill the disk is looked at, and a start is tried in this process: the model in the slot must be one that was
published (or the factory's), the floor no lower than any that was reported or seen, and the active and the previous
release whole.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import random
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from simulator.campaigns.crashes.lifecycle_victim import (
    LifecycleReport,
    open_lifecycle_harness,
    parse_report,
    run_lifecycle,
)

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.context import ForkServerContext

    from simulator.doubles.lifecycle.lifecycle_harness import LifecycleHarness

_KILLS_PER_DISK: Final = 25
_MAX_WAIT_S: Final = 0.2  # between a victim's first report and its death
_START_TIMEOUT_S: Final = 30.0


@dataclass(slots=True)
class LifecycleKills:
    """What came of it."""

    kills: int = 0
    commits: int = 0  # releases that became active, as far as reported
    unverified_models: int = 0
    floor_fell: int = 0
    last_good_lost: int = 0
    no_model: int = 0  # starts without one, although no release had ended the process again and again
    damaged_journals: int = 0
    states: dict[str, int] = field(default_factory=dict)  # in which the victims died

    @property
    def is_clean(self) -> bool:
        """Whether nothing was that must not be."""
        broken = self.unverified_models + self.floor_fell + self.last_good_lost + self.no_model
        return broken + self.damaged_journals == 0

    def to_json(self) -> dict[str, Any]:
        """Return plain values for `json.dumps`."""
        return {**asdict(self), "is_clean": self.is_clean}


def run_lifecycle_kills(*, kills: int, seed: int, work_dir: Path | None = None) -> LifecycleKills:
    """Kill `kills` victims. `work_dir` is where the disks are made; the system's temporary directory by default."""
    source = random.Random(seed)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["simulator.campaigns.crashes.lifecycle_victim"])
    result = LifecycleKills()
    while result.kills < kills:
        folder = Path(tempfile.mkdtemp(prefix="kensa-lifecycle-", dir=work_dir))
        plant = open_lifecycle_harness(folder)
        for _ in range(min(_KILLS_PER_DISK, kills - result.kills)):
            sights = _kill_one(context, folder, source)
            _check(result, plant, sights)
        shutil.rmtree(folder)
    return result


def _kill_one(context: ForkServerContext, folder: Path, source: random.Random) -> list[LifecycleReport]:
    ours, theirs = context.Pipe(duplex=False)
    victim = context.Process(target=run_lifecycle, args=(folder, source.getrandbits(32), theirs), daemon=True)
    victim.start()
    theirs.close()
    try:
        if source.random() < 0.8 and not ours.poll(_START_TIMEOUT_S):  # noqa: PLR2004  the others die while they start
            raise TimeoutError("the process that is to be killed did not start")
        sights = _read_reports(ours, source.random() * _MAX_WAIT_S)
    finally:
        victim.kill()
        victim.join()
    sights += _read_reports(ours, 0.0)
    ours.close()
    return sights


def _read_reports(reports: Connection, seconds: float) -> list[LifecycleReport]:
    """Take in what is reported for so long: a full pipe would hold the victim up."""
    sights, end = [], time.monotonic() + seconds
    with contextlib.suppress(EOFError):
        while reports.poll(max(0.0, end - time.monotonic())):
            sights.append(parse_report(reports.recv_bytes()))
            if time.monotonic() >= end and seconds > 0.0:
                break
    return sights


def _check(result: LifecycleKills, plant: LifecycleHarness, sights: list[LifecycleReport]) -> None:
    """Look at the victim's reports, at the disk, and at what a start makes of it."""
    known = {ref.model_sha256 for ref in plant.published} | {plant.factory_sha256()}
    result.kills += 1
    result.unverified_models += sum(bool(sight.sha256) and sight.sha256 not in known for sight in sights)
    result.commits += sum(a.active != b.active for a, b in pairwise(sights))
    plant.highest_floor = max([plant.highest_floor, *(sight.floor for sight in sights)])
    state = plant.record().state
    result.states[state] = result.states.get(state, 0) + 1
    found = plant.disk_violations()
    plant.start()
    found += plant.violations()
    result.unverified_models += sum(text.startswith(("unverified", "wrong")) for text in found)
    result.floor_fell += sum(text.startswith("floor") for text in found)
    result.last_good_lost += sum(text.startswith(("active", "previous")) for text in found)
    alarm = plant.lifecycle.status().alarm or ""
    result.no_model += plant.slot.lease() is None and "in a row" not in alarm
    result.damaged_journals += "journal" in alarm
    plant.lifecycle.close()  # this start is not the victim's
