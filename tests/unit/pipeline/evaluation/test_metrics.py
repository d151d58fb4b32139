from __future__ import annotations

import numpy as np
import pytest

from pipeline.evaluation import metrics


def test_confusion_counts_truth_by_row_and_no_judgement_last() -> None:
    table = metrics.confusion(np.array([0, 0, 1, 1, 1]), np.array([0, 1, 1, 1, -1]), 2)
    assert table.tolist() == [[1, 1, 0], [0, 2, 1]]


def test_accuracy_and_recall_match_a_hand_count() -> None:
    truth, predicted = np.array([0, 0, 1, 1, 1]), np.array([0, 1, 1, 1, -1])
    assert metrics.accuracy(truth, predicted) == pytest.approx(3 / 5)
    assert metrics.recalls(metrics.confusion(truth, predicted, 3))[:2].tolist() == pytest.approx([1 / 2, 2 / 3])
    assert np.isnan(metrics.recalls(metrics.confusion(truth, predicted, 3))[2])


def test_macro_f1_is_the_mean_over_classes_that_occur() -> None:
    # class 0: precision 1, recall 1/2, F1 2/3; class 1: precision 2/3, recall 1, F1 4/5; class 2 does not occur
    table = metrics.confusion(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]), 3)
    assert metrics.macro_f1(table) == pytest.approx((2 / 3 + 4 / 5) / 2)


@pytest.mark.parametrize(
    ("scores", "positive", "expected"),
    [
        ([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1], 1.0),
        ([0.9, 0.8, 0.2, 0.1], [0, 0, 1, 1], 0.0),
        ([0.5, 0.5, 0.5, 0.5], [0, 1, 0, 1], 0.5),
        ([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1], 0.75),
        ([0.2, 0.2, 0.7], [0, 1, 1], 0.75),  # pairs: one tie, one right
        ([0.2, 0.3], [1, 1], None),
    ],
)
def test_auroc_counts_pairs_and_ties_for_half(scores: list[float], positive: list[int], expected: float | None) -> None:
    found = metrics.auroc(np.array(scores), np.array(positive, bool))
    assert found == (None if expected is None else pytest.approx(expected))


def test_precision_recall_has_one_point_for_each_distinct_score() -> None:
    recall, precision = metrics.precision_recall(np.array([0.9, 0.5, 0.5, 0.1]), np.array([1, 1, 0, 0], bool))
    assert recall.tolist() == pytest.approx([0.5, 1.0, 1.0])
    assert precision.tolist() == pytest.approx([1.0, 2 / 3, 0.5])


def test_the_threshold_lies_in_the_middle_of_the_gap_between_good_and_bad() -> None:
    scores = np.array([0.1, 0.2, 0.8, 0.9])
    assert metrics.best_threshold(scores, np.array([0, 0, 1, 1], bool)) == pytest.approx(0.5)


def test_an_allowed_share_of_false_rejects_sets_the_lowest_threshold_that_keeps_it() -> None:
    scores = np.array([0.1, 0.2, 0.3, 0.4, 0.35, 0.9])
    defect = np.array([0, 0, 0, 0, 1, 1], bool)
    threshold = metrics.best_threshold(scores, defect, false_rejects=0.25)
    assert (scores[~defect] >= threshold).mean() == pytest.approx(0.25)
    assert (scores[defect] >= threshold).all()


def test_a_perfect_threshold_exists_even_when_no_false_reject_is_allowed() -> None:
    scores, defect = np.array([0.3, 0.6, 0.5]), np.array([0, 0, 1], bool)
    threshold = metrics.best_threshold(scores, defect, false_rejects=1e-9)
    assert (scores[~defect] < threshold).all()


def test_the_interval_draws_groups_and_not_pictures() -> None:
    right = np.array([1.0] * 50 + [0.0] * 50)
    single = metrics.group_interval(lambda i: float(right[i].mean()), [str(i) for i in range(100)])
    grouped = metrics.group_interval(lambda i: float(right[i].mean()), [str(i // 25) for i in range(100)])
    assert single is not None
    assert grouped is not None
    assert single[0] < 0.5 < single[1]
    assert grouped[1] - grouped[0] > 2 * (single[1] - single[0])


def test_the_interval_is_the_same_every_time() -> None:
    values = np.linspace(0, 1, 30)
    groups = [str(i // 3) for i in range(30)]
    first, second = (metrics.group_interval(lambda i: float(values[i].mean()), groups) for _ in range(2))
    assert first == second
