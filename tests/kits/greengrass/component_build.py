"""Components built from this checkout for the tests' own interpreter, with wheels in build/wheels."""

from __future__ import annotations

import platform
import sys
from typing import TYPE_CHECKING, Final

from greengrass.packaging import contents
from greengrass.packaging.build import INSPECTOR, MODEL, BuildPlan
from greengrass.packaging.lock import BuildTarget
from tests.kits.releases import write_release

if TYPE_CHECKING:
    from pathlib import Path

    from greengrass.packaging.archive import ArchiveEntry


HERE: Final = BuildTarget(platform.machine(), f"{sys.version_info.major}.{sys.version_info.minor}")
VERSION: Final = "7.8.9"


def inspector_plan(folder: Path, *targets: BuildTarget) -> BuildPlan:
    """com.kensa.Inspector with a small factory release, for this machine or for `targets`."""
    release = folder / "factory"
    if not release.exists():
        write_release(release)
    return BuildPlan(INSPECTOR, VERSION, tuple(contents.factory_release(release)), targets or (HERE,))


def model_plan(*entries: ArchiveEntry) -> BuildPlan:
    """com.kensa.Model for this machine; the smaller one."""
    return BuildPlan(MODEL, VERSION, entries, (HERE,), configuration={"release": "parts/7.8.9"})
