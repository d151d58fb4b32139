"""Finds the locked packages that a component imports, by loading its modules in a new interpreter.

Packages that a device imports on demand (boto3, psutil) are imported by name. Runs where the packages are installed,
with scripts/build-component's own interpreter.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from typing import TYPE_CHECKING, Final

from packaging.utils import canonicalize_name

from greengrass.packaging.build import LOCK
from greengrass.packaging.lock import BuildTarget, PackagingError, read_pins
from greengrass.packaging.recipe import ROOT

if TYPE_CHECKING:
    from greengrass.packaging.build import ComponentKind

_TIMEOUT_S: Final = 120.0
_PROLOGUE: Final = """
import importlib, json, pkgutil, sys
from importlib.metadata import packages_distributions
"""
_IMPORT_ALL: Final = """
import agent, greengrass
for package in (agent, greengrass):
    for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not found.name.endswith("__main__") and ".packaging" not in found.name:
            importlib.import_module(found.name)
import boto3, psutil
boto3.client("s3", region_name="eu-central-1", aws_access_key_id="x", aws_secret_access_key="x")
"""
_EPILOGUE: Final = """
known = packages_distributions()
loaded = {name.partition(".")[0] for name, module in sys.modules.items() if getattr(module, "__file__", None)}
print(json.dumps(sorted({d for name in loaded for d in known.get(name, [])})))
"""


def imported_packages(kind: ComponentKind) -> set[str]:
    """Return the canonical names of the locked packages that `kind` loads modules of. Raises PackagingError."""
    middle = _IMPORT_ALL if kind.packages is None else "".join(f"import {name}\n" for name in kind.imports)
    ended = subprocess.run(
        [sys.executable, "-c", _PROLOGUE + middle + _EPILOGUE],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=_TIMEOUT_S,
    )
    if ended.returncode:
        raise PackagingError(f"{kind.name} cannot be imported here: {ended.stderr.strip()[-500:]}")
    here = BuildTarget(platform.machine(), f"{sys.version_info.major}.{sys.version_info.minor}")
    locked = {pin.name for pin in read_pins(LOCK, here)}
    return {str(canonicalize_name(name)) for name in json.loads(ended.stdout.splitlines()[-1])} & locked
