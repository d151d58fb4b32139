"""A trial in the loop: which result counts, and what a broken challenger can do."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import wire
from agent.errors import InferenceError
from agent.inspection.frame_recorder import FrameRecorder
from agent.records import Geometry, Observation, Outcome, Scores
from agent.slot import Lease, Trial
from simulator.doubles.clocks.manual_clock import ManualClock
from tests.kits.python_models import SMALL, TINY, Line, PlainModel, lease_of, saying

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from agent.records import Pixels, Verdict

OK, DEFECT, UNSURE, UNKNOWN = Outcome.OK, Outcome.DEFECT, Outcome.UNSURE, Outcome.UNKNOWN
SCORE = {OK: 0.1, UNSURE: 0.45, DEFECT: 0.9, UNKNOWN: float("nan")}


def trial_of(challenger: PlainModel, *, share: float = 1.0) -> tuple[Trial, list[Observation]]:
    seen: list[Observation] = []
    return Trial(challenger=lease_of(challenger), share=share, salt="candidate", observe=seen.append), seen


def line_in_trial(
    champion: PlainModel, challenger: PlainModel, *, share: float = 1.0
) -> tuple[Line, list[Observation]]:
    line = Line(lease_of(champion))
    trial, seen = trial_of(challenger, share=share)
    line.slot.begin_trial(trial)
    return line, seen


@pytest.mark.parametrize(
    ("champion", "challenger", "verdict"),
    [
        (OK, OK, OK),
        (OK, UNSURE, UNSURE),
        (OK, DEFECT, DEFECT),
        (OK, UNKNOWN, OK),
        (UNSURE, OK, UNSURE),
        (UNSURE, UNSURE, UNSURE),
        (UNSURE, DEFECT, DEFECT),
        (UNSURE, UNKNOWN, UNSURE),
        (DEFECT, OK, DEFECT),
        (DEFECT, UNSURE, DEFECT),
        (DEFECT, DEFECT, DEFECT),
        (DEFECT, UNKNOWN, DEFECT),
        (UNKNOWN, OK, UNKNOWN),
        (UNKNOWN, UNSURE, UNSURE),
        (UNKNOWN, DEFECT, DEFECT),
        (UNKNOWN, UNKNOWN, UNKNOWN),
    ],
)
def test_the_stricter_model_has_the_last_word_and_a_silent_one_has_none(
    champion: Outcome, challenger: Outcome, verdict: Outcome
) -> None:
    old, new = PlainModel("1", saying(SCORE[champion])), PlainModel("2", saying(SCORE[challenger]))
    line, seen = line_in_trial(old, new)
    (found,) = line.judge()
    assert found.judgement.outcome is verdict
    assert (found.arm, found.challenger_outcome, found.challenger_sha256) == ("challenger", challenger, "2".zfill(64))
    assert found.origin.model == old.identity, "the champion is the origin, whoever decided"
    assert (seen[0].champion.outcome, seen[0].challenger.outcome) == (champion, challenger), "raw outcomes"
    decided = new if found.judgement.outcome is not champion else old
    if verdict is not UNKNOWN:
        assert found.judgement.score == pytest.approx(SCORE[challenger if decided is new else champion])
    assert line.pool.held == 0
    assert line.counters.snapshot().pending == 0


@given(part=st.text(max_size=30), salt=st.text(max_size=10), shares=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_a_part_that_is_in_at_some_share_stays_in_at_every_larger_one(
    part: str, salt: str, shares: tuple[float, float]
) -> None:
    small, large = (
        Trial(challenger=lease_of(PlainModel("2", saying(0))), share=share, salt=salt, observe=lambda _: None)
        for share in sorted(shares)
    )
    assert not small.is_assigned(part) or large.is_assigned(part)
    assert small.is_assigned(part) == small.is_assigned(part)


def test_the_share_is_met_and_the_same_parts_go_to_the_challenger_on_any_machine_and_batch() -> None:
    parts = [f"part-{i}" for i in range(200)]
    line, seen = line_in_trial(PlainModel("1", saying(0.1)), PlainModel("2", saying(0.1)), share=0.25)
    for start in range(0, 200, 8):
        line.judge(8, part_ids=parts[start : start + 8])
    first = {v.part_id for v in line.verdicts if v.arm == "challenger"}
    assert 30 < len(first) < 70
    again, _ = line_in_trial(PlainModel("1", saying(0.1)), PlainModel("2", saying(0.1)), share=0.25)
    for part in parts:
        again.judge(part_ids=[part])
    assert {v.part_id for v in again.verdicts if v.arm == "challenger"} == first
    assert {v.arm for v in line.verdicts} == {"champion", "challenger"}
    assert len(seen) == 200
    assert sum(o.assigned for o in seen) == len(first)


def test_parts_that_are_not_assigned_do_not_wait_for_the_challenger() -> None:
    challenger = PlainModel("2", saying(0.1))
    line, _ = line_in_trial(PlainModel("1", saying(0.1)), challenger, share=0.5)
    before = 0

    def answer(batch: Pixels) -> Scores:
        nonlocal before
        before = len(line.verdicts)
        return saying(0.1)(batch)

    challenger.answer = answer
    verdicts = line.judge(8, part_ids=list("abcdefgh"))
    alone = sum(v.arm == "champion" for v in verdicts)
    assert 0 < alone < 8
    assert before == alone
    assert challenger.batches == [8 - alone]


def greys(batch: Pixels) -> Scores:
    return Scores(np.stack([np.zeros(len(batch)), batch.mean(axis=(1, 2, 3)) / 1000], axis=1).astype(np.float32))


@pytest.mark.parametrize("geometry", [SMALL, TINY], ids=["the-same-inputs", "preprocessed-again"])
@pytest.mark.parametrize("share", [0.3, 0.6, 1.0])
def test_the_challenger_sees_the_pixels_of_its_own_parts(geometry: Geometry, share: float) -> None:
    """Every part has its own grey level, and both models answer it."""
    line, seen = line_in_trial(PlainModel("1", greys), PlainModel("2", greys, geometry=geometry), share=share)
    for _ in range(6):
        line.judge(8, greys=range(0, 240, 30))
    assert len(seen) == 48
    for observation in seen:
        expected = pytest.approx(int(observation.key.rsplit("/")[-1]) % 8 * 0.03)
        assert observation.champion.score == expected
        assert observation.challenger.score == expected


def fails(batch: Pixels) -> Scores:
    raise InferenceError(f"no memory for {len(batch)}")


def of_shape(scores: tuple[int, ...], evidence: tuple[int, ...] | None = None) -> Callable[[Pixels], Scores]:
    def answer(_: Pixels) -> Scores:
        cells = None if evidence is None else np.ones(evidence, np.float32)
        return Scores(np.ones(scores, np.float32), cells)

    return answer


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (fails, "inference failed: no memory for 3"),
        (saying(float("nan")), "not finite"),
        (saying(float("inf")), "not finite"),
        (saying(1.5), "outside 0 to 1"),
        (saying(-0.5), "outside 0 to 1"),
        (of_shape((1, 2)), "shape"),
        (of_shape((3, 1)), "shape"),
        (of_shape(()), "shape"),
        (of_shape((3, 2), (1, 2, 2)), "evidence"),
        (of_shape((3, 2), (3, 0, 2)), "evidence"),
    ],
)
@pytest.mark.parametrize("champion", [OK, UNSURE, DEFECT])
def test_a_broken_challenger_never_touches_a_verdict(
    champion: Outcome, answer: Callable[[Pixels], Scores], reason: str
) -> None:
    line, seen = line_in_trial(PlainModel("1", saying(SCORE[champion])), PlainModel("2", answer))
    for verdict in line.judge(3):
        assert verdict.judgement.outcome is champion
        assert verdict.challenger_outcome is UNKNOWN
    assert len(seen) == 3
    assert all(reason in str(observation.challenger.reason) for observation in seen)
    assert line.faults == [], "the line's own model is well"
    assert line.pool.held == 0


def test_a_challenger_whose_roi_is_not_in_the_picture_has_no_say() -> None:
    far = Geometry(mode="whole", height=8, width=8, channels=1, roi=(100, 100, 8, 8))
    line, seen = line_in_trial(PlainModel("1", saying(0.1)), PlainModel("2", saying(0.9), geometry=far))
    assert [v.judgement.outcome for v in line.judge(2)] == [OK, OK]
    assert all("ROI" in str(observation.challenger.reason) for observation in seen)


def test_where_the_champion_fails_the_challenger_may_find_the_defect_but_never_passes_the_part() -> None:
    line, seen = line_in_trial(PlainModel("1", fails), PlainModel("2", saying(0.1)))
    assert line.judge()[0].judgement.outcome is UNKNOWN
    line, seen = line_in_trial(PlainModel("1", fails), PlainModel("2", saying(0.9)))
    assert line.judge()[0].judgement.outcome is DEFECT
    assert line.faults == ["no memory for 1"]
    assert "inference failed" in str(seen[0].champion.reason)


def test_scores_of_other_classes_are_never_told_under_the_champions_names() -> None:
    def answer(batch: Pixels) -> Scores:
        return Scores(np.tile(np.array([[0.0, 0.2, 0.9]], np.float32), (len(batch), 1)))

    challenger = PlainModel("2", answer, classes=("ok", "dent", "crack"))
    line, seen = line_in_trial(PlainModel("1", saying(0.1)), challenger)
    (verdict,) = line.judge()
    assert (verdict.judgement.outcome, verdict.judgement.class_name) == (DEFECT, "crack")
    assert verdict.judgement.scores == ()
    assert len(seen[0].challenger.scores) == 3, "the statistics get them all"


def test_the_sites_thresholds_hold_for_the_challenger_too() -> None:
    challenger = PlainModel("2", saying(0.9))
    line = Line(lease_of(PlainModel("1", saying(0.1))))
    strict = Lease(challenger, replace(challenger.rule, thresholds={"spot": 0.99}, unsure_band=0.0))
    line.slot.begin_trial(Trial(challenger=strict, share=1.0, salt="s", observe=lambda _: None))
    assert line.judge()[0].judgement.outcome is OK


def test_a_frame_is_kept_for_what_either_model_found(tmp_path: Path) -> None:
    keeper = FrameRecorder(
        state_dir=tmp_path, inspection="part", frames=9, max_bytes=10**6, max_per_s=9.0, jpeg_quality=90,
        clock=ManualClock(),
    )  # fmt: skip
    keeper.start()
    line = Line(lease_of(PlainModel("1", saying(0.1))), keeper=keeper)
    trial, seen = trial_of(PlainModel("2", saying(0.9), geometry=TINY))
    line.slot.begin_trial(trial)
    (verdict,) = line.judge()
    keeper.close(5.0)
    assert verdict.image == seen[0].image == "frames/part/cam-1-0.jpg"
    with np.load(tmp_path / "frames/part/cam-1-0.npz") as kept:
        assert kept["evidence"].max() == 230, "of the model that decided"
        assert tuple(kept["input_hw"]) == (4, 4)


def test_arms_and_both_outcomes_survive_the_wire() -> None:
    line, _ = line_in_trial(PlainModel("1", saying(0.1)), PlainModel("2", saying(0.2)), share=0.5)
    for _ in range(8):
        line.judge(8)
    packs: dict[wire.EnvelopeKey, wire.EnvelopeBuilder] = {}
    for verdict in line.verdicts:
        key = wire.envelope_key(verdict)
        assert key is not None
        assert packs.setdefault(key, wire.EnvelopeBuilder(verdict)).try_add(verdict)
    assert len(packs) == 2, "an envelope holds one arm"
    read: list[Verdict] = []
    for pack in packs.values():
        delivery = wire.decode(pack.encode())
        assert isinstance(delivery, wire.DecodedVerdicts)
        read += delivery.verdicts
    told = {v.seq: (v.arm, v.challenger_outcome, v.challenger_sha256, v.origin.model) for v in read}
    assert told == {v.seq: (v.arm, v.challenger_outcome, v.challenger_sha256, v.origin.model) for v in line.verdicts}


def test_parts_that_no_model_saw_belong_to_no_arm_and_are_not_observed() -> None:
    line, seen = line_in_trial(PlainModel("1", saying(0.1)), PlainModel("2", saying(0.1)))
    for _ in range(17):  # one more than may wait
        line.offer(part_id="p")
    late = line.work()
    assert [v.judgement.outcome for v in late] == [UNKNOWN]
    assert late[0].arm is None
    assert seen == []


def test_a_trial_or_shadow_that_begins_keeps_the_buffers_and_a_swap_of_like_models_too() -> None:
    champion, other = lease_of(PlainModel("1", saying(0.1))), lease_of(PlainModel("2", saying(0.1)))
    line = Line(champion)
    inputs = []
    changes: list[Callable[[], object]] = [
        lambda: None,
        lambda: line.slot.begin_trial(trial_of(PlainModel("3", saying(0.1)))[0]),
        line.slot.end_trial,
        lambda: line.slot.switch(other),
        line.slot.revert,
        lambda: line.slot.switch(lease_of(PlainModel("4", saying(0.1), geometry=TINY))),
        line.slot.revert,
    ]
    for change in changes:
        change()
        line.judge()
        inputs.append(line.worker._states[0].batch_buffer)
    assert inputs[0] is inputs[1] is inputs[2] is inputs[3] is inputs[4] is inputs[6]
    assert inputs[5] is not inputs[0]
