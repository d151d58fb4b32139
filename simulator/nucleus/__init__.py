"""A simulated Greengrass nucleus, lite or classic, for the real SDK and real components; see `Nucleus`."""

from __future__ import annotations

from simulator.nucleus.deployment import Deployment, Outcome
from simulator.nucleus.limits import Habits
from simulator.nucleus.nucleus import ComponentView, Nucleus

__all__ = ["ComponentView", "Deployment", "Habits", "Nucleus", "Outcome"]
