"""Decodes images (PNG, JPEG, BMP) within bounds, for the line and for training alike.

Promise: the result is a whole image, uint8, [H, W] mono or [H, W, 3] BGR; everything else is a FrameError that
describes the problem. The size is read from the header and bounded before a row is decoded. A truncated or damaged file
is refused as far as its format allows: every PNG chunk by its CRC, a JPEG by its marker structure down to the
end-of-image marker, a BMP by its length. Flipped bits inside a JPEG's coded data cannot be detected; files and TCP have
checksums of their own. Nothing is converted silently: 16-bit, alpha and CMYK images are refused, and a rotation in EXIF
is ignored, because a camera on a line does not turn.
"""

from __future__ import annotations

import os
import re
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np

from agent.errors import FrameError
from agent.records import DropReason

if TYPE_CHECKING:
    from agent.records import Pixels

MAX_IMAGE_PX: Final = 1 << 26  # 8192 x 8192; the same limit is set for OpenCV in agent/__init__.py
MAX_IMAGE_BYTES: Final = 1 << 26  # of the encoded image

Encoded = bytes | bytearray | memoryview

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_PNG_CHANNELS: Final = {0: 1, 2: 3, 3: 3}  # grey, RGB, palette; 4 and 6 have alpha
_JPEG_FRAMES: Final = frozenset({0xC0, 0xC1, 0xC2})  # baseline, extended, progressive: what libjpeg decodes
_JPEG_OTHER_FRAMES: Final = frozenset({0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})
# In coded data FF is followed by 00 (stuffing) or D0..D7 (restart); anything else ends the scan.
_JPEG_SCAN_END: Final = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_JPEG_RESTART: Final = re.compile(rb"\xff[\xd0-\xd7]")
_JPEG_MAX_SCANS: Final = 100  # encoders write about 10; each one costs a pass over the whole image
_SOF_MIN: Final = 6  # bytes, without the components
_BMP_HEADER: Final = 40  # bytes


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """The format of the decoded image: `shape` is [H, W] or [H, W, 3]."""

    kind: str
    width: int
    height: int
    channels: int  # 1 or 3

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the decoded array."""
        return (self.height, self.width) if self.channels == 1 else (self.height, self.width, self.channels)


def validate_encoded(data: Encoded) -> ImageHeader:
    """Read the header of a whole encoded image and check that none of it is missing.

    Raises FrameError: `corrupt` for data that is no such image or is damaged, `channels` for one that is neither mono
    nor BGR with 8 bits, `size` for one without pixels or with more than MAX_IMAGE_PX.
    """
    if len(data) > MAX_IMAGE_BYTES:
        raise FrameError(DropReason.SIZE, f"{len(data):,} encoded bytes; at most {MAX_IMAGE_BYTES:,} are read")
    view = memoryview(data)
    start = bytes(view[:8])
    try:
        if start == _PNG:
            return _png(view)
        if start[:2] == b"\xff\xd8":
            return _jpeg(view)
        if start[:2] == b"BM":
            return _bmp(view)
    except (struct.error, IndexError):
        raise _corrupt(f"the image ends after {len(data):,} bytes, inside its headers") from None
    raise _corrupt(f"it is neither PNG, JPEG nor BMP (it starts with {start.hex(' ') or 'nothing'})")


class ImageDecoder:
    """Decodes into given buffers, so that nothing of a frame's size is allocated. For one thread.

    OpenCV's Python `imdecode` always allocates, its `imread` does not: the bytes go through an anonymous file in memory
    (0.1 ms a megabyte), which also halves the time for a large JPEG.
    """

    def __init__(self) -> None:
        self._file = -1
        self._sentinel: Pixels = np.empty((0,), np.uint8)

    def decode(self, data: Encoded, buffer: Pixels | None) -> Pixels:
        """Return the image; in `buffer` when its shape fits, else in an array of its own.

        Raises FrameError, see `inspect`.
        """
        header = validate_encoded(data)
        fits = buffer is not None and buffer.shape == header.shape
        pixels = buffer if fits and buffer is not None else np.empty(header.shape, np.uint8)
        self._fill(data)
        self._write_sentinels(pixels)
        try:
            decoded = cv2.imread(
                f"/proc/self/fd/{self._file}", pixels, cv2.IMREAD_ANYCOLOR | cv2.IMREAD_IGNORE_ORIENTATION
            )
        except cv2.error as error:
            raise _corrupt(f"the {header.kind.upper()} cannot be decoded ({error.err})") from error
        if decoded is not pixels or self._has_sentinels(pixels):
            raise _corrupt(f"the {header.kind.upper()} cannot be decoded")
        return pixels

    def close(self) -> None:
        """Release the memory file; the next `decode` makes a new one."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _fill(self, data: Encoded) -> None:
        if self._file < 0:
            self._file = os.memfd_create("kensa-image", os.MFD_CLOEXEC)
        os.pwrite(self._file, data, 0)
        os.ftruncate(self._file, len(data))

    # A decoder that gives up leaves the buffer's old image and OpenCV returns it as if it were new. So the first and
    # the last row (images are stored from either end) hold random bytes before, which no decoded image equals.
    def _write_sentinels(self, pixels: Pixels) -> None:
        if self._sentinel.shape != pixels.shape[1:]:
            # Not from numpy.random: importing it costs 2.4 MB, and nothing else on the line needs it.
            row = np.frombuffer(os.urandom(pixels[0].size), np.uint8)
            self._sentinel = row.reshape(pixels.shape[1:])
        pixels[0] = pixels[-1] = self._sentinel

    def _has_sentinels(self, pixels: Pixels) -> bool:
        if self._sentinel.size < 16:  # noqa: PLR2004  # bytes; fewer could be equal by chance
            return False
        return np.array_equal(pixels[0], self._sentinel) or np.array_equal(pixels[-1], self._sentinel)


