"""Checks that the disk can hold what the configured limits allow."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent.commands.doctor.check_result import CheckResult, fail, ok, warn
from agent.commands.doctor.checks.storage.state_dir_access import nearest_existing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.commands.doctor.check_context import CheckContext
    from agent.config import Config

_GB: Final = 1e9


def run_checks(context: CheckContext) -> Iterator[CheckResult]:
    """Check the free space of the disk that holds, or will hold, the state directory."""
    yield _check(context.config, nearest_existing(context.config.state_dir))


def _check(config: Config, folder: Path) -> CheckResult:
    """Compare the free space with the limits of outbox, history and recorded frames."""
    caps = config.outbox.max_bytes + config.outbox.history_bytes
    caps += config.keep.max_bytes * len(config.inspections) if config.keep.frames else 0
    caps += 0 if config.collect is None else config.collect.max_disk_bytes
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return fail("disk", f"{folder}: {error.strerror}", "mount it, or set another state_dir")
    used = _tree_bytes(config.state_dir)
    seen = f"{free / _GB:.1f} GB free; outbox, history and frames hold {used / _GB:.1f} of at most {caps / _GB:.1f} GB"
    if free < config.outbox.max_bytes / 10:
        return fail("disk", seen, "free space, or set a smaller outbox.max_bytes")
    if free < caps - used:
        return warn("disk", seen, "free space, or set smaller outbox.max_bytes, keep.max_bytes, collect.max_disk_bytes")
    return ok("disk", seen)


def _tree_bytes(root: Path) -> int:
    total = 0
    for folder, _, names in os.walk(root):
        for name in names:
            try:
                total += (Path(folder) / name).lstat().st_size
            except OSError:  # it was deleted meanwhile
                continue
    return total
