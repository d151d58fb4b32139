"""Where collected frames go: the target as the collecting child sees it; nothing is written there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agent.children.collect_client import check_target
from agent.commands.doctor.check_result import CheckResult, ok, warn
from agent.errors import UploadError
from agent.timing.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.config import Config

_TIMEOUT_S: Final = 30.0
_REMEDY: Final = "see docs/operations.md, Frames for the next model; frames wait on this device until then"


def run_checks(config: Config) -> Iterator[CheckResult]:
    """The target of `collect`; nothing where nothing is collected. The line runs without it, so nothing here fails."""
    collect = config.collect
    if collect is None:
        return
    if collect.target is None:
        yield ok("collect target", "none: collected frames stay on this device")
        return
    try:
        checked = check_target(collect, thing=config.thing, timeout_s=_TIMEOUT_S, clock=SystemClock())
    except UploadError as error:
        yield warn("collect target", str(error), _REMEDY)
        return
    if not checked.usable:
        yield warn("collect target", checked.text, _REMEDY)
    elif not checked.certain:
        yield ok("collect target", f"{checked.text}: it answers; whether it takes frames shows with the first one")
    else:
        yield ok("collect target", checked.text)
