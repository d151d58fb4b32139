"""Finds near-duplicate images with a perceptual hash, without comparing every pair.

The hash has 256 bits: bit (y, x) is set when cell x of row y is brighter than the mean of its two neighbours, on a
16 x 18 grid of area means. Second differences ignore the level of the light and a slope of it. First differences do
not: on plain surfaces they only compare slopes. JPEG, blur, a resize and a shift of a pixel change few of the bits.

A camera on a line always sees the same scene, so most bits may be equal for every part, and images of different parts
would count as near. Hence only bits that differ from part to part are compared: of each view (a camera of a line) the
bits that are neither nearly always set nor nearly never. Two images are near-duplicates when
at most `MAX_SHARE` of these bits differ. A view with fewer than `MIN_BITS` informative bits is left out: the
hash cannot distinguish its parts, and equal bytes, part ids and capture times have to suffice.

Candidates are the images of a view that agree in one of `BANDS` bands of the compared bits (locality-sensitive
hashing); each candidate pair is then compared. A bucket larger than `_BUCKET` is compared with its first image and
along its order only, which keeps the work linear and still finds true copies.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from agent.records import Pixels

    Bits = npt.NDArray[np.uint8]
    Rows = npt.NDArray[np.int64]

SIDE: Final = 16  # SIDE * SIDE bits
HASH_BYTES: Final = SIDE * SIDE // 8
MAX_SHARE: Final = 0.16  # of the compared bits that may differ; measured in docs/decisions/0028
MIN_BITS: Final = 64  # compared bits; fewer agree by chance too often (comb(64, <= 10) / 2**64 is 1e-8)
_INFORMATIVE: Final = 0.1  # a bit is informative when this share to 1 - this share of a view's images have it set
_MIN_PICTURES: Final = 16  # of a view, to select informative bits; with fewer, all are used
BANDS: Final = 16
_BAND_BITS: Final = (8, 16)  # fewest and most: narrow bands miss less but make larger buckets
_BUCKET_BITS: Final = 4  # about 2**4 images in a bucket
_BUCKET: Final = 128


def fingerprint(pixels: Pixels) -> bytes:
    """Return the hash, HASH_BYTES bytes, of an image [H, W] or [H, W, 3] BGR uint8."""
    grey = pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)  # noqa: PLR2004 - mono
    # In float: the differences of a smooth surface are below one grey level. Small images are enlarged first.
    cells = cv2.resize(grey.astype(np.float32), (SIDE + 2, SIDE), interpolation=cv2.INTER_AREA)
    return np.packbits(2 * cells[:, 1:-1] > cells[:, :-2] + cells[:, 2:]).tobytes()


def find_near_duplicates(fingerprints: Sequence[bytes], views: Sequence[str]) -> list[tuple[int, int]]:
    """Return pairs (i, j), i < j, of near-duplicates that connect every group of them; sorted.

    `views[i]` is the camera that took image i. The order of the images may decide which pairs stand for a large
    group; give them in an order of their own, such as that of their digests, to get the same groups always.
    """
    by_view: dict[str, list[int]] = {}
    for number, view in enumerate(views):
        by_view.setdefault(view, []).append(number)
    found: set[tuple[int, int]] = set()
    for members in by_view.values():
        if len(members) > 1:
            rows = np.array(members, np.int64)
            packed = np.frombuffer(b"".join(fingerprints[i] for i in members), np.uint8)
            bits = np.unpackbits(packed.reshape(len(members), HASH_BYTES), axis=1)
            found.update((int(rows[a]), int(rows[b])) for a, b in _matching_pairs(bits))
    return sorted(found)


def _matching_pairs(bits: Bits) -> set[tuple[int, int]]:
    if len(bits) >= _MIN_PICTURES:
        share = bits.mean(axis=0)
        bits = bits[:, (share >= _INFORMATIVE) & (share <= 1 - _INFORMATIVE)]
    count = bits.shape[1]
    if count < MIN_BITS:
        return set()
    limit = int(MAX_SHARE * count)
    padded = np.zeros((len(bits), -(-count // 64) * 64), np.uint8)
    padded[:, :count] = bits
    words = np.packbits(padded, axis=1).view(np.uint64)
    found: set[tuple[int, int]] = set()
    for bucket in _buckets(bits):
        if len(bucket) <= _BUCKET:
            first, second = (bucket[side] for side in np.triu_indices(len(bucket), 1))
        else:
            first = np.concatenate([np.full(len(bucket) - 1, bucket[0]), bucket[:-1]])
            second = np.concatenate([bucket[1:], bucket[1:]])
        near = np.bitwise_count(words[first] ^ words[second]).sum(axis=1, dtype=np.int64) <= limit
        found.update(zip(first[near].tolist(), second[near].tolist(), strict=True))
    return found


def _buckets(bits: Bits) -> Iterator[Rows]:
    """Row numbers, ascending, of those that agree in a band."""
    count = bits.shape[1]
    # Neighbouring bits are alike: a band takes bits from all over the image.
    fewest, most = _BAND_BITS
    width = min(count // BANDS, most, max(fewest, len(bits).bit_length() - _BUCKET_BITS))
    for band in range(BANDS):
        columns = np.arange(band, count, BANDS)[:width]
        keys = bits[:, columns].astype(np.int64) @ (1 << np.arange(len(columns), dtype=np.int64))
        order = np.argsort(keys, kind="stable")
        edges = np.flatnonzero(np.diff(keys[order])) + 1
        for start, end in pairwise([0, *edges.tolist(), len(order)]):
            if end - start > 1:
                yield order[start:end]
