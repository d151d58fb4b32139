"""Checks that the version of Python is one that Kensa is tested on."""

from __future__ import annotations

import platform
import sys
from typing import Final

import agent
from agent.commands.doctor.check_result import CheckResult, ok, warn

_OLDEST: Final = (3, 11)
_NEWEST: Final = (3, 13)


def run_check() -> CheckResult:
    """Return the version of Python and of Kensa."""
    seen = f"{platform.python_version()}, kensa {agent.__version__}"
    if not _OLDEST <= sys.version_info[:2] <= _NEWEST:
        return warn("python", seen, "Kensa is tested on Python 3.11 to 3.13: use one of them")
    return ok("python", seen)
