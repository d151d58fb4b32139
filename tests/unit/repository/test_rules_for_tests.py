"""The rules of tests/conftest.py: a skip is a failure with CI=true."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.kits.requirements import ROOT

if TYPE_CHECKING:
    from pathlib import Path

SUITE = """
import pytest
from tests.kits.requirements import real_data, require

def test_passes():
    require(True, "nothing", "nothing")

def test_needs_something():
    require(False, "the frobnicator", "apt-get install frobnicator")

def test_needs_what_ci_cannot_have():
    require(False, "v4l2loopback, the kernel module,", "modprobe v4l2loopback")

def test_needs_real_images():
    real_data("xsdd")

@pytest.mark.skip(reason="not today")
def test_skipped_by_mark():
    pass

@pytest.mark.xfail(reason="known", strict=True)
def test_known_to_fail():
    assert False
"""
MODULE = 'import pytest\npytest.importorskip("a_module_that_nobody_has")\n'


def run(folder: Path, *, ci: bool) -> str:
    (folder / "test_suite.py").write_text(SUITE, encoding="utf-8")
    (folder / "test_module.py").write_text(MODULE, encoding="utf-8")
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    inherited.pop("KENSA_DATA", None)
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-rA",
            "--continue-on-collection-errors",
            "-c",
            os.devnull,
            "--rootdir",
            ".",
            "-p",
            "tests.conftest",
        ],
        cwd=folder,
        env=inherited | {"PYTHONPATH": str(ROOT), "CI": "true" if ci else "", "COLUMNS": "300"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return result.stdout


def test_elsewhere_what_is_missing_is_skipped_with_its_remedy(tmp_path: Path) -> None:
    output = run(tmp_path, ci=False)

    assert "1 passed, 5 skipped, 1 xfailed" in output
    assert "the frobnicator is missing: apt-get install frobnicator" in output
    assert "set KENSA_DATA to the folder that holds xsdd/manifest.csv (now not set)" in output


def test_with_ci_a_skip_is_a_failure_that_names_what_is_missing(tmp_path: Path) -> None:
    output = run(tmp_path, ci=True)

    assert "2 failed, 1 passed, 1 skipped, 1 xfailed, 2 errors" in output
    for complaint in (
        "FAILED test_suite.py::test_needs_something - Failed: the frobnicator is missing: apt-get install frobnicator",
        "FAILED test_suite.py::test_needs_real_images - Failed: the folder xsdd of real images is missing",
        "ERROR test_suite.py::test_skipped_by_mark - test_suite.py::test_skipped_by_mark was skipped",
        "ERROR test_module.py - test_module.py was skipped, and with CI=true nothing may be",
        "v4l2loopback, the kernel module, is missing: modprobe v4l2loopback",
    ):
        assert complaint in output
