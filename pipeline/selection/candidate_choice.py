"""Compares candidates with the champion on the same images and proposes one of them, or none.

A candidate is proposable when (a) it is a release that a device would take, (b) it passes on every protected slice of
the validation split and of every anchor (see `selection_policy`), (c) it gains on the objective, (d) it keeps
the policy's floors. Of the proposable ones the best by the objective is chosen; ties go to the better AUROC, then to
the smaller model, then to the smaller digest: the order of the candidates never matters. Every refusal is a sentence.

Anchors are data sets without new labels, such as the version before. When a batch of wrong labels entered training and
validation alike, the candidate looks good on both and fails on an anchor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.errors import KensaError, OperatorError
from agent.release.manifest import MODEL_NAME
from pipeline.comparison.comparison_result import CandidateAssessment, CandidateChoice
from pipeline.comparison.predictions import EvaluationSplit, predict, predict_all
from pipeline.comparison.selection_policy import SelectionPolicy
from pipeline.comparison.slice_comparison import compare_predictions
from pipeline.progress import no_progress

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.comparison.comparison_result import ReleaseComparison, SliceResult
    from pipeline.comparison.predictions import ReleasePredictions
    from pipeline.progress import Progress

_MAX_NAMED_SLICES = 5  # slices named in a reason; the comparison holds all of them


class ChoiceError(OperatorError):
    """There is nothing to choose from; the text gives the reason for each candidate."""


@dataclass(frozen=True, slots=True, eq=False)
class _Candidate:
    """A release that can be evaluated."""

    folder: Path
    predictions: ReleasePredictions
    objective: float
    rank: tuple[float, float, int, str]  # the smallest is the best


def choose_candidate(
    candidates: Sequence[Path],
    champion: Path | None,
    dataset: Path,
    policy: SelectionPolicy | None = None,
    *,
    anchors: Sequence[Path] = (),
    progress: Progress = no_progress,
) -> CandidateChoice:
    """Choose among release folders. `champion` is the running one's release folder; None before the first.

    Every data set needs the policy's split. Raises DatasetError, ReleaseError for the champion, ChoiceError when no
    candidate can be evaluated at all.
    """
    policy = policy or SelectionPolicy()
    main = EvaluationSplit.load(dataset, policy.split)
    others = [EvaluationSplit.load(anchor, policy.split) for anchor in anchors]
    champions = [predict(champion, p, progress=progress) for p in (main, *others)] if champion else []
    broken, found = _evaluate_candidates(candidates, main, policy, progress)
    if not found:
        raise ChoiceError("no candidate can be evaluated: " + " ".join(broken or ["none was given."]))
    found.sort(key=lambda one: one.rank)
    compared = found[: policy.candidates] if champion else []
    elsewhere = [predict_all([one.folder for one in compared], p, progress=progress) for p in others]
    assessments = []
    for place, one in enumerate(found):
        if champion is None:
            assessments.append(_assess(one, [], None, policy))
        elif place >= policy.candidates:
            assessments.append(_not_compared(one, policy))
        else:
            inspected = [one.predictions, *(_raise_if_failed(results[place]) for results in elsewhere)]
            triples = zip(inspected, champions, (main, *others), strict=True)
            comparisons = [compare_predictions(new, old, p, policy) for new, old, p in triples]
            assessments.append(_assess(one, comparisons, champions[0].metric(policy.objective), policy))
    chosen = next((i for i, assessment in enumerate(assessments) if assessment.proposable), None)
    shown = chosen or 0  # computing all metrics takes time: the card has those of one
    assessments[shown] = assessments[shown].model_copy(update={"figures": found[shown].predictions.metrics()})
    return CandidateChoice(
        objective=policy.objective,
        champion=champions[0].title if champions else None,
        champion_sha256=champions[0].manifest.files[MODEL_NAME].sha256 if champions else None,
        champion_objective=champions[0].metric(policy.objective) if champions else None,
        dataset_digest=main.dataset.digest,
        chosen=chosen,
        reasons=(_summary(assessments, chosen), *broken),
        assessments=tuple(assessments),
        policy=policy.model_dump(mode="json"),
    )


def _raise_if_failed(result: ReleasePredictions | KensaError) -> ReleasePredictions:
    """A release that ran on the data must run on an anchor; otherwise no comparison is possible."""
    if isinstance(result, KensaError):
        raise result
    return result


def _evaluate_candidates(
    candidates: Sequence[Path], split: EvaluationSplit, policy: SelectionPolicy, progress: Progress
) -> tuple[list[str], list[_Candidate]]:
    """Why candidates cannot be evaluated, and the others; of equal models with equal thresholds the first."""
    broken: list[str] = []
    found: dict[str, _Candidate] = {}
    results = predict_all(candidates, split, progress=progress)
    for folder, inspected in zip(candidates, results, strict=True):
        if isinstance(inspected, KensaError):
            broken.append(f"{folder.name} cannot be evaluated: {inspected}")
            continue
        entry = inspected.manifest.files[MODEL_NAME]
        objective = inspected.metric(policy.objective)
        if objective is None:
            broken.append(
                f"{folder.name} cannot be evaluated: the objective {policy.objective} needs good and bad parts."
            )
            continue
        rank = (-objective, -(inspected.metric("auroc") or 0.0), entry.length_bytes, entry.sha256)
        decision = inspected.manifest.decision.model_dump_json()
        found.setdefault(entry.sha256 + decision, _Candidate(folder, inspected, objective, rank))
    return broken, list(found.values())


def _assess(
    one: _Candidate, comparisons: list[ReleaseComparison], champion_objective: float | None, policy: SelectionPolicy
) -> CandidateAssessment:
    failed = [(c, s) for c in comparisons for s in c.slices if not s.passed]
    against = [*_check_floors(one.predictions, policy)]
    if failed:
        against += [_refusal_text(comparison, result) for comparison, result in failed[:_MAX_NAMED_SLICES]]
        if len(failed) > _MAX_NAMED_SLICES:
            against.append(f"{len(failed) - _MAX_NAMED_SLICES} more slices do not pass.")
    if champion_objective is not None and one.objective - champion_objective <= policy.min_gain:
        against.append(
            f"Nothing is gained: {policy.objective} {one.objective:.4f} against the champion's "
            f"{champion_objective:.4f}; more than {policy.min_gain:g} must be gained."
        )
    if against:
        return _assessment(one, tuple(against), proposable=False, comparisons=comparisons)
    if champion_objective is None:
        reason = f"There is no champion to compare with; {policy.objective} {one.objective:.4f}."
    else:
        count = sum(len(c.slices) for c in comparisons)
        reason = (
            f"Not worse than the champion on any of {count} slices, and {policy.objective} rises from "
            f"{champion_objective:.4f} to {one.objective:.4f}."
        )
    return _assessment(one, (reason,), proposable=True, comparisons=comparisons)


def _not_compared(one: _Candidate, policy: SelectionPolicy) -> CandidateAssessment:
    reason = f"Not compared with the champion: {policy.candidates} others have a better {policy.objective}."
    return _assessment(one, (reason,), proposable=False, comparisons=[])


def _assessment(
    one: _Candidate, reasons: tuple[str, ...], *, proposable: bool, comparisons: list[ReleaseComparison]
) -> CandidateAssessment:
    manifest = one.predictions.manifest
    return CandidateAssessment(
        release=str(one.folder),
        name=manifest.name,
        version=manifest.version,
        model_sha256=manifest.files[MODEL_NAME].sha256,
        seed=manifest.lineage.seed,
        objective=one.objective,
        proposable=proposable,
        reasons=reasons,
        comparisons=tuple(comparisons),
        lineage=manifest.lineage,
    )


def _check_floors(inspected: ReleasePredictions, policy: SelectionPolicy) -> list[str]:
    shares = (
        ("finds", "defective", inspected.is_defect, policy.min_defects_found),
        ("passes", "good", ~inspected.is_defect, policy.min_good_passed),
    )
    return [
        f"It {verb} {100 * inspected.is_outcome_right[rows].mean():.1f} % of the {kind} parts; at least "
        f"{100 * least:g} % are required."
        for verb, kind, rows, least in shares
        if rows.any() and inspected.is_outcome_right[rows].mean() < least
    ]


def _refusal_text(comparison: ReleaseComparison, result: SliceResult) -> str:
    kind = {"defects": "defective parts", "good": "good parts", "all": "parts"}[result.of]
    return (
        f"{result.slice} ({kind} of {comparison.data}): {100 * result.candidate:.1f} % right against "
        f"{100 * result.champion:.1f} %, {result.lost} lost and {result.gained} gained of {result.pictures}; the "
        f"difference may be {100 * result.low:+.1f} points, {-100 * result.margin:.1f} are allowed."
    )


def _summary(assessments: list[CandidateAssessment], chosen: int | None) -> str:
    if chosen is None:
        return f"None of {len(assessments)} candidates is proposed."
    one = assessments[chosen]
    return f"{one.name} {one.version} ({one.model_sha256[:12]}, seed {one.seed}) is proposed. {one.reasons[0]}"
