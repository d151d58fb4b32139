"""`python -m greengrass.model_component` hands a release to the agent, and waits until it is active.

The program of com.kensa.Model's startup. Its configuration names the inspection (`inspection`) and the release in the
artifact (`release`); KENSA_COMPONENT_DIR is the unpacked artifact, whose folder `repository` is a TUF repository of
that release. The agent verifies and tests it like any other. `timeout_s` (default 3,300) bounds the wait; keep it below
the recipe's time-out of startup.

Exit code 0: the release is active, or this device follows a newer request for another one. 1: it is refused, no agent
answers, or it takes too long: the deployment then fails, with the reason on the last line of the log.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import Field, ValidationError

from agent.errors import ConfigError, KensaError, MessageError
from agent.strict import Strict
from agent.timing.clock import NS_PER_S, SystemClock
from agent.wire.codec import Name
from agent.wire.model_report import ReleaseId
from greengrass.deployment.config_watcher import read_configuration
from greengrass.environment import MODEL_NAME, NUCLEUS_KEYS, Environment, configure_logging
from greengrass.ipc.connection import Connection
from greengrass.ipc.errors import IpcError, IpcErrorKind
from greengrass.ipc.topics import publish_local, subscribe_local
from greengrass.release_sources.release_hints import ReleaseHint, hint_topic, parse_status, status_topic

if TYPE_CHECKING:
    from agent.timing.clock import Clock
    from greengrass.release_sources.release_hints import ReleaseStatus

REPOSITORY_FOLDER: Final = "repository"
_CONNECT_S: Final = 30.0
_HINT_INTERVAL_S: Final = 2.0  # the agent may start at the same time, or restart meanwhile
_NO_AGENT_S: Final = 300.0  # without a status from the agent
_SUPERSEDED_S: Final = 10.0  # before that the agent may not have received the hint yet
_log = logging.getLogger("kensa.model")


class ModelComponentConfig(Strict):
    """The component's configuration."""

    inspection: Name
    release: ReleaseId
    timeout_s: float = Field(default=3_300.0, ge=1.0, le=604_800.0)


def read_model_config(tree: object) -> ModelComponentConfig:
    """Read what GetConfiguration returned. Raises ConfigError."""
    if not isinstance(tree, dict):
        raise ConfigError("The configuration of the model component is no mapping.")
    try:
        return ModelComponentConfig.model_validate(
            {key: value for key, value in tree.items() if key not in NUCLEUS_KEYS}
        )
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()]
        raise ConfigError("The configuration of the model component is refused:\n" + "\n".join(lines)) from error


@dataclass(frozen=True, slots=True)
class HandoverResult:
    """Result of a handover."""

    is_accepted: bool
    text: str


def evaluate_status(answer: ReleaseStatus, release: str, *, waited_s: float) -> HandoverResult | None:
    """Return what the status `answer` means for `release`; None: keep waiting."""
    if answer.active == release and answer.state in {"idle", "ab"}:
        return HandoverResult(is_accepted=True, text=f"{release} is active")
    if answer.desired == release:
        if answer.refused == release and answer.candidate != release:
            return HandoverResult(is_accepted=False, text=f"{release} is refused ({answer.reason}): {answer.text}")
        return None
    if waited_s < _SUPERSEDED_S:
        return None
    return HandoverResult(is_accepted=True, text=f"this device follows {answer.desired}, not {release}")


class ReleaseHandover:
    """One handover, from the first hint to the result."""

    def __init__(self, *, connection: Connection, config: ModelComponentConfig, folder: Path, clock: Clock) -> None:
        """`folder` is the repository."""
        self._connection = connection
        self._config = config
        self._hint = ReleaseHint(config.release, folder)
        self._clock = clock
        self._status_changed = threading.Event()
        self._status: ReleaseStatus | None = None

    def run(self) -> HandoverResult:
        """Publish the hint again and again until there is a result."""
        began_ns = last_status_ns = self._clock.monotonic_ns()
        topic = status_topic(self._config.inspection)
        subscribe_local(self._connection, topic, self._on_status)
        logged = None
        while True:
            if refused := self._publish_hint():
                return refused
            if self._clock.wait(self._status_changed, _HINT_INTERVAL_S):
                self._status_changed.clear()
                last_status_ns = self._clock.monotonic_ns()
            now_ns = self._clock.monotonic_ns()
            waited_s = (now_ns - began_ns) / NS_PER_S
            if (answer := self._status) is not None:
                if answer != logged:
                    logged = answer
                    _log.info("%s: %s, active %s", self._config.inspection, answer.state, answer.active)
                if result := evaluate_status(answer, self._config.release, waited_s=waited_s):
                    return result
            if (now_ns - last_status_ns) / NS_PER_S > _NO_AGENT_S:
                return HandoverResult(
                    is_accepted=False, text=f"no agent answers for {self._config.inspection} on {topic}"
                )
            if waited_s > self._config.timeout_s:
                state = "unknown" if answer is None else answer.state
                return HandoverResult(
                    is_accepted=False, text=f"{self._config.release} is not active yet (state {state})"
                )

    def _publish_hint(self) -> HandoverResult | None:
        topic = hint_topic(self._config.inspection)
        try:
            publish_local(self._connection, topic, self._hint.encode())
        except IpcError as error:
            if error.kind is IpcErrorKind.UNAUTHORIZED:
                return HandoverResult(is_accepted=False, text=f"accessControl does not allow to publish on {topic}")
            _log.warning("the hint cannot be sent to the agent now: %s", error)
        return None

    def _on_status(self, payload: bytes) -> None:
        """Thread ipc-events."""
        try:
            self._status = parse_status(payload)
        except MessageError as error:
            _log.warning("a status is ignored: %s", error)
            return
        self._status_changed.set()


def _hand_over(environment: Environment) -> HandoverResult:
    clock = SystemClock()
    connection = Connection(
        socket_path=environment.socket_path, token=environment.token, component=MODEL_NAME, clock=clock
    )
    connection.start()
    try:
        if not connection.wait_connected(_CONNECT_S):
            return HandoverResult(is_accepted=False, text="there is no connection to the nucleus")
        config = read_model_config(read_configuration(connection))
        folder = environment.base / REPOSITORY_FOLDER
        if not folder.is_dir():
            return HandoverResult(
                is_accepted=False, text=f"the artifact has no folder {REPOSITORY_FOLDER}: build the component again"
            )
        return ReleaseHandover(connection=connection, config=config, folder=folder, clock=clock).run()
    finally:
        connection.close()


def main() -> int:
    """Hand the release over; return the exit code."""
    configure_logging()
    try:
        result = _hand_over(Environment.read(os.environ, work=Path.cwd()))
    except KensaError as error:
        result = HandoverResult(is_accepted=False, text=str(error))
    _log.log(logging.INFO if result.is_accepted else logging.ERROR, "%s", result.text)
    return 0 if result.is_accepted else 1


if __name__ == "__main__":
    sys.exit(main())
