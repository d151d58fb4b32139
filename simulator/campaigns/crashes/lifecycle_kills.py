"""Kills the model lifecycle at random moments, again and again on the same disk.

After every kill the disk is looked at, and a start is tried in this process: the model in the slot must be one that was
published (or the factory's), the floor no lower than any that was reported or seen, and the active and the previous
release whole.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import tempfile
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from simulator.campaigns.crashes.lifecycle_victim import LifecycleReport, open_lifecycle_harness, run_lifecycle
from simulator.campaigns.crashes.victim_process import Victim
from simulator.campaigns.forkserver import forkserver_context

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext

    from simulator.doubles.lifecycle.lifecycle_harness import LifecycleHarness

_KILLS_PER_DISK: Final = 25
_MAX_WAIT_S: Final = 0.2  # between a victim's first report and its death


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
    context = forkserver_context("simulator.campaigns.crashes.lifecycle_victim")
    result = LifecycleKills()
    while result.kills < kills:
        folder = Path(tempfile.mkdtemp(prefix="kensa-lifecycle-", dir=work_dir))
        harness = open_lifecycle_harness(folder)
        for _ in range(min(_KILLS_PER_DISK, kills - result.kills)):
            reports = _kill_one(context, folder, source)
            _check(result, harness, reports)
        shutil.rmtree(folder)
    return result


def _kill_one(context: ForkServerContext, folder: Path, source: random.Random) -> list[LifecycleReport]:
    reports: list[LifecycleReport] = []
    with Victim(context, run_lifecycle, folder, source.getrandbits(32)) as victim:
        if source.random() < 0.8:  # noqa: PLR2004  the others die while they start
            victim.wait_started()
        with contextlib.suppress(EOFError):
            for report in victim.read(source.random() * _MAX_WAIT_S):
                reports.append(report)  # noqa: PERF402 - what came before an EOFError counts
        victim.kill()
        reports += victim.drain()
    return reports


def _check(result: LifecycleKills, harness: LifecycleHarness, reports: list[LifecycleReport]) -> None:
    """Look at the victim's reports, at the disk, and at what a start makes of it."""
    known = {ref.model_sha256 for ref in harness.published} | {harness.factory_sha256()}
    result.kills += 1
    result.unverified_models += sum(bool(report.sha256) and report.sha256 not in known for report in reports)
    result.commits += sum(a.active != b.active for a, b in pairwise(reports))
    harness.highest_floor = max([harness.highest_floor, *(report.floor for report in reports)])
    state = harness.record().state
    result.states[state] = result.states.get(state, 0) + 1
    found = harness.disk_violations()
    harness.start()
    found += harness.violations()
    result.unverified_models += sum(text.startswith(("unverified", "wrong")) for text in found)
    result.floor_fell += sum(text.startswith("floor") for text in found)
    result.last_good_lost += sum(text.startswith(("active", "previous")) for text in found)
    alarm = harness.lifecycle.status().alarm or ""
    result.no_model += harness.slot.lease() is None and "in a row" not in alarm
    result.damaged_journals += "journal" in alarm
    harness.lifecycle.close()  # this start is not the victim's
