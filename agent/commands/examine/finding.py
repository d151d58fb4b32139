"""One answer of the doctor."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"  # the line runs, but somebody should know
    FAIL = "fail"  # the line does not run, or runs blind


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, what was seen, and what to do about it (nothing when it is OK)."""

    check: str
    status: Status
    seen: str
    remedy: str | None = None


def ok(check: str, seen: str) -> Finding:
    """Return a finding that needs nobody."""
    return Finding(check, Status.OK, seen)


def warn(check: str, seen: str, remedy: str) -> Finding:
    """Return a finding that somebody should know."""
    return Finding(check, Status.WARN, seen, remedy)


def fail(check: str, seen: str, remedy: str) -> Finding:
    """Return a finding that keeps the line from running."""
    return Finding(check, Status.FAIL, seen, remedy)
