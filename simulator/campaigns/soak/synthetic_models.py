"""Releases of known quality for a soak run, and parts that carry their own truth.

A part's image carries its truth in one pixel and eight random bytes of its own; a model reads the truth, and errs as
its kind says, each release in its own way: what it does with a part is a hash of the part and the release. So rates
and disagreements are those of independent models, and no runtime is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from agent.errors import InferenceError
from agent.records import Scores
from agent.slot import Lease
from simulator.doubles.lifecycle.release_fixtures import OkModel, read_verified, write_release

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from pathlib import Path

    from agent.lifecycle.active_release import LoadRequest
    from agent.records import Pixels
    from agent.release.manifest import Manifest

SIDE: Final = 32
_MARKS: Final = 8  # random bytes at the beginning of an image
_HALF: Final = 128


@dataclass(frozen=True, slots=True)
class ErrorProfile:
    """How a kind of release errs: probabilities per part, and seconds per inference."""

    miss_rate: float = 0.01  # of the defects
    false_alarm_rate: float = 0.0005  # of the good parts
    failure_rate: float = 0.0  # no judgement
    inference_s: float = 0.002


GOOD_PROFILES: Final[dict[str, ErrorProfile]] = {
    "good": ErrorProfile(),
    "equal": ErrorProfile(miss_rate=0.05, false_alarm_rate=0.001),
}
BAD_PROFILES: Final[dict[str, ErrorProfile]] = {
    "errors": ErrorProfile(failure_rate=0.05),
    "always_ok": ErrorProfile(miss_rate=1.0),
    "always_defect": ErrorProfile(false_alarm_rate=1.0),
    "slow": ErrorProfile(inference_s=0.3),
}
ERROR_PROFILES: Final = GOOD_PROFILES | BAD_PROFILES


def draw_part(pixels: Pixels, *, defective: bool, source: random.Random) -> None:
    """Make `pixels` [SIDE, SIDE] the image of a new part."""
    pixels[:2] = 0
    pixels[0, :_MARKS] = np.frombuffer(source.randbytes(_MARKS), np.uint8)
    pixels[1, 0] = 255 if defective else 0


def make_release(folder: Path, kind: str, *, version: str, counter: int) -> Path:
    """Write a release of a kind in `ERROR_PROFILES`, with the default rollout policy."""
    return write_release(folder, version=version, counter=counter, name="day", rollout={}, metrics={"kind": kind})


def kind_of(manifest: Manifest) -> str:
    """Return what `make_release` was told."""
    return str(manifest.metrics["kind"])


class SyntheticModel(OkModel):
    """`ports.Model` of one release."""

    def __init__(self, manifest: Manifest, *, trusted: bool, spend: Callable[[float], None]) -> None:
        """`spend(seconds)` lets time pass."""
        super().__init__(manifest, trusted=trusted)
        self._quality = ERROR_PROFILES[kind_of(manifest)]
        self._spend = spend
        sha256 = self.identity.sha256
        self._odd = np.array([int(sha256[i : i + 16], 16) | 1 for i in (0, 16, 32)], np.uint64)

    def infer(self, batch: Pixels) -> Scores:
        """See `ports.Model`. Raises InferenceError."""
        quality = self._quality
        self._spend(quality.inference_s)
        marks = np.ascontiguousarray(batch[:, 0, :_MARKS, 0]).view(np.uint64)  # [N, 1]
        own, chance, luck = ((marks * self._odd) >> np.uint64(11)).T * 2.0**-53  # of part and release, in [0, 1)
        if (luck < quality.failure_rate).any():
            raise InferenceError("the stand-in fails by plan")
        defective = batch[:, 1, 0, 0] >= _HALF
        says = defective != (chance < np.where(defective, quality.miss_rate, quality.false_alarm_rate))
        part = (marks[:, 0] >> np.uint64(11)) * 2.0**-53
        depth = 0.9 * part + 0.1 * own  # from the threshold: mostly the part's, a little the release's
        score = np.where(says, 0.55 + 0.4 * depth, 0.45 * depth).astype(np.float32)
        return Scores(np.stack([1.0 - score, score], axis=1))


def load_synthetic(request: LoadRequest, *, spend: Callable[[float], None]) -> Lease:
    """Load a release of `make_release`. Raises ReleaseError."""
    model = SyntheticModel(read_verified(request.folder), trusted=request.trusted, spend=spend)
    return Lease(model, model.rule)
