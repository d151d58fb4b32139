"""Rules for every test: with CI=true a skip that nobody allowed is a failure, whoever asked for it.

Hypothesis has no deadline of its own, because machines stall (pytest-timeout ends what hangs), and with CI=true it
tries the same examples every time, so that a red run is the change's doing; elsewhere it explores.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import hypothesis
import pytest

from tests.kits.requirements import NEVER_IN_CI, in_ci

if TYPE_CHECKING:
    from collections.abc import Generator

hypothesis.settings.register_profile("kensa", deadline=None, derandomize=in_ci(), print_blob=True)
hypothesis.settings.load_profile("kensa")


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skipped report into a failed one, unless its reason is one that CI accepts."""
    if not (in_ci() and report.skipped) or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    reason = reason.removeprefix("Skipped: ")
    if reason.startswith(NEVER_IN_CI):
        return
    report.outcome = "failed"
    report.longrepr = f"{report.nodeid} was skipped, and with CI=true nothing may be: {reason}"


@pytest.fixture(autouse=True)
def _float_mode_is_left_alone() -> Generator[None, None, None]:
    """Fail the test that leaves subnormal floats off for the whole process, not the innocent one that runs next."""
    yield
    if sys.float_info.min / 2 > 0:
        return
    sys.modules["torch"].set_flush_denormal(False)  # nothing else in use can switch it
    pytest.fail("left torch.set_flush_denormal(True) behind: switch it off again, it holds for the whole process")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Refuse skips by marks and calls."""
    report = yield
    _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Refuse skips of whole modules, such as importorskip."""
    report = yield
    _refuse_skip(report)
    return report
