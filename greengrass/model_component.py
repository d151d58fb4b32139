"""`python -m greengrass.model_component`: hand the release of this component to the agent, and wait until it serves.

The program of com.kensa.Model's startup. Its configuration says which inspection is meant (`inspection`) and which
release lies in the artifact (`release`); KENSA_COMPONENT_DIR is the unpacked artifact, whose folder `repository` is a
TUF repository of that release. The agent judges it as it judges any other. `read_timeout_s` (default 3,300) bounds the
wait; keep it below the recipe's time-out of startup.

0: the line runs it, or this device follows another wish that is newer. 1: it is refused, nobody answers, or it takes
too long: the deployment then fails, with the reason on the last line of the log.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from awsiot.greengrasscoreipc import model
from pydantic import Field, ValidationError

from agent.errors import ConfigError, KensaError, MessageError
from agent.strict import Strict
from agent.timing.clock import NS_PER_S, SystemClock
from agent.wire.codec import Name
from agent.wire.model_report import ReleaseId
from greengrass.deployment.config_watcher import read_configuration
from greengrass.environment import MODEL_NAME, Environment
from greengrass.ipc.connection import Connection
from greengrass.ipc.errors import IpcError, IpcErrorKind
from greengrass.release_sources.release_hints import ReleaseHint, hint_topic, parse_status, publish_local, status_topic

if TYPE_CHECKING:
    from agent.timing.clock import Clock
    from greengrass.release_sources.release_hints import ReleaseStatus

REPOSITORY_FOLDER: Final = "repository"
_CONNECT_S: Final = 30.0
_HINT_INTERVAL_S: Final = 2.0  # the agent may start at the same time, or restart meanwhile
_NO_AGENT_S: Final = 300.0  # without a word of the agent
_SUPERSEDED_S: Final = 10.0  # as long as the agent may still have to take the hint in
_NUCLEUS_KEYS: Final = frozenset({"accessControl"})
_log = logging.getLogger("kensa.model")


class ModelComponentConfig(Strict):
    """The component's configuration."""

    inspection: Name
    release: ReleaseId
    patience_s: float = Field(default=3_300.0, ge=1.0, le=604_800.0)


def read_model_config(tree: object) -> ModelComponentConfig:
    """Read what GetConfiguration returned. Raises ConfigError."""
    if not isinstance(tree, dict):
        raise ConfigError("The configuration of the model component is no mapping.")
    try:
        return ModelComponentConfig.model_validate(
            {key: value for key, value in tree.items() if key not in _NUCLEUS_KEYS}
        )
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()]
        raise ConfigError("The configuration of the model component is refused:\n" + "\n".join(lines)) from error


@dataclass(frozen=True, slots=True)
class HandoverResult:
    """How the hand-over ended."""

    is_accepted: bool
    text: str


def evaluate_status(answer: ReleaseStatus, release: str, *, waited_s: float) -> HandoverResult | None:
    """Say what `answer` means for `release`; None: wait on."""
    if answer.active == release and answer.state in {"idle", "ab"}:
        return HandoverResult(is_accepted=True, text=f"the line runs {release}")
    if answer.desired == release:
        if answer.refused == release and answer.candidate != release:
            return HandoverResult(is_accepted=False, text=f"{release} is refused ({answer.reason}): {answer.text}")
        return None
    if waited_s < _SUPERSEDED_S:
        return None
    return HandoverResult(is_accepted=True, text=f"{release} is not what this device follows: that is {answer.desired}")


class ReleaseHandover:
    """One hand-over, from the first hint to the verdict."""

    def __init__(self, *, connection: Connection, task: ModelComponentConfig, folder: Path, clock: Clock) -> None:
        """`folder` is the repository."""
        self._connection = connection
        self._config = task
        self._hint = ReleaseHint(task.release, folder)
        self._clock = clock
        self._status_changed = threading.Event()
        self._status: ReleaseStatus | None = None

    def run(self) -> HandoverResult:
        """Hint, and hint again, until there is a verdict."""
        began_ns = heard_ns = self._clock.monotonic_ns()
        topic = status_topic(self._config.inspection)
        request = model.SubscribeToTopicRequest(topic=topic)
        self._connection.subscribe(
            "subscribe_to_topic", request, self._on_status, describe=f"SubscribeToTopic on {topic}"
        )
        told = None
        while True:
            if refused := self._publish_hint():
                return refused
            if self._clock.wait(self._status_changed, _HINT_INTERVAL_S):
                self._status_changed.clear()
                heard_ns = self._clock.monotonic_ns()
            now_ns = self._clock.monotonic_ns()
            waited_s = (now_ns - began_ns) / NS_PER_S
            if (answer := self._status) is not None:
                if answer != told:
                    told = answer
                    _log.info("%s: %s, active %s", self._config.inspection, answer.state, answer.active)
                if verdict := evaluate_status(answer, self._config.release, waited_s=waited_s):
                    return verdict
            if (now_ns - heard_ns) / NS_PER_S > _NO_AGENT_S:
                return HandoverResult(
                    is_accepted=False, text=f"no agent answers for {self._config.inspection} on {topic}"
                )
            if waited_s > self._config.patience_s:
                state = "unknown" if answer is None else answer.state
                return HandoverResult(
                    is_accepted=False, text=f"{self._config.release} does not serve yet (state {state})"
                )

    def _publish_hint(self) -> HandoverResult | None:
        topic = hint_topic(self._config.inspection)
        try:
            publish_local(self._connection, topic, self._hint.encode())
        except IpcError as error:
            if error.kind is IpcErrorKind.UNAUTHORIZED:
                return HandoverResult(is_accepted=False, text=f"accessControl does not allow to publish on {topic}")
            _log.warning("the agent cannot be told now: %s", error)
        return None

    def _on_status(self, event: Any) -> None:
        """Thread ipc-events."""
        message = event.binary_message
        try:
            self._status = parse_status((None if message is None else message.message) or b"")
        except MessageError as error:
            _log.warning("an answer is ignored: %s", error)
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
        task = read_model_config(read_configuration(connection))
        folder = environment.base / REPOSITORY_FOLDER
        if not folder.is_dir():
            return HandoverResult(
                is_accepted=False, text=f"the artifact has no folder {REPOSITORY_FOLDER}: build the component again"
            )
        return ReleaseHandover(connection=connection, task=task, folder=folder, clock=clock).run()
    finally:
        connection.close()


def main() -> int:
    """Run once."""
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(levelname)s %(message)s")
    logging.getLogger("awsiot.eventstreamrpc").setLevel(
        logging.CRITICAL
    )  # what it says, greengrass.ipc.connection says
    try:
        verdict = _hand_over(Environment.read(os.environ, work=Path.cwd()))
    except KensaError as error:
        verdict = HandoverResult(is_accepted=False, text=str(error))
    _log.log(logging.INFO if verdict.is_accepted else logging.ERROR, "%s", verdict.text)
    return 0 if verdict.is_accepted else 1


if __name__ == "__main__":
    sys.exit(main())
