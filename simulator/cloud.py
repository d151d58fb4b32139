"""A cloud in this process: releases in folders, a fetcher and an examiner of the real ports, faults on order.

Nothing here is signed; the bytes are: a release is copied in pieces, resumed where a copy stopped, compared with its
manifest, and described as it states itself. What goes wrong is ordered beforehand with `Cloud.order` and happens once.
`Killed` stands for SIGKILL: no `except Exception` stops it, and whoever catches it builds a new agent on the same disk.

The models here are stand-ins that say ok to everything: what a lifecycle test needs of a model is its identity. They
are loaded from verified files all the same, and import neither OpenCV nor a runtime of their own.
"""

from __future__ import annotations

import hashlib
import shutil
from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from agent import preprocess
from agent.errors import FetchError, IntegrityError, RefusedError
from agent.model import manifest as manifests
from agent.model.store import read_ref
from agent.records import (
    Examination,
    Fetched,
    Gate,
    Geometry,
    Judgement,
    Observation,
    Outcome,
    Scores,
)
from agent.slot import Lease

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable
    from pathlib import Path

    from agent.model.manifest import Manifest
    from agent.model.serving import LoadRequest
    from agent.records import DecisionRule, Frame, ModelIdentity, Pixels, ReleaseRef, SelfTestLimits
    from agent.slot import ModelSlot

_PIECE_BYTES: Final = 1_024
_GEOMETRY: Final = Geometry(mode="whole", height=32, width=32, channels=1)
SHORT_POLICY: Final[dict[str, Any]] = {  # a rollout of about a hundred parts that agree
    "shadow_parts": 4,
    "shadow_rejects": 0,
    "trial": [{"share": 0.5, "parts": 4}, {"share": 1.0, "parts": 8}],
    "disagreement": {"good": 0.001, "bad": 0.9},
    "errors": {"good": 0.001, "bad": 0.05},
    "deadlines": {"good": 0.001, "bad": 0.05},
}


class Killed(BaseException):
    """The process ended here."""


class Fault(StrEnum):
    """What can be ordered, for the fetcher or the examiner."""

    ERROR = "error"  # fails now, may work later
    REFUSED = "refused"  # a gate says no
    HANG = "hang"  # until it is told to stop
    NO_SPACE = "no_space"
    KILL = "kill"  # before anything is done
    KILL_LATE = "kill_late"  # after it is done, before it is said


@dataclass(slots=True)
class Cloud:
    """What is published, what was taken back, and what goes wrong next. `signed_utc_s` is stamped on every answer."""

    releases: dict[str, Path] = field(default_factory=dict)  # by name/version
    revoked: set[str] = field(default_factory=set)  # digests
    signed_utc_s: float = 1_800_000_000.0
    faults: dict[str, deque[Fault]] = field(default_factory=dict)  # fetch, examine -> in order
    fetches: int = 0
    digests: set[str] = field(default_factory=set)  # of every manifest that was ever published

    def publish(self, folder: Path) -> ReleaseRef:
        """Offer the release in `folder`. Raises ReleaseError."""
        ref = read_ref(folder)
        self.releases[ref.release_id] = folder
        self.digests.add(ref.digest)
        return ref

    def revoke(self, ref: ReleaseRef) -> None:
        """Take a release back."""
        self.revoked.add(ref.digest)

    def order(self, port: str, *faults: Fault) -> None:
        """Let the next calls of `port` (`fetch` or `examine`) go wrong like that."""
        self.faults.setdefault(port, deque()).extend(faults)

    def due(self, port: str) -> Fault | None:
        """Return what goes wrong with this call."""
        waiting = self.faults.get(port)
        return waiting.popleft() if waiting else None


