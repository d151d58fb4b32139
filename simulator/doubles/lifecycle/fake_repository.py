"""A repository in this process: releases in folders, fetcher and examiner ports, faults to order.

Nothing here is signed; the bytes are: a release is copied in pieces, resumed where a copy stopped, compared with its
manifest, and described as it states itself. What fails is ordered beforehand with `Cloud.order` and happens once.
`SimulatedKill` stands for SIGKILL: no `except Exception` stops it, and whoever catches it builds a new agent on the
same disk.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from agent.errors import FetchError, ReleaseRefusedError
from agent.release import manifest as manifests
from agent.release.release_store import read_ref
from agent.release_records import FetchedRelease, Gate, RepositoryStatus, SelfTestResult
from simulator.doubles.lifecycle.release_fixtures import read_verified

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable
    from pathlib import Path

    from agent.ports import FetchJob, SelfTestJob
    from agent.release_records import ReleaseRef

_PIECE_BYTES: Final = 1_024


class SimulatedKill(BaseException):
    """The process ended here."""


class RepositoryFault(StrEnum):
    """What can be ordered, for the fetcher or the examiner."""

    ERROR = "error"  # fails now, may work later
    REFUSED = "refused"  # a gate says no
    HANG = "hang"  # until it is told to stop
    NO_SPACE = "no_space"
    KILL = "kill"  # before anything is done
    KILL_LATE = "kill_late"  # after it is done, before it is said


@dataclass(slots=True)
class FakeRepository:
    """What is published, what was revoked, and what fails next. `signed_utc_s` is stamped on every answer."""

    releases: dict[str, Path] = field(default_factory=dict)  # by name/version
    revoked: set[str] = field(default_factory=set)  # digests
    signed_utc_s: float = 1_800_000_000.0
    faults: dict[str, deque[RepositoryFault]] = field(default_factory=dict)  # by port method, in order
    fetches: int = 0
    revocation_checks: int = 0

    def publish(self, folder: Path) -> ReleaseRef:
        """Offer the release in `folder`. Raises ReleaseError."""
        ref = read_ref(folder)
        self.releases[ref.release_id] = folder
        return ref

    def revoke(self, ref: ReleaseRef) -> None:
        """Revoke a release."""
        self.revoked.add(ref.digest)

    def inject(self, port: str, *faults: RepositoryFault) -> None:
        """Let the next calls of `port` (`fetch`, `check_revocations` or `run_self_test`) fail like that."""
        self.faults.setdefault(port, deque()).extend(faults)

    def take_fault(self, port: str) -> RepositoryFault | None:
        """Return what fails with this call."""
        waiting = self.faults.get(port)
        return waiting.popleft() if waiting else None


def _raise_fault(fault: RepositoryFault | None, gate: Gate, stop: threading.Event) -> None:
    match fault:
        case RepositoryFault.ERROR:
            raise FetchError("unreachable", "The simulated cloud does not answer.")
        case RepositoryFault.NO_SPACE:
            raise FetchError("no_space", "The simulated disk is full.")
        case RepositoryFault.REFUSED:
            raise ReleaseRefusedError(gate, "ordered", "The simulated cloud was told to refuse.", figures={"seen": 1.0})
        case RepositoryFault.HANG:
            stop.wait()
            raise FetchError("stopped", "Stopped by request.")
        case RepositoryFault.KILL:
            raise SimulatedKill
        case _:
            if stop.is_set():
                raise FetchError("stopped", "Stopped by request.")


class FakeReleaseFetcher:
    """`ports.ReleaseFetcher` over a `Cloud`."""

    def __init__(self, cloud: FakeRepository) -> None:
        """`cloud` may be edited at any time."""
        self._cloud = cloud

    def fetch(self, job: FetchJob) -> FetchedRelease:
        """See `ports.ReleaseFetcher.fetch`."""
        cloud = self._cloud
        cloud.fetches += 1
        fault = cloud.take_fault("fetch")
        _raise_fault(fault, Gate.TRUST, job.stop)
        into, source = job.into, cloud.releases.get(job.release_id)
        if source is None:
            text = f"{job.release_id} is not published. Check its name."
            raise ReleaseRefusedError(Gate.TRUST, "unknown_release", text)
        into.mkdir(parents=True, exist_ok=True)
        names = (manifests.MANIFEST_NAME, manifests.MODEL_NAME, manifests.GOLDEN_NAME)
        total = sum((source / name).stat().st_size for name in names)
        done = 0
        for name in names:
            done = _resume(source / name, into / name, done=done, total=total, on_progress=job.on_progress)
        if fault is RepositoryFault.KILL_LATE:
            raise SimulatedKill
        return FetchedRelease(read_ref(into), into, cloud.signed_utc_s, frozenset(cloud.revoked))

    def refresh(self, *, trusted_utc_s: float, stop: threading.Event) -> RepositoryStatus:
        """See `ports.ReleaseFetcher.refresh`."""
        cloud = self._cloud
        cloud.revocation_checks += 1
        fault = cloud.take_fault("check_revocations")
        _raise_fault(fault, Gate.TRUST, stop)
        if fault is RepositoryFault.KILL_LATE:
            raise SimulatedKill
        return RepositoryStatus(cloud.signed_utc_s, frozenset(cloud.revoked))


def _resume(source: Path, target: Path, *, done: int, total: int, on_progress: Callable[[int, int], None]) -> int:
    """Copy what `target` lacks; what it has is kept if it is the beginning of the source."""
    content = source.read_bytes()
    have = target.read_bytes() if target.exists() else b""
    start = len(have) if content.startswith(have) else 0
    with target.open("r+b" if start else "wb") as file:
        file.seek(start)
        for at in range(start, len(content), _PIECE_BYTES):
            file.write(content[at : at + _PIECE_BYTES])
            on_progress(done + min(at + _PIECE_BYTES, len(content)), total)
        file.truncate()
    return done + len(content)


class FakeSelfTester:
    """`ports.SelfTester` over a `Cloud`: compares the bytes, and otherwise does as ordered."""

    def __init__(self, cloud: FakeRepository) -> None:
        """`cloud` may be edited at any time."""
        self._cloud = cloud

    def run_self_test(self, job: SelfTestJob) -> SelfTestResult:
        """See `ports.SelfTester.run_self_test`."""
        fault = self._cloud.take_fault("run_self_test")
        _raise_fault(fault, Gate.GOLDEN, job.stop)
        read_verified(job.candidate)
        if job.champion is not None:
            read_verified(job.champion)
        if fault is RepositoryFault.KILL_LATE:
            raise SimulatedKill
        return SelfTestResult({"golden_agreement": 1.0, "wall_s": 0.0})
