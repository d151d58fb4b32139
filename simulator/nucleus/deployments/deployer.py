"""Carries out deployments one at a time.

The steps are resolve, ask (classic), configure, install, restart, wait and clean up.

The order of an update is the nucleus's own. Lite: the new defaults are merged while the old version runs, which hears
of them; the `install` scripts of all new versions run at once, beside the old ones and in the same work folders; then
SIGTERM, and a pause before the new start. Classic: one component after the other is stopped, installed, started. A
deployment that changes configuration only restarts nothing on lite, and on classic what has `{configuration:...}` in a
script that reads differently now. Every deployment of lite gives all components their three starts again, tries those
that are BROKEN anew, and fails when one of them is BROKEN again. The work folder of a removed component stays on lite.
"""

from __future__ import annotations

import asyncio
import copy
import os
import shutil
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from simulator.nucleus.deployments.component_process import SETTLED_STATES, ComponentProcess, PreparedScript
from simulator.nucleus.deployments.deployment import (
    ComponentStore,
    Deployment,
    DeploymentResult,
    DeploymentStatus,
    remove_artifacts,
)
from simulator.nucleus.deployments.deployment_plan import (
    DeploymentPlan,
    configure_component,
    is_built_in,
    resolve_plan,
)
from simulator.nucleus.deployments.recipe import Recipe, RecipeError, RecipeVariables
from simulator.nucleus.ipc.ipc_errors import IpcError
from simulator.nucleus.operations.token_exchange import TOKEN_EXCHANGE_COMPONENT as TOKEN_EXCHANGE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from simulator.nucleus.config_store import ConfigChange, ConfigStore
    from simulator.nucleus.deployments.component_process import ComponentState
    from simulator.nucleus.deployments.deployment_gates import DeploymentGates
    from simulator.nucleus.deployments.recipe import LifecycleScript
    from simulator.nucleus.limits import NucleusBehaviour
    from simulator.nucleus.operations.component_configuration import ConfigurationService

_FROM_OUTSIDE: Final = ("PATH", "LANG", "TZ", "TMPDIR")  # all that a component's processes inherit


@dataclass(frozen=True, slots=True, kw_only=True)
class DeployerDependencies:
    """What deployments need of the nucleus."""

    root: Path
    private: Path
    thing: str
    config_store: ConfigStore
    configuration: ConfigurationService
    gates: DeploymentGates
    environment: Callable[[str], dict[str, str]]  # by component
    credentials: Callable[[str], dict[str, str]]  # what TokenExchangeService adds to it
    lite: bool
    behaviour: NucleusBehaviour


@dataclass(frozen=True, slots=True)
class ComponentEvent:
    """One thing that happened to a component; `at_s` is monotonic."""

    at_s: float
    component: str
    what: str


@dataclass(slots=True)
class DeployedComponent:
    """One deployed component."""

    recipe: Recipe
    process: ComponentProcess
    last_scripts: Mapping[str, PreparedScript]  # the scripts as they were filled in for the latest start


