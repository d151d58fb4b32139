"""Releases, models and parts that stand in for real ones where only the life of a release matters.

The files are noise; the manifest, and every check of it, is real. The models say ok to everything and need no runtime:
a process that only runs these starts fast.
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from agent import preprocess
from agent.errors import IntegrityError
from agent.records import Geometry, Judgement, Observation, Outcome, Scores
from agent.release import manifest as manifests
from agent.slot import Lease

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from agent.images.plausibility import ImageLimits
    from agent.lifecycle.active_release import LoadRequest
    from agent.records import DecisionRule, ModelIdentity, Pixels
    from agent.release.manifest import Manifest
    from agent.slot import ModelSlot, OfferedFrame

_GEOMETRY: Final = Geometry(mode="whole", height=32, width=32, channels=1)
SHORT_POLICY: Final[dict[str, Any]] = {  # a rollout of about a hundred parts that agree
    "shadow_parts": 4,
    "shadow_rejects": 0,
    "trial": [{"share": 0.5, "parts": 4}, {"share": 1.0, "parts": 8}],
    "disagreement": {"good": 0.001, "bad": 0.9},
    "errors": {"good": 0.001, "bad": 0.05},
    "deadlines": {"good": 0.001, "bad": 0.05},
}


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

    @property
    def image_limits(self) -> ImageLimits | None:
        """See `ports.Model`: its golden set is empty."""
        return None

    def infer(self, batch: Pixels) -> Scores:
        """See `ports.Model`."""
        return Scores(np.tile(np.array([1.0, 0.0], np.float32), (len(batch), 1)))


def load_fixture(request: LoadRequest) -> Lease:
    """Load a stand-in from a release folder. Raises ReleaseError."""
    model = OkModel(read_verified(request.folder), trusted=request.trusted)
    return Lease(model, model.rule)


def read_verified(folder: Path) -> Manifest:
    """Read a release's manifest and compare its files with it. Raises ReleaseError."""
    manifest = manifests.read_manifest(folder)
    for name, entry in manifest.files.items():
        path = folder / name
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != entry.sha256:
            raise IntegrityError(f"{path} is not the file that the manifest names")
    return manifest


class NullTap:
    """A closable shadow tap that refuses every frame; `PartsStream` speaks to its observer instead."""

    def __init__(self, challenger: Lease, observe: Callable[[Observation], None]) -> None:
        """`challenger` is what a real tap would run."""
        self.challenger = challenger
        self.observe = observe
        self.is_closed = False

    def offer(self, offered: OfferedFrame) -> bool:
        """See `slot.FrameTap`."""
        return False

    def close(self) -> None:
        """See `ShadowDeployment.close`."""
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
            if isinstance(lease.frame_tap, NullTap):
                lease.frame_tap.observe(Observation(key, "cam", champion, challenger, 1_000, 1_000, 2_000))
            if lease.trial is not None:
                assigned = lease.trial.is_assigned(key)
                seen = challenger if assigned else champion
                lease.trial.observe(Observation(key, "cam", champion, seen, 1_000, 1_000, 2_000, assigned=assigned))
