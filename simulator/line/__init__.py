"""The simulated line: parts with known truth pass a camera; seeded, replayable and fast."""

from __future__ import annotations

from simulator.line.config import CAMERAS, CLASSES, DEFECT_KINDS, DIFFICULTIES, SURFACES, CameraModel, LineConfig
from simulator.line.dataset import render_dataset
from simulator.line.render import PartTruth, SimulatedLine
from simulator.line.source import SimulatedCameraOptions, SimulatedSource

__all__ = [
    "CAMERAS",
    "CLASSES",
    "DEFECT_KINDS",
    "DIFFICULTIES",
    "SURFACES",
    "CameraModel",
    "LineConfig",
    "PartTruth",
    "SimulatedCameraOptions",
    "SimulatedLine",
    "SimulatedSource",
    "render_dataset",
]
