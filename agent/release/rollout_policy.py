"""The rollout policy: the signed manifest's `rollout`, within the limits that the site sets.

A release may ask for a longer or stricter rollout than the site's, never for a shorter or laxer one:
`apply_site_limits` takes the stricter of both. Every field has a default, so `{}` is a complete policy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, Self

from pydantic import Field, model_validator

from agent.release_records import SelfTestLimits
from agent.sequential_tests import SprtPlan
from agent.strict import Strict

if TYPE_CHECKING:
    from agent.config import RolloutLimits

_MIN_RATE: Final = 1e-4  # of disagreement: below it no shadow deployment of acceptable length could accept anything
_BAD_TO_GOOD: Final = 3.0  # at least: with rates closer together the test never decides
_MAX_E_HOLD: Final = 20.0  # e-value from which nothing is promoted; refused is from `max_e_value`
_MAX_BAD_ERRORS: Final = 0.05  # no release may ask for more failures or late verdicts

_Rate = Annotated[float, Field(gt=0.0, lt=1.0, allow_inf_nan=False)]
_ErrorRate = Annotated[float, Field(ge=1e-6, le=0.1, allow_inf_nan=False)]
_Parts = Annotated[int, Field(ge=1, le=1_000_000)]
_Psi = Annotated[float, Field(gt=0.0, le=1.0, allow_inf_nan=False)]


class Rates(Strict):
    """A rate that is good, one that is bad, and how often the sequential test between them may be wrong."""

    good: _Rate
    bad: _Rate
    alpha: _ErrorRate = 1e-3  # refuses what is good
    beta: _ErrorRate = 1e-2  # accepts what is bad

    @model_validator(mode="after")
    def _good_is_below_bad(self) -> Self:
        if self.good >= self.bad:
            msg = f"good {self.good} must be below bad {self.bad}"
            raise ValueError(msg)
        return self

    def plan(self) -> SprtPlan:
        """Return the test of `agent.sequential_tests`."""
        return SprtPlan(self.good, self.bad, self.alpha, self.beta)


class TrialStep(Strict):
    """A share of the parts goes to the challenger as well, until `parts` of them were inspected by both."""

    share: float = Field(gt=0.0, le=1.0, allow_inf_nan=False)
    parts: _Parts


def _default_trial() -> tuple[TrialStep, ...]:
    steps = ((0.01, 20), (0.05, 50), (0.25, 200), (0.5, 400), (1.0, 1_100))
    return tuple(TrialStep(share=share, parts=parts) for share, parts in steps)


class RolloutPolicy(Strict):
    """`rollout` of manifest.json. The defaults are what `docs/benchmarks.md` measures."""

    shadow_parts: _Parts = 300  # at least; the test of disagreement must also have accepted
    shadow_rejects: int = Field(default=8, ge=0, le=10_000)  # parts in it that either model does not let through ...
    shadow_patience: int = Field(default=10, ge=1, le=1_000)  # ... or so many times `shadow_parts` without them
    trial: tuple[TrialStep, ...] = Field(default_factory=_default_trial, min_length=1, max_length=20)
    disagreement: Rates = Rates(good=0.01, bad=0.03)  # of ok against not ok, in shadow and trial
    errors: Rates = Rates(good=0.001, bad=0.01)  # challenger gave no judgement
    deadlines: Rates = Rates(good=0.001, bad=0.01)  # decided later than `deadline_ms`
    deadline_ms: float | None = Field(default=None, gt=0.0, le=60_000.0, allow_inf_nan=False)  # None: the site's own
    e_threshold: float = Field(default=1_000.0, ge=20.0, le=10_000.0, allow_inf_nan=False)  # refuses from here
    e_hold: float = Field(
        default=20.0, ge=2.0, le=100.0, allow_inf_nan=False
    )  # no end of shadow and no commit from here
    may_reject_more: bool = False  # announced to find defects that its predecessor misses; disagreement stays bounded
    may_pass_more: bool = False  # announced to pass good parts that its predecessor rejects by mistake; likewise
    psi_window: int = Field(default=1_000, ge=1_000, le=100_000)  # parts on either side
    psi_warn: _Psi = 0.1
    psi_block: _Psi = 0.25
    latency_ratio: float = Field(default=1.5, ge=1.0, le=100.0, allow_inf_nan=False)  # to the running model, self-test
    extra_memory_bytes: int = Field(default=256 * 1024**2, ge=1024**2, le=1024**4)
    golden_difference: float = Field(default=0.05, ge=0.0, le=1.0, allow_inf_nan=False)
    golden_agreement: float = Field(default=0.99, ge=0.5, le=1.0, allow_inf_nan=False)
    golden_recall: float = Field(default=0.5, ge=0.0, le=1.0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        shares = [step.share for step in self.trial]
        if shares != sorted(set(shares)):
            msg = f"trial shares must grow from step to step, got {shares}"
            raise ValueError(msg)
        if self.psi_warn > self.psi_block:
            msg = f"psi_warn {self.psi_warn} must not be above psi_block {self.psi_block}"
            raise ValueError(msg)
        if max(self.errors.bad, self.deadlines.bad) > _MAX_BAD_ERRORS:
            msg = f"errors.bad and deadlines.bad must not be above {_MAX_BAD_ERRORS}"
            raise ValueError(msg)
        if self.e_hold > self.e_threshold:
            msg = f"e_hold {self.e_hold} must not be above e_threshold {self.e_threshold}"
            raise ValueError(msg)
        return self


def apply_site_limits(policy: RolloutPolicy, limits: RolloutLimits) -> RolloutPolicy:
    """Return the policy for this line: the stricter of the release's and the site's, field by field.

    A trial that is shorter than the site wants gets the missing parts in its last step. Of every pair of rates `good`
    is lowered to at most a third of `bad`: a publisher who lets them nearly touch would have a test that never refuses.
    """
    missing = max(0, limits.min_trial_parts - sum(step.parts for step in policy.trial))
    *first, last = policy.trial
    asked = policy.deadline_ms
    psi_block = min(policy.psi_block, limits.max_psi)
    e_threshold = min(policy.e_threshold, limits.max_e_value)
    return policy.model_copy(
        update={
            "shadow_parts": max(policy.shadow_parts, limits.min_shadow_parts),
            "trial": (*first, TrialStep(share=last.share, parts=min(last.parts + missing, 1_000_000))),
            "disagreement": _cap_rates(policy.disagreement, max(limits.max_disagreement, _MIN_RATE)),
            "errors": _cap_rates(policy.errors, limits.max_error_rate),
            "deadlines": _cap_rates(policy.deadlines, limits.max_error_rate),
            "deadline_ms": limits.deadline_ms if asked is None else min(asked, limits.deadline_ms),
            "e_threshold": e_threshold,
            "e_hold": min(policy.e_hold, _MAX_E_HOLD, e_threshold),
            "may_reject_more": policy.may_reject_more and limits.allow_reject_more,
            "may_pass_more": policy.may_pass_more and limits.allow_pass_more,
            "psi_window": min(policy.psi_window, limits.max_psi_window),
            "psi_warn": min(policy.psi_warn, psi_block),
            "psi_block": psi_block,
            "latency_ratio": min(policy.latency_ratio, limits.max_latency_ratio),
            "extra_memory_bytes": min(policy.extra_memory_bytes, limits.max_extra_memory_bytes),
            "golden_difference": min(policy.golden_difference, limits.max_golden_difference),
            "golden_agreement": max(policy.golden_agreement, limits.min_golden_agreement),
            "golden_recall": max(policy.golden_recall, limits.min_golden_recall),
        }
    )


def _cap_rates(rates: Rates, most: float) -> Rates:
    """Return rates that are `bad` from at most `most` on, with a distance between good and bad."""
    bad = min(rates.bad, most)
    return Rates(good=min(rates.good, bad / _BAD_TO_GOOD), bad=bad, alpha=rates.alpha, beta=rates.beta)


def self_test_limits(policy: RolloutPolicy, limits: RolloutLimits) -> SelfTestLimits:
    """Return what the self-test in the child process may use and must prove.

    The child's wall time, CPU time and address space are Kensa's own; the acceptance set's recall is the site's; the
    golden set's limits, latency and memory are the stricter of both.
    """
    allowed = apply_site_limits(policy, limits)
    return SelfTestLimits(
        golden_difference=allowed.golden_difference,
        golden_agreement=allowed.golden_agreement,
        golden_recall=allowed.golden_recall,
        acceptance_recall=limits.acceptance_recall,
        latency_ratio=allowed.latency_ratio,
        extra_memory_bytes=allowed.extra_memory_bytes,
    )
