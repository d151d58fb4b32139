"""Verdicts acknowledged through a simulated nucleus have reached the real broker."""

from __future__ import annotations

import copy
import threading
import time
from typing import TYPE_CHECKING

import pytest

from agent.errors import TransportError
from agent.timing.clock import SystemClock
from greengrass.ipc.rate_limit import PublishRateLimiter
from greengrass.ipc.transport import MAX_IN_FLIGHT, MAX_PAYLOAD_BYTES, IpcTransport
from tests.kits.greengrass.nucleus_connection import ACCESS, connected, plant
from tests.kits.mqtt import PATIENCE_S, TOPIC, Listener, Sender, wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from greengrass.ipc.connection import Connection
    from simulator.nucleus.limits import Mode

MODES: list[Mode] = ["lite", "classic"]


def transport_over(connection: Connection, mode: Mode = "lite", *, confirm: bool = True) -> IpcTransport:
    clock = SystemClock()
    return IpcTransport(
        connection=connection,
        thing="thing-1",
        rate_limiter=PublishRateLimiter(clock=clock),
        clock=clock,
        confirm=confirm,
        max_in_flight=MAX_IN_FLIGHT[mode],
    )


@pytest.mark.parametrize("mode", MODES)
def test_every_message_arrives_and_is_acknowledged(tmp_path: Path, mode: Mode) -> None:
    with plant(mode, tmp_path) as p, connected(p.nucleus) as connection:
        connection.start()
        with Listener(p.broker.port) as listener, Sender(transport_over(connection, mode)) as sender:
            sender.send(range(60))
            wait_for(lambda: sender.idle, "acknowledgements")
            listener.wait_for_all(range(60))
        assert sorted(listener.received) == list(range(60))
        assert p.nucleus.connections_refused == 0


@pytest.mark.parametrize("mode", MODES)
def test_a_topic_that_access_control_lacks_is_refused_alone_and_the_others_go_on(tmp_path: Path, mode: Mode) -> None:
    other = TOPIC.replace("cam-1", "cam-2")
    answers: list[tuple[str, int]] = []
    reasons: list[str] = []
    up = threading.Event()

    def on_reject(token: int, reason: str) -> None:
        answers.append(("reject", token))
        reasons.append(reason)

    access = copy.deepcopy(ACCESS)
    publish = access["aws.greengrass.ipc.mqttproxy"]["com.kensa.Inspector:mqttproxy:1"]
    publish["resources"] = [TOPIC, "kensa-echo/+"]
    with plant(mode, tmp_path) as p, connected(p.nucleus, {"accessControl": access}) as connection:
        connection.start()
        transport = transport_over(connection, mode)
        transport.start(
            on_ack=lambda token: answers.append(("ack", token)),
            on_reject=on_reject,
            on_connection=lambda is_up, _reason: up.set() if is_up else None,
        )
        assert up.wait(PATIENCE_S)
        for token, topic in enumerate((TOPIC, other, TOPIC)):
            transport.publish(token, topic, b"%d" % token)
        wait_for(lambda: len(answers) == 3, "three answers")
        transport.close(timeout_s=5.0)
    assert sorted(answers) == [("ack", 0), ("ack", 2), ("reject", 1)]
    assert f"Allow {other} in accessControl" in reasons[0]


@pytest.mark.parametrize("mode", MODES)
def test_cuts_of_network_and_nucleus_lose_nothing(tmp_path: Path, mode: Mode) -> None:
    total = range(240)
    with plant(mode, tmp_path) as p, connected(p.nucleus) as connection:
        p.network.latency_s = 0.02  # so that something is on its way when it is cut
        connection.start()
        with Listener(p.broker.port) as listener, Sender(transport_over(connection, mode)) as sender:

            def hears_more() -> None:
                seen = len(set(listener.received))
                wait_for(lambda: len(set(listener.received)) > seen + 15, "messages")

            wait_for(lambda: sender.up, "the connection")
            sender.send(total)
            for _ in range(3):
                hears_more()
                p.network.reset()
            hears_more()
            p.nucleus.stop_ipc()
            time.sleep(0.2)
            p.nucleus.start_ipc()
            wait_for(lambda: sender.idle, "acknowledgements")
            listener.wait_for_all(total)
        assert connection.connects == 2
        assert p.nucleus.connections_refused == 0


def test_what_is_too_large_never_reaches_the_nucleus(tmp_path: Path) -> None:
    with plant("lite", tmp_path) as p, connected(p.nucleus) as connection:
        connection.start()
        with Sender(transport_over(connection)) as sender:
            wait_for(lambda: sender.up, "the connection")
            with pytest.raises(TransportError, match="6500"):
                sender.transport.publish(1, "kensa/thing-1/verdicts/cam", b"x" * (MAX_PAYLOAD_BYTES + 1))
            sender.transport.publish(2, "kensa/thing-1/verdicts/cam", b"x" * MAX_PAYLOAD_BYTES)
            for topic in ("kensa/thing-1/verdicts/+", "kensa/#", "$aws/things/x/shadow/get", "a/b/c/d/e/f/g/h/i", ""):
                with pytest.raises(TransportError, match="topic"):
                    sender.transport.publish(3, topic, b"x")
        assert (connection.connects, p.nucleus.connections_refused) == (1, 0)


def test_no_more_than_forty_leave_in_a_second(tmp_path: Path) -> None:
    with plant("lite", tmp_path) as p, connected(p.nucleus) as connection:
        connection.start()
        with Listener(p.broker.port) as listener, Sender(transport_over(connection)) as sender:
            wait_for(lambda: sender.up, "the connection")
            began = time.monotonic()
            sender.send(range(80))
            listener.wait_for_all(range(80))
            assert time.monotonic() - began > 2.0


def test_without_the_right_to_subscribe_the_nucleus_is_taken_at_its_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    only_publish = {
        "aws.greengrass.ipc.mqttproxy": {
            "p:1": {
                "operations": ["aws.greengrass#PublishToIoTCore"],
                "resources": ["kensa/+/verdicts/+", "kensa-echo/+"],
            }
        }
    }
    access = {"accessControl": only_publish}
    with plant("lite", tmp_path) as p, connected(p.nucleus, access) as connection:
        connection.start()
        transport = transport_over(connection)
        with Listener(p.broker.port) as listener, Sender(transport) as sender:
            sender.send(range(10))
            listener.wait_for_all(range(10))
            wait_for(lambda: sender.idle, "acknowledgements")
            assert not transport.is_confirmed_by_echo
        assert "accessControl" in caplog.text


def test_a_nucleus_that_comes_late_is_waited_for(tmp_path: Path) -> None:
    with plant("lite", tmp_path) as p, connected(p.nucleus) as connection:
        p.nucleus.stop_ipc()
        connection.start()
        assert not connection.wait_connected(0.3)
        timer = threading.Timer(0.2, p.nucleus.start_ipc)
        timer.start()
        with Listener(p.broker.port) as listener, Sender(transport_over(connection)) as sender:
            sender.send(range(5))
            listener.wait_for_all(range(5))
        timer.join()
