"""Checks that the system clock is plausible and synchronised."""

from __future__ import annotations

import ctypes
from datetime import UTC, datetime
from typing import Final

from agent.commands.doctor.check_result import CheckResult, fail, ok, warn

_OLDEST_PLAUSIBLE_TIME: Final = datetime(2025, 1, 1, tzinfo=UTC)  # no device that runs this code can be earlier
_TIME_ERROR: Final = 5  # adjtimex(2): the clock is not synchronised
_TIMEX_BYTES: Final = 512  # more than struct timex has on any architecture


def run_check() -> CheckResult:
    """Return the time, and whether it can be trusted."""
    now = datetime.now(UTC)
    seen = now.strftime("%Y-%m-%d %H:%M:%S UTC")
    if now < _OLDEST_PLAUSIBLE_TIME:
        return fail("clock", f"{seen}, before this program was written", "set the clock: TLS and verdicts need it")
    if _is_unsynchronised():
        return warn(
            "clock",
            f"{seen}, not synchronised",
            "run chrony or systemd-timesyncd, or capture times drift away from those of other machines",
        )
    return ok("clock", seen)


def _is_unsynchronised() -> bool:
    """Ask the kernel (adjtimex(2), read only); where it does not answer, the clock counts as synchronised."""
    try:
        state: int = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    except (OSError, AttributeError):
        return False
    return state == _TIME_ERROR
