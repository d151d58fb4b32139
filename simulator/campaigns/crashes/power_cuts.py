"""Power cuts: copies the backing file of a loop device while a process commits on it.

What the copy lacks is what a power cut would have lost: everything that the kernel had not yet written to the device.
Needs root, a loop device and mkfs.ext4.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from simulator.campaigns.crashes.commit_tracker import CommitTracker
from simulator.campaigns.crashes.outbox_kills import VICTIM_MODULE, record_commits
from simulator.campaigns.crashes.outbox_victim import run_outbox
from simulator.campaigns.crashes.victim_process import Victim
from simulator.campaigns.forkserver import forkserver_context

if TYPE_CHECKING:
    from collections.abc import Iterator

_IMAGE_BYTES: Final = 48 * 1024 * 1024
_CUTS_PER_VICTIM: Final = 5


@dataclass(frozen=True, slots=True)
class PowerCuts:
    """What came of it."""

    power_cuts: int
    committed: int
    lost: int
    stale_epochs: int


def power_cuts_unavailable_reason() -> str | None:
    """Return what this machine lacks for `run_power_cuts`; None when it lacks nothing."""
    if os.geteuid() != 0:
        return "the right to mount (root)"
    for tool in ("mkfs.ext4", "mount", "umount", "losetup"):
        if shutil.which(tool) is None:
            return f"the command {tool}"
    found = subprocess.run(["losetup", "--find"], capture_output=True, check=False)  # noqa: S607  root's own PATH
    return None if found.returncode == 0 else "a free loop device"


def run_power_cuts(*, power_cuts: int, seed: int) -> PowerCuts:
    """Cut the power `power_cuts` times and count what is missing from the copies."""
    source = random.Random(seed)
    committed = lost = stale = done = 0
    with tempfile.TemporaryDirectory(prefix="kensa-power-") as folder:
        while done < power_cuts:
            count = min(_CUTS_PER_VICTIM, power_cuts - done)
            for check in _cut_one_victim(Path(folder), source, count):
                committed += check[0]
                lost += check[1]
                stale += check[2]
            done += count
    return PowerCuts(power_cuts, committed, lost, stale)


def _cut_one_victim(folder: Path, source: random.Random, cuts: int) -> Iterator[tuple[int, int, int]]:
    image, copy = folder / "disk.img", folder / "copy.img"
    with image.open("wb") as file:
        file.truncate(_IMAGE_BYTES)
    _command("mkfs.ext4", "-q", "-F", str(image))
    with _mounted(image, folder / "live") as live:
        context = forkserver_context(VICTIM_MODULE)
        tracker = CommitTracker()
        with Victim(context, run_outbox, live / "state", source.getrandbits(32)) as victim:
            victim.wait_started()
            tracker.record_start(victim.reports.recv()[0])
            for _ in range(cuts):
                time.sleep(source.random() * 0.1)
                record_commits(victim, tracker)  # promised before the cut
                shutil.copyfile(image, copy)
                record_commits(victim, later := CommitTracker())
                with _mounted(copy, folder / "after") as after:
                    check = tracker.check(after / "state")
                for epoch, below in later.committed_below.items():
                    tracker.record_commit(epoch, below)
                yield check.committed, check.lost, check.stale_epochs


@contextmanager
def _mounted(image: Path, where: Path) -> Iterator[Path]:
    where.mkdir(exist_ok=True)
    _command("mount", "-o", "loop", str(image), str(where))
    try:
        yield where
    finally:
        _command("umount", str(where))


def _command(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)
