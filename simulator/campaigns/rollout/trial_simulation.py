"""Simulates rollouts whose disagreements come in runs of parts, as glare or smears cause.

Promise: pure and seeded; equal arguments give equal counts. Every rollout goes through the phases of the default policy
within the default limits of a site, and its last phase goes on up to `parts`: a release that would have been committed
long before is tried all the same, so that the count is of a worst case.

`kensa bench trials` runs every kind and says what must come of it.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Final

import numpy as np

from agent.config import RolloutLimits
from agent.evidence.rollout_gates import RolloutAction, RolloutEvaluator
from agent.records import Judgement, Observation, Outcome
from agent.release.rollout_policy import RolloutPolicy, apply_site_limits

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

_EVALUATE_EVERY: Final = 25  # parts between two questions for a decision; a refusal is noted at its part
_AGREE, _REJECTS, _LETS_THROUGH = range(3)


@dataclass(frozen=True, slots=True)
class DisagreementProfile:
    """How a release differs from the running model."""

    rate: float  # of parts on which they disagree, in the long run
    run_parts: int = 1  # disagreeing parts in a row, of one camera; 1: independent parts
    cameras: int = 1  # whose parts come in turn
    let_through_share: float = 0.5  # of runs in which the candidate is the one that lets through

    @property
    def name(self) -> str:
        """For a table."""
        how = "independent" if self.run_parts == 1 else f"in runs of {self.run_parts}"
        seen = "" if self.cameras == 1 else f", {self.cameras} cameras"
        side = {0.5: "", 0.0: ", candidate always rejects", 1.0: ", candidate always lets through"}
        return f"{self.rate:.1%} {how}{seen}{side.get(self.let_through_share, f', {self.let_through_share:.0%}')}"


@dataclass(frozen=True, slots=True)
class TrialOutcome:
    """How one rollout fared."""

    refused_at: int | None  # part; None: never
    passed_at: int | None  # part at which its last phase had shown enough for a commit
    holds: int  # parts during which it was in doubt: its word did not count


@dataclass(frozen=True, slots=True)
class TrialCounts:
    """How many rollouts of one kind fared, each watched over `parts`."""

    kind: str
    rollouts: int
    parts: int
    refused: int  # and on the deny list
    refused_before_commit: int
    committed: int
    ever_held: int  # in doubt at least once
    median_refused_at: float | None
    median_passed_at: float | None

    @property
    def share_refused(self) -> float:
        """Of the rollouts."""
        return self.refused / self.rollouts


KINDS: Final = (
    *(DisagreementProfile(0.005, run) for run in (3, 5, 10)),
    *(DisagreementProfile(0.005, run, let_through_share=0.0) for run in (3, 5, 10)),
    DisagreementProfile(0.005, 30),
    DisagreementProfile(0.005, 10, cameras=4),
    DisagreementProfile(0.01),
    DisagreementProfile(0.03),
    DisagreementProfile(0.05),
    DisagreementProfile(0.05, cameras=4),
)


def simulate_trial(kind: DisagreementProfile, *, parts: int, seed: int) -> TrialOutcome:
    """Run one rollout, from its shadow on, over `parts` parts that both models inspect."""
    rng = np.random.default_rng(seed)
    events = np.stack([_draw_events(kind, parts // kind.cameras + 1, rng) for _ in range(kind.cameras)], axis=1).ravel()
    rejected = rng.random(parts) < 0.02  # noqa: PLR2004 - parts that both reject, so that the shadow can pass
    seen = _observations(kind.cameras)
    policy = apply_site_limits(RolloutPolicy(), RolloutLimits())
    evaluator = RolloutEvaluator(policy)
    steps = iter(policy.trial)
    evaluator.begin_phase("shadow", parts=policy.shadow_parts)
    passed_at, held = None, 0
    for part in range(parts):
        evaluator.observe(seen[part % kind.cameras][int(events[part])][int(rejected[part])])
        if evaluator.is_refused:
            return TrialOutcome(part + 1, passed_at, held)
        held += evaluator.is_in_doubt
        if part % _EVALUATE_EVERY == 0 and passed_at is None and evaluator.decide().action is RolloutAction.PASS:
            step = next(steps, None)
            if step is None:
                passed_at = part + 1
            else:
                evaluator.begin_phase("trial", parts=step.parts, share=step.share)
    return TrialOutcome(None, passed_at, held)


def _draw_events(kind: DisagreementProfile, count: int, rng: np.random.Generator) -> npt.NDArray[np.int8]:
    """What each of `count` parts of one camera is [count]: runs begin at random and may follow each other."""
    begin = rng.random(count) < kind.rate / kind.run_parts / (1.0 - kind.rate * (1.0 - 1.0 / kind.run_parts))
    events = np.zeros(count, np.int8)
    part = 0
    for start in np.flatnonzero(begin):
        if start >= part:  # one that would begin inside of another is not one of its own
            part = int(start) + kind.run_parts
            events[start:part] = _LETS_THROUGH if rng.random() < kind.let_through_share else _REJECTS
    return events


def _observations(cameras: int) -> list[list[list[Observation]]]:
    """Every kind of part there is, made once: by camera, by disagreement, by whether both reject it."""
    ok = Judgement(Outcome.OK, "ok", 0.1, ())
    defect = Judgement(Outcome.DEFECT, "defect", 0.9, ())
    pairs = [[(ok, ok), (defect, defect)], [(ok, defect)] * 2, [(defect, ok)] * 2]
    return [
        [
            [
                Observation("part", f"camera-{i}", champion, challenger, 2_000, 2_000, 10_000)
                for champion, challenger in row
            ]
            for row in pairs
        ]
        for i in range(cameras)
    ]


def run_trials(
    kind: DisagreementProfile, *, rollouts: int = 3_000, parts: int = 10_000, seed: int = 0, processes: int = 1
) -> TrialCounts:
    """Simulate `rollouts` of one kind, each with a seed of its own, and count what became of them."""
    seeds = [int(s) for s in np.random.SeedSequence([seed, kind.run_parts, kind.cameras]).generate_state(rollouts)]
    if processes == 1:
        ends = [simulate_trial(kind, parts=parts, seed=s) for s in seeds]
    else:
        with ProcessPoolExecutor(processes) as pool:
            share = -(-rollouts // (4 * processes))
            chunks = [seeds[i : i + share] for i in range(0, rollouts, share)]
            jobs = [pool.submit(_simulate_seeds, kind, parts, chunk) for chunk in chunks]
            ends = [end for job in jobs for end in job.result()]
    return count_trials(kind, ends, parts=parts)


def _simulate_seeds(kind: DisagreementProfile, parts: int, seeds: Sequence[int]) -> list[TrialOutcome]:
    return [simulate_trial(kind, parts=parts, seed=seed) for seed in seeds]


def count_trials(kind: DisagreementProfile, ends: Sequence[TrialOutcome], *, parts: int) -> TrialCounts:
    """Count how rollouts of one kind fared."""
    refused = [end.refused_at for end in ends if end.refused_at is not None]
    passed = [end.passed_at for end in ends if end.passed_at is not None]
    return TrialCounts(
        kind=kind.name,
        rollouts=len(ends),
        parts=parts,
        refused=len(refused),
        refused_before_commit=sum(end.refused_at is not None and end.passed_at is None for end in ends),
        committed=len(passed),
        ever_held=sum(end.holds > 0 for end in ends),
        median_refused_at=float(median(refused)) if refused else None,
        median_passed_at=float(median(passed)) if passed else None,
    )
