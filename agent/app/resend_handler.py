"""Handles `kensa resend` on the control socket: one page of the history for each request.

Pages keep each request short. `outbox.resend` with camera, boot_epoch, first, last and place ([file, row] from the
previous answer, [0, 0] at first) answers with place (null at the end), numbers ([first, last] pairs that were found)
and messages; or with busy: true while the messages of an earlier page are still waiting. `outbox.resends` answers with
waiting.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agent.errors import ControlError
from agent.outbox.replay import MAX_VERDICTS, ReplayCursor, ReplayRange, ranges_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from agent.outbox import Outbox

_Number = Annotated[int, Field(ge=0, lt=2**53)]


class _Request(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    camera: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    boot_epoch: _Number
    first: _Number
    last: _Number
    place: Annotated[list[_Number], Field(min_length=2, max_length=2)]


def handlers(outbox: Outbox) -> dict[str, Callable[[Mapping[str, Any]], Mapping[str, Any]]]:
    """Return the handlers for `agent.control.ControlServer`."""

    def resend(request: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            arguments = _Request.model_validate(dict(request))
        except ValidationError as error:
            raise ControlError(f"outbox.resend: {error.error_count()} of its arguments are wrong") from error
        replay = ReplayRange(arguments.camera, arguments.boot_epoch, arguments.first, arguments.last)
        file, row = arguments.place
        if not 0 < replay.verdicts <= MAX_VERDICTS or file > 1:
            raise ControlError(f"outbox.resend: first to last must be 1 to {MAX_VERDICTS} verdicts")
        page = outbox.resend(replay, ReplayCursor(file, row))
        if page is None:
            return {"busy": True}
        following = None if page.next is None else [page.next.file, page.next.row]
        return {"place": following, "numbers": ranges_of(page.numbers), "messages": len(page.messages)}

    def waiting(_: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"waiting": outbox.resends_waiting}

    return {"outbox.resend": resend, "outbox.resends": waiting}
