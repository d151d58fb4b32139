"""Locks that allow one cycle at a time for each site and model, and use every trigger once.

    cycle/v1/triggers/SITE/MODEL/ID.json     the execution that took this trigger
    cycle/v1/locks/SITE/MODEL/00000007.json  the holder of the lock: the newest number counts
    cycle/v1/locks/SITE/MODEL/00000007.free  the lock was released

Promise: objects are only ever created, and exactly one of several writers succeeds (`Storage.create`), so exactly one
of two executions gets the lock, whatever fails in between. A lock whose execution ended without releasing it is taken
over. Acquiring a lock twice for the same execution changes nothing, because Step Functions retries.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from pipeline.cycle.execution import safe_key_part, to_json_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.cloud.storage import Storage
    from pipeline.cycle.execution import CycleRequest, Execution

_MAX_BYTES: Final = 4_096
_KEPT: Final = 4  # newest numbers of a lock; older ones are deleted


class CycleLocks:
    """The locks below a storage. Methods raise StorageError."""

    def __init__(self, storage: Storage, *, is_running: Callable[[str], bool]) -> None:
        """`is_running` returns whether the execution with a given ARN still runs."""
        self._storage = storage
        self._is_running = is_running

    def acquire(self, execution: Execution) -> str | None:
        """Take the trigger and the lock; returns None, or the reason for the refusal."""
        request = execution.request
        trigger = f"cycle/v1/triggers/{request.site}/{request.model}/{safe_key_part(request.trigger_id)}.json"
        mine = to_json_bytes({"execution": execution.arn})
        if not self._storage.create(trigger, mine):
            other = self._holder(trigger)
            if other != execution.arn:
                return f"the trigger {request.trigger} {request.trigger_id} was already taken by {other}"
        while True:
            number = self._newest(request)
            if number and not self._storage.exists(_key(request, number, "free")):
                holder = self._holder(_key(request, number, "json"))
                if holder == execution.arn:
                    return None
                if self._is_running(holder):
                    return f"{holder} already works on {request.model} of {request.site}"
            if self._storage.create(_key(request, number + 1, "json"), mine):
                self._delete_old(request, number + 1 - _KEPT)
                return None

    def begin(self, execution: Execution) -> dict[str, Any]:
        """The first step: take trigger and lock; returns whether both were free, and the approval time limit."""
        refusal = self.acquire(execution)
        return {
            "accepted": refusal is None,
            "reason": refusal or "",
            "approval_s": execution.settings.approval_s,
        }

    def unlock(self, execution: Execution) -> bool:
        """Release the lock; returns False if this execution does not hold it."""
        request = execution.request
        number = self._newest(request)
        if not number or self._holder(_key(request, number, "json")) != execution.arn:
            return False
        self._storage.create(_key(request, number, "free"), b"{}\n")
        return True

    def holder(self, request: CycleRequest) -> str | None:
        """ARN of the execution that holds the lock of this site and model; None if it is free."""
        number = self._newest(request)
        if not number or self._storage.exists(_key(request, number, "free")):
            return None
        return self._holder(_key(request, number, "json"))

    def _holder(self, key: str) -> str:
        tree: dict[str, Any] = json.loads(self._storage.read(key, limit=_MAX_BYTES))
        return str(tree["execution"])

    def _newest(self, request: CycleRequest) -> int:
        """The newest number of the lock; 0 if there is none yet."""
        keys = [stored.key for stored in self._storage.list(_prefix(request)) if stored.key.endswith(".json")]
        return int(keys[-1].rpartition("/")[2].partition(".")[0]) if keys else 0

    def _delete_old(self, request: CycleRequest, number: int) -> None:
        for end in ("json", "free") if number > 0 else ():
            self._storage.delete(_key(request, number, end))


def _prefix(request: CycleRequest) -> str:
    return f"cycle/v1/locks/{request.site}/{request.model}/"


def _key(request: CycleRequest, number: int, end: str) -> str:
    return f"{_prefix(request)}{number:08d}.{end}"
