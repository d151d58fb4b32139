"""Component recipes as the two nuclei read them: YAML or JSON, manifest of this machine, variables.

Each nucleus has its ways, which a component that works on both must survive: on lite a YAML scalar is text whatever it
looks like, `Platform.runtime` must be `"*"`, lifecycle keys have one spelling, and every `{...}` of a script is a
variable; classic leaves alone what it does not know.
"""

from __future__ import annotations

import json
import platform
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

import yaml

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

FORMAT: Final = "2020-01-25"
MAX_RECIPE_BYTES: Final = 16_000
SCRIPT_TIMEOUT_S: Final = 120.0
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "aarch64"}
_PHASES: Final = ("bootstrap", "install", "startup", "run", "shutdown", "recover")
_VARIABLE: Final = re.compile(r"\{([^{}]*)\}")
_CLASSIC_VARIABLE: Final = re.compile(r"\{((?:[\w.-]+:)?(?:work|artifacts|configuration|iot|kernel):[^{}\s]*)\}")


class RecipeError(Exception):
    """The recipe cannot be deployed; the text says why."""


@dataclass(frozen=True, slots=True)
class LifecycleScript:
    """One lifecycle step, variables not filled in."""

    text: str
    environment: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float = SCRIPT_TIMEOUT_S


@dataclass(frozen=True, slots=True)
class RecipeArtifact:
    """One file that comes along; `unarchive` says whether the nucleus unpacks it."""

    name: str
    unarchive: bool


