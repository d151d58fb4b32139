"""Evaluates a model on labelled images with the decision rule of the line.

Every image goes through the agent's preprocessing and `agent.decision.decide`. The float reference and the int8 model
are evaluated at the same thresholds. The unsure band is left out here: a class name is right or wrong.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np

from agent.decision import decide, part_score, peak
from agent.records import Outcome
from pipeline.evaluation import metrics
from pipeline.model_inputs import read_mask

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from agent.records import DecisionRule, Judgement
    from pipeline.dataset_reader import Sample
    from pipeline.evaluation.model_runner import RawOutput

LOCALISATION_HIT_PX: Final = 16.0  # an evidence peak this near to the mask, in original pixels, counts as a hit


def decide_all(raws: Sequence[RawOutput], rule: DecisionRule) -> tuple[Judgement, ...]:
    """Decide on every image, without an unsure band."""
    sharp = replace(rule, unsure_band=0.0)
    return tuple(decide(sharp, raw.plan, raw.scores, raw.evidence) for raw in raws)


def choose_threshold(
    raws: Sequence[RawOutput], samples: Sequence[Sample], rule: DecisionRule, *, false_rejects: float | None
) -> float:
    """Return the one threshold for all defect classes; 0 without both good and defective parts."""
    defect = np.array([s.is_defect for s in samples])
    if defect.all() or not defect.any():
        return 0.0
    level = replace(rule, thresholds=dict.fromkeys(rule.defects, 0.0))
    scores = np.array([part_score(level, raw.scores, raw.evidence)[0] for raw in raws])
    return metrics.best_threshold(scores, defect, false_rejects=false_rejects)


def peak_distance(raw: RawOutput, sample: Sample) -> float | None:
    """Distance, original px, of the strongest evidence cell's centre from the mask; None without either."""
    mask = read_mask(sample)
    if mask is None or raw.evidence is None or not mask.any():
        return None
    tile, row, column = peak(raw.evidence)
    height, width = raw.evidence.shape[1:]
    x, y, w, h = raw.plan.original_box(tile, (column / width, row / height, (column + 1) / width, (row + 1) / height))
    centre_x, centre_y = min(x + w // 2, mask.shape[1] - 1), min(y + h // 2, mask.shape[0] - 1)
    distances = cv2.distanceTransform(
        np.where(mask > 0, np.uint8(0), np.uint8(255)), cv2.DIST_L2, cv2.DIST_MASK_PRECISE
    )
    return float(distances[centre_y, centre_x])


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """Samples with the judgements of a model, and the metrics."""

    samples: tuple[Sample, ...]
    judgements: tuple[Judgement, ...]
    distances: tuple[float | None, ...]  # of the evidence peak from the mask, original px
    rule: DecisionRule
    figures: dict[str, Any]  # JSON-ready


def true_classes(samples: Sequence[Sample], rule: DecisionRule) -> npt.NDArray[np.int64]:
    """Class indices of the truth."""
    index = {name: i for i, name in enumerate(rule.classes)}
    return np.array([index[s.class_name] for s in samples], np.int64)


def predicted_classes(judgements: Sequence[Judgement], rule: DecisionRule) -> npt.NDArray[np.int64]:
    """Class indices of the verdicts; -1 for no verdict."""
    index = {name: i for i, name in enumerate(rule.classes)}
    return np.array([-1 if j.class_name is None else index[j.class_name] for j in judgements], np.int64)


def evaluate(raws: Sequence[RawOutput], samples: Sequence[Sample], rule: DecisionRule) -> Evaluation:
    """Decide on raw results and compute the metrics; accuracy and AUROC with 95 % intervals by group bootstrap."""
    judgements = decide_all(raws, rule)
    truth, predicted = true_classes(samples, rule), predicted_classes(judgements, rule)
    scores = np.array([j.score for j in judgements])
    defect = np.array([s.is_defect for s in samples])
    groups = [s.group for s in samples]
    table = metrics.confusion(truth, predicted, len(rule.classes))
    figures: dict[str, Any] = {
        "images": len(samples),
        "accuracy": metrics.accuracy(truth, predicted),
        "macro_f1": metrics.macro_f1(table),
        "auroc": metrics.auroc(scores, defect),
        "recall": _by_class(metrics.recalls(table), rule),
        "intervals": {
            "accuracy": metrics.group_interval(lambda i: metrics.accuracy(truth[i], predicted[i]), groups),
            "auroc": metrics.group_interval(lambda i: metrics.auroc(scores[i], defect[i]), groups),
        },
    }
    outcomes = np.array([j.outcome == Outcome.OK for j in judgements])
    if defect.any() and not defect.all():
        figures["escape_rate"] = float(outcomes[defect].mean())
        figures["false_reject_rate"] = float((~outcomes[~defect]).mean())
    distances = tuple(peak_distance(raw, sample) for raw, sample in zip(raws, samples, strict=True))
    located = np.array([d <= LOCALISATION_HIT_PX for d in distances if d is not None])
    if located.size:
        figures["localisation_hit_rate"] = float(located.mean())
        figures["located_images"] = int(located.size)
    if recall := recall_by_kind(samples, judgements):
        figures["recall_by_kind"] = recall
    return Evaluation(tuple(samples), judgements, distances, rule, figures)


def _by_class(values: npt.NDArray[np.float64], rule: DecisionRule) -> dict[str, float | None]:
    return {name: None if np.isnan(v) else float(v) for name, v in zip(rule.classes, values, strict=True)}


def recall_by_kind(
    samples: Sequence[Sample], judgements: Sequence[Judgement]
) -> dict[str, dict[str, dict[str, float | int]]]:
    """Return kind -> difficulty -> found share and count of defective parts, for data with kind and difficulty."""
    found: dict[str, dict[str, list[bool]]] = {}
    for sample, judgement in zip(samples, judgements, strict=True):
        if sample.is_defect and sample.kind and sample.difficulty:
            cells = found.setdefault(sample.kind, {}).setdefault(sample.difficulty, [])
            cells.append(judgement.outcome != Outcome.OK)
    return {
        kind: {
            level: {"recall": sum(cells) / len(cells), "parts": len(cells)} for level, cells in sorted(levels.items())
        }
        for kind, levels in sorted(found.items())
    }


def int8_agreement(first: Evaluation, second: Evaluation) -> dict[str, Any]:
    """Share of images that both models give the same outcome and class, and the same outcome; intervals by group."""
    pairs = list(zip(first.judgements, second.judgements, strict=True))
    outcome = np.array([a.outcome == b.outcome for a, b in pairs])
    both = outcome & np.array([a.class_name == b.class_name for a, b in pairs])
    groups = [s.group for s in first.samples]
    return {
        "int8_agreement": float(both.mean()),
        "int8_agreement_interval": metrics.group_interval(lambda rows: float(both[rows].mean()), groups),
        "int8_outcome_agreement": float(outcome.mean()),
        "int8_outcome_agreement_interval": metrics.group_interval(lambda rows: float(outcome[rows].mean()), groups),
    }
