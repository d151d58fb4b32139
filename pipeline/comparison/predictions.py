"""Runs releases on a data set with the agent's own loading, preprocessing and decision.

Models of several geometries and with other classes are compared on outcomes: a defective part is classified
correctly when it is not passed as ok, a good one when it is. A class that a model does not know counts as a wrong name,
not as an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from agent.adapters.onnx import OnnxModel
from agent.errors import KensaError
from agent.records import Outcome
from pipeline.comparison.slices import read_attributes
from pipeline.dataset_reader import Dataset
from pipeline.evaluation import metrics, model_runner
from pipeline.evaluation import model_evaluation as evaluation
from pipeline.repository.staging import check_release

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

    from agent.records import DecisionRule, Geometry
    from agent.release.manifest import Manifest
    from pipeline.comparison.selection_policy import Objective
    from pipeline.dataset_reader import Sample
    from pipeline.evaluation.model_runner import RawOutput
    from pipeline.progress import Progress


@dataclass(frozen=True, slots=True, eq=False)
class EvaluationSplit:
    """One split of a data set with the attributes of its images."""

    dataset: Dataset
    split: str
    samples: tuple[Sample, ...]
    attributes: dict[str, dict[str, str]]
    is_defect: npt.NDArray[np.bool_]  # [n]

    @classmethod
    def load(cls, root: Path, split: str) -> EvaluationSplit:
        """Read and verify. Raises DatasetError."""
        dataset = Dataset.load(root)
        samples = dataset.split(split)
        return cls(dataset, split, samples, read_attributes(root), np.array([s.is_defect for s in samples], np.bool_))

    @property
    def groups(self) -> list[str]:
        """The samples' groups, in their order."""
        return [s.group for s in self.samples]


@dataclass(frozen=True, slots=True, eq=False)
class ReleasePredictions:
    """One release on one split."""

    manifest: Manifest
    raw_outputs: tuple[RawOutput, ...]
    samples: tuple[Sample, ...]
    rule: DecisionRule
    is_outcome_right: npt.NDArray[np.bool_]  # [n], of the outcome
    is_class_right: npt.NDArray[np.bool_]  # [n], of the class name
    scores: npt.NDArray[np.float64]  # [n], defect score
    is_defect: npt.NDArray[np.bool_]  # [n], the truth

    @property
    def title(self) -> str:
        """`name version`."""
        return f"{self.manifest.name} {self.manifest.version}"

    def metric(self, name: Objective, rows: npt.NDArray[np.int64] | None = None) -> float | None:
        """An objective on some of the images, all by default; None where it is undefined."""
        chosen = slice(None) if rows is None else rows
        if name == "accuracy":
            return float(self.is_class_right[chosen].mean())
        if name == "auroc":
            return metrics.auroc(self.scores[chosen], self.is_defect[chosen])
        right, defect = self.is_outcome_right[chosen], self.is_defect[chosen]
        shares = [float(rows.mean()) for rows in (right[defect], right[~defect]) if rows.size]
        return sum(shares) / len(shares) if shares else None

    def metrics(self) -> dict[str, Any]:
        """The metrics of `kensa evaluate --json`; {} where the release lacks a class of the data. Reads the masks."""
        if not {s.class_name for s in self.samples} <= set(self.rule.classes):
            return {}
        return evaluation.evaluate(self.raw_outputs, self.samples, self.rule).figures


def predict(release: Path, pictures: EvaluationSplit, *, progress: Progress) -> ReleasePredictions:
    """Run a release on the images. Raises ReleaseError when a device would refuse it."""
    (result,) = predict_all([release], pictures, progress=progress)
    if isinstance(result, KensaError):
        raise result
    return result


def predict_all(
    releases: Sequence[Path], pictures: EvaluationSplit, *, progress: Progress
) -> list[ReleasePredictions | KensaError]:
    """Run releases on the images, each image read once per geometry; a release that cannot run gives its error."""
    results: dict[int, ReleasePredictions | KensaError] = {}
    models: dict[Geometry, list[tuple[int, OnnxModel]]] = {}
    for number, release in enumerate(releases):
        try:
            check_release(release)
            model = OnnxModel.load(release)
        except KensaError as error:
            results[number] = error
        else:
            models.setdefault(model.geometry, []).append((number, model))
    for geometry, group in models.items():
        try:
            raws = model_runner.run_models([m.infer for _, m in group], pictures.samples, geometry, progress=progress)
        except KensaError as error:
            if len(group) == 1:
                results[group[0][0]] = error
                continue
            for number, _ in group:  # one of them cannot run: the others can
                results[number] = predict_all([releases[number]], pictures, progress=progress)[0]
        else:
            results |= {n: _predictions(m, found, pictures) for (n, m), found in zip(group, raws, strict=True)}
    return [results[number] for number in range(len(releases))]


def _predictions(model: OnnxModel, raws: tuple[RawOutput, ...], pictures: EvaluationSplit) -> ReleasePredictions:
    judgements = evaluation.decide_all(raws, model.rule)
    rejected = np.array([j.outcome != Outcome.OK for j in judgements], np.bool_)
    names = zip(judgements, pictures.samples, strict=True)
    return ReleasePredictions(
        manifest=model.manifest,
        raw_outputs=raws,
        samples=pictures.samples,
        rule=model.rule,
        is_outcome_right=rejected == pictures.is_defect,
        is_class_right=np.array([j.class_name == s.class_name for j, s in names], np.bool_),
        scores=np.array([j.score for j in judgements], np.float64),
        is_defect=pictures.is_defect,
    )