class Deployer:
    """All components. Belongs to the event loop."""

    def __init__(self, surroundings: DeployerDependencies) -> None:
        """Nothing is deployed yet."""
        self._dependencies = surroundings
        self._lock = asyncio.Lock()
        self.components: dict[str, DeployedComponent] = {}
        self.events: list[ComponentEvent] = []

    async def deploy(self, deployment: Deployment, store: ComponentStore, deployment_id: str = "") -> DeploymentResult:
        """Carry out one deployment, after those before it; without `deployment_id` it gets one."""
        deployment_id = deployment_id or str(uuid.uuid4())
        async with self._lock:
            try:
                running = {name: component.recipe for name, component in self.components.items()}
                plan = resolve_plan(deployment, store, deployment_id, running=running, lite=self._dependencies.lite)
                await asyncio.to_thread(self._download, plan)
            except RecipeError as error:
                return DeploymentResult(deployment_id, "FAILED_NO_STATE_CHANGE", str(error))
            if reason := await self._ask_components(plan):
                return DeploymentResult(deployment_id, "FAILED_NO_STATE_CHANGE", reason)
            memory = copy.deepcopy(self._dependencies.config_store)
            reason = await self._apply(plan)
            status: DeploymentStatus = "FAILED" if reason else "SUCCEEDED"
            if reason and not self._dependencies.lite and deployment.rollback:
                self._dependencies.config_store.replace_with(memory)
                await self._roll_back(running)
                status = "FAILED_ROLLBACK_COMPLETE"
            if not self._dependencies.lite:
                self._dependencies.gates.notify_done(deployment_id)
            return DeploymentResult(deployment_id, status, reason)

    async def stop(self) -> None:
        """Stop every component, dependents first."""
        async with self._lock:
            for component in reversed(list(self.components.values())):
                await self._stop(component)

    async def start_all(self) -> None:
        """Start every component again, as after a restart of the nucleus."""
        async with self._lock:
            for component in self.components.values():
                if not self._dependencies.lite:  # systemd counts on
                    component.process.reset_start_limit()
                self._start(component)

    async def restart(self, name: str) -> None:
        """Restart one component as it is."""
        async with self._lock:
            await self._stop(self.components[name])
            self._start(self.components[name])

    def record_event(self, component: str, what: str) -> None:
        """Write down what happened."""
        self.events.append(ComponentEvent(time.monotonic(), component, what))

    # --- before anything changes --------------------------------------------------------------------------------------

    def _download(self, plan: DeploymentPlan) -> None:
        unpack = not (self._dependencies.lite and plan.deployment.local)
        for recipe in plan.recipes:
            if self._is_new(recipe):
                plan.store.copy_artifacts(recipe, self._dependencies.root, unpack=unpack)

    def _is_new(self, recipe: Recipe) -> bool:
        known = self.components.get(recipe.name)
        return known is None or known.recipe.version != recipe.version

    async def _ask_components(self, plan: DeploymentPlan) -> str:
        """Return why the deployment must not go on, "" when nobody objects; only classic asks."""
        around, deployment = self._dependencies, plan.deployment
        if around.lite or deployment.local:
            return ""
        preview = copy.deepcopy(around.config_store)
        trees = {}
        for recipe in plan.recipes:
            if self._is_new(recipe):
                continue
            configure_component(preview, recipe, plan, lite=False, new=False)
            if preview.find(recipe.name) != around.config_store.find(recipe.name):
                trees[recipe.name] = preview.find(recipe.name)
        if reason := await around.gates.validate(plan.id, trees, wait_s=deployment.validate_s):
            return reason
        if deployment.notify and any(self._is_new(recipe) for recipe in plan.recipes):
            await around.gates.wait_for_consent(plan.id, wait_s=deployment.notify_s)
        return ""

    # --- the change ---------------------------------------------------------------------------------------------------

    async def _apply(self, plan: DeploymentPlan) -> str:
        """Make it so; return why it failed, "" when it did not."""
        around = self._dependencies
        try:
            changes = self._configure_all(plan)
        except IpcError as refusal:
            return str(refusal)
        kept = {recipe.name for recipe in plan.recipes}
        for name in [name for name in self.components if name not in kept]:
            await self._remove(name)
        if around.lite:
            for component in self.components.values():
                component.process.reset_start_limit()
            new = [recipe for recipe in plan.recipes if self._is_new(recipe)]
            if reason := next(filter(None, await asyncio.gather(*map(self._install, new))), ""):
                return reason
        return await self._bring_up(plan, {change.component for change in changes})

    async def _bring_up(self, plan: DeploymentPlan, configured: set[str]) -> str:
        """Start what is new and restart what needs it, dependencies first; return why that failed."""
        restarted: set[str] = set()
        for recipe in plan.recipes:
            if self._is_new(recipe):
                if reason := await self._update(recipe):
                    return reason
            elif self._needs_restart(recipe, restarted, configured=recipe.name in configured):
                await self._stop(self.components[recipe.name])
                self._start(self.components[recipe.name])
            else:
                continue
            restarted.add(recipe.name)
            if await self._wait_settled(self.components[recipe.name].process) == "BROKEN":
                return f"{recipe.name} {recipe.version} is BROKEN"
        for recipe in plan.recipes:
            remove_artifacts(self._dependencies.root, recipe.name, but=recipe.version)
        return ""

    async def _wait_settled(self, process: ComponentProcess) -> ComponentState:
        """How a component is once it runs, has finished, or is broken."""
        if not self._dependencies.lite:
            return await process.wait_settled()
        while process.state not in SETTLED_STATES:  # noqa: ASYNC110 - lite asks now and then, and misses what came and went
            await asyncio.sleep(self._dependencies.behaviour.status_s)
        return process.state

    def _configure_all(self, plan: DeploymentPlan) -> list[ConfigChange]:
        around = self._dependencies
        changes = []
        for name in filter(is_built_in, plan.deployment.configuration_update):
            changes += around.config_store.merge(name, (), plan.deployment.merge_of(name), at_ms=plan.at_ms)
        for recipe in plan.recipes:
            changes += configure_component(
                around.config_store, recipe, plan, lite=around.lite, new=self._is_new(recipe)
            )
        around.configuration.notify(changes)  # after everything is written
        return changes

    def _needs_restart(self, recipe: Recipe, restarted: set[str], *, configured: bool) -> bool:
        if any(dependency.hard and dependency.name in restarted for dependency in recipe.dependencies):
            return True
        component = self.components[recipe.name]
        if component.process.state == "BROKEN":
            return True
        if self._dependencies.lite:
            return configured and self._dependencies.behaviour.restarts_on_configuration
        return component.last_scripts != self._fill_scripts(recipe)

    async def _install(self, recipe: Recipe) -> str:
        """Run the `install` script of one version, where it has one; return why that failed."""
        old = self.components.get(recipe.name)
        process = old.process if old is not None else self._process(recipe.name)
        try:
            scripts = self._fill_scripts(recipe)
        except RecipeError as error:
            return f"{recipe.name} {recipe.version}: {error}"
        if "install" in scripts and not await process.install(scripts["install"]):
            return f"{recipe.name} {recipe.version} cannot be installed"
        return ""

    async def _update(self, recipe: Recipe) -> str:
        """Bring a component to another version, or there at all; return why that failed. Lite has installed it."""
        around = self._dependencies
        old = self.components.get(recipe.name)
        process = old.process if old is not None else self._process(recipe.name)
        if old is not None:
            await self._stop(old)
        process.reset_start_limit()
        if around.lite:
            await asyncio.sleep(around.behaviour.update_gap_s if old is not None else 0.0)
        elif reason := await self._install(recipe):
            return reason
        try:
            scripts = self._fill_scripts(recipe)
        except RecipeError as error:
            return f"{recipe.name} {recipe.version}: {error}"
        process.mark_installed()
        self.components[recipe.name] = DeployedComponent(recipe, process, scripts)
        self._start(self.components[recipe.name])
        return ""

    async def _roll_back(self, before: Mapping[str, Recipe]) -> None:
        """Run again what ran before."""
        for name in [name for name in self.components if name not in before]:
            await self._remove(name)
        for name, recipe in before.items():
            component = self.components.get(name)
            if component is not None:
                if component.recipe == recipe and component.process.state in ("RUNNING", "FINISHED"):
                    continue
                await self._stop(component)
            await self._update(recipe)
            await self.components[name].process.wait_settled()

    async def _remove(self, name: str) -> None:
        component = self.components.pop(name)
        await self._stop(component)
        self._dependencies.config_store.remove(name)
        remove_artifacts(self._dependencies.root, name, but=None)
        if not self._dependencies.lite:
            shutil.rmtree(self._dependencies.root / "work" / name, ignore_errors=True)

    # --- processes ----------------------------------------------------------------------------------------------------

    def _process(self, name: str) -> ComponentProcess:
        around = self._dependencies
        return ComponentProcess(
            name=name,
            work=around.root / "work" / name,
            log=around.root / "logs" / f"{name}.log",
            private=around.private,
            lite=around.lite,
            behaviour=around.behaviour,
            note=self.record_event,
        )

    def _start(self, component: DeployedComponent) -> None:
        recipe = component.recipe
        phase: Literal["startup", "run"] | None = None
        if "startup" in recipe.scripts:
            phase = "startup"
        elif "run" in recipe.scripts:
            phase = "run"

        def prepare() -> PreparedScript:
            component.last_scripts = self._fill_scripts(recipe)
            return component.last_scripts[phase or "run"]

        component.process.start(phase, prepare)

    async def _stop(self, component: DeployedComponent) -> None:
        shutdown = None if self._dependencies.lite else component.last_scripts.get("shutdown")
        await component.process.stop(shutdown)

    def _fill_scripts(self, recipe: Recipe) -> dict[str, PreparedScript]:
        """Return all scripts of a recipe with their variables filled in. Raises RecipeError."""
        around = self._dependencies
        variables = RecipeVariables(
            mode="lite" if around.lite else "classic",
            root=around.root,
            component=recipe.name,
            version=recipe.version,
            thing=around.thing,
            version_of=lambda name: self.components[name].recipe.version if name in self.components else "",
            configuration=lambda name, pointer: around.config_store.find(
                name, [key for key in pointer.split("/") if key]
            ),
        )
        environment = {key: os.environ[key] for key in _FROM_OUTSIDE if key in os.environ}
        environment |= {"HOME": str(around.root / "work" / recipe.name), **around.behaviour.environment}
        environment |= around.environment(recipe.name)
        if any(dependency.name == TOKEN_EXCHANGE for dependency in recipe.dependencies):
            environment |= around.credentials(recipe.name)

        def filled(script: LifecycleScript) -> PreparedScript:
            own = {key: variables.fill(value) for key, value in script.environment.items()}
            return PreparedScript(variables.fill(script.text), environment | own, script.timeout_s)

        return {phase: filled(script) for phase, script in recipe.scripts.items()}