def _corrupt(detail: str) -> FrameError:
    return FrameError(DropReason.CORRUPT, detail)


def _header(kind: str, width: int, height: int, channels: int) -> ImageHeader:
    if width < 1 or height < 1:
        raise FrameError(DropReason.SIZE, f"the {kind.upper()} header gives {width}x{height} px: there is no image")
    if width * height > MAX_IMAGE_PX:
        raise FrameError(
            DropReason.SIZE,
            f"the {kind.upper()} header claims {width}x{height} px; at most {MAX_IMAGE_PX:,} are decoded",
        )
    return ImageHeader(kind=kind, width=width, height=height, channels=channels)


def _wrong_channels(what: str) -> FrameError:
    return FrameError(DropReason.CHANNELS, f"{what}; the line takes mono or colour, 8 bits a channel, no alpha")


def _png(view: memoryview) -> ImageHeader:
    """PNG: https://www.w3.org/TR/png-3/#5DataRep ; checks the CRC of every chunk."""
    header: ImageHeader | None = None
    at = len(_PNG)
    while True:
        length, kind = struct.unpack_from(">I4s", view, at)
        end = at + 8 + length
        if end + 4 > len(view):
            raise _corrupt(f"the PNG is cut: a chunk needs {end + 4:,} bytes and {len(view):,} are there")
        (crc,) = struct.unpack_from(">I", view, end)
        if zlib.crc32(view[at + 4 : end]) != crc:
            raise _corrupt(f"the CRC of the PNG's chunk {kind!r} at byte {at} is wrong")
        if header is None:
            header = _png_header(kind, view[at + 8 : end])
        elif kind == b"IEND":
            return header
        at = end + 4


def _png_header(kind: bytes, body: memoryview) -> ImageHeader:
    if kind != b"IHDR":
        raise _corrupt(f"the PNG starts with chunk {kind!r} where IHDR must be")
    width, height, bits, colour = struct.unpack_from(">IIBB", body)
    if bits not in (1, 2, 4, 8):
        raise _wrong_channels(f"the PNG has {bits} bits a channel")
    channels = _PNG_CHANNELS.get(colour)
    if channels is None:
        raise _wrong_channels(f"the PNG has colour type {colour}, which is not grey, RGB or palette")
    return _header("png", width, height, channels)


def _jpeg(view: memoryview) -> ImageHeader:
    """JPEG: ITU-T T.81 annex B; walks the segments and the scans to the end-of-image marker."""
    header: ImageHeader | None = None
    restarts, scans = False, 0
    at = 2
    while True:
        at, marker = _jpeg_marker(view, at)
        if marker == 0xD9:  # noqa: PLR2004  # EOI
            break
        (length,) = struct.unpack_from(">H", view, at)
        body, at = at + 2, at + length
        if length < 2 or at > len(view):  # noqa: PLR2004  # the length counts itself
            raise _corrupt(f"the JPEG is cut in its segment {marker:02x}")
        if marker in _JPEG_FRAMES:
            if header is not None:
                raise _corrupt("the JPEG has two frame headers")
            header = _jpeg_header(view[body:at])
        elif marker in _JPEG_OTHER_FRAMES:
            raise _corrupt(f"the JPEG's coding (marker {marker:02x}) is neither baseline nor progressive")
        elif marker == 0xDD:  # noqa: PLR2004  # DRI
            restarts = struct.unpack_from(">H", view, body)[0] > 0
        elif marker == 0xDA:  # noqa: PLR2004  # SOS
            at, scans = _jpeg_scan(view, at, restarts=restarts), scans + 1
    if header is None or not 0 < scans <= _JPEG_MAX_SCANS:
        raise _corrupt(f"the JPEG has {scans} scans and {'no' if header is None else 'a'} frame header")
    return header


