"""Reports RUNNING to the nucleus once the line inspects: a deployment waits for it."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Final

from awsiot.greengrasscoreipc import model

from agent.records import CameraState
from agent.timing.clock import NS_PER_S
from greengrass.ipc.errors import IpcError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.app import Agent
    from agent.records import Verdict
    from agent.timing.clock import Clock
    from greengrass.environment import Environment
    from greengrass.ipc.connection import Connection

_IDLE_SERVING_S: Final = 20.0  # a line without parts is active when its models and cameras are ready for so long
_MAX_REPORTS: Final = 3  # attempts to report RUNNING; lite without its health daemon never accepts it
_RETRY_S: Final = 5.0
# Open; a triggered one waits for its first part.
_READY: Final = frozenset({CameraState.CONNECTING, CameraState.RUNNING})
_log = logging.getLogger(__name__)


class ReadinessReporter:
    """Reports RUNNING, a few times at most. `observe` from the workers' threads, `poll` from the main thread."""

    def __init__(self, *, connection: Connection, environment: Environment, clock: Clock) -> None:
        """Nothing is reported before the first `poll`."""
        self._connection = connection
        self._environment = environment
        self._clock = clock
        self._began_ns: int | None = None  # first poll
        self._next_report_ns = 0
        self._first_verdict = threading.Event()
        self._reports = 0

    def observe(self, _verdicts: Sequence[Verdict]) -> None:
        """Note the first verdict."""
        if not self._first_verdict.is_set():
            self._first_verdict.set()

    def poll(self, agent: Agent) -> None:
        """Report RUNNING if `agent` inspects and it has not been accepted yet."""
        now_ns = self._clock.monotonic_ns()
        began_ns = self._began_ns = now_ns if self._began_ns is None else self._began_ns
        if (
            self._reports >= _MAX_REPORTS
            or now_ns < self._next_report_ns
            or not self._is_serving(agent, now_ns - began_ns)
        ):
            return
        self._reports += 1
        self._environment.notify_ready()
        self._next_report_ns = now_ns + round(_RETRY_S * NS_PER_S)
        try:
            self._connection.call("update_state", model.UpdateStateRequest(state=model.ReportedLifecycleState.RUNNING))
        except IpcError as error:
            level = logging.WARNING if self._reports == _MAX_REPORTS else logging.DEBUG
            _log.log(level, "the nucleus does not accept RUNNING: %s", error)
            return
        self._reports = _MAX_REPORTS

    def _is_serving(self, agent: Agent, age_ns: int) -> bool:
        has_models = all(slot.lease() is not None for slot in agent.slots.values())
        if self._first_verdict.is_set():
            return has_models
        return (
            age_ns >= _IDLE_SERVING_S * NS_PER_S
            and has_models
            and all(view.capture.status.state in _READY for view in agent.cameras.values())
        )
