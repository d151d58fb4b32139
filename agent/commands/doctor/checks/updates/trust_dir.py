"""Checks that the folder of accepted metadata can be read and written by this user."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from agent.commands.doctor.check_result import CheckResult, fail, ok

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from agent.commands.doctor.check_context import CheckContext


def run_checks(context: CheckContext) -> Iterator[CheckResult]:
    """Check the folder, where there are updates."""
    if context.config.updates is not None:
        yield _check(context.config.state_dir / "trust")


def _check(trust_dir: Path) -> CheckResult:
    if not trust_dir.exists():
        return ok("updates trust", f"{trust_dir} does not exist yet; the first fetch from the repository makes it")
    locked = [trust_dir] if not os.access(trust_dir, os.R_OK | os.W_OK | os.X_OK) else []
    if locked := locked or [path for path in trust_dir.iterdir() if not os.access(path, os.R_OK | os.W_OK)]:
        return fail(
            "updates trust",
            f"{locked[0]} may not be written by this user",
            "ask as the user who runs Kensa; if it is that one, give the folder back to it",
        )
    return ok("updates trust", f"{trust_dir} is writable")