def _jpeg_marker(view: memoryview, at: int) -> tuple[int, int]:
    """Return the position of the segment's length, and its marker."""
    if view[at] != 0xFF:  # noqa: PLR2004
        raise _corrupt(f"the JPEG has {view[at]:02x} at byte {at} where a marker must be")
    while view[at] == 0xFF:  # noqa: PLR2004  # fill bytes
        at += 1
    return at + 1, view[at]


def _jpeg_header(body: memoryview) -> ImageHeader:
    bits, height, width, components = struct.unpack_from(">BHHB", body)
    if len(body) != _SOF_MIN + 3 * components:
        raise _corrupt("the JPEG's frame header has a wrong length")
    if bits != 8:  # noqa: PLR2004
        raise _wrong_channels(f"the JPEG has {bits} bits a channel")
    if components not in (1, 3):
        raise _wrong_channels(f"the JPEG has {components} channels")
    return _header("jpeg", width, height, components)


def _jpeg_scan(view: memoryview, start: int, *, restarts: bool) -> int:
    """Return where the coded data that starts at `start` ends; its restart markers must count 0..7 in turn."""
    end = _JPEG_SCAN_END.search(view, start)
    if end is None:
        raise _corrupt(f"the JPEG is cut: {len(view):,} bytes and no end-of-image marker")
    for number, found in enumerate(_JPEG_RESTART.finditer(view, start, end.start())):
        if not restarts or view[found.start() + 1] != 0xD0 + number % 8:
            raise _corrupt(f"the JPEG's restart marker at byte {found.start()} is out of turn")
    return end.start()


def _bmp(view: memoryview) -> ImageHeader:
    """BMP: uncompressed, 24 bits or 8 bits with a palette; checks the length."""
    offset, header_bytes, width, height = struct.unpack_from("<4xIIii", view, 6)
    bits, compression, _, _, _, colours = struct.unpack_from("<HIIiiI", view, 28)
    if bits not in (8, 24):
        raise _wrong_channels(f"the BMP has {bits} bits a pixel")
    if header_bytes < _BMP_HEADER or compression != 0:
        raise _corrupt("the BMP is compressed or older than version 3; save it as PNG")
    channels = 3
    if bits == 8:  # noqa: PLR2004
        palette = np.frombuffer(view, np.uint8, 4 * min(colours or 256, 256), 14 + header_bytes).reshape(-1, 4)
        channels = 1 if bool((palette[:, :2] == palette[:, 1:3]).all()) else 3
    header = _header("bmp", width, abs(height), channels)
    row_bytes = (width * bits + 31) // 32 * 4
    needed = offset + row_bytes * abs(height)
    if needed > len(view):
        raise _corrupt(f"the BMP is cut: {len(view):,} bytes where its header needs {needed:,}")
    return header


def encode_jpeg(pixels: Pixels, quality: int) -> bytes:
    """Encode [H, W] or [H, W, 3] BGR uint8. Raises ValueError for a shape that JPEG cannot hold."""
    try:
        done, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    except cv2.error as error:
        raise ValueError(f"an image of shape {pixels.shape} cannot be a JPEG") from error
    if not done:
        raise ValueError(f"an image of shape {pixels.shape} cannot be a JPEG")
    return bytes(data)


def encode_png(pixels: Pixels) -> bytes:
    """Encode [H, W] or [H, W, 3] BGR uint8 without loss. Raises ValueError for a shape that PNG cannot hold."""
    try:
        done, data = cv2.imencode(".png", pixels)
    except cv2.error as error:
        raise ValueError(f"an image of shape {pixels.shape} cannot be a PNG") from error
    if not done:
        raise ValueError(f"an image of shape {pixels.shape} cannot be a PNG")
    return bytes(data)
