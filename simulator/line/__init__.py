"""The simulated line: parts with known truth pass a camera; seeded, replayable, fast enough to feed the loop."""

from __future__ import annotations

from simulator.line.config import CAMERAS, CLASSES, DIFFICULTIES, KINDS, SURFACES, CameraModel, LineConfig
from simulator.line.dataset import render_dataset
from simulator.line.render import SimulatedLine, Truth
from simulator.line.source import SimulatedSource, SourceOptions

__all__ = [
    "CAMERAS",
    "CLASSES",
    "DIFFICULTIES",
    "KINDS",
    "SURFACES",
    "CameraModel",
    "LineConfig",
    "SimulatedLine",
    "SimulatedSource",
    "SourceOptions",
    "Truth",
    "render_dataset",
]
