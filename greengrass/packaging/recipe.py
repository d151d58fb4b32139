"""Parses and renders component recipes, with a schema that is stricter than the cloud's.

The cloud accepts misspelt keys, policies that are too wide, and scripts that one of the two nuclei cannot run; all of
them are refused here, with the path of the key. Limits and quirks were measured on nucleus lite 2.6.0 or read in the
source of the classic nucleus: a recipe that passes means the same on both.

Promise: `parse` returns the parsed recipe or raises RecipeError with every problem that it found; it does no I/O.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

import yaml
from pydantic import ConfigDict, Field, StringConstraints, ValidationError, model_validator

from agent.errors import OperatorError
from agent.strict import Strict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

ROOT: Final = Path(__file__).resolve().parents[2]
RECIPES: Final = ROOT / "recipes"
MAX_BYTES: Final = 16_000
MAX_TEXT_BYTES: Final = 1_022  # of one value on nucleus lite
MAX_KEYS: Final = 99  # of one map on nucleus lite
MAX_DEPTH: Final = 11
VERSION_PLACEHOLDER: Final = "{COMPONENT_VERSION}"  # the GDK's placeholder
ARTIFACT_BASE: Final = "s3://BUCKET_NAME/COMPONENT_NAME/COMPONENT_VERSION/"
VARIABLES: Final = frozenset({"artifacts:path", "work:path"})  # known to both nuclei, and sufficient for our scripts
_VARIABLE: Final = re.compile(r"\{([^}]*)\}?")
_THING: Final = "{iot:thingName}"

# Operations that we use of each service, and whether `+` stands for one level of a topic there.
_SERVICES: Final[Mapping[str, tuple[frozenset[str], bool]]] = {
    "aws.greengrass.ipc.mqttproxy": (
        frozenset({"aws.greengrass#PublishToIoTCore", "aws.greengrass#SubscribeToIoTCore"}),
        True,
    ),
    "aws.greengrass.ipc.pubsub": (
        frozenset({"aws.greengrass#PublishToTopic", "aws.greengrass#SubscribeToTopic"}),
        False,
    ),
    "aws.greengrass.ShadowManager": (
        frozenset({"aws.greengrass#GetThingShadow", "aws.greengrass#UpdateThingShadow"}),
        False,
    ),
}


class RecipeError(OperatorError):
    """A recipe is refused; the text gives each key's path and the allowed values."""


class _RecipeModel(Strict):
    model_config = ConfigDict(strict=True)


class Platform(_RecipeModel):
    """One of the two platforms with wheels. Without `runtime` nucleus lite ignores the manifest."""

    os: Literal["linux"]
    architecture: Literal["amd64", "aarch64"]
    runtime: Literal["*"]


def _is_plain(script: str) -> None:
    """Raise ValueError for a script that one of the two nuclei would run differently."""
    if "${" in script:
        raise ValueError("`${...}` is a recipe variable to nucleus lite; write $NAME, or put the logic into a file")
    for match in _VARIABLE.finditer(script):
        if match[1] not in VARIABLES:
            known = ", ".join(f"{{{name}}}" for name in sorted(VARIABLES))
            raise ValueError(
                f"{match[0]} is no recipe variable that a script here may use; allowed: {known}. A "
                "{configuration:...} would make every change of the configuration a restart"
            )
    if "\n" in script.strip():
        raise ValueError("is more than one line; put logic into a file among the artifacts")


class Step(_RecipeModel):
    """A script of the lifecycle; it never runs with privileges."""

    Script: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    Timeout: Annotated[int, Field(ge=1, le=3_600)]  # s

    @model_validator(mode="after")
    def _script_is_plain(self) -> Self:
        _is_plain(self.Script)
        return self


class Lifecycle(_RecipeModel):
    """The steps that both nuclei know, in the lower case that nucleus lite requires."""

    install: Step
    startup: Step


class Artifact(_RecipeModel):
    """A file of the version. The nucleus does not unpack it: lite does not in local deployments."""

    Uri: Annotated[str, StringConstraints(pattern=r"^s3://[A-Za-z0-9._-]+/[A-Za-z0-9._/-]+$")]
    Unarchive: Literal["NONE"]


class Manifest(_RecipeModel):
    """Steps and artifacts of one platform."""

    Name: str
    Platform: Platform
    Lifecycle: Lifecycle
    Artifacts: Annotated[tuple[Artifact, ...], Field(min_length=2, strict=False)]


