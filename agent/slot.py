"""The model slot: the only place where the lifecycle touches the hot loop.

A worker takes a lease once per batch, before preprocessing: session, geometry, thresholds, ROI, identity and the digest
of the configuration of the whole batch come from that lease, so no batch mixes versions, and a swap is one reference
store between two batches. CPython stores and loads a reference atomically; no lock is taken on the hot path.

The lifecycle calls `begin_shadow_deployment`, `begin_trial`, `end_trial`, `switch`, `revert` and `drop_previous`, from
one thread; a change of the configuration calls `set_site`, from another; the loop calls `lease`, from many. The slot
applies its own site overrides to every lease, so a model that was loaded before a change cannot bring old settings
back.

Here ends the way of a release from fetch to slot (see `agent.lifecycle`).
"""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from agent.ports import Model
    from agent.records import Box, DecisionRule, Frame, Observation, Verdict

_HASH_BYTES: Final = 8
_HASH_RANGE: Final = float(1 << (8 * _HASH_BYTES))


@dataclass(frozen=True, slots=True, eq=False)
class SiteOverrides:
    """The overrides of the site's configuration for any model of an inspection."""

    roi: Box | None = None  # overrides the model's own
    thresholds: Mapping[str, float] = field(default_factory=dict)  # defect class -> score, over the model's own
    unsure_band: float | None = None  # over the model's own
    check_pictures: bool = True  # whether an image without light or contrast is `unknown`
    config_digest: str = ""  # of the whole configuration that these are from; part of every verdict

    def apply_to_rule(self, model: Model) -> DecisionRule:
        """Apply the overrides to the model's rule; a threshold for a class that it does not have is ignored."""
        own = model.rule
        known = {name: score for name, score in self.thresholds.items() if name in own.defects}
        band = own.unsure_band if self.unsure_band is None else self.unsure_band
        return replace(own, thresholds={**own.thresholds, **known}, unsure_band=band)


NO_OVERRIDES: Final = SiteOverrides()


@dataclass(frozen=True, slots=True)
class OfferedFrame:
    """An inspected frame for a shadow deployment; who accepts it calls `release(frame.buffer)` once it is done."""

    frame: Frame
    verdict: Verdict  # the champion's
    champion_us: int
    site: SiteOverrides  # that the champion inspected the frame with
    release: Callable[[int], None]


class FrameTap(Protocol):
    """Receives inspected frames for a model that does not decide. Made by the lifecycle."""

    def offer(self, offered: OfferedFrame) -> bool:
        """Take a reference to the frame, or refuse; never blocks, never copies.

        True: the tap owns `frame.buffer` from now on and releases it once it is done with the pixels. False: the
        caller keeps it.
        """


@dataclass(slots=True, eq=False)
class TrialControl:
    """The switches of a trial, set by its evaluator: plain attributes, read for every batch without a lock.

    They may change while a batch is in work; they are read right before its verdicts are made.
    """

    is_binding: bool = True  # False: the trial is paused; both models run, the champion's outcome is the verdict
    has_ended: bool = False  # the challenger is refused or removed: it is not run any more


@dataclass(frozen=True, slots=True)
class Trial:
    """A challenger that inspects a share of the parts beside the champion; the stricter of the two outcomes counts.

    `observe` gets every part of the inspection, assigned or not; it is called on the workers' threads and must neither
    block nor raise. The assignment is a hash of the part, so it can be replayed, and a part that is in at some share
    stays in at every larger one.
    """

    challenger: Lease
    share: float  # of the parts, in [0, 1]
    salt: str  # the candidate's digest
    observe: Callable[[Observation], None]
    control: TrialControl = field(default_factory=TrialControl)

    def is_assigned(self, part: str) -> bool:
        """Return whether this part (its part id, or its verdict's key) goes to the challenger too."""
        digest = hashlib.blake2b(f"{self.salt}/{part}".encode(), digest_size=_HASH_BYTES).digest()
        return int.from_bytes(digest, "big") < self.share * _HASH_RANGE


@dataclass(frozen=True, slots=True, eq=False)
class Lease:
    """Everything that one batch is inspected with. `rule` is the model's own with the site's thresholds applied."""

    model: Model
    rule: DecisionRule
    frame_tap: FrameTap | None = None
    trial: Trial | None = None
    site: SiteOverrides = NO_OVERRIDES

    def with_site(self, site: SiteOverrides) -> Lease:
        """Return the same models with the settings of `site`; the same object where it has them already."""
        if self.site is site:
            return self
        trial = self.trial
        if trial is not None:
            trial = replace(trial, challenger=trial.challenger.with_site(site))
        return replace(self, rule=site.apply_to_rule(self.model), trial=trial, site=site)


class ModelSlot:
    """Holds the lease that the next batch will take; None means NO_MODEL: every part is `unknown`."""

    def __init__(self, lease: Lease | None = None, *, site: SiteOverrides | None = None) -> None:
        """Start with `lease`, and with `site` or else the lease's own."""
        self._site = site or (NO_OVERRIDES if lease is None else lease.site)
        self._lease = None if lease is None else lease.with_site(self._site)
        self._previous: Lease | None = None
        self._write_lock = threading.Lock()

    @property
    def site(self) -> SiteOverrides:
        """The overrides of every model here; a batch takes it from its lease, and from here in NO_MODEL."""
        return self._site

    def lease(self) -> Lease | None:
        """Return the current lease; it stays valid for as long as the caller holds it."""
        return self._lease

    def set_site(self, site: SiteOverrides) -> None:
        """Use the settings of `site` from the next batch on, for the same models and a challenger."""
        with self._write_lock:
            self._site = site
            self._previous = None if self._previous is None else self._previous.with_site(site)
            self._lease = None if self._lease is None else self._lease.with_site(site)

    def begin_shadow_deployment(self, tap: FrameTap) -> None:
        """Offer frames to `tap` from the next batch on. Does nothing in NO_MODEL, which has no champion."""
        with self._write_lock:
            if self._lease is not None:
                self._lease = replace(self._lease, frame_tap=tap, trial=None)

    def begin_trial(self, trial: Trial) -> None:
        """Let `trial.challenger` inspect its share beside the champion from the next batch on; also widens a share."""
        with self._write_lock:
            if self._lease is not None:
                trial = replace(trial, challenger=trial.challenger.with_site(self._site))
                self._lease = replace(self._lease, frame_tap=None, trial=trial)

    def end_trial(self) -> None:
        """Use the champion alone from the next batch on: the end of a shadow deployment, the rollback of a trial."""
        with self._write_lock:
            if self._lease is not None:
                self._lease = replace(self._lease, frame_tap=None, trial=None)

    def switch(self, lease: Lease | None) -> None:
        """Use `lease` from the next batch on; batches already leased finish with theirs.

        The previous champion stays loaded for `revert`, until `drop_previous`.
        """
        with self._write_lock:
            kept = self._lease
            self._previous = None if kept is None else replace(kept, frame_tap=None, trial=None)
            self._lease = None if lease is None else lease.with_site(self._site)

    def revert(self) -> bool:
        """Go back to the lease before the last `switch`, in one store; False when it is no longer kept."""
        with self._write_lock:
            if self._previous is None:
                return False
            self._lease, self._previous = self._previous, None
            return True

    def drop_previous(self) -> None:
        """Release the lease before the last `switch`: its session is freed."""
        with self._write_lock:
            self._previous = None
