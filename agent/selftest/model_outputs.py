"""Outputs of a model on golden images, and the pure statistics that the accuracy gates need."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from agent import decision
from agent.errors import InferenceError
from agent.preprocess import plan_inputs
from agent.records import Outcome, Scores

if TYPE_CHECKING:
    from agent.ports import Model
    from agent.preprocess import InputPlan
    from agent.records import DecisionRule, Floats, Geometry, Judgement, Pixels

_BATCH: Final = 8
CLEAR_MARGIN: Final = 0.5  # half of the way from the threshold to 1, or to 0
REVERSAL_RATE: Final = 0.005  # of clear parts, between two models that are equally good


@dataclass(frozen=True, slots=True)
class ModelOutputs:
    """Raw results of a model on N inputs, each a part of its own."""

    scores: Floats  # [N, classes]
    evidence: Floats | None  # [N, h, w]

    def non_finite_count(self) -> int:
        """How many numbers are no numbers."""
        arrays = [self.scores] if self.evidence is None else [self.scores, self.evidence]
        return sum(int(np.count_nonzero(~np.isfinite(array))) for array in arrays)

    def part_scores(self, rule: DecisionRule) -> Floats:
        """The number of each input that is compared with the threshold."""
        rows = range(len(self.scores))
        found = [decision.part_score(rule, self.scores[i : i + 1], self._cells(i))[0] for i in rows]
        return np.asarray(found, np.float32)

    def is_over_threshold(self, rule: DecisionRule) -> list[bool]:
        """At or over the threshold, for each input."""
        return [margin >= 0.0 for margin in self.margins(rule).tolist()]

    def margins(self, rule: DecisionRule) -> Floats:
        """How far each input's number lies over its threshold (to 1.0) or below it (to -1.0)."""
        found = []
        for row in range(len(self.scores)):
            value, index, _ = decision.part_score(rule, self.scores[row : row + 1], self._cells(row))
            threshold = rule.thresholds[rule.classes[index]] if index >= 0 else 1.0
            room = max(1.0 - threshold if value >= threshold else threshold, 1e-6)
            found.append((value - threshold) / room)
        return np.asarray(found, np.float32)

    def decide(self, rule: DecisionRule, geometry: Geometry) -> list[Judgement]:
        """The decision on each input by `rule`, as the line takes it."""
        where = _single_input(geometry)
        return [
            decision.decide_challenger(rule, where, Scores(self.scores[i : i + 1], self._cells(i)), start=0, inputs=1)
            for i in range(len(self.scores))
        ]

    def _cells(self, row: int) -> Floats | None:
        return None if self.evidence is None else self.evidence[row : row + 1]


def _single_input(geometry: Geometry) -> InputPlan:
    """A plan for a frame that is exactly one model input."""
    height, width = geometry.height * geometry.reduction, geometry.width * geometry.reduction
    return plan_inputs(geometry, height=height, width=width, roi=(0, 0, width, height))


def run_model(model: Model, images: Pixels) -> ModelOutputs:
    """Run `images` [N, H, W, C] in batches. Raises InferenceError, also for results of changing shape."""
    results = [model.infer(np.ascontiguousarray(images[i : i + _BATCH])) for i in range(0, len(images), _BATCH)]
    try:
        scores = np.concatenate([r.scores for r in results])
        cells = [r.evidence for r in results if r.evidence is not None]
        evidence = np.concatenate(cells) if cells else None
    except ValueError as error:
        raise InferenceError(f"the model's results change their shape from batch to batch: {error}") from error
    if len(scores) != len(images) or (evidence is not None and len(evidence) != len(images)):
        raise InferenceError(f"{len(images)} images gave {len(scores)} rows of scores")
    return ModelOutputs(scores, evidence)


@dataclass(frozen=True, slots=True)
class LabelledErrors:
    """How labelled inputs were classified: `wrong[i]` for input i, which is a defect where `defect[i]`."""

    defect: tuple[bool, ...]
    wrong: tuple[bool, ...]

    def count(self, *, defect: bool) -> int:
        """Labelled defects, or labelled good parts."""
        return sum(d == defect for d in self.defect)

    def errors(self, *, defect: bool) -> int:
        """Defects that would pass as ok, or good parts that would not."""
        return sum(w for d, w in zip(self.defect, self.wrong, strict=True) if d == defect)


def compare_with_labels(judgements: list[Judgement], defect: tuple[bool, ...]) -> LabelledErrors:
    """A defect is missed when its outcome is neither `defect` nor `unsure`; a good part must be `ok`."""
    caught = {Outcome.DEFECT, Outcome.UNSURE}
    wrong = tuple(
        (j.outcome not in caught) if d else (j.outcome is not Outcome.OK)
        for j, d in zip(judgements, defect, strict=True)
    )
    return LabelledErrors(defect, wrong)


def allowed_errors(count: int, recall: float) -> int:
    """Return how many of `count` labelled parts may be wrong at a limit of `recall`; one of a small set of 4 to 9."""
    few = 4
    return max(math.floor((1.0 - recall) * count + 1e-9), 1 if recall < 1.0 and count >= few else 0)


@dataclass(frozen=True, slots=True)
class PairedErrors:
    """Two models on the same labelled parts: where exactly one of them is wrong."""

    only_candidate: int
    only_champion: int

    def p_worse(self) -> float:
        """One-sided exact sign test (McNemar): probability of so many errors of the candidate's own by chance."""
        n = self.only_candidate + self.only_champion
        ways = sum(math.comb(n, k) for k in range(self.only_candidate, n + 1))
        return math.ldexp(ways, -n)


def count_paired_errors(candidate: LabelledErrors, champion: LabelledErrors, *, defect: bool) -> PairedErrors:
    """Count over the defects, or over the good parts."""
    rows = [(a, b) for d, a, b in zip(candidate.defect, candidate.wrong, champion.wrong, strict=True) if d == defect]
    return PairedErrors(sum(a and not b for a, b in rows), sum(b and not a for a, b in rows))


@dataclass(frozen=True, slots=True)
class Reversals:
    """Parts that the champion clearly classifies correctly, and how many the candidate clearly does not."""

    clear: int
    reversed_parts: int

    def p_equal(self) -> float:
        """Probability of so many reversals for an equally good model: binomial tail at REVERSAL_RATE."""
        n, p = self.clear, REVERSAL_RATE
        below = sum(math.comb(n, k) * p**k * (1.0 - p) ** (n - k) for k in range(self.reversed_parts))
        return max(0.0, 1.0 - below)


def count_reversals(candidate: Floats, champion: Floats, labels: tuple[bool, ...], *, defect: bool) -> Reversals:
    """Compare the margins [N] of both over the defects, or over the good parts."""
    sign = 1.0 if defect else -1.0
    mine, theirs = sign * candidate, sign * champion
    clear = (np.asarray(labels) == defect) & (theirs >= CLEAR_MARGIN)
    return Reversals(int(clear.sum()), int((clear & (mine <= -CLEAR_MARGIN)).sum()))
