"""What many tests share: naming what a test needs, and finding it.

With CI=true a missing component is a failure, because nothing may go unnoticed there; elsewhere the test is skipped and
says what to install. The one exception is what no CI machine can have (`NEVER_IN_CI`).
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]  # of the checkout

# Beginnings of skip reasons that are accepted with CI=true, each with why it cannot be there.
NEVER_IN_CI = ("v4l2loopback",)  # a kernel module; shared CI machines do not load modules


def in_ci() -> bool:
    """Whether this run must leave nothing out."""
    return os.environ.get("CI") == "true"


def require(condition: object, what_is_missing: str, remedy: str) -> None:
    """Go on when `condition` holds; else skip, or fail with CI=true, naming what is missing and the remedy."""
    if condition:
        return
    reason = f"{what_is_missing} is missing: {remedy}"
    if in_ci() and not what_is_missing.startswith(NEVER_IN_CI):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def real_data(name: str) -> Path:
    """Return the folder `name` (xsdd, magtile) of real defect images under KENSA_DATA; see `require`."""
    given = os.environ.get("KENSA_DATA", "")
    folder = Path(given) / name
    require(
        given and (folder / "manifest.csv").is_file(),
        f"the folder {name} of real images",
        f"set KENSA_DATA to the folder that holds {name}/manifest.csv (now {given or 'not set'})",
    )
    return folder
