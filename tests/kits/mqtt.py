"""Helpers of the MQTT tests: a sender that keeps unacknowledged messages, a listener, certificates."""

from __future__ import annotations

import contextlib
import queue
import random
import shutil
import subprocess
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from agent.adapters.mqtt import MqttTransport, TlsFiles
from agent.errors import TransportError
from simulator.doubles.network.mqtt_broker import mosquitto_program
from tests.kits.requirements import require

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from agent.ports import Transport

PATIENCE_S = 120.0  # far longer than anything here takes; only a test that fails waits for so long
TOPIC = "kensa/thing-1/verdicts/cam-1"


def require_mosquitto() -> None:
    require(mosquitto_program(), "mosquitto", "apt install mosquitto")


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"still waiting for {what}"
        time.sleep(0.005)


def transport_to(port: int, *, protocol: Literal["3.1.1", "5"] = "3.1.1", **more: Any) -> MqttTransport:
    """A transport whose patience is short, so that a test of a bad network is quick."""
    settings: dict[str, Any] = {"timeout_s": 1.0, "backoff_s": (0.05, 0.2), "client_id": "thing-1", **more}
    return MqttTransport(host="127.0.0.1", port=port, protocol=protocol, rng=random.Random(7), **settings)


class Sender:
    """The least that makes delivery certain: forget on acknowledgement only, start again with each connection."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.reasons: list[str] = []
        self.rejections: list[str] = []
        self.ups = 0
        self.up = False
        self._events: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
        self._waiting: dict[int, bytes] = {}
        self._in_flight: dict[int, bytes] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sender", daemon=True)

    def __enter__(self) -> Self:
        self.transport.start(
            on_ack=lambda token: self._events.put(("ack", token)),
            on_reject=lambda _token, reason: self.rejections.append(reason),
            on_connection=lambda up, reason: self._events.put(("connection", up, reason)),
        )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(PATIENCE_S)
        self.transport.close(timeout_s=PATIENCE_S)

    def send(self, numbers: range) -> None:
        for number in numbers:
            self._events.put(("send", number))

    @property
    def idle(self) -> bool:
        return self._events.empty() and not self._waiting and not self._in_flight

    def _run(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(queue.Empty):
                self._take(self._events.get(timeout=0.01))
            self._hand_over()

    def _take(self, event: tuple[Any, ...]) -> None:
        match event:
            case ("ack", token):
                self._in_flight.pop(token, None)
                self._waiting.pop(token, None)
            case ("send", number):
                self._waiting[number] = b"%d" % number
            case ("connection", up, reason):
                self.up = up
                self.ups += up
                self.reasons.append(reason)
                self._waiting = {**self._in_flight, **self._waiting}
                self._in_flight = {}

    def _hand_over(self) -> None:
        for number, payload in list(self._waiting.items()):
            if not self.up or len(self._in_flight) >= self.transport.max_in_flight:
                return
            try:
                self.transport.publish(number, TOPIC, payload)
            except TransportError:
                return
            self._in_flight[number] = self._waiting.pop(number)


class Listener:
    """A subscriber with a session that the broker keeps, so that only the side under test can lose anything."""

    def __init__(self, port: int, *, tls: TlsFiles | None = None) -> None:
        self.received: list[int] = []
        self._port = port
        self._subscribed = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id="listener", clean_session=False)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = self._connected
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_disconnect = lambda *_: self._subscribed.clear()
        self._client.on_message = lambda _c, _u, message: self.received.append(int(message.payload))
        if tls is not None:
            self._client.tls_set(str(tls.ca), str(tls.certificate), str(tls.key))

    def __enter__(self) -> Self:
        self._client.connect("127.0.0.1", self._port)
        self._client.loop_start()
        self.wait_ready()
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _connected(self, client: paho.Client, *_: object) -> None:
        client.subscribe("kensa/#", qos=1)

    def wait_ready(self) -> None:
        assert self._subscribed.wait(PATIENCE_S)

    def wait_for_all(self, numbers: range) -> None:
        wait_for(lambda: set(self.received) >= set(numbers), f"{len(numbers)} messages")


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority in a folder; certificates are made with the openssl command."""

    folder: Path

    @classmethod
    def found(cls, folder: Path) -> Self:
        require(shutil.which("openssl"), "openssl", "apt install openssl")
        folder.mkdir(exist_ok=True)
        made = cls(folder)
        made._openssl(
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
            "-subj", "/CN=test authority", "-keyout", "ca.key", "-out", "ca.pem",
        )  # fmt: skip
        return made

    def issue(self, name: str) -> TlsFiles:
        self._openssl(
            "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", f"/CN={name}",
            "-keyout", f"{name}.key", "-out", f"{name}.csr",
        )  # fmt: skip
        names = self.folder / "names.cnf"
        names.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        self._openssl(
            "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
            "-extfile", "names.cnf", "-out", f"{name}.pem",
        )  # fmt: skip
        return TlsFiles(
            ca=self.folder / "ca.pem", certificate=self.folder / f"{name}.pem", key=self.folder / f"{name}.key"
        )

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self.folder, check=True, capture_output=True)
