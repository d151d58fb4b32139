"""Finds the end of a JPEG in a buffer that is still being filled.

Promise: the marker structure (ITU-T T.81, annex B) is followed, so that neither a thumbnail inside a segment nor a
restart marker is taken for the end, and each byte is read once. `agent.images.decode.validate_encoded` decides
whether the image is good; this only finds its end, as soon as its last byte has arrived.
"""

from __future__ import annotations

import re
from typing import Final

START: Final = b"\xff\xd8"  # SOI
END: Final = b"\xff\xd9"  # EOI
_FILL: Final = 0xFF
_SOI: Final = 0xD8
_EOI: Final = 0xD9
_SOS: Final = 0xDA
# markers without a length
_STANDALONE_MARKERS: Final = frozenset({0x00, 0x01, *range(0xD0, _SOI + 1)})
_MIN_SEGMENT: Final = 2  # bytes; the length counts itself
# In coded data FF is followed by 00 (stuffing) or D0..D7 (restart); anything else ends the scan.
_SCAN_END: Final = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


class JpegEndFinder:
    """Follows one JPEG. `is_damaged` is set once its structure is broken."""

    def __init__(self) -> None:
        self._at = len(START)  # from the image's first byte; all before is processed
        self._in_scan = False
        self.is_damaged = False

    def find(self, buffer: bytearray, start: int, end: int) -> int | None:
        """Return the index behind the JPEG that begins at `start`; None when more must come, or it is damaged."""
        while not self.is_damaged:
            if self._in_scan and not self._pass_scan(buffer, start, end):
                return None
            at = start + self._at
            if at + 1 >= end:
                return None
            if buffer[at] != _FILL:
                break
            while at < end and buffer[at] == _FILL:
                at += 1
            if at == end:
                self._at = end - 1 - start  # the last of the fill bytes, or the first half of a marker
                return None
            marker = buffer[at]
            if marker == _EOI:
                return at + 1
            if marker in _STANDALONE_MARKERS:
                break
            if not self._pass_segment(buffer, start, at + 1, end):
                return None
            self._in_scan = marker == _SOS
        self.is_damaged = True
        return None

    def _pass_scan(self, buffer: bytearray, start: int, end: int) -> bool:
        found = _SCAN_END.search(buffer, start + self._at, end)
        if found is None:
            self._at = max(self._at, end - 1 - start)  # the last byte may be half a marker
            return False
        self._at = found.start() - start
        self._in_scan = False
        return True

    def _pass_segment(self, buffer: bytearray, start: int, length_at: int, end: int) -> bool:
        if length_at + _MIN_SEGMENT > end:
            return False
        length = int.from_bytes(buffer[length_at : length_at + _MIN_SEGMENT], "big")
        self.is_damaged = length < _MIN_SEGMENT
        self._at = length_at + length - start
        return not self.is_damaged
