"""Kills the agent and its collecting child on a faulty network with expiring credentials.

Every frame for which the collector has answered must be at the target in the end: whole, with its sidecar, and written
there exactly once; and the spool's own account must be what an outsider counts.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import tempfile
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np

from agent.wire.collected_frame import decode_collected
from simulator.campaigns.crashes.collector_victim import CollectorReport, frame_pixels, run_collector
from simulator.campaigns.crashes.victim_process import Victim
from simulator.campaigns.forkserver import forkserver_context
from simulator.doubles.network.tcp_proxy import TcpProxy
from simulator.doubles.servers.s3_server import S3Server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.context import ForkServerContext

    from agent.wire import CollectionHealth

_KILLS_PER_DISK: Final = 12
_TARGET: Final = "s3://data/line"
_FAULTS: Final = ("nothing", "cut", "reset", "silence", "expired", "truncated", "unanswered", "failing")
_START_S: Final = 60.0
_DRAIN_S: Final = 900.0  # the child gives way to everything else on the machine
_MAX_RUN_S: Final = 1.5  # of a victim, from the first frame that was answered for
_FRAME: Final = re.compile(r"cam-(\d+)-(\d+)\.(png|json)$")


@dataclass(slots=True)
class CollectorKills:
    """What came of it."""

    kills: int = 0
    kills_of_the_child: int = 0
    faults: dict[str, int] = field(default_factory=dict)  # of the network and the credentials, by kind
    acknowledged: int = 0  # frames for which the collector had answered
    arrived: int = 0
    lost: int = 0  # answered for, and not there with image and sidecar
    damaged: int = 0  # other pixels than were collected, or a sidecar that does not fit
    duplicated: int = 0  # written at the target more than once
    accounting_errors: int = 0  # disks whose account is not what is there

    @property
    def is_clean(self) -> bool:
        """Whether nothing was that must not be."""
        return self.lost + self.damaged + self.duplicated + self.accounting_errors == 0

    def to_json(self) -> dict[str, Any]:
        """Return plain values for `json.dumps`."""
        return {**asdict(self), "is_clean": self.is_clean}


def run_collector_kills(*, kills: int, seed: int, work_dir: Path | None = None) -> CollectorKills:
    """Kill `kills` times. `work_dir` is where the disks are made; the system's temporary directory by default."""
    source = random.Random(seed)
    context = forkserver_context("simulator.campaigns.crashes.collector_victim")
    result = CollectorKills()
    while result.kills + result.kills_of_the_child < kills:
        folder = Path(tempfile.mkdtemp(prefix="kensa-collect-kills-", dir=work_dir))
        (folder / "s3").mkdir()
        with S3Server(folder / "s3") as server, TcpProxy(port=int(server.url.rpartition(":")[2])) as proxy:
            disk = _CollectorDisk(folder, server, proxy, context, source)
            left = kills - result.kills - result.kills_of_the_child
            while disk.kills + disk.kills_of_the_child < min(_KILLS_PER_DISK, left):
                disk.run_once()
            disk.check(result, disk.drain())
        shutil.rmtree(folder)
    return result


