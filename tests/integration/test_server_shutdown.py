"""The simulator's servers close every socket when they end, whatever clients do."""

from __future__ import annotations

import contextlib
import gc
import socket
import sys
import time
from typing import TYPE_CHECKING

import pytest

from simulator.doubles.network.mqtt_broker import AmqttBroker, free_port
from simulator.doubles.network.tcp_proxy import TcpProxy

if TYPE_CHECKING:
    from collections.abc import Callable

CONNECT = bytes.fromhex("100d 0004 4d515454 04 02 003c 0001 61")  # MQTT 3.1.1 as client "a", section 3.1


def _wait(_client: socket.socket) -> None:
    pass


def _go(client: socket.socket) -> None:
    client.close()


def _begin(client: socket.socket) -> None:
    client.sendall(CONNECT[:5])


def _connect(client: socket.socket) -> None:
    client.sendall(CONNECT)


def _babble(client: socket.socket) -> None:
    client.sendall(b"\xff" * 20)


@pytest.mark.parametrize("server", [AmqttBroker, lambda: TcpProxy(port=free_port())], ids=["amqtt", "proxy"])
@pytest.mark.parametrize("act", [_wait, _go, _begin, _connect, _babble])
def test_no_connection_outlives_its_server(
    server: Callable[[], AmqttBroker | TcpProxy], act: Callable[[socket.socket], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[str] = []
    gc.collect()  # what earlier tests left is not meant
    monkeypatch.setattr(sys, "unraisablehook", lambda found: left.append(repr(found.exc_value)))
    for delay_s in (0.0, 0.001, 0.02):
        with contextlib.ExitStack() as clients, server() as running:
            for _ in range(4):
                client = socket.create_connection((running.host, running.port))
                clients.enter_context(contextlib.closing(client))
                with contextlib.suppress(OSError):  # a proxy without a target has hung up
                    act(client)
            time.sleep(delay_s)
        gc.collect()
    assert left == []
