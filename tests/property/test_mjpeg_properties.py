"""The MJPEG parser gives the same images however the bytes are cut, within bounds."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent.adapters.mjpeg.mjpeg_parser import MjpegParser
from agent.errors import CameraError, FrameError
from agent.images.decode import validate_encoded
from simulator.doubles.cameras.mjpeg_servers import SERVER_BEHAVIOURS

if TYPE_CHECKING:
    from collections.abc import Iterable

REQUEST = b"GET /moved/stream?q=1 HTTP/1.1\r\nHost: camera\r\n\r\n"
MAX_BYTES = 20_000
PLAIN = [
    name for name, behaviour in SERVER_BEHAVIOURS.items() if behaviour.expected_error is None and not behaviour.user
]


@lru_cache
def jpegs() -> list[bytes]:
    rng = np.random.default_rng(7)
    return [cv2.imencode(".jpg", rng.integers(0, 256, (16, 24, 3), np.uint8))[1].tobytes() for _ in range(3)]


@lru_cache
def answer(name: str) -> bytes:
    behaviour = SERVER_BEHAVIOURS[name]
    return behaviour.answer(REQUEST, [behaviour.transform(jpeg) for jpeg in jpegs()])


def fed(reader: MjpegParser, pieces: Iterable[bytes]) -> tuple[list[bytes], str]:
    """Feed the pieces; the pictures, and what the reader said when it gave up or the connection ended."""
    pictures: list[bytes] = []
    try:
        for piece in pieces:
            rest = memoryview(piece)
            while rest:
                space = reader.get_buffer()
                count = min(len(space), len(rest))
                space[:count] = rest[:count]
                reader.buffer_updated(count)
                rest = rest[count:]
                while (picture := reader.next_image()) is not None:
                    pictures.append(bytes(picture))
        raise reader.end_error()
    except CameraError as error:
        return pictures, str(error)


def cut(data: bytes, at: Iterable[int]) -> list[bytes]:
    places = [0, *sorted({place % (len(data) + 1) for place in at}), len(data)]
    return [data[a:b] for a, b in pairwise(places) if b > a]


@given(st.sampled_from(PLAIN), st.lists(st.integers(0, 1 << 20), max_size=60))
@settings(max_examples=200, deadline=None)
def test_however_an_answer_is_cut_it_gives_the_same_pictures(name: str, places: list[int]) -> None:
    behaviour = SERVER_BEHAVIOURS[name]
    pictures, _ = fed(MjpegParser(max_picture_bytes=MAX_BYTES), cut(answer(name), places))
    assert pictures == [behaviour.transform(jpeg) for jpeg in jpegs()]


@pytest.mark.parametrize("name", PLAIN)
def test_an_answer_that_comes_byte_by_byte_gives_the_same_pictures(name: str) -> None:
    data = answer(name)
    pictures, _ = fed(MjpegParser(max_picture_bytes=MAX_BYTES), (data[at : at + 1] for at in range(len(data))))
    assert pictures == [SERVER_BEHAVIOURS[name].transform(jpeg) for jpeg in jpegs()]


DAMAGES = ["cut", "flip", "repeat", "insert"]


@given(
    st.sampled_from(PLAIN),
    st.lists(st.tuples(st.integers(0, 1 << 20), st.sampled_from(DAMAGES), st.binary(max_size=40)), max_size=8),
    st.lists(st.integers(0, 1 << 20), max_size=10),
)  # fmt: skip
@settings(max_examples=400, deadline=None)
def test_damaged_answers_end_in_pictures_and_one_kind_of_error(
    name: str, damages: list[tuple[int, str, bytes]], places: list[int]
) -> None:
    data = answer(name)
    for where, kind, extra in damages:
        at = where % max(1, len(data))
        match kind:
            case "cut":
                data = data[:at] + data[at + len(extra) :]
            case "flip":
                data = data[:at] + bytes(byte ^ 0x55 for byte in data[at : at + len(extra)]) + data[at + len(extra) :]
            case "repeat":
                data = data[:at] + data[max(0, at - 200) :]
            case _:
                data = data[:at] + extra + data[at:]
    reader = MjpegParser(max_picture_bytes=MAX_BYTES)
    pictures, said = fed(reader, cut(data, places))
    assert said
    for picture in pictures:
        try:
            validate_encoded(picture)
        except FrameError:
            continue
        assert picture[:2] == b"\xff\xd8" or picture[:2] in {b"\x89P", b"BM"}


HOSTILE = st.one_of(
    st.binary(max_size=200),
    st.sampled_from([b"--", b"--frame", b"\r\n", b"\n", b"\xff\xd8\xff", b"\xff\xd9", b"\xff\xda\x00\x02", b"\xff"]),
    st.sampled_from(
        [b"Content-Length: 19000\r\n", b"Content-Type: image/jpeg\r\n", b"5\r\n", b"FFFFFF\r\n", b"-" * 400]
    ),
    st.binary(min_size=5_000, max_size=9_000).map(lambda data: data.replace(b"\n", b"x")),
)


@given(st.sampled_from(PLAIN), st.lists(HOSTILE, max_size=60), st.integers(1, 4_000))
@example("no first boundary", [b"\xff\xd8\xff\xda\x00\x02", b"x" * 9_000] * 9, 100)
@settings(max_examples=100, deadline=None)
def test_hostile_bytes_never_exceed_the_bounds(name: str, hostile: list[bytes], piece_bytes: int) -> None:
    data = answer(name)[:300] + b"".join(hostile)
    reader = MjpegParser(max_picture_bytes=MAX_BYTES)
    pictures, _ = fed(reader, [data[at : at + piece_bytes] for at in range(0, len(data), piece_bytes)])
    assert all(len(picture) <= MAX_BYTES + 16 * 1024 + piece_bytes for picture in pictures)
    assert len(reader._buffer) <= 256 * 1024


@given(st.integers(0, 2), st.integers(3, 1 << 20), st.sampled_from(["as the standard says", "no length", "chunks"]))
@settings(max_examples=100, deadline=None)
def test_a_cut_picture_is_given_out_as_one_and_the_others_are_whole(which: int, at: int, name: str) -> None:
    sent = list(jpegs())
    sent[which] = sent[which][: 3 + at % (len(sent[which]) - 5)]
    sent.append(jpegs()[0])  # after which nothing more needs to come
    pictures, _ = fed(MjpegParser(max_picture_bytes=MAX_BYTES), [SERVER_BEHAVIOURS[name].answer(REQUEST, sent)])
    assert len(pictures) == len(sent)
    assert [picture for number, picture in enumerate(pictures) if number != which] == [
        jpeg for number, jpeg in enumerate(sent) if number != which
    ]
    with pytest.raises(FrameError):
        validate_encoded(pictures[which])
