from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from agent.errors import ManifestError
from pipeline.comparison.comparison_result import SliceVerdict
from pipeline.comparison.selection_policy import SelectionPolicy, read_policy
from pipeline.dataset_reader import DatasetError
from pipeline.selection.candidate_choice import ChoiceError, choose_candidate
from pipeline.strict_json import PlanError
from simulator.doubles.lifecycle import bad_models
from tests.kits.cloud.candidates import Part, parts, write_parts, write_spotter

if TYPE_CHECKING:
    from pathlib import Path

SURE, MIDDLE, EAGER = 0.8, 0.6, 0.5  # thresholds: misses weak spots; right on all; rejects dusty good parts


def test_a_candidate_that_finds_more_and_loses_nothing_is_proposed(tmp_path: Path) -> None:
    data = write_parts(tmp_path / "data", parts(60, 20, 40, dusty=10))
    champion = write_spotter(tmp_path / "champion", SURE)
    candidate = write_spotter(tmp_path / "candidate", MIDDLE, version="1.1.0", seed=7)
    choice = choose_candidate([candidate], champion, data)
    assert choice.proposed is not None
    assert choice.proposed.version == "1.1.0"
    assert choice.proposed.seed == 7
    found = next(s for s in choice.proposed.comparisons[0].slices if s.of == "defects")
    assert (found.gained, found.lost, found.pictures) == (20, 0, 60)
    assert found.verdict is SliceVerdict.BETTER
    assert "balanced rises from 0.8333 to 1.0000" in choice.reasons[0]


def test_found_defects_do_not_pay_for_rejected_good_parts(tmp_path: Path) -> None:
    data = write_parts(tmp_path / "data", parts(60, 40, 40, dusty=10))
    champion, eager = write_spotter(tmp_path / "champion", SURE), write_spotter(tmp_path / "eager", EAGER)
    choice = choose_candidate([eager], champion, data)
    assert choice.proposed is None
    assert choice.assessments[0].objective > (choice.champion_objective or 1.0)
    assert any("(good parts of data)" in reason for reason in choice.assessments[0].reasons)
    assert choice.reasons[0] == "None of 1 candidates is proposed."


def test_a_candidate_that_is_worse_on_one_line_only_is_refused_and_the_line_named(tmp_path: Path) -> None:
    first = parts(100, 40, 60, marks={"line": "1", "camera": "a"})
    second = parts(30, 0, 30, dusty=20, marks={"line": "2", "camera": "b"})
    data = write_parts(tmp_path / "data", [*first, *second])
    champion, eager = write_spotter(tmp_path / "champion", SURE), write_spotter(tmp_path / "eager", EAGER)
    choice = choose_candidate([eager], champion, data)
    assert choice.proposed is None
    failed = {(s.slice, s.of) for s in choice.assessments[0].comparisons[0].slices if not s.passed}
    assert ("camera b = line 2", "good") in failed
    assert ("camera a = line 1", "good") not in failed
    assert any(
        "line 2 (good parts of data)" in reason and "20 lost" in reason for reason in choice.assessments[0].reasons
    )
    only_class = SelectionPolicy(protected=("class",))
    slices = choose_candidate([eager], champion, data, only_class).assessments[0].comparisons[0].slices
    assert {s.slice for s in slices} == {"all"}  # class ok and class spot hold the same parts


def test_what_the_champions_verdict_decided_is_no_slice_unless_asked_for(tmp_path: Path) -> None:
    kept = parts(10, 0, 20, marks={"reason": "defect", "model": "spots-1.0.0", "exposure": "dark"})
    data = write_parts(tmp_path / "data", [*parts(30, 10, 20), *kept])
    champion, candidate = write_spotter(tmp_path / "champion", SURE), write_spotter(tmp_path / "candidate", MIDDLE)
    for policy, expected in (
        (SelectionPolicy(), {"all", "exposure dark"}),
        (SelectionPolicy(protected=("reason",)), {"all", "reason defect"}),
    ):
        choice = choose_candidate([candidate], champion, data, policy)
        assert {s.slice for s in choice.assessments[0].comparisons[0].slices} == expected


