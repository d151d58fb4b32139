"""The brokers that the demos may take: where they listen, what they keep, and how they end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import paho.mqtt.client as paho
import psutil
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from agent.errors import MissingExtraError
from simulator.doubles.network import mqtt_broker as brokers
from simulator.doubles.network.mqtt_broker import (
    AmqttBroker,
    IotcoreBroker,
    LocalBroker,
    MosquittoBroker,
    has_iotcore,
    open_broker,
)
from tests.kits.mqtt import require_mosquitto, wait_for
from tests.kits.requirements import ROOT, require

if TYPE_CHECKING:
    from collections.abc import Callable

MESSAGES = 400  # while the subscriber is away


def iotcore() -> IotcoreBroker:
    require(has_iotcore(), "iotcore", "pip install 'kensa[sim]' on x86_64")
    return IotcoreBroker()


def mosquitto() -> MosquittoBroker:
    require_mosquitto()
    return MosquittoBroker()


def client_of(broker: LocalBroker, name: str, *, clean: bool = True) -> paho.Client:
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id=name, clean_session=clean)
    client.max_inflight_messages_set(20)
    up = threading.Event()
    client.on_connect = lambda *_: up.set()
    client.connect(broker.host, broker.port)
    client.loop_start()
    assert up.wait(60.0)
    return client


@pytest.mark.parametrize("make", [mosquitto, iotcore, AmqttBroker])
def test_a_broker_listens_on_the_loopback_only_and_is_gone_afterwards(make: Callable[[], LocalBroker]) -> None:
    with make() as broker:
        listening = [
            found.laddr.ip
            for process in (psutil.Process(), *psutil.Process().children(recursive=True))
            for found in process.net_connections("tcp")
            if found.status == psutil.CONN_LISTEN and found.laddr.port == broker.port
        ]
        assert listening == ["127.0.0.1"]
    with pytest.raises(OSError, match="refused"), socket.create_connection((broker.host, broker.port), timeout=5.0):
        pass


@pytest.mark.parametrize("make", [mosquitto, iotcore])
def test_what_it_acknowledges_reaches_a_subscriber_that_was_away(make: Callable[[], LocalBroker]) -> None:
    with make() as broker:
        subscriber, subscribed = client_of(broker, "reader", clean=False), threading.Event()
        subscriber.on_subscribe = lambda *_: subscribed.set()
        subscriber.subscribe("kensa/#", qos=1)
        assert subscribed.wait(60.0)
        subscriber.disconnect()
        subscriber.loop_stop()

        publisher = client_of(broker, "writer")
        sent = [publisher.publish("kensa/x", str(number), qos=1) for number in range(MESSAGES)]
        for one in sent:
            one.wait_for_publish(60.0)  # acknowledged
        arrived: set[bytes] = set()
        again = paho.Client(CallbackAPIVersion.VERSION2, client_id="reader", clean_session=False)
        again.on_message = lambda _client, _data, message: arrived.add(bytes(message.payload))
        again.connect(broker.host, broker.port)
        again.loop_start()
        wait_for(lambda: len(arrived) == MESSAGES, "all that was acknowledged")
        for client in (publisher, again):
            client.disconnect()
            client.loop_stop()


def test_iotcore_outlives_ctrl_c_and_ends_with_its_owner_even_when_that_is_killed() -> None:
    iotcore()
    program = (
        "import sys, time\nfrom simulator.doubles.network.mqtt_broker import IotcoreBroker\n"
        "with IotcoreBroker() as broker:\n    print(broker.port, flush=True)\n    sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0
    ) as owner:
        assert owner.stdout is not None
        port = int(owner.stdout.readline())
        (child,) = psutil.Process(owner.pid).children()
        assert os.getpgid(child.pid) != os.getpgid(owner.pid)  # a terminal's Ctrl-C goes to the owner's group
        with socket.create_connection(("127.0.0.1", port), timeout=5.0):
            owner.send_signal(signal.SIGKILL)
            owner.wait()
        deadline = time.monotonic() + 60.0
        while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.mark.parametrize(
    ("mosquitto", "iotcore", "wanted"),
    [
        ("/usr/sbin/mosquitto", True, "mosquitto"),
        ("/usr/sbin/mosquitto", False, "mosquitto"),
        (None, True, "iotcore"),
        (None, False, "amqtt"),
    ],
)
def test_the_best_broker_that_is_installed_is_taken(
    monkeypatch: pytest.MonkeyPatch, mosquitto: str | None, *, iotcore: bool, wanted: str
) -> None:
    monkeypatch.setattr(brokers, "mosquitto_program", lambda: mosquitto)
    monkeypatch.setattr(brokers, "has_iotcore", lambda: iotcore)
    assert brokers.best_installed_broker() == wanted


def test_a_broker_that_is_not_installed_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(brokers, "has_iotcore", lambda: False)
    with pytest.raises(MissingExtraError, match="apt install mosquitto"):
        open_broker("iotcore")


def test_only_mosquitto_is_told_of_device_shadows() -> None:
    assert [kind.carries_shadows for kind in (MosquittoBroker, IotcoreBroker, AmqttBroker)] == [True, False, False]
