"""A simulated Greengrass nucleus, lite or classic, for the real SDK and real components; see `Nucleus`."""

from __future__ import annotations

from simulator.nucleus.nucleus import Nucleus

__all__ = ["Nucleus"]