def test_an_equal_candidate_gains_nothing_and_is_not_proposed(tmp_path: Path) -> None:
    data = write_parts(tmp_path / "data", parts(40, 10, 30))
    champion = write_spotter(tmp_path / "champion", MIDDLE)
    equal = write_spotter(tmp_path / "equal", MIDDLE, version="1.1.0")
    choice = choose_candidate([equal], champion, data)
    assert choice.proposed is None
    assert all(s.passed for s in choice.assessments[0].comparisons[0].slices)
    assert choice.assessments[0].reasons[0].startswith("Nothing is gained: balanced 1.0000 against")


def test_the_best_of_several_is_chosen_whatever_their_order(tmp_path: Path) -> None:
    data = write_parts(tmp_path / "data", parts(80, 20, 40, dusty=12))
    champion = write_spotter(tmp_path / "champion", 0.95)
    candidates = [
        write_spotter(tmp_path / f"c{seed}", threshold, seed=seed)
        for seed, threshold in enumerate((SURE, MIDDLE, MIDDLE, EAGER, 0.99))
    ]
    first = choose_candidate(candidates, champion, data)
    random.Random(3).shuffle(candidates)
    again = choose_candidate(candidates, champion, data)
    assert first == again
    assert first.proposed is not None
    assert first.proposed.seed in {1, 2}
    assert "Not compared with the champion: 4 others" in first.assessments[4].reasons[0]


def test_a_broken_candidate_is_told_and_the_others_are_judged(tmp_path: Path) -> None:
    data = write_parts(tmp_path / "data", parts(40, 10, 30))
    champion, good = write_spotter(tmp_path / "champion", SURE), write_spotter(tmp_path / "good", MIDDLE)
    corrupt = bad_models.write_bad_release("corrupt", champion, tmp_path / "corrupt", version="1.1.0")
    choice = choose_candidate([corrupt, tmp_path / "missing", good], champion, data)
    assert choice.proposed is not None
    assert len(choice.reasons) == 3
    assert choice.reasons[1].startswith("corrupt cannot be evaluated: ")
    with pytest.raises(ChoiceError, match="no candidate can be evaluated: corrupt cannot be evaluated"):
        choose_candidate([corrupt], champion, data)
    with pytest.raises(ChoiceError, match="none was given"):
        choose_candidate([], champion, data)
    with pytest.raises(ManifestError):
        choose_candidate([good], tmp_path / "missing", data)


@pytest.mark.parametrize("kind", ["always_ok", "always_defect", "misses_10_percent", "shifted_scores"])
def test_bad_models_with_a_forged_golden_set_are_refused(tmp_path: Path, kind: str) -> None:
    data = write_parts(tmp_path / "data", parts(200, 0, 300))
    champion = write_spotter(tmp_path / "champion", MIDDLE)
    bad = bad_models.write_bad_release(kind, champion, tmp_path / kind, version="2.0.0")
    choice = choose_candidate([bad], champion, data)
    assert choice.proposed is None


def test_wrong_labels_in_training_and_validation_are_caught_by_an_anchor(tmp_path: Path) -> None:
    anchor = write_parts(tmp_path / "before", parts(60, 30, 30))
    poisoned = [Part("ok" if part.score == 0.65 else part.class_name, part.score) for part in parts(60, 60, 30)]
    data = write_parts(tmp_path / "poisoned", poisoned)
    champion, taught = write_spotter(tmp_path / "champion", MIDDLE), write_spotter(tmp_path / "taught", SURE)
    assert choose_candidate([taught], champion, data).proposed is not None
    choice = choose_candidate([taught], champion, data, anchors=[anchor])
    assert choice.proposed is None
    assert any("(defective parts of before)" in reason for reason in choice.assessments[0].reasons)


