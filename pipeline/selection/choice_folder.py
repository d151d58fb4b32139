"""Writes, reads and registers a finished choice: `choice.json`, the model card and the release.

The folder holds `choice.json`, `card.md`, `card.html`, and `release/` when a candidate is proposed.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent.errors import OperatorError
from agent.release.manifest import MODEL_NAME, read_manifest
from pipeline.comparison.comparison_result import CandidateChoice
from pipeline.report.model_card import render_card_html, render_card_markdown
from pipeline.selection.candidate_record import CandidateDecision, CandidateRecord
from pipeline.selection.registry.model_registry import CARD_HTML, CARD_MARKDOWN, list_artifacts, utc_now
from pipeline.strict_json import parse_json, to_json

if TYPE_CHECKING:
    from pipeline.selection.candidate_record import RegistryEntry
    from pipeline.selection.registry.model_registry import ModelRegistry

CHOICE_NAME: Final = "choice.json"
RELEASE_FOLDER: Final = "release"


def write_choice(choice: CandidateChoice, folder: Path) -> CandidateChoice:
    """Write the choice below `folder`; returns it as written, with releases named relative to the folder."""
    release = folder / RELEASE_FOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if release.exists():
            shutil.rmtree(release)
        if choice.proposed is not None:
            shutil.copytree(choice.proposed.release, release)
        manifest = read_manifest(release) if choice.proposed is not None else None
        kept = choice.model_copy(
            update={
                "assessments": tuple(
                    one.model_copy(
                        update={
                            "release": RELEASE_FOLDER
                            if i == choice.chosen
                            else _relative_path(folder, Path(one.release))
                        }
                    )
                    for i, one in enumerate(choice.assessments)
                )
            }
        )
        (folder / CARD_MARKDOWN).write_text(render_card_markdown(kept, manifest), encoding="utf-8")
        (folder / CARD_HTML).write_text(render_card_html(kept, manifest), encoding="utf-8")
        (folder / CHOICE_NAME).write_bytes(to_json(kept))  # last: it marks the result as complete
    except OSError as error:
        raise OperatorError(f"{folder} cannot be written: {error.strerror}.") from error
    return kept


def _relative_path(folder: Path, release: Path) -> str:
    if release.is_relative_to(folder):
        return release.relative_to(folder).as_posix()
    return "/".join(release.parts[-3:])


def read_choice(folder: Path) -> CandidateChoice:
    """Read `choice.json`. Raises OperatorError, PlanError."""
    path = folder / CHOICE_NAME
    try:
        data = path.read_bytes()
    except OSError as error:
        raise OperatorError(
            f"{path}: {error.strerror}. It is the result of a search or of a job that chooses."
        ) from error
    return parse_json(CandidateChoice, data, str(path))


def make_candidate_record(
    choice: CandidateChoice,
    index: int,
    release: Path,
    *,
    dataset_uri: str | None = None,
    trigger: str | None = None,
    created_utc: str | None = None,
) -> CandidateRecord:
    """The registry's record of the candidate `choice.assessments[index]`, whose release folder is `release`.

    Raises OperatorError when the folder holds another model.
    """
    assessment, manifest = choice.assessments[index], read_manifest(release)
    if manifest.files[MODEL_NAME].sha256 != assessment.model_sha256:
        raise OperatorError(f"{release} does not hold the model {assessment.model_sha256[:12]} that was evaluated.")
    return CandidateRecord(
        name=manifest.name,
        version=manifest.version,
        model_sha256=assessment.model_sha256,
        dataset_digest=manifest.lineage.dataset_sha256,
        dataset_uri=dataset_uri,
        parameters=manifest.lineage.parameters,
        seed=manifest.lineage.seed,
        metrics=manifest.metrics,
        slices=assessment.comparisons[0].slices if assessment.comparisons else (),
        comparison=assessment.comparisons,
        decision=CandidateDecision(
            outcome="proposed" if choice.chosen == index else "refused",
            reasons=assessment.reasons if choice.chosen == index else (*assessment.reasons, *choice.reasons[:1]),
        ),
        lineage=manifest.lineage,
        artifacts=list_artifacts(release),
        created_utc=created_utc or utc_now(),
        trigger=trigger,
    )


def register_choice(
    registry: ModelRegistry,
    folder: Path,
    *,
    by: str,
    why: str,
    dataset_uri: str | None = None,
    trigger: str | None = None,
) -> RegistryEntry | None:
    """Register the proposed candidate of the result in `folder`, Pending, with its card; None when none is proposed.

    The choice itself is recorded in any case. Registering the same result again changes nothing. Raises RegistryError,
    IntegrityError, StorageError.
    """
    choice = read_choice(folder)
    registry.record_choice(choice)
    if choice.chosen is None:
        return None
    record = make_candidate_record(
        choice, choice.chosen, folder / RELEASE_FOLDER, dataset_uri=dataset_uri, trigger=trigger
    )
    pages = {name: (folder / name).read_text(encoding="utf-8") for name in (CARD_MARKDOWN, CARD_HTML)}
    return registry.register(record, folder / RELEASE_FOLDER, by=by, why=why, cards=pages)
