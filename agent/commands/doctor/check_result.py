"""One answer of the doctor."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class CheckStatus(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"  # the line runs, but somebody should know
    FAIL = "fail"  # the line does not run, or runs blind


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What was looked at, what was seen, and what to do about it (nothing when it is OK)."""

    check: str
    status: CheckStatus
    seen: str
    remedy: str | None = None


def ok(check: str, seen: str) -> CheckResult:
    """Return a finding that needs nobody."""
    return CheckResult(check, CheckStatus.OK, seen)


def warn(check: str, seen: str, remedy: str) -> CheckResult:
    """Return a finding that somebody should know."""
    return CheckResult(check, CheckStatus.WARN, seen, remedy)


def fail(check: str, seen: str, remedy: str) -> CheckResult:
    """Return a finding that keeps the line from running."""
    return CheckResult(check, CheckStatus.FAIL, seen, remedy)
