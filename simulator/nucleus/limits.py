"""The limits and behaviour of the two nuclei, in one place.

Those of lite were measured on nucleus lite 2.6.0 or, where it says so, read in its source; those of classic are of its
documentation.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

Mode = Literal["lite", "classic"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of one nucleus; None: there is none."""

    message_bytes: int  # of a request; larger ends the connection
    clients: int | None = None  # connections at once
    local_subscriptions: int | None = None  # of all components
    # IoT Core
    outgoing_bytes: int  # payload; larger ends the connection (lite) or is refused (classic)
    incoming_packet_bytes: int | None = None  # a whole MQTT PUBLISH packet; larger vanishes
    incoming_bytes: int | None = None  # payload; larger vanishes
    in_flight: int = 0  # QoS 1 without an answer of the broker
    in_flight_bytes: int | None = None  # of these packets together
    min_in_flight_s: float = 0.0  # how long a QoS 1 publish takes up its place at least
    spool_bytes: int = 0  # publishes that wait for the broker, in memory, the oldest is dropped; 0: none wait
    # configuration
    string_bytes: int | None = None
    keys: int | None = None  # of one map
    nesting: int | None = None


# The slot's time makes 10 in flight about 80 publishes a second, as measured: 50/s without an error, 100/s with 20 %.
# in_flight_bytes and incoming_packet_bytes are IOTCORED_UNACKED_PACKET_BUFFER_SIZE and IOTCORED_NETWORK_BUFFER_SIZE of
# modules/iotcored/src/mqtt.c, message_bytes GGL_IPC_MAX_MSG_LEN and the frame's first twelve bytes.
LITE: Final = Limits(
    message_bytes=10_012,
    clients=50,
    local_subscriptions=99,
    outgoing_bytes=6_900,
    incoming_packet_bytes=5_000,
    incoming_bytes=4_980,
    in_flight=10,
    in_flight_bytes=15_000,
    min_in_flight_s=0.125,
    string_bytes=1_022,
    keys=99,
    nesting=11,
)
CLASSIC: Final = Limits(
    message_bytes=16 * 1024**2, outgoing_bytes=128 * 1024, in_flight=5, spool_bytes=2_621_440
)  # 2.5 MB


@dataclass(frozen=True, slots=True, kw_only=True)
class NucleusBehaviour:
    """What a nucleus does in its own time, and what depends on the device; lite as it was measured. Seconds."""

    restart_s: float = 1.2  # from a component's crash to its next start
    kill_after_s: float = 120.0  # from SIGTERM to SIGKILL
    update_gap_s: float = 2.0  # lite: from the end of an old version to the start of the new one
    health: bool = True  # lite: the health daemon runs; UpdateState fails without
    systemd: int = 252  # lite: the device's version, Debian 12's; before 253 `systemd-notify` has no --stopping
    status_s: float = 2.0  # lite: between two looks at how a deployment's components are; what came and went is missed
    # lite restarts what a deployment configures: its release notes of 2.6.0 say so, and its measurement denies it
    restarts_on_configuration: bool = False
    synced_shadows: tuple[str, ...] = ("kensa",)  # classic: what its shadow manager keeps in step with the cloud
    environment: Mapping[str, str] = field(default_factory=dict)  # of every component, beside the nucleus's own


LIMITS: Final[dict[Mode, Limits]] = {"lite": LITE, "classic": CLASSIC}
