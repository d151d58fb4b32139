"""Validates a deployment's configuration before it changes anything, on a classic nucleus.

The nucleus sends the configuration that a deployment would give this component and waits for the result. The
configuration is read as at a start, and a desired release that this agent neither runs nor is fetching is fetched,
verified and self-tested now; only then the answer is ACCEPTED. A refusal carries the reason, and the deployment ends as
FAILED_NO_STATE_CHANGE.

Promise: an answer goes out within `greengrass.validate_s`; what could not be finished by then is refused with that
reason, because a second deployment costs less than an untested model.
"""

from __future__ import annotations

import logging
import queue
import threading
from typing import TYPE_CHECKING, Any, Final

from awsiot.greengrasscoreipc import model

from agent.errors import ConfigError, FetchError, KensaError, OperatorError
from agent.supervision import ErrorBoundary
from agent.timing.clock import NS_PER_S
from agent.wire.codec import truncate
from greengrass.ipc.errors import IpcError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from agent.release_records import DesiredRelease
    from agent.timing.clock import Clock
    from greengrass.deployment.component_config import ComponentConfig
    from greengrass.ipc.connection import Connection

_MAX_QUEUED: Final = 8
_MAX_TEXT: Final = 1_000
_CLOSE_S: Final = 1.0
_log = logging.getLogger(__name__)


class ConfigurationValidator:
    """Accepts or refuses each proposed configuration, in the thread `validation`."""

    def __init__(
        self,
        *,
        connection: Connection,
        read: Callable[[object], ComponentConfig],
        preflight: Callable[[str, DesiredRelease, threading.Event], None],
        validate_s: Callable[[], float],
        clock: Clock,
    ) -> None:
        """Nothing is subscribed yet.

        Args:
            connection: To the nucleus.
            read: Parses a configuration; raises ConfigError.
            preflight: Called with (inspection, desired, stop); raises KensaError for a release that must not run.
            validate_s: Longest time until an answer, at this moment.
            clock: Source of monotonic time.
        """
        self._connection = connection
        self._read = read
        self._preflight = preflight
        self._validate_s = validate_s
        self._clock = clock
        self._requests: queue.Queue[tuple[str, object] | None] = queue.Queue(_MAX_QUEUED)
        self._cancel = threading.Event()  # ends a preflight that takes too long, and the last one
        self._closing = threading.Event()
        supervisor = connection.supervisor
        self._thread = supervisor.thread(self._run, kind="validation", name="validation", stop=self._closing)
        # Without an answer the deployment would wait.
        self._boundary = ErrorBoundary(
            supervisor, kind="validation", what="validating a configuration", make=OperatorError
        )
        self.results: list[str] = []  # the newest

    def start(self) -> None:
        """Subscribe to proposed configurations."""
        self._thread.start()
        self._connection.subscribe(
            "subscribe_to_validate_configuration_updates",
            model.SubscribeToValidateConfigurationUpdatesRequest(),
            self._on_event,
            description="SubscribeToValidateConfigurationUpdates",
            is_optional=True,
        )

    def request_close(self) -> None:
        """Cancel the current validation, without waiting for it."""
        self._closing.set()
        self._cancel.set()

    def close(self) -> None:
        """Cancel the current validation and stop."""
        self.request_close()
        try:
            self._requests.put_nowait(None)
        except queue.Full:
            self._connection.supervisor.losses.count("deployments_unanswered", self._requests.qsize())
            _log.warning("proposed configurations remain without an answer")
        if self._thread.is_alive():
            self._thread.join(_CLOSE_S)

    def _on_event(self, event: Any) -> None:
        """Thread ipc-events."""
        proposed = event.validate_configuration_update_event
        if proposed is None or proposed.deployment_id is None:
            return
        try:
            self._requests.put_nowait((proposed.deployment_id, proposed.configuration))
        except queue.Full:
            self._report(proposed.deployment_id, "too many deployments at once; try again")

    def _run(self) -> None:
        while (request := self._requests.get()) is not None and not self._closing.is_set():
            deployment, tree = request
            try:
                with self._boundary:
                    reason = self.validate(tree)
            except KensaError as error:
                reason = f"the agent met a bug while it validated this configuration; see its log ({error})"
            self._report(deployment, reason)

    def validate(self, tree: object) -> str | None:
        """Return why the configuration `tree` is refused, or None."""
        try:
            proposed = self._read(tree)
        except ConfigError as error:
            return str(error)
        return self._check_desired_releases(proposed.desired_releases)

    def _check_desired_releases(self, desired: Mapping[str, DesiredRelease]) -> str | None:
        limit_s = self._validate_s()
        self._cancel.clear()
        if self._closing.is_set():
            return "the agent is stopping; try again"
        deadline_ns = self._clock.monotonic_ns() + round(limit_s * NS_PER_S)
        timer = threading.Timer(limit_s, self._cancel.set)
        timer.daemon = True
        timer.start()
        try:
            for inspection, release in desired.items():
                if reason := self._check_desired_release(inspection, release, deadline_ns):
                    return reason
        finally:
            timer.cancel()
        return None

    def _check_desired_release(self, inspection: str, desired: DesiredRelease, deadline_ns: int) -> str | None:
        try:
            self._preflight(inspection, desired, self._cancel)
        except FetchError as error:
            if self._clock.monotonic_ns() >= deadline_ns:
                return (
                    f"{desired.release_id} could not be fetched and tested in time; what has arrived is kept for the "
                    "next try. Raise greengrass.validate_s and the deployment's configurationValidationPolicy"
                )
            return f"{desired.release_id} cannot be fetched or tested now: {error}"
        except KensaError as error:
            return f"{desired.release_id} is refused for {inspection}: {error}"
        return None

    def _report(self, deployment: str, reason: str | None) -> None:
        accepted = reason is None
        status = model.ConfigurationValidityStatus
        report = model.ConfigurationValidityReport(
            status=status.ACCEPTED if accepted else status.REJECTED,
            deployment_id=deployment,
            message=None if reason is None else truncate(reason, _MAX_TEXT),
        )
        _log.info("deployment %s: %s", deployment, reason or "accepted")
        self.results = [*self.results[-15:], reason or "accepted"]
        request = model.SendConfigurationValidityReportRequest(configuration_validity_report=report)
        try:
            self._connection.call("send_configuration_validity_report", request)
        except IpcError as error:
            _log.warning("the result cannot be sent to the nucleus: %s", error)