class Dependency(_RecipeModel):
    """A SOFT dependency: a HARD one restarts this component when the other one changes."""

    VersionRequirement: str
    DependencyType: Literal["SOFT"]


class ComponentConfiguration(_RecipeModel):
    """The configuration that a deployment merges into."""

    DefaultConfiguration: dict[str, Any]


class Recipe(_RecipeModel):
    """A component version, as Greengrass reads it."""

    RecipeFormatVersion: Literal["2020-01-25"]
    ComponentName: Annotated[str, StringConstraints(pattern=r"^com\.kensa\.[A-Z][A-Za-z0-9]*$")]
    ComponentVersion: Annotated[str, StringConstraints(pattern=r"^(\d+\.\d+\.\d+|\{COMPONENT_VERSION\})$")]
    ComponentType: Literal["aws.greengrass.generic"]
    ComponentDescription: Annotated[str, StringConstraints(max_length=256)]
    ComponentPublisher: str
    ComponentConfiguration: ComponentConfiguration
    ComponentDependencies: dict[str, Dependency]
    Manifests: Annotated[tuple[Manifest, ...], Field(min_length=1, strict=False)]

    def artifacts(self) -> list[str]:
        """Return the file names of all manifests, each once."""
        return sorted(
            {artifact.Uri.rpartition("/")[2] for manifest in self.Manifests for artifact in manifest.Artifacts}
        )


def parse(text: str, *, source: str, defaults: Callable[[dict[str, Any]], object]) -> Recipe:
    """Parse and check a recipe. `defaults` receives DefaultConfiguration and raises KensaError if it does not parse.

    Raises RecipeError.
    """
    tree = load_yaml(text, source=source)
    faults = (
        [] if len(text.encode()) <= MAX_BYTES else [f"has {len(text.encode())} bytes, at most {MAX_BYTES} are accepted"]
    )
    try:
        recipe = Recipe.model_validate(tree)
    except ValidationError as error:
        faults += [_explain(problem) for problem in error.errors()]
        raise _recipe_error(source, faults) from error
    configuration = recipe.ComponentConfiguration.DefaultConfiguration
    faults += _configuration_problems(configuration)
    faults += _policy_problems(recipe.ComponentName, configuration.get("accessControl", {}))
    faults += _manifest_problems(recipe)
    if not faults:
        try:
            defaults(configuration)
        except OperatorError as error:
            faults.append(f"ComponentConfiguration.DefaultConfiguration: {error}")
    if faults:
        raise _recipe_error(source, faults)
    return recipe


def load_yaml(text: str, *, source: str) -> object:
    """Parse YAML, and refuse a key given twice: the second would silently win. Raises RecipeError."""
    try:
        waiting = [yaml.compose(text, Loader=yaml.SafeLoader)]
        while waiting:
            node = waiting.pop()
            if isinstance(node, yaml.MappingNode):
                keys = [key.value for key, _ in node.value]
                if twice := {key for key in keys if keys.count(key) > 1}:
                    raise RecipeError(f"{source}: {', '.join(sorted(twice))}: given twice")
                waiting += [value for _, value in node.value]
            elif isinstance(node, yaml.SequenceNode):
                waiting += node.value
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"{source} is not valid YAML: {error}") from error


def render(
    recipe: Recipe,
    *,
    version: str,
    artifacts: Mapping[str, Sequence[str]],
    configuration: Mapping[str, Any],
    bucket: str | None,
) -> str:
    """Return the recipe of one version as YAML. `artifacts`: architecture -> files; other platforms are dropped.

    `configuration` replaces top-level keys of DefaultConfiguration. Without a bucket the GDK's BUCKET_NAME remains for
    `gdk component publish` or scripts/deploy.
    """
    tree = recipe.model_dump(mode="json")
    tree["ComponentVersion"] = version
    tree["ComponentConfiguration"]["DefaultConfiguration"] |= configuration
    base = ARTIFACT_BASE.replace("COMPONENT_NAME", recipe.ComponentName).replace("COMPONENT_VERSION", version)
    if bucket is not None:
        base = base.replace("BUCKET_NAME", bucket)
    tree["Manifests"] = [
        {**manifest, "Artifacts": [{"Uri": base + name, "Unarchive": "NONE"} for name in artifacts[architecture]]}
        for manifest in tree["Manifests"]
        if (architecture := manifest["Platform"]["architecture"]) in artifacts
    ]
    return yaml.safe_dump(tree, sort_keys=False, width=1_000, allow_unicode=True)


# --- problems ---------------------------------------------------------------------------------------------------------


