"""Random training crops for the evidence-map recipe: pasted defects, changed light, noise.

Promise: batch i of a `CropSampler` depends on its images, settings, seed and i only, so batches can be made ahead, in
any order and on any thread. Pixels stay uint8 as the device would see them: a crop is cut from what
`agent.preprocess` wrote, and the result is clipped to bytes again.

Why defects are pasted: real defect images are few and each shows one place on one part. A cut-out pasted on a
good crop at another place, angle, size and light teaches the defect instead of the part it was on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from agent.records import Floats, Pixels

_NOISE_SIDE: Final = 1024  # of the bank that noise is cut from, px
_CUTOUT_MARGIN: Final = 6  # of surroundings kept around a defect, px
_INSIDE: Final = 0.4  # share of a turned mask's pixel from which it counts
_MIN_DEFECT_PX: Final = 4  # smaller specks of a mask are neither cut out nor make a crop defective, px


@dataclass(frozen=True, slots=True)
class AugmentationSettings:
    """How crops are drawn and altered. Ranges are symmetric around no change, drawn evenly."""

    good_share: float = 0.5  # of crops cut from good images, before pasting
    paste_share: float = 0.5  # of those that get a defect pasted
    hit_share: float = 0.8  # of the crops of defective images that are placed on the defect
    gain: float = 0.35  # log of the factor on all grey levels
    bias: float = 8.0  # grey levels
    gamma: float = 0.2  # log of the exponent
    noise: float = 1.5  # largest standard deviation, grey levels
    paste_size: float = 0.35  # log of the pasted defect's scale
    paste_aspect: float = 0.15  # log of its stretch along x
    paste_angle: float = 12.0  # degrees; every third one has any angle
    paste_contrast: float = 0.4  # log of the factor on the defect's contrast
    paste_largest: float = 0.15  # of the crop's area; larger cut-outs have lost the contrast to their surroundings


@dataclass(frozen=True, slots=True, eq=False)
class TrainingImage:
    """One training image after preprocessing, at least as large as a crop."""

    pixels: Pixels  # [H, W, C]
    mask: Pixels | None  # [H, W], 1 where the defect is; None when the image is defective without a mask
    label: int  # 0 for good parts, 1 + i for the i-th defect class


@dataclass(frozen=True, slots=True, eq=False)
class AugmentedBatch:
    """Crops with their masks and labels."""

    pixels: Pixels  # [N, H, W, C]
    masks: Pixels  # [N, H, W], 1 where the defect is
    labels: npt.NDArray[np.int64]  # [N], 0 or 1 + i: the class of the defect in the crop
    has_mask: Floats  # [N], 1 where the mask is known, else 0


@dataclass(frozen=True, slots=True, eq=False)
class _Cutout:
    """A defect and its surroundings, relative to the mean of the sound pixels around it."""

    relative: Floats  # [h, w, C], 1 is as bright as the surroundings
    mask: Floats  # [h, w], 0 or 1
    label: int


@dataclass(frozen=True, slots=True, eq=False)
class _PastePlacement:
    """The window of the crop that receives a cut-out, px, and the affine map [2, 3] from the cut-out into it."""

    x: int
    y: int
    width: int
    height: int
    matrix: npt.NDArray[np.float64]


def _cutouts(pictures: Sequence[TrainingImage]) -> list[_Cutout]:
    """Cut out every connected defect."""
    found = []
    for picture in pictures:
        if picture.mask is None or picture.label == 0:
            continue
        count, parts, stats, _ = cv2.connectedComponentsWithStats(picture.mask, connectivity=8)
        for part in range(1, count):
            x, y, w, h, area = (int(v) for v in stats[part])
            if area < _MIN_DEFECT_PX:
                continue
            rows = slice(max(0, y - _CUTOUT_MARGIN), y + h + _CUTOUT_MARGIN)
            columns = slice(max(0, x - _CUTOUT_MARGIN), x + w + _CUTOUT_MARGIN)
            pixels = picture.pixels[rows, columns].astype(np.float32)
            sound = picture.mask[rows, columns] == 0
            level = (pixels[sound] if sound.any() else pixels.reshape(-1, pixels.shape[2])).mean(axis=0)
            mask = (parts[rows, columns] == part).astype(np.float32)
            found.append(_Cutout(pixels / np.maximum(level, 5.0), mask, picture.label))
    return found


def _offset(size: int, room: int, random: np.random.Generator) -> int:
    """Where a crop of `size` starts in 0 .. room: drawn as if it could overhang by a half, then clipped.

    Drawn evenly over 0 .. room, borders would hardly ever be seen, and the network would take them for defects.
    """
    return min(max(int(random.integers(-(size // 2), room + size // 2 + 1)), 0), room)


class CropSampler:
    """Draws training batches. Immutable after construction: safe to call from any thread."""

    def __init__(
        self,
        pictures: Sequence[TrainingImage],
        *,
        crop_hw: tuple[int, int],
        batch: int,
        seed: int,
        settings: AugmentationSettings,
    ) -> None:
        """`pictures` must hold good and defective ones, none smaller than `crop_hw` (height, width)."""
        self._settings, self._seed, self._batch = settings, seed, batch
        self._height, self._width = crop_hw
        self._good = [p for p in pictures if p.label == 0]
        self._labels = sorted({p.label for p in pictures} - {0})
        self._defective = {label: [p for p in pictures if p.label == label] for label in self._labels}
        self._places = {
            id(p): np.flatnonzero(p.mask) for p in pictures if p.label and p.mask is not None and p.mask.any()
        }
        largest = settings.paste_largest * crop_hw[0] * crop_hw[1]
        cutouts = [c for c in _cutouts(pictures) if c.mask.sum() <= largest]
        self._cutouts = {label: [c for c in cutouts if c.label == label] for label in self._labels}
        self._pastable = [label for label in self._labels if self._cutouts[label]]
        bank = np.random.Generator(np.random.SFC64([seed, 0]))
        self._noise = bank.standard_normal((_NOISE_SIDE, _NOISE_SIDE, pictures[0].pixels.shape[2]), dtype=np.float32)

    def batch(self, number: int) -> AugmentedBatch:
        """Make batch `number` (0, 1, ...)."""
        random = np.random.Generator(np.random.SFC64([self._seed, 1 + number]))
        channels = self._noise.shape[2]
        pixels = np.empty((self._batch, self._height, self._width, channels), np.uint8)
        masks = np.empty((self._batch, self._height, self._width), np.uint8)
        labels = np.empty(self._batch, np.int64)
        located = np.ones(self._batch, np.float32)
        for i in range(self._batch):
            crop, mask, labels[i] = self._draw(random)
            if mask is None:
                located[i], mask = 0.0, np.zeros(crop.shape[:2], np.uint8)
            down, across = random.choice((-1, 1), 2)  # flips
            pixels[i] = self._relight(crop, random)[::down, ::across]
            masks[i] = mask[::down, ::across]
        return AugmentedBatch(pixels, masks, labels, located)

    def _draw(self, random: np.random.Generator) -> tuple[Pixels, Pixels | None, int]:
        """One crop before light and noise: pixels, mask, label."""
        settings = self._settings
        if random.random() < settings.good_share:
            picture = self._good[random.integers(len(self._good))]
            crop, mask = self._cut(picture, random)
            assert mask is not None  # noqa: S101 - good pictures have an empty one
            if self._pastable and random.random() < settings.paste_share:
                label = self._pastable[random.integers(len(self._pastable))]
                return self._paste(crop, self._cutouts[label][random.integers(len(self._cutouts[label]))], random)
            return crop, mask, 0
        label = self._labels[random.integers(len(self._labels))]
        picture = self._defective[label][random.integers(len(self._defective[label]))]
        crop, mask = self._cut(picture, random)
        missed = mask is not None and int(mask.sum()) < _MIN_DEFECT_PX
        return crop, mask, 0 if missed else label

    def _cut(self, picture: TrainingImage, random: np.random.Generator) -> tuple[Pixels, Pixels | None]:
        """Cut at a random place; mostly so that an existing defect is in the crop."""
        rows, columns = picture.pixels.shape[0] - self._height, picture.pixels.shape[1] - self._width
        y, x = _offset(self._height, rows, random), _offset(self._width, columns, random)
        places = self._places.get(id(picture))
        if places is not None and random.random() < self._settings.hit_share:
            row, column = divmod(int(places[random.integers(places.size)]), picture.pixels.shape[1])
            y = row - int(random.integers(self._height // 8, self._height - self._height // 8))
            x = column - int(random.integers(self._width // 8, self._width - self._width // 8))
            y, x = min(max(y, 0), rows), min(max(x, 0), columns)
        window = (slice(y, y + self._height), slice(x, x + self._width))
        return picture.pixels[window], None if picture.mask is None else picture.mask[window]

    def _paste(self, crop: Pixels, cutout: _Cutout, random: np.random.Generator) -> tuple[Pixels, Pixels, int]:
        """Paste a defect on a good crop: turned, scaled, feathered, and as bright as its new surroundings."""
        place = self._random_placement(cutout, random)
        x0, y0 = place.x, place.y
        x1, y1, size, matrix = x0 + place.width, y0 + place.height, (place.width, place.height), place.matrix
        mask = np.zeros((self._height, self._width), np.uint8)
        if min(size) < 1:
            return crop, mask, 0
        inside = (cv2.warpAffine(cutout.mask, matrix, size) > _INSIDE).astype(np.uint8)
        if int(inside.sum()) < _MIN_DEFECT_PX:
            return crop, mask, 0
        relative = cv2.warpAffine(cutout.relative, matrix, size, borderMode=cv2.BORDER_REPLICATE)
        relative = relative.reshape(*relative.shape[:2], -1)
        wide = cv2.dilate(inside, np.ones((3, 3), np.uint8)).astype(np.float32)
        share = cv2.GaussianBlur(wide, (0, 0), 1.2)[:, :, None]
        under = crop[y0:y1, x0:x1].astype(np.float32)
        ring = cv2.dilate(inside, np.ones((9, 9), np.uint8)) > inside
        level = under[ring].mean(axis=0) if ring.any() else under.mean(axis=(0, 1))
        contrast = np.exp(random.uniform(-self._settings.paste_contrast, self._settings.paste_contrast))
        pasted = level * (1.0 + (relative - 1.0) * np.float32(contrast))
        result = crop.copy()
        result[y0:y1, x0:x1] = np.clip(under + share * (pasted - under), 0.0, 255.0)
        mask[y0:y1, x0:x1] = inside
        return result, mask, cutout.label

    def _random_placement(self, cutout: _Cutout, random: np.random.Generator) -> _PastePlacement:
        """Choose the place, angle and scale of a cut-out."""
        settings = self._settings
        h, w = cutout.mask.shape
        scale = float(np.exp(random.uniform(-settings.paste_size, settings.paste_size)))
        scale = min(scale, 1.1 * max(self._height, self._width) / max(h, w))
        aspect = float(np.exp(random.uniform(-settings.paste_aspect, settings.paste_aspect)))
        limit = 180.0 if random.random() < 1 / 3 else settings.paste_angle
        angle = np.radians(random.uniform(-limit, limit))
        flip_x, flip_y = random.choice((-1.0, 1.0), 2)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        turn = turn @ np.diag([scale * aspect * flip_x, scale / aspect * flip_y])
        half = np.abs(turn) @ np.array([w / 2, h / 2]) + 4.0  # room for the feathered edge
        centre = random.uniform(0.0, 1.0, 2) * (self._width, self._height)
        x0, y0 = (int(v) for v in np.maximum(np.floor(centre - half), 0))
        x1, y1 = (int(v) for v in np.minimum(np.ceil(centre + half), (self._width, self._height)))
        shift = centre - turn @ np.array([w / 2, h / 2]) - (x0, y0)
        return _PastePlacement(x0, y0, x1 - x0, y1 - y0, np.hstack([turn, shift[:, None]]))

    def _relight(self, crop: Pixels, random: np.random.Generator) -> Pixels:
        """Change gamma, gain and offset through one table, then add noise."""
        settings = self._settings
        exponent = np.exp(random.uniform(-settings.gamma, settings.gamma))
        gain = np.exp(random.uniform(-settings.gain, settings.gain))
        levels = 255.0 * gain * (np.arange(256) / 255.0) ** exponent + random.uniform(-settings.bias, settings.bias)
        lit = np.clip(levels, 0.0, 255.0).astype(np.float32)[crop]
        y = int(random.integers(_NOISE_SIDE - self._height + 1))
        x = int(random.integers(_NOISE_SIDE - self._width + 1))
        lit += self._noise[y : y + self._height, x : x + self._width] * np.float32(random.uniform(0.0, settings.noise))
        np.rint(lit, out=lit)
        return np.clip(lit, 0.0, 255.0, out=lit).astype(np.uint8)
