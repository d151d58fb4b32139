"""The accuracy gates against brute force and the documented figures."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.children.selftest_client import _ChildOutput
from agent.children.selftest_protocol import MAX_ANSWER_BYTES, SelfTestPassed, SelfTestRequest, parse_answer
from agent.release_records import SelfTestLimits
from agent.selftest.accuracy_gates import REVERSAL_ALPHA
from agent.selftest.model_outputs import (
    LabelledErrors,
    PairedErrors,
    Reversals,
    allowed_errors,
    count_paired_errors,
    count_reversals,
)


@pytest.mark.parametrize(
    ("count", "recall", "allowed"), [(0, 0.9, 0), (3, 0.9, 0), (4, 0.9, 1), (19, 0.9, 1), (100, 0.9, 10), (100, 1.0, 0)]
)
def test_so_many_labelled_parts_may_be_wrong(count: int, recall: float, allowed: int) -> None:
    assert allowed_errors(count, recall) == allowed


@given(st.integers(0, 12), st.integers(0, 12))
def test_the_sign_test_is_the_binomial_tail(a: int, b: int) -> None:
    outcomes = [code.bit_count() for code in range(2 ** (a + b))] if a + b <= 12 else []
    expected = sum(o >= a for o in outcomes) / len(outcomes) if outcomes else None

    p = PairedErrors(a, b).p_worse()

    assert 0.0 <= p <= 1.0
    assert expected is None or math.isclose(p, expected)


def test_errors_that_both_make_say_nothing() -> None:
    labels = (True, True, True, False)
    mine, theirs = (
        LabelledErrors(labels, (True, True, False, True)),
        LabelledErrors(labels, (True, False, False, False)),
    )

    assert count_paired_errors(mine, theirs, defect=True) == PairedErrors(1, 0)
    assert count_paired_errors(mine, theirs, defect=False) == PairedErrors(1, 0)


def test_only_clear_parts_can_be_turned_round() -> None:
    labels = (True, True, True, False, False)
    champion = np.array([0.9, 0.9, 0.2, -0.9, 0.3], np.float32)
    candidate = np.array([-0.9, 0.1, -0.9, 0.9, 0.9], np.float32)

    assert count_reversals(candidate, champion, labels, defect=True) == Reversals(2, 1)
    assert count_reversals(candidate, champion, labels, defect=False) == Reversals(1, 1)


@pytest.mark.parametrize(("clear", "unseen_at_most"), [(66, 0.035), (88, 0.006), (100, 0.002)])
def test_one_miss_in_ten_is_seen_in_enough_clear_defects(clear: int, unseen_at_most: float) -> None:
    fewest = next(k for k in range(clear) if k >= 2 and Reversals(clear, k).p_equal() < REVERSAL_ALPHA)
    unseen = sum(math.comb(clear, k) * 0.1**k * 0.9 ** (clear - k) for k in range(fewest))

    assert fewest == 3
    assert unseen < unseen_at_most


# --- what the child may say -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b"[]",
        b'{"kind":"passed","figures":{"a":NaN}}',
        b'{"kind":"passed","figures":{"a":1e999}}',
        b'{"kind":"passed","figures":{},"optimised":"../../etc/passwd"}',
        b'{"kind":"refused","gate":"mood","reason":"x","text":"","figures":{},"limits":{}}',
        b'{"kind":"refused","gate":"golden","reason":"No Code","text":"","figures":{},"limits":{}}',
        b'{"kind":"stage","stage":"lunch"}',
    ],
)
def test_an_answer_of_another_shape_is_not_believed(line: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_answer(line)
    heard = _ChildOutput()
    heard.feed(b'{"kind":"stage","stage":"load"}\n' + line + b"\n")
    assert not heard.is_well_formed()
    assert heard.stage() == "load"


def test_an_answer_in_pieces_is_put_together_and_a_flood_is_noticed() -> None:
    heard = _ChildOutput()
    for byte in b'{"kind":"stage","stage":"golden"}\n{"kind":"passed","figures":{"a":1}}\n':
        heard.feed(bytes([byte]))
    assert heard.result() == SelfTestPassed(figures={"a": 1.0})
    assert heard.is_well_formed()

    heard.feed(b"x" * MAX_ANSWER_BYTES)
    assert not heard.is_well_formed()


def test_a_request_comes_through_as_it_was() -> None:
    from pathlib import Path  # noqa: PLC0415 - only here

    request = SelfTestRequest(
        candidate=Path("/c"),
        champion=None,
        acceptance=Path("/a"),
        limits=SelfTestLimits(wall_s=3.0),
        parent=7,
        scratch=Path("/s"),
        roi=(1, 2, 3, 4),
        thresholds={"spot": 0.5},
        unsure_band=0.0,
    )

    assert SelfTestRequest.from_json(request.to_json()) == request
