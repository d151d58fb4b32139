"""Runs a whole search on this machine: rounds of trainings, comparison, result on disk.

    OUT/trainings/LABEL/     one per training, laid out like a SageMaker job
    OUT/search.json          the trainings and their results
    OUT/choice.json, card.md, card.html, release/    see `pipeline.selection.choice_folder`

Promise: equal settings, data, code, CPU type and libraries give the same choice; an interrupted search resumes;
a failed training does not affect the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agent.errors import OperatorError
from pipeline.dataset_reader import Dataset
from pipeline.search.local_jobs import LocalTrainingJobs
from pipeline.search.search_space import halving_rungs, plan_trainings
from pipeline.selection.candidate_choice import choose_candidate
from pipeline.selection.choice_folder import CHOICE_NAME, write_choice
from pipeline.selection.training_plan import TrainingPlan  # noqa: TC001 - pydantic reads the annotations
from pipeline.strict_json import StrictJson, to_json
from pipeline.training.auto_config import DEFAULT_EPOCHS, choose_head

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Any

    from pipeline.comparison.comparison_result import CandidateChoice
    from pipeline.comparison.selection_policy import Objective
    from pipeline.progress import Progress
    from pipeline.search.local_jobs import JobResult
    from pipeline.search.search_space import Rung, SearchSettings

REPORT_NAME: Final = "search.json"
TRAININGS_FOLDER: Final = "trainings"


class SearchError(OperatorError):
    """No training of a round succeeded; the text gives the reason of the first failure."""


class TrainingOutcome(StrictJson):
    """One training in the report of a search."""

    round: int
    label: str  # folder below trainings/
    plan: TrainingPlan
    objective: float | None = None
    failure: str = ""
    duration_s: float = 0.0
    reused: bool = False  # from an earlier search
    survived: bool = False


class SearchReport(StrictJson):
    """`search.json`."""

    trainings: tuple[TrainingOutcome, ...]

    @property
    def failed(self) -> tuple[TrainingOutcome, ...]:
        """The trainings without a release."""
        return tuple(one for one in self.trainings if one.failure)


def resolve_settings(settings: SearchSettings, data: Path) -> SearchSettings:
    """The settings, completed from the data: digest, head and epochs."""
    dataset = Dataset.load(data)
    if settings.dataset_digest not in {None, dataset.digest}:
        raise OperatorError(
            f"{data} has the digest {dataset.digest[:12]}, the search is for {str(settings.dataset_digest)[:12]}."
        )
    head = settings.head or choose_head(dataset)
    base = {"epochs": DEFAULT_EPOCHS[head], **settings.base}
    return settings.model_copy(update={"dataset_digest": dataset.digest, "head": head, "base": base})


def objective_value(metrics: Mapping[str, Any], objective: Objective) -> float:
    """The objective from a manifest's int8 metrics; an undefined one counts as 0."""
    figures = metrics.get("int8", {})
    if objective != "balanced":
        return float(figures.get(objective) or 0.0)
    if "escape_rate" in figures and "false_reject_rate" in figures:
        return 1.0 - (float(figures["escape_rate"]) + float(figures["false_reject_rate"])) / 2.0
    return float(figures.get("accuracy") or 0.0)


def run_search(
    settings: SearchSettings,
    data: Path,
    out: Path,
    champion: Path | None,
    *,
    anchors: Sequence[Path] = (),
    progress: Progress,
) -> tuple[CandidateChoice, SearchReport]:
    """Search and choose. Raises OperatorError, SearchError, DatasetError, ReleaseError for the champion."""
    settings = resolve_settings(settings, data)
    out.mkdir(parents=True, exist_ok=True)
    (out / CHOICE_NAME).unlink(missing_ok=True)  # of an earlier search
    trainings = LocalTrainingJobs(out / TRAININGS_FOLDER, data, workers=settings.workers, timeout_s=settings.timeout_s)
    survivors = plan_trainings(settings)
    rounds = halving_rungs(len(survivors), settings.halving)
    done: list[TrainingOutcome] = []
    finalists: list[Path] = []
    for number, rung in enumerate(rounds):
        last = number + 1 == len(rounds)
        keep = len(survivors) if last else rounds[number + 1].trainings
        found = _run_round(trainings, survivors, rung, f"round {number + 1}/{len(rounds)}", progress)
        ranked = _ranked(found, settings.policy.objective)
        survivors = [whole for whole, _ in ranked[:keep]]
        kept = {finished.plan.digest for _, finished in ranked[:keep]}
        done += [_training_outcome(number + 1, one, settings.policy.objective, kept) for _, one in found]
        (out / REPORT_NAME).write_bytes(to_json(SearchReport(trainings=tuple(done))))
        if not ranked:
            raise SearchError(f"no training succeeded. The first one: {done[-len(found)].failure}")
        finalists = [one.folder for _, one in ranked if one.folder is not None]
    choice = choose_candidate(finalists, champion, data, settings.policy, anchors=anchors, progress=progress)
    return write_choice(choice, out), SearchReport(trainings=tuple(done))


def _run_round(
    trainings: LocalTrainingJobs, plans: Sequence[TrainingPlan], rung: Rung, name: str, progress: Progress
) -> list[tuple[TrainingPlan, JobResult]]:
    """Train; pairs of the full plan and the result of its shortened one, in the order of the plans."""
    short = {rung.shorten(whole).digest: whole for whole in plans}
    finished: dict[str, JobResult] = {}
    for count, one in enumerate(trainings.run([rung.shorten(whole) for whole in short.values()]), start=1):
        finished[one.plan.digest] = one
        progress(name, count, len(short), f"{one.plan.label}: {one.failure}" if one.failure else one.plan.label)
    return [(whole, finished[digest]) for digest, whole in short.items()]


def _ranked(
    found: Sequence[tuple[TrainingPlan, JobResult]], objective: Objective
) -> list[tuple[TrainingPlan, JobResult]]:
    """The successful trainings, the best first; ties by digest."""
    good = [(whole, one) for whole, one in found if one.manifest is not None]
    return sorted(
        good,
        key=lambda pair: (-objective_value(pair[1].manifest.metrics, objective), pair[0].digest),  # type: ignore[union-attr]
    )


def _training_outcome(number: int, one: JobResult, objective: Objective, kept: set[str]) -> TrainingOutcome:
    return TrainingOutcome(
        round=number,
        label=one.plan.label,
        plan=one.plan,
        objective=None if one.manifest is None else objective_value(one.manifest.metrics, objective),
        failure=one.failure,
        duration_s=round(one.duration_s, 1),
        reused=one.is_reused,
        survived=one.plan.digest in kept,
    )
