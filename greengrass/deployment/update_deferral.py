"""Defers component updates during trials and shifts: DeferComponentUpdate, on nuclei that ask first.

The nucleus announces that an update is about to stop components, perhaps this one (it names none), and continues when
no answer arrives within 60 s. While a rollout or a shift runs the answer is "ask again", for `greengrass.defer_s` at
most, so that a fleet can be updated even if no trial ever ends; otherwise it is "go" at once.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from awsiot.greengrasscoreipc import model

from agent.lifecycle.state.transitions import LifecycleState
from agent.timing.clock import NS_PER_S
from greengrass.ipc.errors import IpcError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from agent.lifecycle.lifecycle import Lifecycle
    from agent.timing.clock import Clock
    from greengrass.deployment.component_config import GreengrassSettings
    from greengrass.ipc.connection import Connection

_RECHECK_MS: Final = 30_000  # below the 60 s after which the nucleus continues without an answer
_MAX_DEPLOYMENTS: Final = 16
_UNINTERRUPTIBLE: Final = frozenset({LifecycleState.SELFTEST, LifecycleState.SHADOW, LifecycleState.TRIAL})
_log = logging.getLogger(__name__)


def busy_reason(settings: GreengrassSettings, lifecycles: Mapping[str, Lifecycle]) -> str | None:
    """Return what an update would interrupt now, or None."""
    if settings.in_shift(datetime.now().astimezone().time()):
        return "a shift runs"
    for name, lifecycle in lifecycles.items():
        state = lifecycle.status().state
        if state in _UNINTERRUPTIBLE:
            return f"{name} is in {state}"
    return None


class UpdateDeferral:
    """Answers the nucleus before it updates components."""

    def __init__(
        self,
        *,
        connection: Connection,
        busy_reason: Callable[[], str | None],
        defer_s: Callable[[], float],
        clock: Clock,
    ) -> None:
        """`busy_reason` returns what must not be interrupted now, or None; `defer_s` the longest deferral."""
        self._connection = connection
        self._busy_reason = busy_reason
        self._defer_s = defer_s
        self._clock = clock
        self._deferred_since_ns: OrderedDict[str, int] = OrderedDict()  # deployment -> when it was first deferred

    def start(self) -> None:
        """Subscribe to announced updates."""
        self._connection.subscribe(
            "subscribe_to_component_updates",
            model.SubscribeToComponentUpdatesRequest(),
            self._on_event,
            description="SubscribeToComponentUpdates",
            is_optional=True,
        )

    def _on_event(self, event: Any) -> None:
        """Thread ipc-events."""
        before = event.pre_update_event
        if before is None or before.deployment_id is None:
            return
        wait_ms, why = self.decide(before.deployment_id)
        request = model.DeferComponentUpdateRequest(
            deployment_id=before.deployment_id, message=why, recheck_after_ms=wait_ms
        )
        try:
            self._connection.call("defer_component_update", request)
        except IpcError as error:
            _log.warning("the answer to an update cannot be sent to the nucleus: %s", error)
            return
        if wait_ms:
            _log.info("an update is deferred for %d s: %s", wait_ms // 1_000, why)

    def decide(self, deployment: str) -> tuple[int, str]:
        """Return after how many ms the nucleus is to ask again (0: go), and why."""
        why = self._busy_reason()
        now_ns = self._clock.monotonic_ns()
        if why is None:
            self._deferred_since_ns.pop(deployment, None)
            return 0, "nothing to wait for"
        first_ns = self._deferred_since_ns.setdefault(deployment, now_ns)
        while len(self._deferred_since_ns) > _MAX_DEPLOYMENTS:
            self._deferred_since_ns.popitem(last=False)
        left_ms = round((first_ns - now_ns) / 1_000_000 + self._defer_s() * 1_000)
        if left_ms <= 0:
            return 0, f"{why}, but it was deferred for {(now_ns - first_ns) // NS_PER_S} s already"
        return min(_RECHECK_MS, left_ms), why
