"""Result of one check of `kensa doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class CheckStatus(StrEnum):
    """Severity of a result."""

    OK = "ok"
    WARN = "warn"  # the line runs, but a person should know
    FAIL = "fail"  # the line does not run, or nobody sees its results


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What was checked, what was found, and the remedy (None when it is OK)."""

    check: str
    status: CheckStatus
    seen: str
    remedy: str | None = None


def ok(check: str, seen: str) -> CheckResult:
    """Return a result that needs no action."""
    return CheckResult(check, CheckStatus.OK, seen)


def warn(check: str, seen: str, remedy: str) -> CheckResult:
    """Return a result that a person should know."""
    return CheckResult(check, CheckStatus.WARN, seen, remedy)


def fail(check: str, seen: str, remedy: str) -> CheckResult:
    """Return a result that keeps the line from running."""
    return CheckResult(check, CheckStatus.FAIL, seen, remedy)