@dataclass(frozen=True, slots=True)
class ComponentDependency:
    """Another component that must be there; HARD ones restart their dependents."""

    name: str
    hard: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One version of one component, for this machine."""

    name: str
    version: str
    configuration: Mapping[str, Any]  # the default
    dependencies: tuple[ComponentDependency, ...]
    scripts: Mapping[str, LifecycleScript]  # by lifecycle phase
    artifacts: tuple[RecipeArtifact, ...]


def read_recipe(path: Path, *, lite: bool) -> Recipe:
    """Read the recipe at `path` as the nucleus does. Raises RecipeError."""
    raw = path.read_bytes()
    if len(raw) > MAX_RECIPE_BYTES:
        raise RecipeError(f"{path.name} has {len(raw)} bytes: at most {MAX_RECIPE_BYTES}")
    return parse_recipe(parse_tree(raw, is_json=path.suffix == ".json", lite=lite), lite=lite)


def parse_tree(raw: bytes, *, is_json: bool, lite: bool) -> dict[str, Any]:
    """Return the recipe's tree: lite takes every YAML scalar as text, JSON keeps its types. Raises RecipeError."""
    try:
        loader = yaml.BaseLoader if lite else yaml.SafeLoader
        content = json.loads(raw) if is_json else yaml.load(raw, loader)  # noqa: S506 - both loaders are safe ones
    except (ValueError, yaml.YAMLError) as error:
        raise RecipeError(f"the recipe cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise RecipeError("the recipe is not a map")
    return content


def parse_recipe(content: Mapping[str, Any], *, lite: bool) -> Recipe:
    """Return what the nucleus makes of a recipe's tree. Raises RecipeError."""
    name, version = content.get("ComponentName"), str(content.get("ComponentVersion"))
    if str(content.get("RecipeFormatVersion")) != FORMAT:
        raise RecipeError(f"RecipeFormatVersion must be {FORMAT!r}")
    if not isinstance(name, str) or re.fullmatch(r"\d+\.\d+\.\d+\S*", version) is None:
        raise RecipeError(f"ComponentName and ComponentVersion (x.y.z) are needed, they are {name!r} and {version!r}")
    manifest = next((each for each in content.get("Manifests", []) if _fits(each.get("Platform"), lite=lite)), None)
    if manifest is None:
        raise RecipeError(f"{name} {version} has no manifest for this machine")
    lifecycle = manifest.get("Lifecycle") or {}
    scripts = {}
    for phase in _PHASES:
        step = _get_member(lifecycle, phase, lite=lite)
        if step is not None:
            scripts[phase] = _script(step, _get_member(lifecycle, "Setenv", lite=lite) or {}, lite=lite)
    defaults = (content.get("ComponentConfiguration") or {}).get("DefaultConfiguration") or {}
    return Recipe(
        name=name,
        version=version,
        configuration=defaults,
        dependencies=tuple(
            ComponentDependency(other, hard=(about or {}).get("DependencyType", "HARD") == "HARD")
            for other, about in (content.get("ComponentDependencies") or {}).items()
        ),
        scripts=scripts,
        artifacts=tuple(
            RecipeArtifact(each["Uri"].rsplit("/", 1)[-1], each.get("Unarchive", "NONE") == "ZIP")
            for each in manifest.get("Artifacts") or ()
        ),
    )


def _fits(wanted: Any, *, lite: bool) -> bool:
    wanted = wanted or {}
    if not lite and wanted.get("runtime", "*") != "*":
        return False
    if lite and wanted.get("runtime") not in ("*", "aws_nucleus_lite"):
        return False
    machine = _ARCHITECTURES.get(platform.machine(), platform.machine())
    return wanted.get("os", "*") in ("linux", "*", "all") and wanted.get("architecture", "*") in (machine, "*")


def _get_member(section: Mapping[str, Any], name: str, *, lite: bool) -> Any:
    """Return `section[name]`; classic does not care for capitals."""
    if lite:
        return section.get(name)
    return next((value for key, value in section.items() if key.lower() == name.lower()), None)


def _script(step: Any, environment: Mapping[str, Any], *, lite: bool) -> LifecycleScript:
    if isinstance(step, str):
        return LifecycleScript(step, {key: str(value) for key, value in environment.items()})
    text = _get_member(step, "Script", lite=lite)
    if not isinstance(text, str):
        raise RecipeError("a lifecycle step needs a Script")
    merged = {**environment, **(_get_member(step, "Setenv", lite=lite) or {})}
    timeout = _get_member(step, "Timeout", lite=lite)
    return LifecycleScript(
        text,
        {key: str(value) for key, value in merged.items()},
        SCRIPT_TIMEOUT_S if timeout is None else float(timeout),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeVariables:
    """What `{...}` in a script stands for."""

    mode: Literal["lite", "classic"]
    root: Path
    component: str
    version: str
    thing: str
    version_of: Callable[[str], str]  # of another component
    configuration: Callable[[str, str], Any]  # value by component and JSON pointer, None where there is none

    def fill(self, text: str) -> str:
        """Return `text` with its variables filled in. Raises RecipeError for those that lite does not know."""
        if self.mode == "lite":
            return _VARIABLE.sub(lambda match: self._lite(match[1]), text)
        return _CLASSIC_VARIABLE.sub(self._classic, text)

    def _lite(self, variable: str) -> str:
        value = self._value(variable, self.component, slash="/")
        if value is None:
            raise RecipeError(f"{{{variable}}} is no recipe variable of the lite nucleus")
        return value

    def _classic(self, match: re.Match[str]) -> str:
        parts = match[1].split(":")
        own = parts[0] in ("work", "artifacts", "configuration", "iot", "kernel")
        value = self._value(":".join(parts if own else parts[1:]), self.component if own else parts[0], slash="")
        return match[0] if value is None else value

    def _value(self, variable: str, component: str, *, slash: str) -> str | None:
        kind, _, rest = variable.partition(":")
        if kind == "configuration":
            value = self.configuration(component, rest)
            return value if isinstance(value, str) or value is None else json.dumps(value, separators=(",", ":"))
        version = self.version if component == self.component else self.version_of(component)
        known = {
            "kernel:rootPath": str(self.root),
            "iot:thingName": self.thing,
            "work:path": f"{self.root}/work/{component}{slash}",  # lite's paths end with a slash
            "artifacts:path": f"{self.root}/packages/artifacts/{component}/{version}{slash}",
            "artifacts:decompressedPath": f"{self.root}/packages/artifacts-unarchived/{component}/{version}{slash}",
        }
        return known.get(variable)
