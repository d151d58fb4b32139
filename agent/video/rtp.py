"""Groups RTP packets (RFC 3550) into images and detects key frames and changes of format.

Supports JPEG (RFC 2435), H.264 (RFC 6184), H.265 (RFC 7798) and MPEG-4 part 2 (RFC 6416); of any other codec it detects
only the end of an image. No I/O. The decoder does not report all of this: OpenCV scales the images of a stream that
changes its size to the first size, so the change is read from the packets.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEADER: Final = 12  # bytes without contributing sources
_JPEG_HEADER: Final = 8
_H264_AGGREGATE, _H264_FRAGMENT = 24, 28  # STAP-A, FU-A
_H264_KEYS: Final = range(5, 6)  # IDR frames
_H264_SPS: Final = 7
_H265_AGGREGATE, _H265_FRAGMENT = 48, 49
_H265_KEYS: Final = range(16, 22)  # BLA, IDR and CRA frames
_H265_SPS: Final = 33
_MPEG4_LAYER: Final = b"\x00\x00\x01\x20"  # video object layer: the size is in it
_MPEG4_PICTURE: Final = b"\x00\x00\x01\xb6"  # then two bits of the coding type: 0 is intra


# Access unit delimiters. FFmpeg outputs an image when the next one begins, a period later; or at a delimiter.
_DELIMITERS: Final = {"H264": b"\x09\xf0", "H265": b"\x46\x01\x50", "HEVC": b"\x46\x01\x50"}


@dataclass(slots=True)
class AccessUnit:
    """The packets of one image (an access unit), and all that came between them on the connection."""

    packets: list[bytes] = field(default_factory=list)
    stamp: int = -1  # RTP's, in the codec's clock
    is_key: bool = False  # decoding can begin here
    arrived_ns: int = 0  # of the last packet
    changed: bool = False  # its format differs from the stream's
    skipped: int = 0  # images before it that the decoder does not get


class AccessUnitAssembler:
    """Groups packets into units. `codec` is the encoding's name in the SDP, in upper case."""

    def __init__(self, codec: str) -> None:
        self._codec = codec
        self._unit = AccessUnit()
        self._formats: set[bytes] = set()
        self._is_settled = False
        self._delimiter = _DELIMITERS.get(codec)
        self._last_stamp = -1  # of the unit that ended

    def note_opened(self) -> None:
        """Note that the decoder is open: a format that was not seen by now is a change."""
        self._is_settled = True

    @property
    def current(self) -> AccessUnit:
        """The unit that is not complete yet."""
        return self._unit

    def starts_new_unit(self, packet: memoryview) -> bool:
        """Whether `packet` begins another image although the last one has not ended: its end was lost."""
        return self._unit.stamp not in {-1, _stamp(packet)}

    def end_unit(self) -> AccessUnit:
        """End the current unit and begin the next one."""
        unit, self._unit = self._unit, AccessUnit()
        self._last_stamp = unit.stamp
        return unit

    def delimiter(self, unit: AccessUnit) -> bytes | None:
        """Return a delimiter to send after the unit, numbered as its last packet; None where none helps."""
        if self._delimiter is None:
            return None
        last = unit.packets[-1]
        stamp = (unit.stamp + 1) & 0xFFFFFFFF
        header = bytes((0x80, last[5] & 0x7F)) + last[6:8] + stamp.to_bytes(4, "big") + last[12:16]
        return last[:2] + (len(header) + len(self._delimiter)).to_bytes(2, "big") + header + self._delimiter

    def add(self, packet: memoryview, raw: bytes, now_ns: int) -> bool:
        """Add a packet (`raw` with its frame) to the current unit; True when the image ends with it."""
        unit = self._unit
        if not unit.packets and _stamp(packet) == self._last_stamp:
            self._delimiter = None  # the camera marks the end of packets, not of images: a delimiter would split them
        unit.packets.append(raw)
        unit.stamp, unit.arrived_ns = _stamp(packet), now_ns
        payload = _payload(packet)
        if payload:
            self._inspect(unit, payload)
        return bool(packet[1] & 0x80)

    def _inspect(self, unit: AccessUnit, payload: memoryview) -> None:
        match self._codec:
            case "JPEG":
                unit.is_key = True
                if len(payload) >= _JPEG_HEADER:
                    self._take_format(unit, bytes(payload[6:8]))  # width and height in blocks of 8 px
            case "MP4V-ES":
                before, start, picture = bytes(payload).partition(_MPEG4_PICTURE)
                unit.is_key |= bool(start and picture and picture[0] >> 6 == 0)
                if _MPEG4_LAYER in before:
                    self._take_format(unit, before)
            case "H264":
                self._inspect_nals(unit, _h264(payload), keys=_H264_KEYS, sps=_H264_SPS)
            case "H265" | "HEVC":
                self._inspect_nals(unit, _h265(payload), keys=_H265_KEYS, sps=_H265_SPS)

    def _inspect_nals(self, unit: AccessUnit, nals: Iterator[tuple[int, bytes]], *, keys: range, sps: int) -> None:
        for kind, nal in nals:
            unit.is_key |= kind in keys or kind == sps
            if kind == sps and nal:
                self._take_format(unit, nal)

    def _take_format(self, unit: AccessUnit, described: bytes) -> None:
        if described not in self._formats:
            unit.changed |= self._is_settled
            self._formats.add(described)


def is_rtp(packet: memoryview) -> bool:
    """Whether it is an RTP packet of version 2 with a whole header."""
    return len(packet) >= _HEADER and packet[0] >> 6 == 2  # noqa: PLR2004


def _stamp(packet: memoryview) -> int:
    return int.from_bytes(packet[4:8], "big")


def _payload(packet: memoryview) -> memoryview:
    at = _HEADER + 4 * (packet[0] & 0x0F)
    if packet[0] & 0x10 and len(packet) >= at + 4:  # an extension: its length counts words
        at += 4 + 4 * int.from_bytes(packet[at + 2 : at + 4], "big")
    return packet[at:]


def _h264(payload: memoryview) -> Iterator[tuple[int, bytes]]:
    """Yield the kind of each NAL unit that begins in the packet, with its bytes where they are whole."""
    kind = payload[0] & 0x1F
    if kind == _H264_AGGREGATE:
        for nal in _aggregated(payload[1:]):
            yield nal[0] & 0x1F, nal
    elif kind == _H264_FRAGMENT:
        if len(payload) > 1 and payload[1] & 0x80:
            yield payload[1] & 0x1F, b""
    else:
        yield kind, bytes(payload)


def _h265(payload: memoryview) -> Iterator[tuple[int, bytes]]:
    kind = (payload[0] >> 1) & 0x3F
    if kind == _H265_AGGREGATE:
        for nal in _aggregated(payload[2:]):
            yield (nal[0] >> 1) & 0x3F, nal
    elif kind == _H265_FRAGMENT:
        if len(payload) > 2 and payload[2] & 0x80:  # noqa: PLR2004
            yield payload[2] & 0x3F, b""
    else:
        yield kind, bytes(payload)


def _aggregated(data: memoryview) -> Iterator[bytes]:
    """Yield the NAL units of an aggregation packet: a length of two bytes before each."""
    at = 0
    while at + 2 < len(data):
        end = at + 2 + int.from_bytes(data[at : at + 2], "big")
        if end > at + 2:
            yield bytes(data[at + 2 : end])
        at = end
