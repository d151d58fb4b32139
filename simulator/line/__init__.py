"""The simulated line: parts with known truth pass a camera; seeded, replayable, fast enough to feed the loop."""

from __future__ import annotations

from simulator.line.config import CAMERAS, CLASSES, DIFFICULTIES, KINDS, SURFACES, CameraModel, LineConfig
from simulator.line.render import SimulatedLine, Truth

__all__ = [
    "CAMERAS",
    "CLASSES",
    "DIFFICULTIES",
    "KINDS",
    "SURFACES",
    "CameraModel",
    "LineConfig",
    "SimulatedLine",
    "Truth",
]
