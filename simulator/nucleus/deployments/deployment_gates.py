"""The consent that only classic asks of its components before a deployment.

It asks whether the configuration is valid, and whether the update may begin now.

Configuration: who subscribed gets the whole tree that it would have, and must accept it in time; a refusal or silence
ends the deployment with nothing changed. Time: every subscriber is told that components will restart and may put it
off, again and again; who does not answer in time has nothing against it.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from simulator.nucleus.ipc import request_fields
from simulator.nucleus.ipc.ipc_errors import InvalidArgumentsError, ResourceNotFoundError
from simulator.nucleus.ipc.ipc_server import IpcOperation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from simulator.nucleus.ipc.ipc_server import IpcRequest, IpcStream, JsonObject


@dataclass(slots=True)
class _PendingAnswers:
    """Something that components are asked; answers by component."""

    deployment_id: str
    open: set[str]
    answers: dict[str, Any] = field(default_factory=dict)
    all_answered: asyncio.Event = field(default_factory=asyncio.Event)

    def answer(self, component: str, answer: Any) -> None:
        self.answers[component] = answer
        self.open.discard(component)
        if not self.open:
            self.all_answered.set()


class DeploymentGates:
    """Component updates and configuration validation."""

    def __init__(self) -> None:
        """Nobody has subscribed yet."""
        self._updates: list[tuple[str, IpcStream]] = []
        self._validations: list[tuple[str, IpcStream]] = []
        self._update: _PendingAnswers | None = None
        self._validation: _PendingAnswers | None = None

    def operations(self) -> dict[str, IpcOperation]:
        """What this module answers."""
        return {
            "SubscribeToComponentUpdates": IpcOperation(lambda request: _join(self._updates, request), streams=True),
            "DeferComponentUpdate": IpcOperation(self._defer),
            "SubscribeToValidateConfigurationUpdates": IpcOperation(
                lambda request: _join(self._validations, request), streams=True
            ),
            "SendConfigurationValidityReport": IpcOperation(self._report),
        }

    async def validate(self, deployment_id: str, trees: Mapping[str, Any], *, wait_s: float) -> str:
        """Ask the components in `trees` (configuration by name) that subscribed; return why not, "" when all accept."""
        asked = {component for component, _ in self._validations if component in trees}
        if not asked:
            return ""
        question = self._validation = _PendingAnswers(deployment_id, set(asked))
        for component, stream in list(self._validations):
            if component in asked:
                event = {"configuration": trees[component], "deploymentId": deployment_id}
                stream.send("ValidateConfigurationUpdateEvents", {"validateConfigurationUpdateEvent": event})
        try:
            async with asyncio.timeout(wait_s):
                await question.all_answered.wait()
        except TimeoutError:
            silent = ", ".join(sorted(question.open))
            return f"Components did not respond to configuration validation within {wait_s:g} s: {silent}"
        finally:
            self._validation = None
        refused = [f"{name}: {answer[1]}" for name, answer in question.answers.items() if answer[0] != "ACCEPTED"]
        return f"Components reported that their to-be-deployed configuration is invalid: {refused}" if refused else ""

    async def wait_for_consent(self, deployment_id: str, *, wait_s: float) -> None:
        """Tell all subscribers that components restart, until none puts it off any more."""
        while asked := {component for component, _ in self._updates}:
            question = self._update = _PendingAnswers(deployment_id, asked)
            for _, stream in list(self._updates):
                event = {"preUpdateEvent": {"deploymentId": deployment_id, "isGgcRestarting": False}}
                stream.send("ComponentUpdatePolicyEvents", event)
            with contextlib.suppress(TimeoutError):  # silence is consent
                async with asyncio.timeout(wait_s):
                    await question.all_answered.wait()
            self._update = None
            recheck_ms = max((answer for answer in question.answers.values()), default=0)
            if not recheck_ms:
                return
            await asyncio.sleep(recheck_ms / 1000)

    def notify_done(self, deployment_id: str) -> None:
        """Tell all subscribers that the deployment is through."""
        for _, stream in list(self._updates):
            stream.send("ComponentUpdatePolicyEvents", {"postUpdateEvent": {"deploymentId": deployment_id}})

    def _defer(self, request: IpcRequest) -> JsonObject:
        deployment_id = request_fields.read_text(request.content, "deploymentId")
        if self._update is None or self._update.deployment_id != deployment_id:
            raise InvalidArgumentsError("Time limit to respond to PreComponentUpdateEvent exceeded")
        self._update.answer(request.component, int(request.content.get("recheckAfterMs") or 0))
        return {}

    def _report(self, request: IpcRequest) -> JsonObject:
        report = request.content.get("configurationValidityReport")
        if not isinstance(report, dict) or report.get("status") not in ("ACCEPTED", "REJECTED"):
            raise InvalidArgumentsError("configurationValidityReport needs the status ACCEPTED or REJECTED")
        if self._validation is None or self._validation.deployment_id != report.get("deploymentId"):
            raise ResourceNotFoundError("Validation request either timed out or was never made")
        self._validation.answer(request.component, (report["status"], report.get("message", "")))
        return {}


def _join(subscribers: list[tuple[str, IpcStream]], request: IpcRequest) -> JsonObject:
    entry = (request.component, request.stream)
    subscribers.append(entry)
    request.stream.add_close_callback(lambda: subscribers.remove(entry))
    return {}
