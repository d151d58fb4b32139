"""Checks that the libraries of the inspecting process are installed."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Final

from agent.commands.doctor.check_result import CheckResult, fail, ok

_LIBRARIES: Final = ("numpy", "onnxruntime", "opencv-python-headless", "paho-mqtt", "pydantic")


def run_check() -> CheckResult:
    """Return the versions of the libraries."""
    found, missing = [], []
    for name in _LIBRARIES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        return fail("libraries", f"missing: {', '.join(missing)}", f"pip install {' '.join(missing)}")
    return ok("libraries", ", ".join(found))
