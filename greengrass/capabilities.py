"""What the nucleus offers, found out by trying each operation once, and what takes the place of what it lacks.

A refusal is classified by its class alone: ServiceError says "I do not have it" (lite, or a classic nucleus without the
component that answers), UnauthorizedError "you may not", and every other answer that there is something to answer.
Nothing that is tried changes anything.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Literal

from awsiot.greengrasscoreipc import model

from agent.durable import replace_durably
from greengrass.ipc.errors import IpcError, IpcErrorKind

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from greengrass.ipc.connection import Connection

STATUS_FILE_NAME: Final = "greengrass.json"  # in the state directory; `kensa doctor` reads it
SHADOW_NAME: Final = "kensa"
_PROBE_TIMEOUT_S: Final = 5.0
_log = logging.getLogger(__name__)


class Capability(StrEnum):
    """What Kensa can use of a nucleus."""

    VALIDATION = "validation"  # a deployment with a bad configuration or model is refused before it changes anything
    DEFERRAL = "deferral"  # an update waits while a trial or a shift runs
    SHADOW = "shadow"  # shadow operations over IPC


@dataclass(frozen=True, slots=True)
class _Probe:
    operation: str
    request: Any
    fallback: str  # what takes its place


_PROBES: Final = {
    Capability.VALIDATION: _Probe(
        "subscribe_to_validate_configuration_updates",
        model.SubscribeToValidateConfigurationUpdatesRequest(),
        "a bad configuration or model is refused after it arrived, and the last good one is kept",
    ),
    Capability.DEFERRAL: _Probe(
        "subscribe_to_component_updates",
        model.SubscribeToComponentUpdatesRequest(),
        "an update stops the agent when the nucleus wants it, and a rollout goes on after the start",
    ),
    Capability.SHADOW: _Probe("get_thing_shadow", None, "the shadow is spoken to by its topics"),
}


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What this nucleus has. `unauthorized`: what accessControl does not allow, and so cannot be told."""

    mode: Literal["lite", "classic"]
    version: str
    present: frozenset[Capability]
    unauthorized: frozenset[Capability] = frozenset()

    def has(self, capability: Capability) -> bool:
        """Whether it can be used."""
        return capability in self.present

    def fallbacks(self) -> dict[Capability, str]:
        """Return what takes the place of what is absent."""
        return {name: trial.fallback for name, trial in _PROBES.items() if name not in self.present}

    def describe(self) -> str:
        """Return one sentence for the log."""
        has = ", ".join(sorted(self.present)) or "none"
        return f"Greengrass nucleus {self.mode} {self.version}: of {', '.join(_PROBES)} it has {has}"


def detect(connection: Connection, *, thing: str, version: str) -> Capabilities:
    """Try each operation once; `version` is the nucleus's own word (`GGC_VERSION`).

    The shadow needs a component beside a classic nucleus, so the other two tell which nucleus it is.
    """
    present: set[Capability] = set()
    unauthorized: set[Capability] = set()
    for name, trial in _PROBES.items():
        request = trial.request or model.GetThingShadowRequest(thing_name=thing, shadow_name=SHADOW_NAME)
        try:
            connection.probe(trial.operation, request, timeout_s=_PROBE_TIMEOUT_S)
        except IpcError as error:
            if error.kind is IpcErrorKind.UNAUTHORIZED:
                unauthorized.add(name)
            if error.kind not in {IpcErrorKind.NOT_FOUND, IpcErrorKind.CONFLICT, IpcErrorKind.INVALID}:
                continue
        present.add(name)
    mode: Literal["lite", "classic"] = "classic" if present & {Capability.VALIDATION, Capability.DEFERRAL} else "lite"
    return Capabilities(mode, version, frozenset(present), frozenset(unauthorized))


def assume_minimal(version: str) -> Capabilities:
    """Return what is safe to assume of a nucleus that could not be asked."""
    return Capabilities("lite", version, frozenset())


@dataclass(frozen=True, slots=True)
class ComponentStatus:
    """What this component says of itself to `kensa doctor`."""

    capabilities: Capabilities
    is_confirmed_by_echo: bool  # verdicts by their echo
    configuration: str  # digest of the configuration in force
    refusal: str | None = None  # why the one of the last deployment is not
    needs_restart: tuple[str, ...] = ()  # keys of it that the running process has not taken

    def write(self, state_dir: Path) -> None:
        """Leave it where the doctor looks; a disk that does not take it is a line in the log."""
        capabilities = self.capabilities
        content: Mapping[str, object] = {
            "mode": capabilities.mode,
            "version": capabilities.version,
            "present": sorted(capabilities.present),
            "unauthorized": sorted(capabilities.unauthorized),
            "instead": {str(name): text for name, text in capabilities.fallbacks().items()},
            "confirms": self.is_confirmed_by_echo,
            "configuration": self.configuration,
            "refused": self.refusal,
            "needs_restart": list(self.needs_restart),
        }
        try:
            replace_durably(state_dir / STATUS_FILE_NAME, json.dumps(content, indent=1).encode())
        except OSError as error:
            _log.warning("%s cannot be written: %s", state_dir / STATUS_FILE_NAME, error.strerror)