def _suffer(fault: Fault | None, gate: Gate, stop: threading.Event) -> None:
    match fault:
        case Fault.ERROR:
            raise FetchError("unreachable", "The simulated cloud does not answer.")
        case Fault.NO_SPACE:
            raise FetchError("no_space", "The simulated disk is full.")
        case Fault.REFUSED:
            raise RefusedError(gate, "ordered", "The simulated cloud was told to refuse.", figures={"seen": 1.0})
        case Fault.HANG:
            stop.wait()
            raise FetchError("stopped", "Stopped by request.")
        case Fault.KILL:
            raise Killed
        case _:
            if stop.is_set():
                raise FetchError("stopped", "Stopped by request.")


class CloudFetcher:
    """`ports.ReleaseFetcher` over a `Cloud`."""

    def __init__(self, cloud: Cloud) -> None:
        """`cloud` may be edited at any time."""
        self._cloud = cloud

    def fetch(
        self,
        release_id: str,
        *,
        into: Path,
        trusted_utc_s: float,
        on_progress: Callable[[int, int], None],
        stop: threading.Event,
    ) -> Fetched:
        """See `ports.ReleaseFetcher.fetch`."""
        cloud = self._cloud
        cloud.fetches += 1
        fault = cloud.due("fetch")
        _suffer(fault, Gate.TRUST, stop)
        source = cloud.releases.get(release_id)
        if source is None:
            raise RefusedError(Gate.TRUST, "unknown_release", f"{release_id} is not published. Check its name.")
        into.mkdir(parents=True, exist_ok=True)
        names = (manifests.MANIFEST_NAME, manifests.MODEL_NAME, manifests.GOLDEN_NAME)
        total = sum((source / name).stat().st_size for name in names)
        done = 0
        for name in names:
            done = _resume(source / name, into / name, done=done, total=total, on_progress=on_progress)
        if fault is Fault.KILL_LATE:
            raise Killed
        return Fetched(read_ref(into), into, cloud.signed_utc_s, frozenset(cloud.revoked))


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


class CloudExaminer:
    """`ports.Examiner` over a `Cloud`: compares the bytes, and otherwise does as ordered."""

    def __init__(self, cloud: Cloud) -> None:
        """`cloud` may be edited at any time."""
        self._cloud = cloud

    def examine(
        self,
        candidate: Path,
        *,
        champion: Path | None,
        acceptance: Path | None,
        limits: SelfTestLimits,
        stop: threading.Event,
    ) -> Examination:
        """See `ports.Examiner.examine`."""
        fault = self._cloud.due("examine")
        _suffer(fault, Gate.GOLDEN, stop)
        _read_verified(candidate)
        if champion is not None:
            _read_verified(champion)
        if fault is Fault.KILL_LATE:
            raise Killed
        return Examination({"golden_agreement": 1.0, "wall_s": 0.0})


# --- releases and models without a runtime ----------------------------------------------------------------------------


def write_release(folder: Path, *, version: str, counter: int, name: str = "stand-in", **changes: Any) -> Path:
    """Write a small release whose files are noise of its own; `changes` replace keys of the manifest."""
    noise = np.random.default_rng(list(f"{name}/{version}/{counter}".encode()))
    files = {manifests.MODEL_NAME: noise.bytes(3_000), manifests.GOLDEN_NAME: noise.bytes(2_000)}
    tree: dict[str, Any] = {
        "name": name,
        "version": version,
        "counter": counter,
        "classes": ["ok", "spot"],
        "defects": ["spot"],
        "geometry": {"mode": "whole", "height": 32, "width": 32, "channels": 1},
        "preprocess_sha256": preprocess.digest(_GEOMETRY),
        "decision": {"thresholds": {"spot": 0.5}},
        "outputs": ["scores"],
        "rollout": SHORT_POLICY,
        "lineage": {
            "dataset_sha256": "0" * 64,
            "code_version": "simulator",
            "seed": 0,
            "parameters": {},
            "libraries": {},
            "cpu": "none",
            "threads": 1,
            "created_utc": "2026-01-01T00:00:00Z",
        },
        "files": {
            name: {"sha256": hashlib.sha256(data).hexdigest(), "length_bytes": len(data)}
            for name, data in files.items()
        },
    }
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for file_name, data in files.items():
        (folder / file_name).write_bytes(data)
    manifest = manifests.Manifest.model_validate({**tree, **changes})
    (folder / manifests.MANIFEST_NAME).write_bytes(manifest.to_json())
    return folder


