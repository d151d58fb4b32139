"""Which frames are kept: by the verdict alone, and the random sample without bias."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.collection.frame_selection import is_in_sample, select_frame
from agent.errors import MessageError
from agent.records import Outcome
from agent.wire.collected_frame import CollectReason, collected_stem, decode_collected
from tests.kits.collection import settings, sidecar
from tests.kits.outbox import ORIGIN, make_verdict

ALL = settings(ok_share=0.25)


@pytest.mark.parametrize(
    ("outcome", "challenger", "reason"),
    [
        (Outcome.DEFECT, None, CollectReason.DEFECT),
        (Outcome.DEFECT, Outcome.OK, CollectReason.DEFECT),
        (Outcome.UNSURE, Outcome.UNSURE, CollectReason.UNSURE),
        (Outcome.OK, Outcome.DEFECT, CollectReason.DISAGREEMENT),
        (Outcome.OK, Outcome.OK, None),
        (Outcome.OK, Outcome.UNKNOWN, None),
        (Outcome.UNKNOWN, Outcome.DEFECT, None),
        (Outcome.UNKNOWN, None, None),
    ],
)
def test_the_first_reason_that_holds_counts(
    outcome: Outcome, challenger: Outcome | None, reason: CollectReason | None
) -> None:
    seq = next(seq for seq in range(100) if not is_in_sample(make_verdict(seq).key, ALL.ok_share))
    choice = select_frame(replace(make_verdict(seq, outcome), challenger_outcome=challenger), ALL)
    assert (None if choice is None else choice.reason) == reason


@pytest.mark.parametrize(
    ("switched_off", "outcome", "challenger"),
    [
        ("defects", Outcome.DEFECT, None),
        ("unsure", Outcome.UNSURE, None),
        ("disagreement", Outcome.OK, Outcome.DEFECT),
    ],
)
def test_a_reason_can_be_switched_off(switched_off: str, outcome: Outcome, challenger: Outcome | None) -> None:
    verdict = replace(make_verdict(1, outcome), challenger_outcome=challenger)
    assert select_frame(verdict, settings()) is not None
    assert select_frame(verdict, settings(**{switched_off: False})) is None


def test_the_sample_is_drawn_by_the_key_at_the_rate_that_is_recorded() -> None:
    chosen = [select_frame(make_verdict(seq), settings(ok_share=0.05)) for seq in range(20_000)]
    taken = [choice for choice in chosen if choice is not None]
    assert all(choice.sample_rate == 0.05 and choice.reason is CollectReason.SAMPLE for choice in taken)
    assert 900 < len(taken) < 1_100  # 1,000 expected, standard deviation 31
    halves = [sum(choice is not None for choice in chosen[start::2]) for start in (0, 1)]
    assert abs(halves[0] - halves[1]) < 200, "neighbours in time must not be drawn together"


@given(st.integers(0, 10**9), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_holds_the_smaller_one(seq: int, one: float, other: float) -> None:
    key = make_verdict(seq).key
    small, large = sorted((one, other))
    assert is_in_sample(key, large) or not is_in_sample(key, small)


def test_an_ok_part_of_the_sample_that_is_kept_for_another_reason_still_belongs_to_the_sample() -> None:
    verdict = next(v for v in map(make_verdict, range(100)) if is_in_sample(v.key, ALL.ok_share))
    choice = select_frame(replace(verdict, challenger_outcome=Outcome.DEFECT), ALL)
    assert choice is not None
    assert (choice.reason, choice.sample_rate) == (CollectReason.DISAGREEMENT, 0.25)


def test_the_key_says_site_thing_day_model_inspection_and_frame() -> None:
    assert collected_stem("plant-a", make_verdict(7, Outcome.DEFECT)) == (
        "collected/v1/site=plant-a/thing=device-7/day=2026-09-21/model=default-1.2.3/top/cam1-1-7"
    )
    with pytest.raises(MessageError, match="inspected by no model"):
        collected_stem("plant-a", make_verdict(7, origin=replace(ORIGIN, model=None)))


def test_a_sidecar_gives_the_whole_verdict_back_and_refuses_what_it_does_not_know() -> None:
    verdict = make_verdict(7, Outcome.DEFECT, part_id="p-1")
    payload = sidecar(verdict)
    found = decode_collected(payload)
    assert (found.reason, found.sample_rate, found.crop) == (CollectReason.DEFECT, None, None)
    assert found.verdict.to_verdict().key == verdict.key
    assert found.verdict.to_verdict().judgement.box == verdict.judgement.box
    for wrong in (payload.replace(b'"v":1,', b'"v":2,', 1), payload.replace(b"jpg", b"bmp"), payload[:-1]):
        with pytest.raises(MessageError):
            decode_collected(wrong)
