"""What scripts/check asks of recipes, GDK projects and policies: that they agree with each other and with the agent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agent import __version__
from agent.errors import ConfigError
from agent.wire import is_release_id
from greengrass import configuration
from greengrass.packaging import recipe
from greengrass.packaging.recipe import RECIPES, ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_PROJECTS: Final = ROOT / "greengrass"
_POLICIES: Final = RECIPES / "policies"


def inspector_defaults(tree: dict[str, Any]) -> None:
    """Parse DefaultConfiguration as the component does. Raises ConfigError."""
    configuration.read(tree, thing="thing", work=Path("/work"), base=Path("/work/version"))


def model_defaults(tree: dict[str, Any]) -> None:
    """Judge the model component's DefaultConfiguration. Raises ConfigError."""
    if unknown := tree.keys() - {"inspection", "release", "accessControl"}:
        raise ConfigError(f"{', '.join(sorted(unknown))}: unknown key")
    if missing := {"inspection", "release", "accessControl"} - tree.keys():
        raise ConfigError(f"{', '.join(sorted(missing))}: is required")
    if not is_release_id(tree["release"]):
        raise ConfigError(f"release: given {tree['release']!r}, expected name/version")
    policies = tree["accessControl"].get("aws.greengrass.ipc.pubsub", {}).values()
    topics = {resource for policy in policies for resource in policy["resources"]}
    wanted = {f"kensa/model/{tree['inspection']}", f"kensa/model/{tree['inspection']}/status"}
    if topics != wanted:
        raise ConfigError(f"accessControl: must name {', '.join(sorted(wanted))}")


DEFAULTS: Final[Mapping[str, Callable[[dict[str, Any]], None]]] = {
    "com.kensa.Inspector": inspector_defaults,
    "com.kensa.Model": model_defaults,
}


def faults() -> list[str]:
    """Everything that is wrong, a line each; empty when all is well."""
    found: list[str] = []
    for name, defaults in DEFAULTS.items():
        path = RECIPES / f"{name}.yaml"
        try:
            recipe.check(path.read_text(encoding="utf-8"), source=str(path.relative_to(ROOT)), defaults=defaults)
        except recipe.RecipeError as error:
            found.append(str(error))
        found += _project_faults(name, path)
    for path in sorted(_POLICIES.glob("*.json")):
        found += [f"{path.relative_to(ROOT)}: {fault}" for fault in policy_faults(json.loads(path.read_bytes()))]
    return found


def _project_faults(name: str, source: Path) -> list[str]:
    project = _PROJECTS / name
    linked = project / "recipe.yaml"
    found = []
    if linked.resolve() != source:
        found.append(f"{linked.relative_to(ROOT)}: must be a link to recipes/{name}.yaml")
    settings = json.loads((project / "gdk-config.json").read_bytes())["component"][name]
    if name == "com.kensa.Inspector" and settings["version"] != __version__:
        found.append(f"greengrass/{name}/gdk-config.json: version {settings['version']}, the code has {__version__}")
    return found


def policy_faults(document: Mapping[str, Any]) -> list[str]:
    """What is too wide in an IAM or IoT policy: every action and resource names what it is for."""
    found = []
    for statement in document["Statement"]:
        where = statement.get("Sid", "a statement")
        if statement["Effect"] != "Allow":
            continue
        for key in ("Action", "Resource"):
            values = statement.get(key, [])
            found += [
                f"{where}.{key}: {value} is too wide"
                for value in ([values] if isinstance(values, str) else values)
                if value == "*" or (key == "Action" and "*" in value) or value.endswith(":*")
            ]
    return found
