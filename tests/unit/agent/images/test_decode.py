"""Which encoded images are read or refused; a refused one leaves no old pixels behind."""

from __future__ import annotations

import contextlib
import os
import random
import struct
import zlib
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import agent
from agent.errors import FrameError
from agent.images import decode
from agent.records import DropReason
from simulator.doubles.cameras.simulated_cameras import JpegDamage, damage_jpeg

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.records import Pixels

NOISE = np.random.default_rng(7).integers(0, 255, (48, 64, 3), np.uint8)
BGR: Pixels = cv2.GaussianBlur(NOISE, (0, 0), 2).astype(np.uint8)
MONO: Pixels = np.ascontiguousarray(BGR[:, :, 1])


def encode(suffix: str, pixels: np.ndarray, *options: int) -> bytes:
    done, data = cv2.imencode(suffix, pixels, options)
    assert done
    return data.tobytes()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, *, bits: int = 8, colour: int = 2, rows: bytes = b"", extra: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def cmyk_jpeg() -> bytes:
    """Claim a fourth channel in the frame header."""
    data = encode(".jpg", MONO)
    at = data.index(b"\xff\xc0")
    header = struct.pack(">BHHB", 8, 48, 64, 4) + b"\x01\x11\x00" * 4
    return data[:at] + b"\xff\xc0" + struct.pack(">H", 2 + len(header)) + header + data[at + 13 :]


@pytest.fixture
def decoder() -> Iterator[decode.ImageDecoder]:
    made = decode.ImageDecoder()
    yield made
    made.close()


@pytest.mark.parametrize("pixels", [BGR, MONO], ids=["colour", "mono"])
@pytest.mark.parametrize("suffix", [".png", ".bmp"])
def test_lossless_pictures_come_out_as_they_were_stored(
    decoder: decode.ImageDecoder, suffix: str, pixels: Pixels
) -> None:
    assert np.array_equal(decoder.decode(encode(suffix, pixels), None), pixels)


@pytest.mark.parametrize("pixels", [BGR, MONO], ids=["colour", "mono"])
@pytest.mark.parametrize(
    "options",
    [(), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1), (cv2.IMWRITE_JPEG_RST_INTERVAL, 2)],
    ids=["baseline", "progressive", "restart markers"],
)
def test_jpegs_of_every_usual_coding_are_read(
    decoder: decode.ImageDecoder, options: tuple[int, ...], pixels: Pixels
) -> None:
    data = encode(".jpg", pixels, *options)
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_ANYCOLOR)
    assert expected is not None
    assert np.array_equal(decoder.decode(data, None), expected)


def test_bytes_after_a_whole_jpeg_do_no_harm(decoder: decode.ImageDecoder) -> None:
    assert decoder.decode(encode(".jpg", BGR) + bytes(64), None).shape == BGR.shape


def test_a_palette_becomes_colour(decoder: decode.ImageDecoder) -> None:
    palette = chunk(b"PLTE", bytes((10, 20, 30, 200, 100, 50)))
    data = png(32, 2, colour=3, extra=palette, rows=(b"\x00" + b"\x01" * 32) + (b"\x00" + b"\x00" * 32))
    pixels = decoder.decode(data, None)
    assert pixels.shape == (2, 32, 3)
    assert pixels[0, 0].tolist() == [50, 100, 200]


def test_a_fitting_buffer_is_filled_and_returned(decoder: decode.ImageDecoder) -> None:
    buffer = np.empty_like(BGR)
    assert decoder.decode(encode(".png", BGR), buffer) is buffer
    assert np.array_equal(buffer, BGR)


def test_a_buffer_of_another_size_is_left_alone(decoder: decode.ImageDecoder) -> None:
    buffer = np.full((10, 10, 3), 9, np.uint8)
    pixels = decoder.decode(encode(".png", BGR), buffer)
    assert np.array_equal(pixels, BGR)
    assert (buffer == 9).all()


REFUSED = {
    "nothing": (b"", DropReason.CORRUPT, "nothing"),
    "text": (b"not a picture at all", DropReason.CORRUPT, "neither PNG, JPEG nor BMP"),
    "a TIFF": (b"II*\x00" + bytes(60), DropReason.CORRUPT, "neither PNG"),
    "a PNG's first bytes": (encode(".png", BGR)[:20], DropReason.CORRUPT, "ends after 20 bytes|is cut"),
    "half a PNG": (encode(".png", BGR)[:2000], DropReason.CORRUPT, "cut"),
    "a PNG without its end": (encode(".png", BGR)[:-12], DropReason.CORRUPT, "inside its headers"),
    "a PNG without a picture": (png(64, 48), DropReason.CORRUPT, "cannot be decoded"),
    "a PNG bomb": (png(16_000, 16_000), DropReason.SIZE, "16000x16000"),
    "a PNG of zero width": (png(0, 48), DropReason.SIZE, "0x48"),
    "16 bits": (encode(".png", BGR.astype(np.uint16) * 257), DropReason.CHANNELS, "16 bits"),
    "colour with alpha": (encode(".png", np.dstack([BGR, MONO])), DropReason.CHANNELS, "alpha"),
    "grey with alpha": (png(4, 4, colour=4), DropReason.CHANNELS, "alpha"),
    "half a JPEG": (encode(".jpg", BGR)[:900], DropReason.CORRUPT, "cut|end-of-image"),
    "a JPEG without its end": (encode(".jpg", BGR)[:-2], DropReason.CORRUPT, "end-of-image"),
    "a JPEG without a picture": (b"\xff\xd8\xff\xd9", DropReason.CORRUPT, "0 scans and no frame header"),
    "a JPEG bomb": (
        damage_jpeg(encode(".jpg", BGR), JpegDamage.BOMB, random.Random(1)),
        DropReason.SIZE,
        "16000x16000",
    ),
    "CMYK": (cmyk_jpeg(), DropReason.CHANNELS, "4 channels"),
    "half a BMP": (encode(".bmp", BGR)[:2000], DropReason.CORRUPT, "cut"),
    "a BMP with alpha": (encode(".bmp", np.dstack([BGR, MONO])), DropReason.CHANNELS, "32 bits"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_whole_8_bit_picture_is_refused_with_its_reason(decoder: decode.ImageDecoder, name: str) -> None:
    data, reason, said = REFUSED[name]
    with pytest.raises(FrameError, match=said) as caught:
        decoder.decode(data, np.full_like(BGR, 77))
    assert caught.value.reason == reason


def test_the_pixel_limit_holds_for_opencv_too() -> None:
    assert agent.__version__
    assert int(os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"]) <= decode.MAX_IMAGE_PX


@given(
    at=st.integers(0, 10**9), value=st.integers(0, 255), cut=st.none() | st.integers(0, 10**9), kind=st.integers(0, 2)
)
def test_a_damaged_file_is_refused_or_read_but_never_an_old_picture(
    at: int, value: int, cut: int | None, kind: int
) -> None:
    whole = encode((".png", ".jpg", ".bmp")[kind], BGR)
    data = bytearray(whole)
    data[at % len(data)] = value
    if cut is not None:
        del data[cut % len(data) :]
    old = np.random.default_rng(99).integers(0, 255, BGR.shape, np.uint8)
    before = old.copy()
    decoder = decode.ImageDecoder()
    pixels = None
    with contextlib.suppress(FrameError):
        pixels = decoder.decode(bytes(data), old)
    decoder.close()
    if pixels is not None:
        assert pixels.dtype == np.uint8
        assert kind or bytes(data) == whole, "a PNG shows every damage by its checksums"
        assert pixels.shape != before.shape or not np.array_equal(pixels[-1], before[-1])
