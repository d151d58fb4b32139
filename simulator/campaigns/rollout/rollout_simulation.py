"""Simulates whole rollouts of releases of known quality with the real `RolloutEvaluator`.

Promise: pure and seeded; equal arguments give equal counts. A candidate is described by how often it differs from the
running model, so that the rates are exact; its scores come from another seed: another calibration and noise of its own.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Final

import numpy as np

from agent.config import RolloutLimits
from agent.decision import unknown_judgement
from agent.evidence.rollout_gates import RolloutAction, RolloutEvaluator
from agent.records import Judgement, Observation, Outcome
from agent.release.rollout_policy import RolloutPolicy, apply_site_limits

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_MAX_FRAMES: Final = 100_000  # of the line, for one rollout: an hour at 30 frames a second
_BLOCK: Final = 256  # parts drawn at a time


@dataclass(frozen=True, slots=True)
class CandidateProfile:
    """How a release differs from the running model, as probabilities per part."""

    name: str
    miss_rate: float = 0.0  # of the parts that the running model rejects: only the candidate says ok
    false_reject_rate: float = 0.0  # of the parts that the running model lets through: only the candidate says defect
    failure_rate: float = 0.0  # no judgement
    late_rate: float = 0.0  # decided after the deadline
    score_shift: float = 0.0  # added to scores that are otherwise the running model's own; 0 is another seed


def equally_good(disagreement: float, *, defects: float, let_through_share: float = 0.5) -> CandidateProfile:
    """Return a candidate that differs on `disagreement` of all parts, `let_through_share` of them towards ok."""
    return CandidateProfile(
        f"equally good, {disagreement:.2%} disagreement",
        miss_rate=min(1.0, disagreement * let_through_share / defects),
        false_reject_rate=disagreement * (1.0 - let_through_share) / (1.0 - defects),
    )


ALWAYS_OK: Final = CandidateProfile("always ok", miss_rate=1.0)
ALWAYS_DEFECT: Final = CandidateProfile("always defect", false_reject_rate=1.0)
BLIND_SPOT: Final = CandidateProfile(
    "misses 10 % of the defects, 0.2 % false alarms", miss_rate=0.1, false_reject_rate=0.002
)


@dataclass(frozen=True, slots=True)
class RolloutOutcome:
    """How one release fared."""

    action: RolloutAction  # PASS: committed; HOLD: its time was up while light or camera had moved
    gate: str | None  # that refused it
    phase: str  # it ended in
    parts: int  # inspected by both models
    frames: int  # of the line, from the beginning of the shadow


@dataclass(frozen=True, slots=True)
class RolloutCounts:
    """How many releases of one kind fared."""

    kind: str
    releases: int
    committed: int
    refused: int
    undecided: int
    gates: dict[str, int]  # refusals
    median_parts: float
    most_parts: int
    median_frames: float
    most_frames: int


def simulate_rollout(
    candidate: CandidateProfile, *, defects: float = 0.02, seed: int = 0, max_frames: int = _MAX_FRAMES
) -> RolloutOutcome:
    """Run one rollout from shadow to commit or refusal, on a line where the running model rejects `defects`.

    The policy is the default one within the default limits of a site. After `max_frames` its time is up.
    """
    rng = np.random.default_rng(seed)
    return evaluate_rollout(_observations(candidate, defects, rng), rng=rng, max_frames=max_frames)


def evaluate_rollout(
    seen: Iterator[Observation], *, rng: np.random.Generator, max_frames: int = _MAX_FRAMES
) -> RolloutOutcome:
    """Judge what was seen as `simulate` does; `rng` says how many frames pass between two parts that are assigned."""
    policy = apply_site_limits(RolloutPolicy(), RolloutLimits())
    evaluator = RolloutEvaluator(policy)
    steps = [("shadow", policy.shadow_parts, 1.0), *(("trial", step.parts, step.share) for step in policy.trial)]
    parts = frames = 0
    phase, call, gate = "", RolloutAction.CONTINUE, None
    for name, wanted, share in steps:
        phase = f"{name} {share:.0%}" if name == "trial" else name
        evaluator.begin_phase("trial" if name == "trial" else "shadow", parts=wanted, share=share)
        call = RolloutAction.CONTINUE
        overdue = False
        while call in {RolloutAction.CONTINUE, RolloutAction.HOLD} and not overdue:
            evaluator.observe(next(seen))
            parts += 1
            frames += int(rng.geometric(share))  # the frames between two parts that are assigned
            overdue = frames >= max_frames
            decision = evaluator.decide(overdue=overdue)
            call, gate = decision.action, None if decision.refusal is None else decision.refusal.gate.value
        if call is not RolloutAction.PASS:
            break
    return RolloutOutcome(call, gate, phase, parts, frames)


def run_rollouts(
    candidates: Sequence[CandidateProfile],
    *,
    releases: int,
    defects: float = 0.02,
    seed: int = 0,
    kind: str | None = None,
) -> RolloutCounts:
    """Release `releases` times, taking the candidates in turn, each with a seed of its own; count what became of them.

    For the published table: `run_equally_good` with 200, `ALWAYS_OK` and `ALWAYS_DEFECT` with 20.
    """
    seeds = np.random.SeedSequence(seed).generate_state(releases)
    ends = [
        simulate_rollout(candidates[i % len(candidates)], defects=defects, seed=int(seeds[i])) for i in range(releases)
    ]
    return count_rollouts(ends, kind=candidates[0].name if kind is None else kind)


def count_rollouts(ends: Sequence[RolloutOutcome], *, kind: str) -> RolloutCounts:
    """Count how releases of one kind fared."""
    return RolloutCounts(
        kind=kind,
        releases=len(ends),
        committed=sum(end.action is RolloutAction.PASS for end in ends),
        refused=sum(end.action is RolloutAction.REFUSE for end in ends),
        undecided=sum(end.action in {RolloutAction.CONTINUE, RolloutAction.HOLD} for end in ends),
        gates=dict(Counter(end.gate for end in ends if end.gate is not None)),
        median_parts=float(median(end.parts for end in ends)),
        most_parts=max(end.parts for end in ends),
        median_frames=float(median(end.frames for end in ends)),
        most_frames=max(end.frames for end in ends),
    )


def run_equally_good(*, releases: int = 200, defects: float = 0.02, seed: int = 0) -> RolloutCounts:
    """Release models that are as good as the running one: 0.1 to 1 % disagreement, even and up to 60 : 40."""
    kinds = [
        equally_good(rate, defects=defects, let_through_share=share)
        for rate in (0.001, 0.0025, 0.005, 0.0075, 0.01)
        for share in (0.5, 0.4, 0.6, 0.5)
    ]
    return run_rollouts(kinds, releases=releases, defects=defects, seed=seed, kind="equally good")


def _observations(candidate: CandidateProfile, defects: float, rng: np.random.Generator) -> Iterator[Observation]:
    """Yield parts without end, all of them assigned."""
    gamma = float(rng.uniform(0.5, 2.0))  # the other seed's calibration
    failed = unknown_judgement("the session failed")
    part = 0
    while True:
        draws = rng.random((_BLOCK, 4))
        good = rng.beta(2.0, 12.0, _BLOCK)  # scores by their distance from the decision, in [0, 1)
        bad = rng.beta(4.0, 2.0, _BLOCK)
        noise = rng.normal(0.0, 0.03, _BLOCK)
        for i in range(_BLOCK):
            rejected = draws[i, 0] < defects
            differs = draws[i, 1] < (candidate.miss_rate if rejected else candidate.false_reject_rate)
            champion = _judgement(0.5 + 0.5 * bad[i] if rejected else 0.5 * good[i], rejected=bool(rejected))
            if candidate.score_shift:
                score = champion.score + candidate.score_shift
            else:
                depth = min(1.0, max(0.0, (bad[i] if rejected != differs else good[i]) + noise[i])) ** gamma
                score = 0.5 + 0.5 * depth if rejected != differs else 0.499 * depth
            challenger = _judgement(score, rejected=bool(rejected != differs))
            yield Observation(
                key=str(part),
                camera="line",
                champion=champion,
                challenger=failed if draws[i, 2] < candidate.failure_rate else challenger,
                champion_us=2_000,
                challenger_us=2_000,
                latency_us=1_000_000 if draws[i, 3] < candidate.late_rate else 10_000,
            )
            part += 1


def _judgement(score: float, *, rejected: bool) -> Judgement:
    value = float(min(1.0, max(0.0, score)))
    if rejected:
        return Judgement(Outcome.DEFECT, "defect", value, ())
    return Judgement(Outcome.OK, "ok", value, ())
