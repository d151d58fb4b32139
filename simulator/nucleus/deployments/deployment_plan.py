"""What a deployment will do: the recipes of all its components, and the configuration that each gets."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from simulator.nucleus.config_store import DEFAULT_MS
from simulator.nucleus.deployments.deployment import NUCLEUS_PREFIX, ComponentStore, Deployment, dependency_order

if TYPE_CHECKING:
    from collections.abc import Mapping

    from simulator.nucleus.config_store import ConfigChange, ConfigStore
    from simulator.nucleus.deployments.recipe import Recipe


@dataclass(slots=True)
class DeploymentPlan:
    """One deployment, resolved."""

    deployment: Deployment
    store: ComponentStore
    id: str
    at_ms: int
    recipes: list[Recipe]  # dependencies first


def resolve_plan(
    deployment: Deployment, store: ComponentStore, deployment_id: str, *, running: Mapping[str, Recipe], lite: bool
) -> DeploymentPlan:
    """Find the recipe of every component that is to run, dependencies included. Raises RecipeError."""
    found: dict[str, Recipe] = {}
    pending = [(name, version) for name, version in deployment.components.items() if not is_built_in(name)]
    if deployment.local:
        pending += [
            (name, recipe.version)
            for name, recipe in running.items()
            if name not in deployment.components and name not in deployment.remove
        ]
    while pending:
        name, version = pending.pop()
        if name in found:
            continue
        known = running.get(name)
        recipe = known if known is not None and known.version == version else store.recipe(name, version, lite=lite)
        found[name] = recipe
        pending += [
            (other.name, deployment.components.get(other.name) or store.newest(other.name))
            for other in recipe.dependencies
            if not is_built_in(other.name) and other.name not in found
        ]
    return DeploymentPlan(deployment, store, deployment_id, time.time_ns() // 10**6, dependency_order(found))


def is_built_in(name: str) -> bool:
    """Whether a component belongs to the nucleus itself."""
    return name.startswith(NUCLEUS_PREFIX)


def configure_component(
    settings: ConfigStore, recipe: Recipe, plan: DeploymentPlan, *, lite: bool, new: bool
) -> list[ConfigChange]:
    """Write defaults, resets and the merge of one component; return what its subscribers hear of."""
    name = recipe.name
    changes: list[ConfigChange] = []
    if new and lite:
        changes += settings.merge(name, (), recipe.configuration, at_ms=DEFAULT_MS)
    elif new:
        settings.fill(name, recipe.configuration)
    if resets := plan.deployment.resets_of(name):
        put_back = settings.reset(name, resets, recipe.configuration)
        changes += [] if lite else put_back  # lite sends no event for a reset
    return changes + settings.merge(name, (), plan.deployment.merge_of(name), at_ms=plan.at_ms)