class _CollectorDisk:
    """One state directory, one bucket, and what was promised about them."""

    def __init__(
        self, folder: Path, server: S3Server, proxy: TcpProxy, context: ForkServerContext, source: random.Random
    ) -> None:
        self.kills = 0
        self.kills_of_the_child = 0
        self._faults: dict[str, int] = defaultdict(int)
        self._state_dir = folder / "state"
        self._state_dir.mkdir()
        self._server = server
        self._proxy = proxy
        self._context = context
        self._random = source
        self._taken: dict[int, list[int]] = defaultdict(list)  # epoch -> sequence numbers in the order of taking
        self._answered: dict[int, int] = defaultdict(int)
        self._child = 0

    def run_once(self) -> None:
        """Start a victim, disturb it, kill its child perhaps and itself for certain."""
        with self._start_victim(drain=False) as victim:
            if self._random.random() < 0.8:  # noqa: PLR2004 - the others die while they start
                self._read_reports(victim, _START_S, until_answered=True)
            self._read_reports(victim, self._random.random() * _MAX_RUN_S)
            fault = self._inject_fault()
            self._faults[fault] += 1
            self._read_reports(victim, self._random.random() * 0.5)
            if self._random.random() < 0.5 and self._child:  # noqa: PLR2004 - every other one
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._child, signal.SIGKILL)
                self.kills_of_the_child += 1
                self._read_reports(victim, self._random.random() * _MAX_RUN_S)
            self._clear_faults()
            self._read_reports(victim, self._random.random() * 0.5)
        self.kills += 1

    def drain(self) -> CollectionHealth:
        """Let everything arrive on a good network; return the last account."""
        self._clear_faults()
        with self._start_victim(drain=True) as victim:
            for report in victim.read(_DRAIN_S):
                self._record_report(report)
                if report.health is not None:
                    health: CollectionHealth = report.health
                    return health
        raise TimeoutError(f"what was collected did not arrive within {_DRAIN_S:.0f} s")

    def check(self, result: CollectorKills, health: CollectionHealth) -> None:
        """Compare what is there with what was promised, and with the spool's own account."""
        root = self._server.folder / "data" / "line"
        found: dict[str, dict[tuple[int, int], Path]] = {"png": {}, "json": {}}
        for path in root.rglob("cam-*"):
            if match := _FRAME.search(path.name):
                found[match[3]][int(match[1]), int(match[2])] = path
        promised = {(epoch, seq) for epoch, n in self._answered.items() for seq in self._taken[epoch][:n]}
        whole = found["png"].keys() & found["json"].keys()
        result.kills += self.kills
        result.kills_of_the_child += self.kills_of_the_child
        for fault, times in self._faults.items():
            result.faults[fault] = result.faults.get(fault, 0) + times
        result.acknowledged += len(promised)
        result.arrived += len(whole)
        result.lost += len(promised - whole) + len(found["png"].keys() ^ found["json"].keys())
        result.damaged += sum(not _matches_frame(found["png"][key], found["json"][key], key) for key in whole)
        result.duplicated += sum(times > 1 for times in self._server.stored.values())
        kept = sum(health.kept.values())
        result.accounting_errors += (kept, health.uploaded, dict(health.dropped)) != (len(whole), len(whole), {})

    @contextlib.contextmanager
    def _start_victim(self, *, drain: bool) -> Iterator[Victim]:
        environment = {**self._server.environment(), "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{self._proxy.port}"}
        self._child = 0
        with Victim(
            self._context, run_collector, self._state_dir, environment, _TARGET, daemon=False, drain=drain
        ) as victim:
            victim.wait_started()
            try:
                yield victim
            finally:
                victim.kill()
                for report in victim.drain():
                    self._record_report(report)

    def _read_reports(self, victim: Victim, seconds: float, *, until_answered: bool = False) -> None:
        for report in victim.read(seconds):
            self._record_report(report)
            if until_answered and report.kind == "answered":
                return

    def _record_report(self, report: CollectorReport) -> None:
        match report.kind:
            case "taken":
                self._taken[report.epoch].append(report.number)
            case "answered":
                self._answered[report.epoch] = report.number
            case "child":
                self._child = report.number

    def _inject_fault(self) -> str:
        """Do one thing to the network, the store or the credentials; say which."""
        kind = self._random.choice(_FAULTS)
        match kind:
            case "cut":
                self._proxy.cut()
            case "reset":
                self._proxy.reset()
            case "silence":
                self._proxy.silence()
            case "expired":
                self._server.accepted = frozenset()
            case "truncated":
                self._server.truncated("*", after=self._random.randrange(2_000), times=3)
            case "unanswered":
                self._server.unanswered("*", times=3)
            case "failing":
                self._server.failing("*", status=503, times=5)
        return kind

    def _clear_faults(self) -> None:
        self._proxy.restore()
        self._server.clear_faults()
        self._server.accepted = None


def _matches_frame(image: Path, sidecar: Path, key: tuple[int, int]) -> bool:
    """Whether image and sidecar are those of the frame `key` (boot epoch, sequence number)."""
    told = decode_collected(sidecar.read_bytes())
    data = image.read_bytes()
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or (told.verdict.boot_epoch, told.verdict.seq, told.image.bytes) != (*key, len(data)):
        return False
    return np.array_equal(pixels, frame_pixels(*key))
