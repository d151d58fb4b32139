"""`python -m greengrass.packaging inspector|model|check`: command line of scripts/build-component."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Final

from agent import __version__
from agent.errors import KensaError, UsageError
from greengrass.packaging import checks, contents, recipe, size_report
from greengrass.packaging.build import INSPECTOR, MODEL, BuildPlan, BuildResult, build
from greengrass.packaging.lock import ARCHITECTURES, PYTHONS, BuildTarget
from greengrass.packaging.recipe import RECIPES, ROOT

_VERSION: Final = re.compile(r"\d+\.\d+\.\d+")


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/build-component", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("check", help="check recipes, GDK projects and policies")
    inspector = commands.add_parser("inspector", help="com.kensa.Inspector: the agent, in the version of this checkout")
    inspector.add_argument("--release", type=Path, default=ROOT / "releases" / "default", help="the factory release")
    inspector.add_argument("--root", type=Path, help="the release repository's metadata/1.root.json")
    inspector.add_argument("--defaults", type=Path, help="YAML over top-level keys of DefaultConfiguration")
    model = commands.add_parser("model", help="com.kensa.Model: one signed release")
    model.add_argument("--repository", type=Path, help="the release repository, a folder")
    model.add_argument("--site")
    model.add_argument("--release", metavar="NAME/VERSION")
    model.add_argument("--inspection", default="main", help="inspection that runs it (default: main)")
    for command in (inspector, model):
        command.add_argument("--version", help="of the component (default: the code's, or the release's)")
        command.add_argument(
            "--arch", action="append", choices=list(ARCHITECTURES), help="may be repeated; default: all"
        )
        command.add_argument("--python", action="append", choices=PYTHONS, help="may be repeated; default: all")
        command.add_argument("--out", type=Path, default=Path("build/components"))
        command.add_argument(
            "--bucket", help="S3 bucket of the artifacts; default: filled in by scripts/deploy or the GDK"
        )
        command.add_argument("--gdk", action="store_true", help="write where `gdk component publish` reads")
        command.add_argument("--report", action="store_true", help="print the size of each package")
    return parser.parse_args(argv)


def _inspector(arguments: argparse.Namespace, targets: tuple[BuildTarget, ...]) -> BuildPlan:
    entries = contents.factory_release(arguments.release)
    if arguments.root is not None:
        entries.append(contents.trust_anchor(arguments.root))
    defaults: object = {}
    if arguments.defaults is not None:
        defaults = recipe.load_yaml(arguments.defaults.read_text(encoding="utf-8"), source=str(arguments.defaults))
    if not isinstance(defaults, dict):
        raise UsageError(f"{arguments.defaults}: expected a mapping of keys")
    return BuildPlan(INSPECTOR, arguments.version or __version__, tuple(entries), targets, configuration=defaults)


def _model(arguments: argparse.Namespace, targets: tuple[BuildTarget, ...]) -> BuildPlan:
    if arguments.repository is None or arguments.site is None or arguments.release is None:
        raise UsageError("give --repository, --site and --release NAME/VERSION")
    now = dt.datetime.now(dt.UTC)
    entries = contents.signed_release(arguments.repository, site=arguments.site, release_id=arguments.release, now=now)
    source = RECIPES / f"{MODEL.name}.yaml"
    tree = recipe.parse(
        source.read_text(encoding="utf-8"), source=source.name, defaults=checks.DEFAULTS_CHECKS[MODEL.name]
    )
    defaults = json.dumps(tree.ComponentConfiguration.DefaultConfiguration)
    configuration = json.loads(defaults.replace("kensa/model/main", f"kensa/model/{arguments.inspection}"))
    configuration |= {"inspection": arguments.inspection, "release": arguments.release}
    version = arguments.version or arguments.release.partition("/")[2]
    return BuildPlan(MODEL, version, tuple(entries), targets, configuration=configuration)


def _print(built: BuildResult, out: Path, *, sizes: bool) -> None:
    for path in (built.recipe, *built.artifacts, built.sbom, built.digests):
        print(f"{path.stat().st_size:>12,}  {path.relative_to(out)}")
    if sizes:
        print(size_report.table([path for path in built.artifacts if path.suffix == ".zip"]))


def _build(arguments: argparse.Namespace) -> int:
    targets = tuple(
        BuildTarget(machine, python)
        for machine in ARCHITECTURES
        for python in PYTHONS
        if machine in (arguments.arch or ARCHITECTURES) and python in (arguments.python or PYTHONS)
    )
    plan = {"inspector": _inspector, "model": _model}[arguments.command](arguments, targets)
    if not _VERSION.fullmatch(plan.version):
        raise UsageError(
            f"version {plan.version!r}: a component's version is three numbers, such as 1.2.0; give --version"
        )
    out: Path = arguments.out.absolute()
    recipe_name = None
    if arguments.gdk:
        out, recipe_name = ROOT / "greengrass" / plan.kind.name / "greengrass-build", "recipe.yaml"
    plan = replace(plan, bucket=arguments.bucket, recipe_name=recipe_name)
    built = build(plan, out, on_progress=lambda text: print(text, file=sys.stderr))
    _print(built, out, sizes=arguments.report)
    return 0


def _check() -> int:
    faults = checks.find_problems()
    for fault in faults:
        print(fault)
    return 1 if faults else 0


def main(argv: list[str]) -> int:
    """Run one command; return 0 when done, 1 when a check failed, else the error's exit code."""
    arguments = _arguments(argv)
    try:
        return _check() if arguments.command == "check" else _build(arguments)
    except KensaError as error:
        print(f"kensa: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
