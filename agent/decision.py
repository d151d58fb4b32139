"""Turns scores into an outcome, purely: class thresholds, unsure band, tiles to part, defect box.

The line, evaluation and `explain` use the same function. Nothing here depends on time, files or cameras.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np

from agent.records import DecisionRule, Judgement, Outcome

if TYPE_CHECKING:
    from agent.preprocess import InputPlan
    from agent.records import Box, Floats, Scores

BOX_LEVEL: Final = 0.5  # a box spans the connected cells of at least this share of the peak's evidence
_NEIGHBOURS: Final = tuple((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx)


@lru_cache(maxsize=64)
def _defect_indices(classes: tuple[str, ...], defects: frozenset[str]) -> tuple[int, ...]:
    return tuple(i for i, name in enumerate(classes) if name in defects)


@lru_cache(maxsize=64)
def _good_indices(classes: tuple[str, ...], defects: frozenset[str]) -> tuple[int, ...]:
    return tuple(i for i, name in enumerate(classes) if name not in defects)


def unknown_judgement(reason: str) -> Judgement:
    """Return the judgement `unknown` with its reason."""
    return Judgement(Outcome.UNKNOWN, None, 0.0, (), None, reason)


def evidence_score(evidence: Floats, rule: DecisionRule) -> float:
    """Return one defect score in [0, 1] from the cells [tiles, h, w] of a part, by the rule's aggregation."""
    top = 1 if rule.aggregation == "max" else max(1, round(evidence.size * rule.top_fraction))
    if top == 1:
        return float(evidence.item(evidence.argmax()))  # a NaN wins, as with `max`, in a third of the time
    cells = evidence.flatten()
    cells.partition(cells.size - top)
    return float(np.add.reduce(cells[cells.size - top :]) / top)  # bit for bit equal to `mean`, in half its time


def part_score(rule: DecisionRule, scores: Floats, evidence: Floats | None) -> tuple[float, int, list[float]]:
    """Return the score to compare with the threshold, the index of the named defect class, and the part's scores.

    `scores` is [tiles, classes], `evidence` [tiles, h, w] or None. The index is -1 for a model without defect classes.
    """
    part: list[float] = scores[0].tolist() if len(scores) == 1 else scores.max(axis=0).tolist()
    indices = _defect_indices(rule.classes, rule.defects)
    if not indices:
        return 0.0, -1, part
    if rule.score == "evidence" and evidence is not None:
        return evidence_score(evidence, rule), max(indices, key=part.__getitem__), part
    thresholds, classes = rule.thresholds, rule.classes
    best = max(indices, key=lambda i: part[i] - thresholds[classes[i]])
    return part[best], best, part


def decide(rule: DecisionRule, plan: InputPlan, scores: Floats, evidence: Floats | None) -> Judgement:
    """Decide one part from its tiles' raw results.

    `scores` float32 [tiles, classes] in [0, 1]; `evidence` float32 [tiles, h, w] in [0, 1] or None. `plan` places
    the tiles on the frame, for the box. Scores that are not finite give `unknown`, never a verdict.
    """
    value, index, part = part_score(rule, scores, evidence)
    for number in (value, *part):
        if not -1.0 < number < 2.0:  # noqa: PLR2004 - catches NaN and inf at once
            return unknown_judgement("scores are not finite")
    good = _good_indices(rule.classes, rule.defects)
    margin = value - rule.thresholds[rule.classes[index]] if index >= 0 else -1.0
    if margin >= 0.0:
        outcome = Outcome.DEFECT
    elif margin >= -rule.unsure_band and index >= 0 and rule.unsure_band > 0.0:
        outcome = Outcome.UNSURE
    elif good:
        name = rule.classes[max(good, key=part.__getitem__)]
        return Judgement(Outcome.OK, name, value, tuple(part))
    else:  # every class is a defect and none is likely: a person must check
        outcome = Outcome.UNSURE
    box = locate(plan, evidence) if evidence is not None else None
    return Judgement(outcome, rule.classes[index], value, tuple(part), box)


def decide_challenger(rule: DecisionRule, plan: InputPlan, result: Scores, *, start: int, inputs: int) -> Judgement:
    """Decide one part by a model on trial: its tiles are the rows from `start` on of a batch of `inputs`.

    Whatever the model returned, the result is a judgement that can be encoded, or `unknown` with the reason.
    """
    scores, evidence, stop = result.scores, result.evidence, start + len(plan.tiles)
    if scores.shape != (inputs, len(rule.classes)):
        return unknown_judgement(f"scores have the shape {list(scores.shape)}, expected {[inputs, len(rule.classes)]}")
    if evidence is not None and (evidence.ndim != 3 or len(evidence) != inputs or evidence.size == 0):  # noqa: PLR2004
        return unknown_judgement(f"evidence has the shape {list(evidence.shape)}, expected [{inputs}, h, w]")
    judgement = decide(rule, plan, scores[start:stop], None if evidence is None else evidence[start:stop])
    if not all(0.0 <= score <= 1.0 for score in (judgement.score, *judgement.scores)):
        return unknown_judgement("scores lie outside 0 to 1")
    return judgement


def peak(evidence: Floats) -> tuple[int, int, int]:
    """Return (tile, row, column) of the strongest cell of [tiles, h, w]."""
    tile, row, column = np.unravel_index(int(evidence.argmax()), evidence.shape)
    return int(tile), int(row), int(column)


def locate(plan: InputPlan, evidence: Floats) -> Box:
    """Return the box (x, y, w, h), original pixels, around the connected strong cells at the strongest one."""
    tile, row, column = peak(evidence)
    cells = evidence[tile]
    h, w = cells.shape
    level = float(cells[row, column]) * BOX_LEVEL
    seen, stack = {(row, column)}, [(row, column)]
    while stack:
        y, x = stack.pop()
        for dy, dx in _NEIGHBOURS:
            near = (y + dy, x + dx)
            if 0 <= near[0] < h and 0 <= near[1] < w and near not in seen and cells[near] >= level:
                seen.add(near)
                stack.append(near)
    rows, columns = [y for y, _ in seen], [x for _, x in seen]
    fractions = (min(columns) / w, min(rows) / h, (max(columns) + 1) / w, (max(rows) + 1) / h)
    return plan.original_box(tile, fractions)
