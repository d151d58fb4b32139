"""The document of a deployment, its component store, and its result."""

from __future__ import annotations

import shutil
import zipfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, Self

import yaml

from simulator.nucleus.deployments import recipe as recipes
from simulator.nucleus.deployments.recipe import Recipe, RecipeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

DeploymentStatus = Literal["SUCCEEDED", "FAILED", "FAILED_NO_STATE_CHANGE", "FAILED_ROLLBACK_COMPLETE"]
NUCLEUS_PREFIX: Final = "aws.greengrass."  # components of this name are part of the nucleus here


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """One deployment document.

    `components` are all that shall run, by name with version (a local deployment only adds); `configuration_update` has
    for each name a `merge` tree and a list `reset` of JSON pointers. Time-outs are in seconds, as in the document.
    """

    components: Mapping[str, str]
    configuration_update: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    remove: tuple[str, ...] = ()  # by a local deployment
    local: bool = False  # made on the device: nothing is asked and lite unpacks no archive
    notify: bool = True  # componentUpdatePolicy NOTIFY_COMPONENTS (classic)
    notify_s: float = 60.0
    validate_s: float = 30.0  # configurationValidationPolicy (classic)
    rollback: bool = True  # failureHandlingPolicy ROLLBACK (classic; lite has none)

    def merge_of(self, component: str) -> Any:
        """Return the tree to merge, an empty one where there is none."""
        return self.configuration_update.get(component, {}).get("merge") or {}

    def resets_of(self, component: str) -> list[tuple[str, ...]]:
        """Return the paths to reset; JSON pointers, of which "" means everything."""
        pointers = self.configuration_update.get(component, {}).get("reset") or []
        return [tuple(part for part in pointer.split("/") if part) for pointer in pointers]


@dataclass(frozen=True, slots=True)
class DeploymentResult:
    """What came of a deployment; `reason` is empty after success."""

    deployment_id: str
    status: DeploymentStatus
    reason: str = ""

    @property
    def succeeded(self) -> bool:
        """Whether everything runs as wished."""
        return self.status == "SUCCEEDED"


@dataclass(frozen=True, slots=True)
class ComponentStore:
    """Where recipes (`*.yaml`, `*.json`) and artifacts (`NAME/VERSION/FILE`) lie."""

    recipes: Path
    artifacts: Path

    @classmethod
    def of(cls, folder: Path) -> Self:
        """Return what scripts/build-component writes: `recipes` and `artifacts` in one folder."""
        return cls(folder / "recipes", folder / "artifacts")

    def recipe(self, name: str, version: str, *, lite: bool) -> Recipe:
        """Return one recipe. Raises RecipeError when it is not there or cannot be deployed."""
        for path in self._recipes():
            content = yaml.load(path.read_bytes(), yaml.BaseLoader)  # noqa: S506 - a safe one; JSON is YAML
            if content.get("ComponentName") == name and content.get("ComponentVersion") == version:
                return recipes.read_recipe(path, lite=lite)
        raise RecipeError(f"{self.recipes} has no recipe of {name} {version}")

    def newest(self, name: str) -> str:
        """Return the newest version of a component, for one that is only a dependency. Raises RecipeError."""
        versions: list[str] = []
        for path in self._recipes():
            content = yaml.load(path.read_bytes(), yaml.BaseLoader)  # noqa: S506 - see above
            if content.get("ComponentName") == name:
                versions.append(content["ComponentVersion"])
        if not versions:
            raise RecipeError(f"{self.recipes} has no recipe of {name}")
        return max(versions, key=lambda version: [int(part) for part in version.split("-")[0].split(".")])

    def copy_artifacts(self, recipe: Recipe, root: Path, *, unpack: bool) -> None:
        """Bring the files of a component to the nucleus's folders, as it downloads them. Raises RecipeError."""
        target = root / "packages" / "artifacts" / recipe.name / recipe.version
        target.mkdir(parents=True, exist_ok=True)
        for artifact in recipe.artifacts:
            source = self.artifacts / recipe.name / recipe.version / artifact.name
            if not source.is_file():
                raise RecipeError(f"{recipe.name} {recipe.version}: no artifact {source}")
            shutil.copyfile(source, target / artifact.name)
            if artifact.unarchive and unpack:
                self._unpack(source, root, recipe)

    @staticmethod
    def _unpack(archive: Path, root: Path, recipe: Recipe) -> None:
        folder = root / "packages" / "artifacts-unarchived" / recipe.name / recipe.version / archive.stem
        shutil.rmtree(folder, ignore_errors=True)
        try:
            with zipfile.ZipFile(archive) as opened:
                opened.extractall(folder)
        except zipfile.BadZipFile as error:
            raise RecipeError(f"{recipe.name} {recipe.version}: {archive.name} cannot be unpacked: {error}") from error

    def _recipes(self) -> Iterable[Path]:
        if not self.recipes.is_dir():
            raise RecipeError(f"there is no folder of recipes {self.recipes}")
        return sorted(path for path in self.recipes.iterdir() if path.suffix in (".yaml", ".yml", ".json"))


def remove_artifacts(root: Path, name: str, *, but: str | None) -> None:
    """Delete what was downloaded for every version of `name` but one."""
    for kind in ("artifacts", "artifacts-unarchived"):
        folder = root / "packages" / kind / name
        for version in folder.iterdir() if folder.is_dir() else ():
            if version.name != but:
                shutil.rmtree(version, ignore_errors=True)


def dependency_order(recipes_by_name: Mapping[str, Recipe]) -> list[Recipe]:
    """Return the recipes with dependencies before their dependents. Raises RecipeError for a circle."""
    ordered: list[Recipe] = []
    under_way: set[str] = set()

    def place(recipe: Recipe) -> None:
        if recipe in ordered:
            return
        if recipe.name in under_way:
            raise RecipeError(f"{recipe.name} depends on itself")
        under_way.add(recipe.name)
        for dependency in recipe.dependencies:
            if (other := recipes_by_name.get(dependency.name)) is not None:
                place(other)
        ordered.append(recipe)

    for recipe in recipes_by_name.values():
        place(recipe)
    return ordered
