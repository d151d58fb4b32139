"""Checks the target of collected frames, as the upload child reaches it; nothing is written there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agent.children.collect_client import check_target
from agent.commands.doctor.check_result import CheckResult, ok, warn
from agent.errors import UploadError
from agent.timing.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.commands.doctor.check_context import CheckContext

_TIMEOUT_S: Final = 30.0
_REMEDY: Final = "see docs/operations.md, Frames for the next model; frames wait on this device until then"


def run_checks(context: CheckContext) -> Iterator[CheckResult]:
    """Check the target, where frames are collected. The line runs without it, so a problem is a warning."""
    collect = context.config.collect
    if collect is None:
        return
    if collect.target is None:
        yield ok("collect target", "none: collected frames stay on this device")
        return
    try:
        checked = check_target(collect, thing=context.config.thing, timeout_s=_TIMEOUT_S, clock=SystemClock())
    except UploadError as error:
        yield warn("collect target", str(error), _REMEDY)
        return
    if not checked.usable:
        yield warn("collect target", checked.text, _REMEDY)
    elif not checked.certain:
        yield ok("collect target", f"{checked.text}: it answers; only the first frame shows whether it accepts frames")
    else:
        yield ok("collect target", checked.text)
