"""Evaluates a candidate on live parts beside the running model: the gates from SHADOW to DRIFT. Pure.

Promise: no clock, thread or I/O; the same observations in the same order give the same decisions. Evidence against the
candidate accumulates over all phases, and a refusal is final. Not thread-safe: the caller serialises.

| test | sees | refuses with |
|---|---|---|
| SPRT of disagreement, let through or not | pairs of shadow and trial, by camera | SHADOW, VERDICTS |
| paired e-process on the direction of disagreements | pairs of every phase | VERDICTS |
| SPRT of parts without the challenger's judgement | assigned parts with the champion's | ERRORS |
| SPRT of parts decided after the deadline | assigned parts | DEADLINES |
| PSI of the scores (agent.evidence.drift) | pairs of every phase | DRIFT, once the phase is overdue |

Disagreements come in runs (glare, a smeared part, a busy second), so no test refuses on the evidence of one run alone:
see `agent.evidence.run_tests`. Meanwhile the evaluator is in doubt: nothing is promoted, nothing is refused because its
time is up, the candidate's outcomes must not count (`is_in_doubt`), and a person learns which parts to check. That ends
when the candidate has agreed for long enough, or when the person decides so (`reset_evidence`). Letting parts through
in runs weighs more than rejecting in runs: only a person can let it pass. Acceptance needs as many parts as without
runs.

Not detected: a model that misses 10 % of the defects and compensates with as many false alarms disagrees little, and
evenly in both directions. Nor is a model that lets everything through on a line with hardly any defect: it takes 13
defects to prove. Only labelled parts reveal those, the golden set's and the site's own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Literal

from agent.evidence.drift import DriftMonitor
from agent.evidence.gate_text import HOLD_ADVICE, describe_runs, describe_stretch, sequential_test_refusal
from agent.evidence.paired_test import PairedCounts
from agent.evidence.run_tests import RunSprt
from agent.records import Outcome
from agent.release_records import Gate, Refusal

if TYPE_CHECKING:
    from agent.evidence.drift import DriftResult
    from agent.evidence.paired_test import ABReport
    from agent.records import Observation
    from agent.release.rollout_policy import RolloutPolicy

_US_PER_MS: Final = 1_000.0
_MIN_UNANIMOUS_PAIRS: Final = 4  # parts of a phase, at least, that all say the same


class RolloutAction(StrEnum):
    """What to do with the candidate now."""

    CONTINUE = "continue"  # the phase has not shown enough yet
    PASS = "pass"  # noqa: S105 - the phase has shown enough: begin the next one, or commit
    REFUSE = "refuse"  # final
    HOLD = (
        "hold"  # the scores moved, or one run of parts is evidence against it: promote nothing, a person should check
    )


@dataclass(frozen=True, slots=True)
class RolloutDecision:
    """`refusal` is set with REFUSE only. `alarm` and `held` are for a person and may come with any call but REFUSE."""

    action: RolloutAction
    refusal: Refusal | None = None
    alarm: str | None = None  # scores have moved
    held: str | None = None  # the run of parts that is evidence against the candidate, and what a person can do


class RolloutEvaluator:
    """One candidate's rollout, from its shadow deployment to its commit, or an A/B test without end."""

    def __init__(self, policy: RolloutPolicy) -> None:
        """Evaluate by `policy`, with the site's limits applied (`agent.release.rollout_policy.apply_site_limits`)."""
        self._policy = policy
        self._deadline_us = math.inf if policy.deadline_ms is None else policy.deadline_ms * _US_PER_MS
        self._disagreement = RunSprt(policy.disagreement.plan(), tolerates_long_runs=True)
        self._errors = RunSprt(policy.errors.plan(), tolerates_long_runs=False)
        self._deadlines = RunSprt(policy.deadlines.plan(), tolerates_long_runs=False)
        self._counts = PairedCounts()
        self._drift = DriftMonitor(policy)
        self._refusal: Refusal | None = None
        self._phase: Literal["shadow", "trial", "ab"] = "shadow"
        self._phase_pairs_wanted = policy.shadow_parts
        self._is_last = False
        self._pairs_before = 0
        self._agreeing_before = 0
        self._unassigned = 0  # parts that only the champion inspected
        self._unassigned_late = 0

    def begin_phase(self, phase: Literal["shadow", "trial", "ab"], *, parts: int, share: float = 1.0) -> None:
        """Start a phase, or the next step of a trial, that passes after `parts` pairs at the earliest.

        `share` is the trial step's, in (0, 1]; the policy's last share (and no argument) is the step before the commit.
        """
        self._phase = phase
        self._phase_pairs_wanted = parts
        self._is_last = phase == "trial" and share >= self._policy.trial[-1].share
        self._pairs_before = self._counts.pairs
        self._agreeing_before = -1 if self._counts.is_running else self._counts.agreeing
        for test in (self._disagreement, self._errors, self._deadlines):
            test.begin_phase(share=share)

    def observe(self, observation: Observation) -> None:
        """Add one part; ignored after a refusal.

        Parts that were not assigned show how late the line is without the challenger, and nothing else: lateness counts
        against the candidate in a trial only, and only if those parts are in time.
        """
        if self._refusal is not None:
            return
        late = observation.latency_us > self._deadline_us
        if not observation.assigned:
            self._unassigned += 1
            self._unassigned_late += late
            return
        if self._phase != "shadow":  # it delays no decision: parts that are late there are late without the candidate
            self._deadlines.add(event=late)
            if self._deadlines.is_refused and self._is_late_without_candidate():
                self._deadlines.reset()  # the line's own fault: start again
        before, pairs = self._counts.disagreeing, self._counts.pairs
        self._counts.add(observation)
        if observation.champion.outcome is not Outcome.UNKNOWN:
            self._errors.add(event=observation.challenger.outcome is Outcome.UNKNOWN)
        if self._counts.pairs > pairs:
            self._drift.add(observation.champion.score, observation.challenger.score)
            if self._phase != "ab":  # where models that differ are compared on purpose
                self._disagreement.add(event=self._counts.disagreeing > before, unit=observation.camera)
        self._refusal = self._find_refusal(observation)

    def decide(self, *, overdue: bool = False) -> RolloutDecision:
        """Return what to do now. `overdue`: the phase's time is up, so a candidate that has not passed is refused.

        Light or camera is not the candidate's fault: while both models' scores have moved, or one run of parts casts
        doubt on it, the action stays HOLD, overdue or not. An A/B test never passes, holds or is overdue.
        """
        if self._refusal is not None:
            return RolloutDecision(RolloutAction.REFUSE, self._refusal)
        drift, doubt = self._drift.current(), self._describe_doubt()
        held = doubt or self._describe_suspicion()
        alarm = self._drift_alarm(drift)
        if self._phase == "ab":
            return RolloutDecision(RolloutAction.CONTINUE, None, alarm, held)
        blocked, lacking = self._is_blocked(drift), self._missing_evidence()
        if not blocked and lacking is None:
            return RolloutDecision(RolloutAction.PASS, None, alarm, held)
        if overdue and held is None and not (blocked and self._is_common_drift(drift)):
            self._refusal = self._drift_refusal(drift) if blocked else self._time_refusal(lacking or "")
            return RolloutDecision(RolloutAction.REFUSE, self._refusal)
        return RolloutDecision(
            RolloutAction.HOLD if blocked or doubt is not None else RolloutAction.CONTINUE, None, alarm, held
        )

    @property
    def is_refused(self) -> bool:
        """Whether a test has refused; `decide` returns which, and why."""
        return self._refusal is not None

    @property
    def is_in_doubt(self) -> bool:
        """Whether only the run rule keeps the evidence from refusing: the candidate's outcomes must not count now."""
        return self._disagreement.is_in_doubt or self._errors.is_in_doubt or self._is_one_sided_in_runs()

    def reset_evidence(self) -> None:
        """Discard the evidence so far: a person has checked the parts and lets the candidate continue.

        A refusal stays. The displayed counts stay; every test begins anew, so the candidate has to earn its commit.
        """
        for test in (self._disagreement, self._errors, self._deadlines):
            test.reset()
        self._agreeing_before = -1
        self._counts.reset_directions()

    def progress(self) -> dict[str, float]:
        """Return counts and statistics for status and metrics; all finite. PSI appears once it can be computed."""
        drift, counts = self._drift.current(), self._counts
        figures = {
            "pairs": float(counts.pairs),
            "phase_pairs": float(self._phase_pairs),
            "phase_pairs_wanted": float(self._phase_pairs_wanted),
            "let_through": float(counts.let_through),
            "rejected": float(counts.rejected),
            "e_value": counts.e_value,
            "disagreement": counts.disagreeing / counts.pairs if counts.pairs else 0.0,
            "recent_disagreeing": float(self._disagreement.parts.stretch_events),
            "recent_pairs": float(self._disagreement.parts.stretch_trials),
            "disagreement_log_ratio": self._disagreement.parts.log_ratio,
            "errors": float(self._errors.parts.events),
            "errors_log_ratio": self._errors.parts.log_ratio,
            "late": float(self._deadlines.parts.events),
            "late_log_ratio": self._deadlines.parts.log_ratio,
            "unassigned_parts": float(self._unassigned),
            "unassigned_late": float(self._unassigned_late),
        }
        moved = {"psi_champion": drift.champion, "psi_challenger": drift.challenger, "psi_between": drift.between}
        return figures | {name: value for name, value in moved.items() if value is not None}

    def report(self) -> ABReport:
        """Return the paired comparison over all phases so far."""
        return self._counts.report()

    @property
    def _phase_pairs(self) -> int:
        return self._counts.pairs - self._pairs_before

    # --- what is missing before the phase passes ----------------------------------------------------------------------

    def _missing_evidence(self) -> str | None:
        """Return what the phase has not shown yet; None if it passes."""
        counts, pairs = self._counts, self._phase_pairs
        if pairs < self._phase_pairs_wanted:
            return f"{pairs} of {self._phase_pairs_wanted} parts were inspected by both models"
        if (doubt := self._describe_doubt()) is not None:
            return doubt.rstrip(".")
        if self._phase == "shadow" and (lacking := self._missing_in_shadow_deployment(pairs)) is not None:
            return lacking
        if (self._phase == "shadow" or self._is_last) and self._is_one_sided_suspected():
            return f"disagreements are one-sided: {counts.let_through} let through, {counts.rejected} rejected"
        if self._is_last and not (self._errors.is_accepted and self._deadlines.is_accepted):
            failing, late = self._errors.parts.rate, self._deadlines.parts.rate
            return f"failures ({failing:.2%}) and late parts ({late:.2%}) are not proven rare"
        return None

    def _missing_in_shadow_deployment(self, pairs: int) -> str | None:
        policy, counts = self._policy, self._counts
        if not self._disagreement.is_accepted:
            return f"disagreement {describe_stretch(self._disagreement)} proves nothing yet"
        if counts.not_let_through < policy.shadow_rejects and pairs < policy.shadow_patience * self._phase_pairs_wanted:
            return f"{counts.not_let_through} of {policy.shadow_rejects} parts that are not ok were seen"
        return None

    def _describe_doubt(self) -> str | None:
        """Return which run of parts is evidence against the candidate; None while none is."""
        for test, finding in (
            (self._disagreement, "disagrees with the running model"),
            (self._errors, "gave no judgement"),
            (self._deadlines, "was late"),
        ):
            if test.is_in_doubt:
                return f"The candidate {finding} {describe_stretch(test)}, in {describe_runs(test.runs)}. {HOLD_ADVICE}"
        return self._describe_runs() if self._is_one_sided_in_runs() else None

    def _describe_suspicion(self) -> str | None:
        """Return in which runs the candidate let parts through, if that keeps it from being promoted."""
        counts = self._counts
        asks = (self._phase == "shadow" or self._is_last) and counts.net_direction > 0 and counts.is_clustered
        return self._describe_runs() if asks and self._is_one_sided_suspected() else None

    def _describe_runs(self) -> str:
        counts = self._counts
        return (
            f"Of {counts.pairs} parts the candidate alone let {counts.let_through} through and alone rejected "
            f"{counts.rejected}, but in {describe_runs(counts.runs)}. {HOLD_ADVICE}"
        )

    def _time_refusal(self, lacking: str) -> Refusal:
        return Refusal(
            Gate.TIME,
            f"{self._phase}_not_passed",
            f"The {self._phase} did not pass in its time: {lacking}. Give the rollout more time (limits.max_hours), or "
            "check the parts on which the models disagree.",
            figures=self.progress(),
            limits={"phase_pairs": float(self._phase_pairs_wanted), "e_value": self._policy.e_hold},
        )

    # --- drift --------------------------------------------------------------------------------------------------------

    def _is_blocked(self, drift: DriftResult) -> bool:
        return drift.is_uniform_shift or (drift.challenger is not None and drift.challenger >= self._policy.psi_block)

    def _is_common_drift(self, drift: DriftResult) -> bool:
        """Whether both models' scores have moved over time, and nothing else is wrong with the challenger's."""
        return drift.champion is not None and drift.champion >= self._policy.psi_warn and not drift.is_uniform_shift

    def _drift_alarm(self, drift: DriftResult) -> str | None:
        """Return an alarm about scores that moved; None while none did."""
        warn = self._policy.psi_warn
        if drift.is_uniform_shift:
            return (
                f"The candidate's scores are the running model's moved by {drift.shift:+.3f} on every part: a fault in "
                "its export or preprocessing. Nothing is promoted."
            )
        champion, challenger = drift.champion or 0.0, drift.challenger or 0.0
        figures = f"PSI {champion:.2f} of the running model, {challenger:.2f} of the candidate, warning from {warn:g}"
        if champion >= warn:
            return f"The scores have moved: check light and camera, the models are not at fault ({figures})."
        if challenger >= warn:
            return f"The scores of the candidate alone have moved ({figures})."
        return None

    def _drift_refusal(self, drift: DriftResult) -> Refusal:
        if drift.is_uniform_shift:
            reason, figures = "scores_shifted", {"psi_between": drift.between or 0.0, "shift": drift.shift}
            limits = {"psi_between": self._policy.psi_block}
        else:
            reason = "scores_drifted"
            figures = {"psi_challenger": drift.challenger or 0.0, "psi_champion": drift.champion or 0.0}
            limits = {"psi_challenger": self._policy.psi_block, "psi_champion": self._policy.psi_warn}
        text = (
            f"{self._drift_alarm(drift)} The time of the {self._phase} is up. Correct the release and publish it again."
        )
        return Refusal(Gate.DRIFT, reason, text, figures, limits)

    # --- what refuses at once -----------------------------------------------------------------------------------------

    def _find_refusal(self, observation: Observation) -> Refusal | None:
        if self._errors.is_refused:
            why = observation.challenger.reason or "no reason given"
            text = f"gave no judgement ({why}) {describe_stretch(self._errors)} that the running model classified"
            return sequential_test_refusal(Gate.ERRORS, "gives_no_judgement", text, self._errors, self._policy.errors)
        if self._deadlines.is_refused:
            text = (
                f"was too late {describe_stretch(self._deadlines)}, that is after "
                f"{self._deadline_us / _US_PER_MS:g} ms; of "
                f"{self._unassigned} parts without it {self._unassigned_late} were late"
            )
            return sequential_test_refusal(Gate.DEADLINES, "too_late", text, self._deadlines, self._policy.deadlines)
        if self._disagreement.is_refused:
            text = f"disagrees with the running model {describe_stretch(self._disagreement)}"
            gate = Gate.SHADOW if self._phase == "shadow" else Gate.VERDICTS
            return sequential_test_refusal(gate, "disagrees", text, self._disagreement, self._policy.disagreement)
        return self._one_sided_refusal() if self._is_one_sided_proven() else None

    def _is_late_without_candidate(self) -> bool:
        """Whether the parts that only the running model inspects are late too often as well."""
        return self._unassigned_late >= self._unassigned * self._policy.deadlines.bad > 0.0

    def _is_one_sided(self, e_value: float, threshold: float) -> bool:
        """Whether disagreements go one way, other than the way that the release announces."""
        policy, counts = self._policy, self._counts
        announced = (policy.may_reject_more and counts.net_direction < 0) or (
            policy.may_pass_more and counts.net_direction > 0
        )
        return not announced and e_value >= threshold

    def _is_one_sided_proven(self) -> bool:
        """One-sided, and not by a common cause: separate parts prove it, or no part of this phase contradicts it."""
        counts, limit = self._counts, self._policy.e_threshold
        if not self._is_one_sided(counts.e_value, limit):
            return False
        by_runs = counts.e_value_of_runs >= limit and not counts.is_clustered
        return by_runs or (counts.agreeing == self._agreeing_before and self._phase_pairs >= _MIN_UNANIMOUS_PAIRS)

    def _is_one_sided_in_runs(self) -> bool:
        """One-sided by a common cause: letting through at once, rejecting during a run or after many runs."""
        counts, limit = self._counts, self._policy.e_threshold
        if not self._is_one_sided(counts.e_value, limit) or self._is_one_sided_proven():
            return False
        return counts.net_direction > 0 or counts.is_running or counts.e_value_of_runs >= limit

    def _is_one_sided_suspected(self) -> bool:
        """One-sided enough to promote nothing. A run of rejects counts once, see `agent.evidence.paired_test`."""
        counts = self._counts
        by_runs = counts.net_direction < 0 and counts.is_clustered
        return self._is_one_sided(counts.e_value_of_runs if by_runs else counts.e_value, self._policy.e_hold)

    def _one_sided_refusal(self) -> Refusal:
        counts = self._counts
        more = counts.let_through > counts.rejected
        remedy = f" If it is right, publish it with rollout.may_{'pass' if more else 'reject'}_more."
        return Refusal(
            Gate.VERDICTS,
            "lets_more_through" if more else "rejects_more",
            f"The candidate {'lets more through' if more else 'rejects more'} than the running model: of "
            f"{counts.pairs} parts it alone let {counts.let_through} through and it alone rejected "
            f"{counts.rejected}, "
            f"in {describe_runs(counts.runs)} (e-value {counts.e_value:.0f}, refused from "
            f"{self._policy.e_threshold:g}). "
            f"Look at these parts before it is tried again.{remedy}",
            figures={
                "pairs": float(counts.pairs),
                "let_through": float(counts.let_through),
                "rejected": float(counts.rejected),
                "e_value": counts.e_value,
            },
            limits={"e_value": self._policy.e_threshold},
        )
