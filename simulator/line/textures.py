"""Procedural metal: relative brightness of brushed, sand-blasted and turned surfaces.

A texture is float32 with mean 0: a surface shows `shade * (1 + texture)`. Banks are larger than a part and each part
cuts its own piece, mirrored at random, so that no two parts are alike. Nothing in a texture resembles a medium defect.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Sequence

Floats = npt.NDArray[np.float32]

_SLACK_PX = 512  # how much larger than the part a bank is, part pixels


def _unit(field: Floats) -> Floats:
    """Return the field with mean 0 and standard deviation 1."""
    return np.asarray((field - field.mean()) / field.std(), dtype=np.float32)


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], sigma: float) -> Floats:
    """Return Gaussian noise of correlation length `sigma` pixels, mean 0, deviation 1; cheap for large sigma."""
    step = max(1, int(sigma / 3.0))
    small = (-(-shape[0] // step) + 2, -(-shape[1] // step) + 2)
    field = rng.standard_normal(small, dtype=np.float32)
    field = np.asarray(cv2.GaussianBlur(field, (0, 0), sigma / step), dtype=np.float32)
    if step > 1:
        field = np.asarray(cv2.resize(field, (small[1] * step, small[0] * step), interpolation=cv2.INTER_CUBIC))
    return _unit(field[: shape[0], : shape[1]])


class Textures:
    """The surfaces of one line at one scale, `side` pixels square per part."""

    def __init__(self, *, surfaces: Sequence[str], seed: int, side: int, scale: int) -> None:
        """Generate the banks of `surfaces`; a tenth of a second each at scale 1, and the same in any company."""
        self._side = side
        self._scale = scale
        size = side + _SLACK_PX * scale
        makers = {"brushed": self._brushed, "cast": self._cast, "turned": self._grain}
        self._banks = {
            surface: maker(np.random.default_rng((seed, 11, number)), size)
            for number, (surface, maker) in enumerate(makers.items())
            if surface in surfaces
        }
        axis = (np.arange(side, dtype=np.float32) - (side - 1) / 2.0) / scale
        radius = np.hypot(axis[None, :], axis[:, None])
        self.ring = np.rint(radius * 4.0).astype(np.uint16)  # quarter part pixels

    def _brushed(self, rng: np.random.Generator, size: int) -> Floats:
        scale = self._scale
        white = rng.standard_normal((size, size), dtype=np.float32)
        fine = np.asarray(cv2.GaussianBlur(white, (0, 0), 0.55 * scale), dtype=np.float32)
        total = np.zeros_like(fine)
        for length, weight in ((36, 0.5), (140, 0.8), (420, 0.7)):
            rolled = np.roll(fine, (length * 7, length * 3), (0, 1))
            total += weight * _unit(np.asarray(cv2.blur(rolled, (length * scale, 1)), dtype=np.float32))
        soft = np.asarray(cv2.GaussianBlur(total, (0, 0), sigmaX=0.1, sigmaY=2.2 * scale), dtype=np.float32)
        return np.asarray(0.050 * _unit(total) + 0.012 * _unit(soft), dtype=np.float32)

    def _cast(self, rng: np.random.Generator, size: int) -> Floats:
        scale = self._scale
        shape = (size, size)
        grain = smooth_noise(rng, shape, 0.8 * scale)
        bumps = smooth_noise(rng, shape, 1.7 * scale)
        relief = bumps - np.roll(bumps, (2 * scale, 2 * scale), (0, 1))  # lit from the upper left
        cloud = smooth_noise(rng, shape, 60.0 * scale)
        return np.asarray(0.060 * grain + 0.034 * _unit(relief) + 0.010 * cloud, dtype=np.float32)

    def _grain(self, rng: np.random.Generator, size: int) -> Floats:
        return np.asarray(0.014 * smooth_noise(rng, (size, size), 0.8 * self._scale), dtype=np.float32)

    def bank(self, surface: str) -> Floats:
        """Return the texture [side + slack, side + slack] float32 that the parts of a surface are cut from."""
        return self._banks[surface]

    def rings(self, rng: np.random.Generator) -> Floats:
        """Return a radial profile of tool marks, taken at `ring`: feed marks of a fixed pitch, chatter, fine lines."""
        length = int(self.ring.max()) + 1
        radius = np.arange(length, dtype=np.float32) / 4.0
        pitch = float(rng.uniform(4.5, 6.5))
        feed = np.sin(2.0 * np.pi * (radius / pitch + float(rng.random()))).astype(np.float32)
        lines = rng.standard_normal(length, dtype=np.float32)[:, None]
        narrow = np.asarray(cv2.GaussianBlur(lines, (1, 0), sigmaX=0.1, sigmaY=2.2), dtype=np.float32)
        wide = np.asarray(cv2.GaussianBlur(lines[::-1], (1, 0), sigmaX=0.1, sigmaY=14.0), dtype=np.float32)
        fine, broad = _unit(narrow[:, 0]), _unit(wide[:, 0])
        return np.asarray(0.03 * feed + 0.04 * fine + 0.012 * broad, dtype=np.float32)

    def cut(self, surface: str, rng: np.random.Generator) -> Floats:
        """Return [side, side] float32 texture for one part."""
        bank = self._banks[surface]
        slack = bank.shape[0] - self._side
        y, x = (int(value) for value in rng.integers(0, slack, 2))
        piece = bank[y : y + self._side, x : x + self._side]
        piece = piece[:: int(rng.choice((-1, 1))), :: int(rng.choice((-1, 1)))]
        if surface == "turned":
            return np.asarray(piece + self.rings(rng)[self.ring], dtype=np.float32)
        return piece

    def deviation(self, surface: str, rng: np.random.Generator) -> float:
        """Return the texture's standard deviation after 4x area averaging of part pixels: what hides a defect."""
        texture = np.ascontiguousarray(self.cut(surface, rng))
        small = self._side // (4 * self._scale)
        return float(np.asarray(cv2.resize(texture, (small, small), interpolation=cv2.INTER_AREA)).std())
