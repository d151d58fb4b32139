"""Checks the state of each inspection's model as the last agent left it in the journal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.commands.doctor.check_result import CheckResult, fail, ok, warn
from agent.errors import StateDirError
from agent.lifecycle.state.model_status import last_status
from agent.lifecycle.state.transitions import LifecycleState

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from agent.commands.doctor.check_context import CheckContext


def run_checks(context: CheckContext) -> Iterator[CheckResult]:
    """Check each inspection, where there are updates and no agent runs: that one has the newest state."""
    if context.config.updates is not None and context.agent_pid is None:
        for name in context.config.inspections:
            yield _check(context.config.state_dir, name)


def _check(state_dir: Path, name: str) -> CheckResult:
    check = f"model {name}"
    try:
        status, _ = last_status(state_dir, name)
    except StateDirError as error:
        return fail(check, str(error), "ask as the user who runs Kensa")
    active = "none" if status.state == LifecycleState.NO_MODEL else "the factory release"
    if status.active is not None:
        active = status.active.release_id
    desired = "nothing" if status.desired is None else status.desired.release_id
    seen = f"as the last agent left it: {status.state}, active {active}, desired {desired}"
    if status.alarm is not None:
        return warn(check, f"{seen}. {status.alarm}", "`kensa model show` shows more; docs/operations.md, Watch it")
    return ok(check, seen)
