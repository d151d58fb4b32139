"""Checks that recipes, GDK projects and policies agree with each other and with the agent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agent import __version__
from agent.errors import ConfigError
from greengrass.deployment import component_config
from greengrass.model_component import read_model_config
from greengrass.packaging import recipe
from greengrass.packaging.recipe import RECIPES, ROOT
from greengrass.release_sources.release_hints import hint_topic, status_topic

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_PROJECTS: Final = ROOT / "greengrass"
_POLICIES: Final = RECIPES / "policies"
# Of the data plane of core devices; AWS IoT has no narrower resource for them.
_WITHOUT_RESOURCE: Final = frozenset(
    f"greengrass:{action}"
    for action in (
        "GetComponentVersionArtifact",
        "GetDeploymentConfiguration",
        "ListThingGroupsForCoreDevice",
        "ResolveComponentCandidates",
    )
)


def check_inspector_defaults(tree: dict[str, Any]) -> None:
    """Parse DefaultConfiguration as the component does. Raises ConfigError."""
    component_config.read(tree, thing="thing", work=Path("/work"), base=Path("/work/version"))


def check_model_defaults(tree: dict[str, Any]) -> None:
    """Parse DefaultConfiguration as the component does, and check the topics. Raises ConfigError."""
    inspection = read_model_config(tree).inspection
    policies = tree.get("accessControl", {}).get("aws.greengrass.ipc.pubsub", {}).values()
    topics = {resource for policy in policies for resource in policy["resources"]}
    if topics != (required := {hint_topic(inspection), status_topic(inspection)}):
        raise ConfigError(f"accessControl: must name {', '.join(sorted(required))}")


DEFAULTS_CHECKS: Final[Mapping[str, Callable[[dict[str, Any]], None]]] = {
    "com.kensa.Inspector": check_inspector_defaults,
    "com.kensa.Model": check_model_defaults,
}


def find_problems() -> list[str]:
    """Return all problems, a line each; empty when there are none."""
    found: list[str] = []
    for name, defaults in DEFAULTS_CHECKS.items():
        path = RECIPES / f"{name}.yaml"
        try:
            recipe.parse(path.read_text(encoding="utf-8"), source=str(path.relative_to(ROOT)), defaults=defaults)
        except recipe.RecipeError as error:
            found.append(str(error))
        found += _project_problems(name, path)
    for path in sorted(_POLICIES.glob("*.json")):
        found += [f"{path.relative_to(ROOT)}: {fault}" for fault in policy_problems(json.loads(path.read_bytes()))]
    return found


def _project_problems(name: str, source: Path) -> list[str]:
    project = _PROJECTS / name
    linked = project / "recipe.yaml"
    found = []
    if linked.resolve() != source:
        found.append(f"{linked.relative_to(ROOT)}: must be a link to recipes/{name}.yaml")
    settings = json.loads((project / "gdk-config.json").read_bytes())["component"][name]
    if name == "com.kensa.Inspector" and settings["version"] != __version__:
        found.append(f"greengrass/{name}/gdk-config.json: version {settings['version']}, the code has {__version__}")
    return found


def policy_problems(document: Mapping[str, Any]) -> list[str]:
    """Return the actions and resources of an IAM or IoT policy that are too wide."""
    found = []
    for statement in document["Statement"]:
        where = statement.get("Sid", "a statement")
        actions, resources = (_several(statement.get(key, [])) for key in ("Action", "Resource"))
        found += [f"{where}.Action: {action} is too wide" for action in actions if "*" in action]
        if "*" in resources and not set(actions) <= _WITHOUT_RESOURCE:
            found.append(f"{where}.Resource: * is too wide")
    return found


def _several(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value
