"""Checks that the state directory can be written, or created, and how long an fsync takes."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent.commands.doctor.check_result import CheckResult, fail, ok, warn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.commands.doctor.check_context import CheckContext

_SLOW_FSYNC_MS: Final = 50.0


def run_checks(context: CheckContext) -> Iterator[CheckResult]:
    """Check the directory; it is not created."""
    state_dir = context.config.state_dir
    if state_dir.exists():
        yield _check_writable(state_dir)
        return
    parent = nearest_existing(state_dir)
    if os.access(parent, os.W_OK | os.X_OK):
        yield ok("state_dir", f"{state_dir} does not exist yet; kensa run makes it")
    else:
        yield fail(
            "state_dir",
            f"{state_dir} does not exist, and {parent} may not be written",
            "make it and give it to the user who runs Kensa, or set another state_dir",
        )


def nearest_existing(state_dir: Path) -> Path:
    """Return `state_dir`, or the closest of its parents that exists."""
    if state_dir.exists():
        return state_dir
    return next((parent for parent in state_dir.parents if parent.exists()), Path("/"))


def _check_writable(state_dir: Path) -> CheckResult:
    remedy = "give the user who runs Kensa write access to it, or set another state_dir"
    try:
        with tempfile.NamedTemporaryFile(dir=state_dir, prefix=".doctor-") as file:
            file.write(b"kensa")
            file.flush()
            began = time.perf_counter()
            os.fsync(file.fileno())
            took_ms = (time.perf_counter() - began) * 1_000
    except OSError as error:
        return fail("state_dir", f"{state_dir} cannot be written: {error.strerror}", remedy)
    seen = f"{state_dir} is writable, an fsync takes {took_ms:.1f} ms"
    if took_ms > _SLOW_FSYNC_MS:
        return warn(
            "state_dir", seen, "a slow disk delays the commit of defects: raise outbox.commit_ms, or use another"
        )
    return ok("state_dir", seen)