def _recipe_error(source: str, faults: Sequence[str]) -> RecipeError:
    return RecipeError(f"{source} is refused:\n" + "\n".join(f"  {fault}" for fault in faults))


def _explain(problem: Any) -> str:
    path = ".".join(map(str, problem["loc"])) or "(whole recipe)"
    if problem["type"] == "extra_forbidden":
        return f"{path}: unknown key"
    if problem["type"] == "missing":
        return f"{path}: is required"
    message = str(problem["msg"]).removeprefix("Value error, ")
    return (
        f"{path}: {message}"
        if problem["type"] == "value_error"
        else f"{path}: given {problem['input']!r:.80}; {message}"
    )


def _leaves(value: object, path: str = "DefaultConfiguration", depth: int = 1) -> Iterator[tuple[str, object, int]]:
    """Yield every value, maps included, with its path and its depth."""
    yield path, value, depth
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}", depth + 1)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{path}.{index}", depth + 1)


def _configuration_problems(configuration: dict[str, Any]) -> list[str]:
    faults = []
    for path, value, depth in _leaves(configuration):
        if depth > MAX_DEPTH:
            faults.append(f"{path}: nested deeper than {MAX_DEPTH} levels")
        elif isinstance(value, dict) and len(value) > MAX_KEYS:
            faults.append(f"{path}: {len(value)} keys; nucleus lite takes {MAX_KEYS}")
        elif isinstance(value, str) and len(value.encode()) > MAX_TEXT_BYTES:
            faults.append(f"{path}: {len(value.encode())} bytes; nucleus lite takes {MAX_TEXT_BYTES}")
        elif not isinstance(value, str | dict | list):
            faults.append(f'{path}: {value!r} must be text ("{value}"): lite delivers text, classic a number')
    return faults


def _policy_problems(component: str, access: object) -> list[str]:
    if not isinstance(access, dict):
        return ["accessControl: expected services"]
    faults = []
    for service, policies in access.items():
        if service not in _SERVICES:
            faults.append(f"accessControl.{service}: unknown service. Allowed: {', '.join(_SERVICES)}")
            continue
        for name, policy in policies.items():
            path = f"accessControl.{service}.{name}"
            if not re.fullmatch(rf"{re.escape(component)}:[a-z]+:\d+", name):
                faults.append(
                    f"{path}: must be named {component}:<service>:<number>; names are shared by all components"
                )
            faults += [f"{path}.{fault}" for fault in _one_policy(service, policy)]
    return faults


def _one_policy(service: str, policy: dict[str, Any]) -> Iterator[str]:
    operations, plus = _SERVICES[service]
    if unknown := policy.keys() - {"policyDescription", "operations", "resources"}:
        yield f"{', '.join(sorted(unknown))}: unknown key"
    for operation in policy.get("operations", []):
        if operation not in operations:
            yield f"operations: {operation} is not among {', '.join(sorted(operations))}"
    for key in ("operations", "resources"):
        if not policy.get(key):
            yield f"{key}: is required"
    yield from (fault for resource in policy.get("resources", []) for fault in _one_resource(resource, plus=plus))


def _one_resource(resource: str, *, plus: bool) -> Iterator[str]:
    levels = resource.replace(_THING, "thing").split("/")
    if "*" in resource or "#" in resource:
        yield f"resources: {resource}: name what is needed, no * and no #"
    elif any("+" in level and (level != "+" or not plus) for level in levels):
        yield f"resources: {resource}: + stands for one whole level of an MQTT topic only"
    elif "{" in "".join(levels):
        yield f"resources: {resource}: {_THING} is the only variable here"
    elif levels[0] not in {"kensa", "kensa-echo"} and levels[:2] != ["$aws", "things"]:
        yield f"resources: {resource}: must begin with kensa/, kensa-echo/ or $aws/things/"


def _manifest_problems(recipe: Recipe) -> list[str]:
    faults = []
    platforms = [manifest.Platform.architecture for manifest in recipe.Manifests]
    if len(set(platforms)) < len(platforms):
        faults.append("Manifests: a platform twice; the first would always win")
    for index, manifest in enumerate(recipe.Manifests):
        if manifest.Lifecycle != recipe.Manifests[0].Lifecycle:
            faults.append(
                f"Manifests.{index}.Lifecycle: differs from the first; the platforms differ in artifacts only"
            )
        names = [artifact.Uri.rpartition("/")[2] for artifact in manifest.Artifacts]
        if len(set(names)) < len(names):
            faults.append(f"Manifests.{index}.Artifacts: a file twice")
    return faults
