"""RTSP messages, images in RTP, and the capture protocol: parsed within bounds whatever arrives."""

from __future__ import annotations

import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent.video import capture_protocol
from agent.video.rtp import AccessUnit, AccessUnitAssembler, is_rtp
from agent.video.rtsp_messages import MAX_HEADER_BYTES, InterleavedPacket, NotRtspError, RtspMessage, RtspParser

ANSWER = b"RTSP/1.0 200 OK\r\nCSeq: 7\r\nContent-Length: 4\r\n\r\nv=0\n"
PACKET = b"$\x00\x00\x05hello"


def fed(data: bytes, sizes: list[int]) -> list[RtspMessage | InterleavedPacket]:
    """Feed `data` in pieces of these sizes, over and over."""
    reader, items, at, turn = RtspParser(), [], 0, 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        items += reader.feed(data[at : at + size])
        at, turn = at + size, turn + 1
    return items


@given(st.lists(st.integers(1, 40), min_size=1, max_size=10))
def test_how_bytes_are_cut_makes_no_difference(sizes: list[int]) -> None:
    noise = b"\x00\x01\x02"
    items = fed(ANSWER + PACKET + PACKET + noise + ANSWER + PACKET, sizes)
    messages = [item for item in items if isinstance(item, RtspMessage)]
    assert [(message.status, message.get("cseq"), message.body) for message in messages] == [(200, "7", b"v=0\n")] * 2
    assert [bytes(item.payload) for item in items if isinstance(item, InterleavedPacket)] == [b"hello"] * 3


@given(st.binary(max_size=300))
@example(b"HTTP/1.1 200 OK\r\n\r\n")
@example(b"\x16\x03\x01")
def test_whatever_a_stranger_says_first_is_understood_awaited_or_refused(data: bytes) -> None:
    said = ""
    try:
        RtspParser().feed(data)
    except NotRtspError as error:
        said = str(error)
    assert len(said) < 200
    assert said.isprintable()


def test_headers_and_bodies_are_bounded() -> None:
    with pytest.raises(NotRtspError, match="do not end"):
        RtspParser().feed(b"RTSP/1.0 200 OK\r\n" + b"X: y\r\n" * MAX_HEADER_BYTES)
    for length in (b"99999999999", b"-1", b"999999999", b"x"):
        with pytest.raises(NotRtspError, match="bytes is announced"):
            RtspParser().feed(b"RTSP/1.0 200 OK\r\nContent-Length: " + length + b"\r\n\r\n")


def test_bare_line_feeds_are_understood() -> None:
    [message] = RtspParser().feed(b"RTSP/1.0 404 Not\x00 Found\nCSeq: 3\n\n")
    assert isinstance(message, RtspMessage)
    assert (message.status, message.reason, message.get("CSEQ")) == (404, "Not? Found", "3")


def test_a_request_gets_another_address_number_and_login() -> None:
    request = RtspMessage("PLAY rtsp://a/b RTSP/1.0", (("CSeq", "3"), ("Session", "1"), ("Authorization", "old")))
    sent = request.replaced(start="PLAY rtsp://c/b RTSP/1.0", cseq="9", authorization=None).encode()
    assert sent == b"PLAY rtsp://c/b RTSP/1.0\r\nCseq: 9\r\nSession: 1\r\n\r\n"


# --- pictures in RTP --------------------------------------------------------------------------------------------------


def rtp(payload: bytes, *, stamp: int, last: bool = False) -> bytes:
    return struct.pack(">BBHII", 0x80, 96 | (0x80 if last else 0), 1, stamp, 5) + payload


def units_of(codec: str, packets: list[bytes], *, settled_after: int = 0) -> list[AccessUnit]:
    pictures, units = AccessUnitAssembler(codec), []
    for index, packet in enumerate(packets):
        if index == settled_after:
            pictures.note_opened()
        view = memoryview(packet)
        assert is_rtp(view)
        if pictures.starts_new_unit(view):
            units.append(pictures.end_unit())
        if pictures.add(view, packet, index):
            units.append(pictures.end_unit())
    return units


SPS, OTHER_SPS, PPS, IDR, SLICE = b"\x67\x42\x00\x1e", b"\x67\x42\x00\x28", b"\x68\xce", b"\x65\x88", b"\x41\x9a"


