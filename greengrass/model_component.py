"""`python -m greengrass.model_component`: hand the release of this component to the agent, and wait until it serves.

The program of com.kensa.Model's startup. Its configuration says which inspection is meant (`inspection`) and which
release lies in the artifact (`release`); KENSA_COMPONENT_DIR is the unpacked artifact, whose folder `repository` is a
TUF repository of that release. The agent judges it as it judges any other. `patience_s` (default 3,300) bounds the
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
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agent.clock import NS_PER_S, SystemClock
from agent.errors import ConfigError, KensaError, MessageError
from greengrass.connection import Connection
from greengrass.environment import MODEL, Environment
from greengrass.faults import Fault, IpcError
from greengrass.handover import Hint, hint_topic, parse_answer, publish, status_topic
from greengrass.watching import read_configuration

if TYPE_CHECKING:
    from agent.clock import Clock
    from greengrass.handover import Answer

REPOSITORY: Final = "repository"
_CONNECT_S: Final = 30.0
_AGAIN_S: Final = 2.0  # the agent may start at the same time, or restart meanwhile
_SILENCE_S: Final = 300.0  # without a word of the agent
_SUPERSEDED_S: Final = 10.0  # as long as the agent may still have to take the hint in
_NUCLEUS_KEYS: Final = frozenset({"accessControl"})
_log = logging.getLogger("kensa.model")


class Task(BaseModel):
    """The component's configuration."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    inspection: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    release: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}/\d{1,6}\.\d{1,6}\.\d{1,6}(-[0-9A-Za-z.-]{1,32})?$")
    patience_s: float = Field(default=3_300.0, ge=1.0, le=604_800.0)


def read_task(tree: object) -> Task:
    """Read what GetConfiguration returned. Raises ConfigError."""
    if not isinstance(tree, dict):
        raise ConfigError("The configuration of the model component is no mapping.")
    try:
        return Task.model_validate({key: value for key, value in tree.items() if key not in _NUCLEUS_KEYS})
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()]
        raise ConfigError("The configuration of the model component is refused:\n" + "\n".join(lines)) from error


@dataclass(frozen=True, slots=True)
class Verdict:
    """How the hand-over ended."""

    serves: bool
    text: str


def judge(answer: Answer, release: str, *, waited_s: float) -> Verdict | None:
    """Say what `answer` means for `release`; None: wait on."""
    if answer.active == release and answer.state in {"idle", "ab"}:
        return Verdict(serves=True, text=f"the line runs {release}")
    if answer.desired == release:
        if answer.refused == release and answer.candidate != release:
            return Verdict(serves=False, text=f"{release} is refused ({answer.reason}): {answer.text}")
        return None
    if waited_s < _SUPERSEDED_S:
        return None
    return Verdict(serves=True, text=f"{release} is not what this device follows: that is {answer.desired}")


class HandOver:
    """One hand-over, from the first hint to the verdict."""

    def __init__(self, *, connection: Connection, task: Task, folder: Path, clock: Clock) -> None:
        """`folder` is the repository."""
        self._connection = connection
        self._task = task
        self._hint = Hint(task.release, folder)
        self._clock = clock
        self._news = threading.Event()
        self._answer: Answer | None = None

    def run(self) -> Verdict:
        """Hint, and hint again, until there is a verdict."""
        began_ns = heard_ns = self._clock.monotonic_ns()
        topic = status_topic(self._task.inspection)
        request = model.SubscribeToTopicRequest(topic=topic)
        self._connection.listen("subscribe_to_topic", request, self._heard, describe=f"SubscribeToTopic on {topic}")
        told = None
        while True:
            if refused := self._give_hint():
                return refused
            if self._clock.wait(self._news, _AGAIN_S):
                self._news.clear()
                heard_ns = self._clock.monotonic_ns()
            now_ns = self._clock.monotonic_ns()
            waited_s = (now_ns - began_ns) / NS_PER_S
            if (answer := self._answer) is not None:
                if answer != told:
                    told = answer
                    _log.info("%s: %s, active %s", self._task.inspection, answer.state, answer.active)
                if verdict := judge(answer, self._task.release, waited_s=waited_s):
                    return verdict
            if (now_ns - heard_ns) / NS_PER_S > _SILENCE_S:
                return Verdict(serves=False, text=f"no agent answers for {self._task.inspection} on {topic}")
            if waited_s > self._task.patience_s:
                state = "unknown" if answer is None else answer.state
                return Verdict(serves=False, text=f"{self._task.release} does not serve yet (state {state})")

    def _give_hint(self) -> Verdict | None:
        topic = hint_topic(self._task.inspection)
        try:
            publish(self._connection, topic, self._hint.encode())
        except IpcError as error:
            if error.fault is Fault.UNAUTHORIZED:
                return Verdict(serves=False, text=f"accessControl does not allow to publish on {topic}")
            _log.warning("the agent cannot be told now: %s", error)
        return None

    def _heard(self, event: Any) -> None:
        """Thread ipc-events."""
        message = event.binary_message
        try:
            self._answer = parse_answer((None if message is None else message.message) or b"")
        except MessageError as error:
            _log.warning("an answer is ignored: %s", error)
            return
        self._news.set()


def _run(environment: Environment) -> Verdict:
    clock = SystemClock()
    connection = Connection(socket_path=environment.socket_path, token=environment.token, component=MODEL, clock=clock)
    connection.start()
    try:
        if not connection.wait_up(_CONNECT_S):
            return Verdict(serves=False, text="there is no connection to the nucleus")
        task = read_task(read_configuration(connection))
        folder = environment.base / REPOSITORY
        if not folder.is_dir():
            return Verdict(serves=False, text=f"the artifact has no folder {REPOSITORY}: build the component again")
        return HandOver(connection=connection, task=task, folder=folder, clock=clock).run()
    finally:
        connection.close()


def main() -> int:
    """Run once."""
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(levelname)s %(message)s")
    logging.getLogger("awsiot.eventstreamrpc").setLevel(logging.CRITICAL)  # what it says, greengrass.connection says
    try:
        verdict = _run(Environment.read(os.environ, work=Path.cwd()))
    except KensaError as error:
        verdict = Verdict(serves=False, text=str(error))
    _log.log(logging.INFO if verdict.serves else logging.ERROR, "%s", verdict.text)
    return 0 if verdict.serves else 1


if __name__ == "__main__":
    sys.exit(main())