class OkModel:
    """`ports.Model` that finds every part ok."""

    def __init__(self, manifest: Manifest, *, trusted: bool) -> None:
        """Stand for the release that `manifest` describes."""
        self._manifest = manifest
        self._identity = manifest.identity(trusted=trusted)

    @property
    def identity(self) -> ModelIdentity:
        """See `ports.Model`."""
        return self._identity

    @property
    def geometry(self) -> Geometry:
        """See `ports.Model`."""
        return self._manifest.geometry.to_record()

    @property
    def rule(self) -> DecisionRule:
        """See `ports.Model`."""
        return self._manifest.rule()

    @property
    def preprocess_digest(self) -> str:
        """See `ports.Model`."""
        return self._manifest.preprocess_sha256

    def infer(self, batch: Pixels) -> Scores:
        """See `ports.Model`."""
        return Scores(np.tile(np.array([1.0, 0.0], np.float32), (len(batch), 1)))


def load(request: LoadRequest) -> Lease:
    """Load a stand-in from a release folder. Raises ReleaseError."""
    model = OkModel(_read_verified(request.folder), trusted=request.trusted)
    return Lease(model, model.rule)


def _read_verified(folder: Path) -> Manifest:
    manifest = manifests.read(folder)
    for name, entry in manifest.files.items():
        path = folder / name
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != entry.sha256:
            raise IntegrityError(f"{path} is not the file that the manifest names")
    return manifest


# --- parts on the line ------------------------------------------------------------------------------------------------


class Bystander:
    """A closable shadow tap that refuses every frame; `Parts` speaks to its observer instead."""

    def __init__(self, challenger: Lease, observe: Callable[[Observation], None]) -> None:
        """`challenger` is what a real tap would run."""
        self.challenger = challenger
        self.observe = observe
        self.is_closed = False

    def offer(
        self, frame: Frame, *, key: str, judgement: Judgement, champion_us: int, release: Callable[[int], None]
    ) -> bool:
        """See `slot.ShadowTap`."""
        return False

    def close(self) -> None:
        """See `ShadowRunner.close`."""
        self.is_closed = True


_OK: Final = Judgement(Outcome.OK, "ok", 0.01, (0.99, 0.01))
_SPOT: Final = Judgement(Outcome.DEFECT, "spot", 0.99, (0.01, 0.99))
_FAILED: Final = Judgement(Outcome.UNKNOWN, None, 0.0, (), reason="inference")


@dataclass(slots=True)
class PartsStream:
    """Parts that pass, one in ten of them defective, and what both models say: the loop without a loop."""

    slot: ModelSlot
    seq: int = 0

    def run(self, count: int, *, failing: bool = False, blind: bool = False) -> None:
        """Let `count` parts pass; a `failing` challenger gives no judgement, a `blind` one finds all of them ok."""
        for _ in range(count):
            lease = self.slot.lease()
            self.seq += 1
            if lease is None:
                continue
            key = f"line/cam/1/{self.seq}"
            champion = _SPOT if self.seq % 10 == 0 else _OK
            challenger = _FAILED if failing else _OK if blind else champion
            if isinstance(lease.shadow, Bystander):
                lease.shadow.observe(Observation(key, "cam", champion, challenger, 1_000, 1_000, 2_000))
            if lease.trial is not None:
                assigned = lease.trial.assigned(key)
                seen = challenger if assigned else champion
                lease.trial.observe(Observation(key, "cam", champion, seen, 1_000, 1_000, 2_000, assigned=assigned))
