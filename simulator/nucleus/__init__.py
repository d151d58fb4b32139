"""A simulated Greengrass nucleus, lite or classic, for the real SDK and components. See `Nucleus`."""

from __future__ import annotations

from simulator.nucleus.deployments.deployment import Deployment, DeploymentResult
from simulator.nucleus.limits import NucleusBehaviour
from simulator.nucleus.nucleus import ComponentView, Nucleus

__all__ = ["ComponentView", "Deployment", "DeploymentResult", "Nucleus", "NucleusBehaviour"]