def test_without_a_champion_the_floors_decide(tmp_path: Path) -> None:
    data = write_parts(tmp_path / "data", parts(40, 20, 20))
    first = write_spotter(tmp_path / "first", SURE)
    assert choose_candidate([first], None, data).proposed is not None
    choice = choose_candidate([first], None, data, SelectionPolicy(min_defects_found=0.8))
    assert choice.proposed is None
    assert choice.assessments[0].reasons == ("It finds 50.0 % of the defective parts; at least 80 % are required.",)


def test_a_champion_that_lacks_a_new_class_is_compared_by_outcomes(tmp_path: Path) -> None:
    new = [Part("dent", 0.65) for _ in range(20)]
    data = write_parts(tmp_path / "data", [*parts(40, 0, 20), *new])
    champion, candidate = write_spotter(tmp_path / "champion", SURE), write_spotter(tmp_path / "candidate", MIDDLE)
    choice = choose_candidate([candidate], champion, data)
    assert choice.proposed is not None
    assert choice.proposed.figures == {}  # recall by class cannot be had, and is not made up


def test_a_slice_too_small_for_the_test_passes_two_lost_pictures_and_no_third(tmp_path: Path) -> None:
    champion, candidate = write_spotter(tmp_path / "champion", SURE), write_spotter(tmp_path / "eager", EAGER)
    for dusty, proposed in ((2, True), (3, False)):
        rare = parts(8, 0, 0, dusty=dusty, marks={"camera": "rare"})
        data = write_parts(tmp_path / f"data{dusty}", [*parts(300, 50, 50, marks={"camera": "main"}), *rare])
        choice = choose_candidate([candidate], champion, data)
        result = next(s for s in choice.assessments[0].comparisons[0].slices if s.slice == "camera rare")
        assert result.verdict in {SliceVerdict.TOO_FEW, SliceVerdict.WORSE}
        assert result.lost == dusty
        assert result.passed is proposed
        assert (choice.proposed is not None) is proposed


def test_pictures_of_one_part_count_once(tmp_path: Path) -> None:
    def data(name: str, group_size: int) -> Path:
        lost = [Part("ok", 0.55, group=f"g{i // group_size}") for i in range(4)]
        rest = [Part("ok", 0.1, group=f"h{i // group_size}") for i in range(96)]
        return write_parts(tmp_path / name, [*lost, *rest, *parts(0, 30, 30)])

    champion, candidate = write_spotter(tmp_path / "champion", SURE), write_spotter(tmp_path / "eager", EAGER)
    single, grouped = (choose_candidate([candidate], champion, data(f"d{n}", n)).assessments[0] for n in (1, 4))
    one, four = (next(s for s in a.comparisons[0].slices if s.of == "good") for a in (single, grouped))
    assert (one.parts, four.parts) == (100, 25)
    assert (one.lost, four.lost) == (4, 4)
    assert four.high - four.low > one.high - one.low


def test_data_without_the_split_or_with_a_damaged_version_are_refused(tmp_path: Path) -> None:
    data = write_parts(tmp_path / "data", parts(4, 2, 2, marks={"line": "1"}))
    release = write_spotter(tmp_path / "release", MIDDLE)
    with pytest.raises(DatasetError, match="has no split 'test'"):
        choose_candidate([release], None, data, SelectionPolicy(split="test"))
    (data / "dataset.json").write_text('{"samples": [1]}')
    with pytest.raises(DatasetError, match="is not a data set version"):
        choose_candidate([release], None, data)


def test_a_wrong_policy_is_explained() -> None:
    assert read_policy(None) == SelectionPolicy()
    with pytest.raises(PlanError, match="margin: Input should be less than or equal to"):
        read_policy({"margin": 2})
    with pytest.raises(PlanError, match="marign: Extra inputs"):
        read_policy({"marign": 0.1})