def aggregated(*nals: bytes) -> bytes:
    return b"\x18" + b"".join(len(nal).to_bytes(2, "big") + nal for nal in nals)


def test_h264_pictures_end_with_the_marker_or_the_next_time_and_key_pictures_are_seen() -> None:
    units = units_of(
        "H264",
        [
            rtp(aggregated(SPS, PPS), stamp=0),
            rtp(IDR, stamp=0, last=True),
            rtp(SLICE, stamp=1, last=True),
            rtp(SLICE, stamp=2),  # its end is lost
            rtp(b"\x7c\x85" + b"x", stamp=3),  # an IDR in fragments
            rtp(b"\x7c\x45" + b"x", stamp=3, last=True),
        ],
    )
    assert [(unit.stamp, len(unit.packets), unit.is_key) for unit in units] == [
        (0, 2, True),
        (1, 1, False),
        (2, 1, False),
        (3, 2, True),
    ]
    assert units[-1].arrived_ns == 5


def test_a_format_that_was_not_there_at_the_opening_is_a_change() -> None:
    same = [rtp(SPS, stamp=0), rtp(IDR, stamp=0, last=True)] * 2
    assert not any(unit.changed for unit in units_of("H264", same, settled_after=2))
    other = [*same, rtp(OTHER_SPS, stamp=9), rtp(IDR, stamp=9, last=True)]
    assert [unit.changed for unit in units_of("H264", other, settled_after=4)] == [False, False, True]

    h265 = [rtp(b"\x42\x01" + body, stamp=index, last=True) for index, body in enumerate((b"a", b"a", b"b"))]
    assert [unit.changed for unit in units_of("H265", h265, settled_after=1)] == [False, False, True]

    jpeg = [rtp(bytes((0, 0, 0, 0, 1, 255, 80, side)) + b"scan", stamp=side, last=True) for side in (60, 60, 45)]
    assert [(unit.changed, unit.is_key) for unit in units_of("JPEG", jpeg, settled_after=1)] == [
        (False, True),
        (False, True),
        (True, True),
    ]


def test_mpeg4_key_pictures_and_changes_are_seen() -> None:
    layer, other = b"\x00\x00\x01\x20\x01", b"\x00\x00\x01\x20\x02"
    intra, predicted = b"\x00\x00\x01\xb6\x10", b"\x00\x00\x01\xb6\x50"
    sent = [layer + intra, predicted, layer + intra, other + intra]
    packets = [rtp(payload, stamp=index, last=True) for index, payload in enumerate(sent)]
    assert [(unit.is_key, unit.changed) for unit in units_of("MP4V-ES", packets, settled_after=1)] == [
        (True, False),
        (False, False),
        (True, False),
        (True, True),
    ]


@given(st.sampled_from(["H264", "MP4V-ES", "H265", "JPEG", "MPV", "?"]), st.binary(min_size=12, max_size=80))
def test_damaged_packets_break_nothing(codec: str, packet: bytes) -> None:
    if is_rtp(memoryview(packet)):
        units_of(codec, [packet, packet])


# --- the talk with the capture process --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        capture_protocol.OpenRtsp("rtsp", "camera", None, "/a?b=c", "op", "p:w\n@/", "tcp"),
        capture_protocol.OpenDevice("/dev/video0", 640, None, 12.5, "MJPG"),
        capture_protocol.FrameSlot(3, 4_096),
        capture_protocol.FrameRequest(3),
        capture_protocol.CameraOpened(),
        capture_protocol.SlotTooSmall(9),
        capture_protocol.FrameReady(3, (480, 640, 3), 5, 1),
        capture_protocol.DecodeFailed("x"),
        capture_protocol.CameraFailed("y"),
    ],
)
def test_what_is_said_arrives_as_it_was_said(message: capture_protocol.CaptureMessage) -> None:
    assert capture_protocol.decode(capture_protocol.encode(message)) == message


@given(
    st.one_of(st.binary(max_size=60), st.sampled_from([b"{}", b"[]", b'{"Want": 3}', b'{"Slot": {"x": 1}}', b"null"]))
)
def test_nonsense_is_told_from_messages(packet: bytes) -> None:
    with pytest.raises(capture_protocol.CaptureProtocolError):
        capture_protocol.decode(packet)
