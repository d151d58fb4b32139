"""Accuracy gates of the self-test: golden sets and labelled parts.

Each function returns its figures, or raises ReleaseRefusedError naming gate and reason.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from agent.errors import FetchError, OperatorError, ReleaseRefusedError
from agent.release import acceptance_set
from agent.release_records import Gate
from agent.selftest.model_outputs import (
    ModelOutputs,
    allowed_errors,
    compare_with_labels,
    count_paired_errors,
    count_reversals,
    run_model,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.adapters.onnx import OnnxModel
    from agent.records import Box, DecisionRule
    from agent.release.acceptance_set import AcceptanceSet, LabelledPartResult
    from agent.release.golden_set import GoldenSet
    from agent.release_records import SelfTestLimits
    from agent.selftest.model_outputs import LabelledErrors

# Probability that an equally good model is refused on the champion's golden set. With 66 clear defects in it, a
# model that misses one defect in ten is refused at 97 %, with 88 at 99 %.
SIGN_TEST_ALPHA: Final = 0.005  # by all errors: weak defects, on which two good models differ, add noise to both sides
REVERSAL_ALPHA: Final = 0.015  # by clear parts, hardly ever turned round by a good model: 3 of up to 100 suffice
_MIN_REVERSED: Final = 2
_SHOWN: Final = 5

Figures = dict[str, float]


def _refuse(gate: Gate, reason: str, text: str, figures: Mapping[str, float], limits: Mapping[str, float]) -> None:
    raise ReleaseRefusedError(gate, reason, text, figures=figures, limits=limits)


def _defects(golden: GoldenSet, rule: DecisionRule) -> tuple[bool, ...] | None:
    """Which golden inputs are defects; None without labels."""
    if golden.labels is None:
        return None
    return tuple(rule.classes[i] in rule.defects for i in golden.labels)


# --- the release's own golden set -------------------------------------------------------------------------------------


def check_own_golden(model: OnnxModel, golden: GoldenSet, limits: SelfTestLimits) -> Figures:
    """Finite, as the reference, on the same side of the threshold, and right by the labels. Raises InferenceError."""
    answers = run_model(model, golden.images)
    if bad := answers.non_finite_count():
        _refuse(
            Gate.GOLDEN,
            "not_finite",
            f"{bad} of the model's results on its golden images are not finite (NaN or infinite)",
            {"golden_not_finite": bad},
            {"golden_not_finite": 0},
        )
    figures: Figures = {"golden_images": len(golden.images)}
    figures |= _check_reference(model.rule, answers, golden, limits)
    defects = _defects(golden, model.rule)
    if defects is not None:
        labelled = compare_with_labels(answers.decide(model.rule, model.geometry), defects)
        figures |= _check_labels(labelled, limits.golden_recall)
    return figures


def _check_reference(rule: DecisionRule, answers: ModelOutputs, golden: GoldenSet, limits: SelfTestLimits) -> Figures:
    reference = ModelOutputs(golden.scores, golden.evidence)
    if reference.non_finite_count():
        _refuse(Gate.GOLDEN, "unreadable", "the golden set's reference holds numbers that are none", {}, {})
    shapes = [None if a.evidence is None else a.evidence.shape for a in (answers, reference)]
    if shapes[0] != shapes[1] or answers.scores.shape != reference.scores.shape:
        _refuse(Gate.GOLDEN, "unreadable", "the golden set's results have another shape than the model's", {}, {})
    mine, theirs = answers.part_scores(rule), reference.part_scores(rule)
    difference = max(float(np.abs(answers.scores - reference.scores).max()), float(np.abs(mine - theirs).max()))
    figures = {"golden_difference": round(difference, 6)}
    if difference > limits.golden_difference:
        _refuse(
            Gate.GOLDEN,
            "scores_differ",
            f"on its golden images the model's scores differ by up to {difference:.4f} from its reference, at "
            f"most {limits.golden_difference:g} is allowed: this processor or runtime computes something else than the "
            "one that made the release (a library or CPU mismatch between training and line), or the release holds "
            "the wrong model",
            figures,
            {"golden_difference": limits.golden_difference},
        )
    same = [a == b for a, b in zip(answers.is_over_threshold(rule), reference.is_over_threshold(rule), strict=True)]
    agreement = sum(same) / len(same)
    figures["golden_agreement"] = round(agreement, 6)
    if agreement < limits.golden_agreement:
        _refuse(
            Gate.GOLDEN,
            "outcomes_differ",
            f"{len(same) - sum(same)} of {len(same)} golden images fall on the other side of "
            f"the threshold than where the release was made; {limits.golden_agreement:.1%} must agree",
            figures,
            {"golden_agreement": limits.golden_agreement},
        )
    return figures


def _check_labels(labelled: LabelledErrors, recall: float) -> Figures:
    figures: Figures = {}
    for defect, reason, what, told in (
        (True, "misses_defects", "defects", "classifies as ok"),
        (False, "rejects_good_parts", "good_parts", "does not classify as ok"),
    ):
        count, wrong = labelled.count(defect=defect), labelled.errors(defect=defect)
        allowed = allowed_errors(count, recall)
        figures |= {f"golden_{what}": count, f"golden_{what}_wrong": wrong}
        if wrong > allowed:
            _refuse(
                Gate.GOLDEN,
                reason,
                f"the model {told} {wrong} of the {count} labelled {what.replace('_', ' ')} of its own golden set; at "
                f"most {allowed} may be so (limit {recall:g})",
                figures,
                {f"golden_{what}_wrong": allowed},
            )
    return figures


# --- the champion's golden set ----------------------------------------------------------------------------------------


def check_champion_golden(
    candidate: OnnxModel, rule: DecisionRule, champion: OnnxModel, champion_rule: DecisionRule, golden: GoldenSet
) -> Figures:
    """Check that the candidate is not clearly worse on the champion's labelled golden images.

    Both use the site's thresholds. This finds a model whose own golden set was made to fit it. Needs equal
    preprocessing; without it, or without labels, there are no figures. Raises InferenceError.
    """
    defects = _defects(golden, champion_rule)
    if defects is None or candidate.preprocess_digest != champion.preprocess_digest:
        return {}
    mine, theirs = run_model(candidate, golden.images), run_model(champion, golden.images)
    my_labels = compare_with_labels(mine.decide(rule, candidate.geometry), defects)
    their_labels = compare_with_labels(theirs.decide(champion_rule, champion.geometry), defects)
    my_margins, their_margins = mine.margins(rule), theirs.margins(champion_rule)
    figures: Figures = {}
    for defect, reason, what, told in (
        (True, "misses_more_than_champion", "defects", "misses"),
        (False, "rejects_more_than_champion", "good_parts", "rejects"),
    ):
        both = count_paired_errors(my_labels, their_labels, defect=defect)
        clear = count_reversals(my_margins, their_margins, defects, defect=defect)
        now: Figures = {
            f"champion_{what}": my_labels.count(defect=defect),
            f"champion_{what}_wrong": their_labels.errors(defect=defect),
            f"candidate_{what}_wrong": my_labels.errors(defect=defect),
            f"only_candidate_{what}_wrong": both.only_candidate,
            f"only_champion_{what}_wrong": both.only_champion,
            f"{what}_chance": both.p_worse(),
            f"clear_{what}": clear.clear,
            f"clear_{what}_reversed": clear.reversed_parts,
            f"clear_{what}_chance": clear.p_equal(),
        }
        figures |= now
        many_reversed = clear.reversed_parts >= _MIN_REVERSED and clear.p_equal() < REVERSAL_ALPHA
        if both.p_worse() < SIGN_TEST_ALPHA or many_reversed:
            _refuse(
                Gate.GOLDEN,
                reason,
                f"of the {my_labels.count(defect=defect)} labelled {what.replace('_', ' ')} in the running model's "
                f"golden set the new one {told} {my_labels.errors(defect=defect)}, the running one "
                f""
                f"{their_labels.errors(defect=defect)}; of {clear.clear} clear ones it turns "
                f"{clear.reversed_parts} round. "
                f"The probability of this for an equally good model is {both.p_worse():.2g} and {clear.p_equal():.2g}",
                now,
                {f"{what}_chance": SIGN_TEST_ALPHA, f"clear_{what}_chance": REVERSAL_ALPHA},
            )
    return figures


# --- the site's acceptance set ----------------------------------------------------------------------------------------


def check_acceptance(
    parts: AcceptanceSet, model: OnnxModel, rule: DecisionRule, *, roi: Box | None, recall: float
) -> Figures:
    """The site's own parts, with the whole preprocessing and decision. Raises FetchError for a damaged set."""
    try:
        results = acceptance_set.evaluate_set(parts, model, rule, roi=roi)
    except OperatorError as error:
        raise FetchError("self_test_acceptance", f"the site's acceptance set cannot be evaluated: {error}") from error
    figures: Figures = {}
    for reason, what, chosen in (
        ("misses_defects", "defects", [r for r in results if not _is_good(r, rule)]),
        ("rejects_good_parts", "good_parts", [r for r in results if _is_good(r, rule)]),
    ):
        wrong = [r for r in chosen if not r.is_correct]
        figures |= {f"acceptance_{what}": len(chosen), f"acceptance_{what}_wrong": len(wrong)}
        allowed = int((1.0 - recall) * len(chosen) + 1e-9)
        if len(wrong) > allowed:
            shown = "; ".join(describe(r) for r in wrong[:_SHOWN])
            more = f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
            _refuse(
                Gate.ACCEPTANCE,
                reason,
                f"{len(wrong)} of the site's {len(chosen)} labelled {what.replace('_', ' ')} are wrong, at most "
                f"{allowed} may be: {shown}{more}",
                figures,
                {f"acceptance_{what}_wrong": allowed},
            )
    return figures


def _is_good(result: LabelledPartResult, rule: DecisionRule) -> bool:
    label = result.part.label
    return label == acceptance_set.OK or (label in rule.classes and label not in rule.defects)


def describe(result: LabelledPartResult) -> str:
    """One part's failure in a few words."""
    judgement = result.judgement
    detail = judgement.reason or f"{judgement.class_name or 'no class'} {judgement.score:.3f}"
    return f"{result.part.short_digest} ({result.part.label}) is classified {judgement.outcome}: {detail}"
