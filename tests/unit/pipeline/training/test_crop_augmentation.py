from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.training.crop_augmentation import AugmentationSettings, CropSampler, TrainingImage

STILL = AugmentationSettings(gain=0.0, bias=0.0, gamma=0.0, noise=0.0)  # light and noise stay as they are


def good(seed: int = 0, level: int = 100) -> TrainingImage:
    pixels = np.random.default_rng(seed).integers(level - 5, level + 6, (96, 80, 1)).astype(np.uint8)
    return TrainingImage(pixels, np.zeros((96, 80), np.uint8), 0)


def defective(*, marked: bool = True) -> TrainingImage:
    pixels, mask = good(9).pixels.copy(), np.zeros((96, 80), np.uint8)
    mask[40:48, 30:40] = 1
    pixels[mask == 1] = 10
    return TrainingImage(pixels, mask if marked else None, 1)


def sampler(
    pictures: list[TrainingImage], settings: AugmentationSettings, *, batch: int = 16, seed: int = 3
) -> CropSampler:
    return CropSampler(pictures, crop_hw=(64, 64), batch=batch, seed=seed, settings=settings)


def test_a_batch_depends_on_its_number_and_the_seed_only() -> None:
    pictures = [good(), defective()]
    first, second = sampler(pictures, AugmentationSettings()), sampler(pictures, AugmentationSettings())
    late = [first.batch(i) for i in (5, 0)]
    for number, batch in zip((5, 0), late, strict=True):
        again = second.batch(number)
        assert np.array_equal(batch.pixels, again.pixels)
        assert np.array_equal(batch.masks, again.masks)
        assert np.array_equal(batch.labels, again.labels)
    assert not np.array_equal(late[0].pixels, late[1].pixels)
    assert not np.array_equal(late[0].pixels, sampler(pictures, AugmentationSettings(), seed=4).batch(5).pixels)


def test_masks_are_turned_with_their_pixels() -> None:
    batch = sampler(
        [good(), defective()], AugmentationSettings(good_share=0.0, gain=0.0, bias=0.0, gamma=0.0, noise=0.0)
    ).batch(0)
    assert batch.masks.any()
    assert np.array_equal(batch.pixels[..., 0] < 50, batch.masks == 1)


def test_a_crop_that_misses_the_defect_is_taught_as_good() -> None:
    batch = sampler([good(), defective()], AugmentationSettings(good_share=0.0, hit_share=0.0), batch=64).batch(0)
    sizes = batch.masks.sum((1, 2))
    assert np.array_equal(batch.labels, np.where(sizes >= 4, 1, 0))


def test_a_defective_picture_without_a_mask_is_not_located() -> None:
    batch = sampler([good(), defective(marked=False)], AugmentationSettings(good_share=0.0)).batch(0)
    assert (batch.labels == 1).all()
    assert not batch.has_mask.any()


def test_a_pasted_defect_changes_pixels_under_and_next_to_its_mask_only() -> None:
    flat = TrainingImage(np.full((96, 80, 1), 200, np.uint8), np.zeros((96, 80), np.uint8), 0)
    settings = AugmentationSettings(good_share=1.0, paste_share=1.0, gain=0.0, bias=0.0, gamma=0.0, noise=0.0)
    batch = sampler([flat, defective()], settings, batch=32).batch(0)
    assert (batch.labels == 1).sum() > 24  # a few fall outside the crop
    for pixels, mask in zip(batch.pixels[..., 0], batch.masks, strict=True):
        rows, columns = np.nonzero(mask)
        if not rows.size:
            assert (np.abs(pixels.astype(int) - 200) <= 1).all()
            continue
        near = np.zeros_like(mask)
        near[max(0, rows.min() - 7) : rows.max() + 8, max(0, columns.min() - 7) : columns.max() + 8] = 1
        assert (np.abs(pixels[near == 0].astype(int) - 200) <= 1).all()
        assert pixels[mask == 1].mean() < 140  # as dark, relative to its surroundings, as where it comes from


def test_light_changes_stay_within_a_byte_and_reach_every_crop() -> None:
    batch = sampler(
        [good(level=245), defective()], AugmentationSettings(good_share=1.0, paste_share=0.0), batch=64
    ).batch(0)
    means = batch.pixels.mean((1, 2, 3))
    assert means.max() > 250
    assert means.std() > 10


@pytest.mark.parametrize("channels", [1, 3])
def test_colour_and_mono_pictures_are_drawn_alike(channels: int) -> None:
    pictures = [
        TrainingImage(np.repeat(p.pixels, channels, axis=2), p.mask, p.label) for p in (good(), defective(), good(2))
    ]
    batch = sampler(pictures, STILL).batch(0)
    assert batch.pixels.shape == (16, 64, 64, channels)
    assert batch.pixels.dtype == np.uint8


def test_the_borders_of_a_picture_are_seen_as_often_as_its_middle() -> None:
    marked = TrainingImage(
        np.tile(np.arange(80, dtype=np.uint8)[None, :, None], (96, 1, 1)), np.zeros((96, 80), np.uint8), 0
    )
    batch = sampler([marked, defective()], replace(STILL, good_share=1.0, paste_share=0.0), batch=400).batch(0)
    seen = np.bincount(batch.pixels.reshape(400, -1).astype(np.int64).ravel(), minlength=80) / batch.pixels[..., 0].size
    assert seen[0] > 0.3 * seen[40]
    assert seen[79] > 0.3 * seen[40]
