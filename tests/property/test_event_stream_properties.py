"""Frames of the event-stream protocol: what goes in comes out, and damage is noticed."""

from __future__ import annotations

import pytest
from awscrt.eventstream import HeaderType
from hypothesis import given
from hypothesis import strategies as st

from simulator.nucleus.ipc.event_stream import EventStreamDecoder, EventStreamError, EventStreamMessage, encode_message

NUMBERS = st.integers(-(2**31), 2**31 - 1)
NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=200)
FRAMES = st.builds(EventStreamMessage, st.dictionaries(NAMES, NUMBERS | TEXTS, max_size=8), st.binary(max_size=2_000))


@given(st.lists(FRAMES, max_size=4), st.integers(1, 700))
def test_frames_come_out_as_they_went_in_however_the_stream_is_cut(
    frames: list[EventStreamMessage], chunk: int
) -> None:
    stream = b"".join(map(encode_message, frames))
    decoder = EventStreamDecoder()
    got = [frame for at in range(0, len(stream), chunk) for frame in decoder.feed(stream[at : at + chunk])]
    assert got == frames


@given(FRAMES, st.data())
def test_a_changed_bit_never_gives_another_frame(frame: EventStreamMessage, data: st.DataObject) -> None:
    raw = bytearray(encode_message(frame))
    bit = data.draw(st.integers(0, 8 * len(raw) - 1))
    raw[bit // 8] ^= 1 << bit % 8
    with pytest.raises(EventStreamError):
        EventStreamDecoder().feed(bytes(raw))


@given(FRAMES, st.binary(max_size=400))
def test_noise_after_a_frame_is_refused_or_waited_for_and_nothing_else(frame: EventStreamMessage, noise: bytes) -> None:
    decoder = EventStreamDecoder()
    assert decoder.feed(encode_message(frame)) == [frame]
    try:
        assert decoder.feed(noise) == []
    except EventStreamError:
        assert len(noise) >= 12  # as many as it needs to know


def test_a_frame_is_refused_by_its_announced_length_before_it_arrives() -> None:
    raw = encode_message(EventStreamMessage({"a": 1}, b"x" * 500))
    with pytest.raises(EventStreamError, match="longer than 100"):
        EventStreamDecoder(max_frame_bytes=100).feed(raw[:12])


def test_the_type_numbers_are_those_of_the_runtime_that_the_sdk_uses() -> None:
    raw = encode_message(EventStreamMessage({"a": 1, "b": "x"}))
    assert raw[14] == HeaderType.INT32.value
    assert raw[21] == HeaderType.STRING.value
