"""Detects the capabilities of the nucleus by trying each operation once, and names the substitutes.

A refusal is classified by its class alone: ServiceError means "not supported" (lite, or a classic nucleus without the
component that answers), UnauthorizedError "not allowed", and every other answer that the operation exists. No probe
changes anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Literal

from awsiot.greengrasscoreipc import model

from agent.wire.codec import SHADOW_NAME
from greengrass.ipc.errors import IpcError, IpcErrorKind

if TYPE_CHECKING:
    from greengrass.ipc.connection import Connection

_PROBE_TIMEOUT_S: Final = 5.0


class Capability(StrEnum):
    """Optional features of a nucleus that Kensa uses."""

    VALIDATION = "validation"  # a deployment with a bad configuration or model is refused before it changes anything
    DEFERRAL = "deferral"  # an update waits during a trial or a shift
    SHADOW = "shadow"  # shadow operations over IPC


@dataclass(frozen=True, slots=True)
class _Probe:
    operation: str
    request: Any
    fallback: str  # its substitute


_PROBES: Final = {
    Capability.VALIDATION: _Probe(
        "subscribe_to_validate_configuration_updates",
        model.SubscribeToValidateConfigurationUpdatesRequest(),
        "a bad configuration or model is refused after it was deployed, and the last good one is kept",
    ),
    Capability.DEFERRAL: _Probe(
        "subscribe_to_component_updates",
        model.SubscribeToComponentUpdatesRequest(),
        "an update stops the agent at any time, and a rollout continues after the start",
    ),
    Capability.SHADOW: _Probe("get_thing_shadow", None, "the shadow is reached by its MQTT topics"),
}


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Capabilities of this nucleus. `unauthorized`: those that accessControl does not allow, present or not."""

    mode: Literal["lite", "classic"]
    version: str
    present: frozenset[Capability]
    unauthorized: frozenset[Capability] = frozenset()

    def has(self, capability: Capability) -> bool:
        """Whether `capability` can be used."""
        return capability in self.present

    def fallbacks(self) -> dict[Capability, str]:
        """Return the substitute of each absent capability."""
        return {name: probe.fallback for name, probe in _PROBES.items() if name not in self.present}

    def describe(self) -> str:
        """Return one sentence for the log."""
        has = ", ".join(sorted(self.present)) or "none"
        return f"Greengrass nucleus {self.mode} {self.version}: of {', '.join(_PROBES)} it has {has}"


def detect(connection: Connection, *, thing: str, version: str) -> Capabilities:
    """Try each operation once; `version` is the nucleus's own (`GGC_VERSION`).

    The shadow needs an extra component on a classic nucleus, so the other two show which nucleus it is.
    """
    present: set[Capability] = set()
    unauthorized: set[Capability] = set()
    for name, probe in _PROBES.items():
        request = probe.request or model.GetThingShadowRequest(thing_name=thing, shadow_name=SHADOW_NAME)
        try:
            connection.probe(probe.operation, request, timeout_s=_PROBE_TIMEOUT_S)
        except IpcError as error:
            if error.kind is IpcErrorKind.UNAUTHORIZED:
                unauthorized.add(name)
            if error.kind not in {IpcErrorKind.NOT_FOUND, IpcErrorKind.CONFLICT, IpcErrorKind.INVALID}:
                continue
        present.add(name)
    mode: Literal["lite", "classic"] = "classic" if present & {Capability.VALIDATION, Capability.DEFERRAL} else "lite"
    return Capabilities(mode, version, frozenset(present), frozenset(unauthorized))


def assume_minimal(version: str) -> Capabilities:
    """Return what is safe to assume of a nucleus that could not be probed."""
    return Capabilities("lite", version, frozenset())
