"""The Greengrass benchmark counts by the device's own numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.records import Outcome
from agent.wire import encode_verdict
from simulator.bench import cli
from simulator.bench.greengrass.delivery import most_in_a_second
from simulator.bench.greengrass.listener import Arrival, VerdictListener
from tests.kits.outbox import make_verdict

PARTS = ["0.bmp", "1.bmp", "2.bmp"]


def heard(*numbers: int, shift: int = 0) -> VerdictListener:
    """A listener that heard of frames with these numbers; `shift` is how far their parts lie from their places."""
    listener = VerdictListener(host="127.0.0.1", port=1, parts=PARTS)
    for number in numbers:
        part = PARTS[(number + shift) % len(PARTS)]
        verdict = replace(make_verdict(number, Outcome.DEFECT), part_id=part)
        listener.arrivals.append(Arrival(0, "kensa/t/verdicts/cam1", encode_verdict(verdict), 1))
    listener.process_arrivals()
    return listener


def test_a_number_that_is_missing_is_a_lost_frame_and_one_that_comes_again_is_none() -> None:
    listener = heard(0, 1, 3, 3, 4, 1)
    assert (listener.unique, listener.lost, listener.duplicates, listener.double_counted) == (4, 1, 2, 0)


def test_a_frame_that_only_the_device_counted_is_lost() -> None:
    listener = heard(0, 1)
    (stream,) = listener.streams.values()
    stream.captured = 5
    assert listener.lost == 3


def test_a_number_with_the_part_of_another_is_a_frame_that_was_counted_twice() -> None:
    assert heard(0, 1, 2, shift=1).double_counted == 3


def test_what_is_no_message_is_counted_and_passed_over() -> None:
    listener = heard(0)
    listener.arrivals.append(Arrival(0, "kensa/t/verdicts/cam1", b"{}", 1))
    listener.process_arrivals()
    assert (listener.refused, listener.unique) == (1, 1)


def test_the_busiest_second_is_found_wherever_it_begins() -> None:
    tenths = [0, 1, 8, 9, 12, 13, 17, 30]
    assert most_in_a_second([tenth * 100_000_000 for tenth in tenths]) == 5
    assert most_in_a_second([]) == 0


def test_a_row_that_there_is_not_is_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["greengrass", "--only", "kills"])
    assert "greengrass has cuts, rate, models" in capsys.readouterr().err
