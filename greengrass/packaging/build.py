"""Builds a component version: archives for each kind of device, recipe, bill of materials, digests.

The result has the layout that `gdk component publish`, local deployments and scripts/deploy read:

    OUT/recipes/NAME-VERSION.yaml
    OUT/artifacts/NAME/VERSION/component.py kensa-ARCH-cpXY.zip ...
    OUT/NAME-VERSION.cdx.json  OUT/NAME-VERSION.sha256

Promise: the same checkout, lock and arguments make the same bytes.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agent import __version__
from agent.durable import sha256_of
from greengrass.packaging import archive, checks, recipe, sbom
from greengrass.packaging.archive import ArchiveEntry
from greengrass.packaging.lock import ARCHITECTURES, BuildTarget, PackagingError, component_pins
from greengrass.packaging.recipe import RECIPES, ROOT
from greengrass.packaging.wheels import Wheel, collect_wheels

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

LOCK: Final = ROOT / "requirements" / "greengrass.txt"
INSTALLER: Final = Path(__file__).with_name("component.py")


@dataclass(frozen=True, slots=True)
class ComponentKind:
    """A component of this project."""

    name: str
    packages: frozenset[str] | None  # of the lock; None: all that a device imports
    imports: tuple[str, ...]  # modules that must load after an installation


INSPECTOR: Final = ComponentKind(
    "com.kensa.Inspector",
    None,
    ("cv2", "onnxruntime", "tuf.ngclient", "boto3", "awsiot.greengrasscoreipc.clientv2", "agent.app"),
)
MODEL: Final = ComponentKind(
    "com.kensa.Model",
    frozenset(
        {
            "annotated-types",
            "awscrt",
            "awsiotsdk",
            "pydantic",
            "pydantic-core",
            "typing-extensions",
            "typing-inspection",
        }
    ),
    ("greengrass.model_component",),
)


@dataclass(frozen=True, slots=True)
class BuildPlan:
    """Description of a component version to build."""

    kind: ComponentKind
    version: str
    contents: tuple[ArchiveEntry, ...]  # of every archive, besides the wheels
    targets: tuple[BuildTarget, ...]
    configuration: Mapping[str, Any] = field(default_factory=dict)  # top-level keys over the recipe's
    bucket: str | None = None
    recipe_name: str | None = None  # file name; None: NAME-VERSION.yaml
    store: Path = ROOT / "build" / "wheels"


@dataclass(frozen=True, slots=True)
class BuildResult:
    """The files that were written."""

    recipe: Path
    artifacts: tuple[Path, ...]
    wheels: dict[str, list[Wheel]]  # by name of the archive
    sbom: Path
    digests: Path


def build_kensa_wheel(folder: Path) -> Wheel:
    """Build the device wheel of this checkout into `folder`. Raises PackagingError."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(int(sbom.BUILD_DATE.timestamp()))}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    built = list(folder.glob("kensa-*.whl"))
    if ended.returncode or len(built) != 1:
        raise PackagingError(f"hatchling could not build the wheel: {ended.stderr.strip()[-500:]}")
    return Wheel("kensa", __version__, built[0], sha256_of(built[0]))


def build(plan: BuildPlan, out: Path, *, on_progress: Callable[[str], None] = lambda _text: None) -> BuildResult:
    """Write the whole version below `out`. Raises PackagingError or RecipeError, before any recipe is written."""
    source = RECIPES / f"{plan.kind.name}.yaml"
    defaults = checks.DEFAULTS_CHECKS[plan.kind.name]
    parsed = recipe.parse(source.read_text(encoding="utf-8"), source=source.name, defaults=defaults)
    artifacts = out / "artifacts" / plan.kind.name / plan.version
    with tempfile.TemporaryDirectory(prefix="kensa-wheel-") as folder:
        own = build_kensa_wheel(Path(folder))
        wheels: dict[str, list[Wheel]] = {}
        for target in plan.targets:
            on_progress(f"{target.archive}: collecting wheels")
            wheels[target.archive] = [
                *collect_wheels(component_pins(LOCK, target, plan.kind.packages), target, plan.store),
                own,
            ]
            archive.write(artifacts / target.archive, _entries(plan, wheels[target.archive]))
        materials = sbom.render(
            component=plan.kind.name, version=plan.version, wheels=wheels, files=_digests_of(plan.contents)
        )
    (artifacts / "component.py").write_bytes(INSTALLER.read_bytes())
    written = [artifacts / "component.py", *(artifacts / target.archive for target in plan.targets)]
    by_architecture = {
        greengrass: ["component.py", *(target.archive for target in plan.targets if target.machine == machine)]
        for machine, greengrass in ARCHITECTURES.items()
        if any(target.machine == machine for target in plan.targets)
    }
    stem = f"{plan.kind.name}-{plan.version}"
    rendered = recipe.render(
        parsed, version=plan.version, artifacts=by_architecture, configuration=plan.configuration, bucket=plan.bucket
    )
    recipe.parse(rendered, source=stem, defaults=defaults)
    paths = out / "recipes" / (plan.recipe_name or f"{stem}.yaml"), out / f"{stem}.cdx.json", out / f"{stem}.sha256"
    paths[0].parent.mkdir(parents=True, exist_ok=True)
    paths[1].write_text(materials, encoding="utf-8")
    paths[0].write_text(rendered, encoding="utf-8")
    listed = sorted([*written, *paths[:2]])
    paths[2].write_text("".join(f"{sha256_of(path)}  {path.relative_to(out)}\n" for path in listed), encoding="utf-8")
    return BuildResult(paths[0], tuple(written), wheels, paths[1], paths[2])


def _entries(plan: BuildPlan, wheels: Sequence[Wheel]) -> list[ArchiveEntry]:
    pinned = "".join(f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256}\n" for wheel in wheels)
    return [
        *(ArchiveEntry(f"wheels/{wheel.path.name}", wheel.path.read_bytes()) for wheel in wheels),
        ArchiveEntry("requirements.txt", pinned.encode()),
        ArchiveEntry("imports.txt", "".join(f"{name}\n" for name in plan.kind.imports).encode()),
        *plan.contents,
    ]


def _digests_of(contents: Sequence[ArchiveEntry]) -> dict[str, str]:
    return {entry.name: hashlib.sha256(entry.content).hexdigest() for entry in contents}
