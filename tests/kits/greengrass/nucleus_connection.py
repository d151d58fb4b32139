"""A simulated nucleus on a real broker, and a connection of the real SDK to it."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from agent.timing.clock import SystemClock
from greengrass.ipc.connection import Connection
from simulator.doubles.network.mqtt_broker import MosquittoBroker
from simulator.doubles.network.tcp_proxy import TcpProxy
from simulator.nucleus import Nucleus
from tests.kits.mqtt import require_mosquitto

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from simulator.nucleus.limits import Mode

COMPONENT: Final = "com.kensa.Inspector"
THING: Final = "line1-cam"
SHADOW: Final = "$aws/things/+/shadow/name/kensa"
_ANSWERS: Final = ("get/accepted", "get/rejected", "update/accepted", "update/rejected", "update/delta")
ACCESS: Final[dict[str, Any]] = {
    "aws.greengrass.ipc.mqttproxy": {
        f"{COMPONENT}:mqttproxy:1": {
            "operations": ["aws.greengrass#PublishToIoTCore"],
            "resources": [
                *(f"kensa/+/{topic}" for topic in ("verdicts/+", "model", "heartbeat")),
                "kensa-echo/+",
                *(f"{SHADOW}/{request}" for request in ("get", "update")),
            ],
        },
        f"{COMPONENT}:mqttproxy:2": {
            "operations": ["aws.greengrass#SubscribeToIoTCore"],
            "resources": [
                *(f"kensa/+/{topic}" for topic in ("verdicts/+", "model")),
                "kensa-echo/+",
                *(f"{SHADOW}/{answer}" for answer in _ANSWERS),
            ],
        },
    },
    "aws.greengrass.ipc.pubsub": {
        f"{COMPONENT}:pubsub:1": {
            "operations": ["aws.greengrass#SubscribeToTopic", "aws.greengrass#PublishToTopic"],
            "resources": [
                "kensa/model/spots",
                "kensa/model/spots/status",
                f"$aws/things/{THING}/shadow/name/kensa/update/delta",
            ],
        },
    },
    "aws.greengrass.ShadowManager": {
        f"{COMPONENT}:shadow:1": {
            "operations": ["aws.greengrass#GetThingShadow", "aws.greengrass#UpdateThingShadow"],
            "resources": [f"$aws/things/{THING}/shadow/name/kensa"],
        },
    },
}


@dataclass(frozen=True, slots=True)
class Plant:
    """A nucleus, its broker, and the network between them."""

    nucleus: Nucleus
    broker: MosquittoBroker
    network: TcpProxy


@contextmanager
def plant(mode: Mode, root: Path, **settings: Any) -> Iterator[Plant]:
    """A nucleus that reaches its broker; impatient to come back to it."""
    require_mosquitto()
    timeouts = {"reconnect_s": (0.1, 0.5), "thing": THING, **settings}
    with (
        MosquittoBroker() as broker,
        TcpProxy(port=broker.port) as network,
        Nucleus(mode, root=root, broker=(network.host, network.port), **timeouts) as nucleus,
    ):
        nucleus.wait_online()
        yield Plant(nucleus, broker, network)


@contextmanager
def connected(nucleus: Nucleus, configuration: Mapping[str, Any] | None = None) -> Iterator[Connection]:
    """A connection as the component has it. `start` is left to the test."""
    environment = nucleus.add_client(COMPONENT, {"accessControl": ACCESS, **(configuration or {})})
    connection = Connection(
        socket_path=environment["AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT"],
        token=environment["SVCUID"],
        clock=SystemClock(),
        backoff_s=(0.05, 0.5),
    )
    try:
        yield connection
    finally:
        connection.close()
