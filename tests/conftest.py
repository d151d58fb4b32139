"""Rules for every test: with CI=true a skip that nobody allowed is a failure, whoever asked for it.

Hypothesis has no deadline of its own, because machines stall (pytest-timeout ends what hangs), and with CI=true it
tries the same examples every time, so that a red run is the change's doing; elsewhere it explores.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import hypothesis
import pytest

from tests.support import NEVER_IN_CI, in_ci

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
