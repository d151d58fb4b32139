"""ModelSlot: the one place where the model wing touches the loop.

A worker takes a lease once per batch, before preprocessing: session, geometry, thresholds, ROI, identity and the digest
of the configuration of the whole batch come from that lease, so no batch mixes versions, and a swap is one reference
store between two batches. CPython stores and loads a reference atomically; no lock is taken on the hot path.

The model wing calls `begin_shadow`, `begin_trial`, `end_trial`, `switch`, `revert` and `settle`, from one thread; a
change of the configuration calls `lay`, from another; the loop calls `lease`, from many. Whatever lease the wing
brings, the slot lays its own site over it, so a model that was loaded before a change cannot bring old settings back.
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
class SiteSettings:
    """What the site's configuration lays over whichever model judges an inspection."""

    roi: Box | None = None  # goes before the model's own
    thresholds: Mapping[str, float] = field(default_factory=dict)  # defect class -> score, over the model's own
    unsure_band: float | None = None  # over the model's own
    check_pictures: bool = True  # whether a picture without light or contrast is `unknown`
    config_digest: str = ""  # of the whole configuration that these are from; part of every verdict

    def rule(self, model: Model) -> DecisionRule:
        """Lay the settings over the model's own rule; a threshold for a class that it does not have means nothing."""
        own = model.rule
        known = {name: score for name, score in self.thresholds.items() if name in own.defects}
        band = own.unsure_band if self.unsure_band is None else self.unsure_band
        return replace(own, thresholds={**own.thresholds, **known}, unsure_band=band)


NO_SITE: Final = SiteSettings()


class ShadowTap(Protocol):
    """Where the loop leaves frames for a model that is only watched. Made by the model wing."""

    def offer(
        self,
        frame: Frame,
        *,
        verdict: Verdict,
        champion_us: int,
        site: SiteSettings,
        release: Callable[[int], None],
    ) -> bool:
        """Take a reference to the frame with the champion's verdict, or refuse; never blocks, never copies.

        `site` is what the champion judged the frame with.

        True: the tap owns `frame.buffer` from now on and calls `release(frame.buffer)` once it is done with the pixels.
        False: the caller keeps it.
        """


@dataclass(slots=True, eq=False)
class TrialControl:
    """What the evaluator of a trial tells the workers: plain attributes, read for every batch without a lock.

    They may change while a batch is in work; they are read right before its verdicts are made.
    """

    counts: bool = True  # False: the trial is held; both models judge, the champion's outcome is the verdict
    ended: bool = False  # the challenger is refused, or gone: it is not asked any more


@dataclass(frozen=True, slots=True)
class Trial:
    """A challenger that judges a share of the parts beside the champion; the stricter of the two outcomes counts.

    `observe` gets every part of the inspection, assigned or not; it is called on the workers' threads and must neither
    block nor raise. The assignment is a hash of the part, so it can be replayed, and a part that is in at some share
    stays in at every larger one.
    """

    challenger: Lease
    share: float  # of the parts, in [0, 1]
    salt: str  # the candidate's digest
    observe: Callable[[Observation], None]
    control: TrialControl = field(default_factory=TrialControl)

    def assigned(self, part: str) -> bool:
        """Does this part (its part id, or its verdict's key) go to the challenger too?"""
        digest = hashlib.blake2b(f"{self.salt}/{part}".encode(), digest_size=_HASH_BYTES).digest()
        return int.from_bytes(digest, "big") < self.share * _HASH_RANGE


@dataclass(frozen=True, slots=True, eq=False)
class Lease:
    """What one batch is judged with. `rule` is the model's own with the site's thresholds laid over it."""

    model: Model
    rule: DecisionRule
    shadow: ShadowTap | None = None
    trial: Trial | None = None
    site: SiteSettings = NO_SITE

    def under(self, site: SiteSettings) -> Lease:
        """Return the same models with the settings of `site`; the same object where it has them already."""
        if self.site is site:
            return self
        trial = self.trial
        if trial is not None:
            trial = replace(trial, challenger=trial.challenger.under(site))
        return replace(self, rule=site.rule(self.model), trial=trial, site=site)


class ModelSlot:
    """Holds the lease that the next batch will take; None means SAFE: every part is `unknown`."""

    def __init__(self, lease: Lease | None = None, *, site: SiteSettings | None = None) -> None:
        """Start with `lease`, and with `site` or else the lease's own."""
        self._site = site or (NO_SITE if lease is None else lease.site)
        self._lease = None if lease is None else lease.under(self._site)
        self._kept: Lease | None = None
        self._writing = threading.Lock()

    @property
    def site(self) -> SiteSettings:
        """What is laid over every model here; a batch takes it from its lease, and from here in SAFE."""
        return self._site

    def lease(self) -> Lease | None:
        """The current lease; it stays valid for as long as the caller holds it."""
        return self._lease

    def lay(self, site: SiteSettings) -> None:
        """Judge with the settings of `site` from the next batch on: the same models, a challenger's too."""
        with self._writing:
            self._site = site
            self._kept = None if self._kept is None else self._kept.under(site)
            self._lease = None if self._lease is None else self._lease.under(site)

    def begin_shadow(self, tap: ShadowTap) -> None:
        """Offer frames to `tap` from the next batch on. Does nothing in SAFE: there is no champion to compare with."""
        with self._writing:
            if self._lease is not None:
                self._lease = replace(self._lease, shadow=tap, trial=None)

    def begin_trial(self, trial: Trial) -> None:
        """Let `trial.challenger` judge its share beside the champion from the next batch on; also widens a share."""
        with self._writing:
            if self._lease is not None:
                trial = replace(trial, challenger=trial.challenger.under(self._site))
                self._lease = replace(self._lease, shadow=None, trial=trial)

    def end_trial(self) -> None:
        """From the next batch on the champion judges alone: the end of a shadow, and the rollback of a trial."""
        with self._writing:
            if self._lease is not None:
                self._lease = replace(self._lease, shadow=None, trial=None)

    def switch(self, lease: Lease | None) -> None:
        """Let the next batch be judged with `lease`; batches already leased finish with theirs.

        The champion until now stays loaded for `revert`, until `settle`.
        """
        with self._writing:
            kept = self._lease
            self._kept = None if kept is None else replace(kept, shadow=None, trial=None)
            self._lease = None if lease is None else lease.under(self._site)

    def revert(self) -> bool:
        """Go back to the lease before the last `switch`, in one store; False when it is no longer kept."""
        with self._writing:
            if self._kept is None:
                return False
            self._lease, self._kept = self._kept, None
            return True

    def settle(self) -> None:
        """Let the lease before the last `switch` go: its session is freed."""
        with self._writing:
            self._kept = None
