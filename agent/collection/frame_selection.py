"""Decides which frames are collected; pure: the same verdict gives the same decision everywhere.

The random sample is drawn by the hash of the verdict's key, so it depends neither on the time of day nor on the load
of the device, and can be recomputed from the verdict stream.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from agent.records import Outcome
from agent.wire.collected_frame import CollectReason

if TYPE_CHECKING:
    from agent.config import CollectionConfig
    from agent.records import Verdict

_HASH_BYTES: Final = 8
_HASH_RANGE: Final = float(1 << (8 * _HASH_BYTES))
_HASH_DOMAIN: Final = b"kensa-sample"  # other than a trial's assignment: the sample must not follow it


@dataclass(frozen=True, slots=True)
class Selection:
    """Why a frame is kept. `sample_rate` is not None exactly when it belongs to the random sample."""

    reason: CollectReason
    sample_rate: float | None


def is_in_sample(key: str, share: float) -> bool:
    """Whether the part with this verdict's key is in the random sample of `share` of all parts."""
    drawn = hashlib.blake2b(key.encode(), digest_size=_HASH_BYTES, person=_HASH_DOMAIN).digest()
    return int.from_bytes(drawn, "big") < share * _HASH_RANGE


def select_frame(verdict: Verdict, settings: CollectionConfig) -> Selection | None:
    """Return why the frame of `verdict` is kept; None when it is not, as for every part that no model inspected."""
    outcome, other = verdict.judgement.outcome, verdict.challenger_outcome
    rate: float | None = None
    if outcome is Outcome.OK and settings.ok_share > 0.0 and is_in_sample(verdict.key, settings.ok_share):
        rate = settings.ok_share
    if outcome is Outcome.UNKNOWN or verdict.origin.model is None:
        return None
    if outcome is Outcome.DEFECT and settings.defects:
        return Selection(CollectReason.DEFECT, rate)
    if outcome is Outcome.UNSURE and settings.unsure:
        return Selection(CollectReason.UNSURE, rate)
    if other not in (None, outcome, Outcome.UNKNOWN) and settings.disagreement:
        return Selection(CollectReason.DISAGREEMENT, rate)
    return None if rate is None else Selection(CollectReason.SAMPLE, rate)
