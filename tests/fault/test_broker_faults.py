"""Every message that a sender keeps arrives at least once, whatever brokers and networks do."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING, Literal

import pytest

from simulator.doubles.network.mqtt_broker import MosquittoBroker
from simulator.doubles.network.tcp_proxy import TcpProxy
from tests.kits.mqtt import Listener, Sender, require_mosquitto, transport_to, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BEFORE, DURING, AFTER = range(100), range(100, 200), range(200, 300)
ALL = range(300)


@pytest.fixture
def broker() -> Iterator[MosquittoBroker]:
    require_mosquitto()
    with MosquittoBroker() as started:
        yield started


@pytest.fixture
def proxy(broker: MosquittoBroker) -> Iterator[TcpProxy]:
    with TcpProxy(port=broker.port) as started:
        yield started


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
@pytest.mark.parametrize(
    "harm", [TcpProxy.cut, TcpProxy.silence, TcpProxy.reset, lambda proxy: proxy.slow_close(0.3)],
    ids=["cut", "black hole", "reset", "slow close"],
)  # fmt: skip
def test_a_bad_network_delays_messages_but_loses_none(
    broker: MosquittoBroker, proxy: TcpProxy, harm: Callable[[TcpProxy], None], protocol: Literal["3.1.1", "5"]
) -> None:
    with Listener(broker.port) as listener, Sender(transport_to(proxy.port, protocol=protocol)) as sender:
        sender.send(BEFORE)
        wait_for(lambda: len(listener.received) > 10, "the first messages")
        harm(proxy)
        sender.send(DURING)
        wait_for(lambda: any("connected" not in reason for reason in sender.reasons), "the loss to be noticed")
        proxy.restore()
        sender.send(AFTER)
        listener.wait_for_all(ALL)
        wait_for(lambda: sender.idle, "the last acknowledgement")
        assert sender.ups > 1


def test_latency_slows_acknowledgements_but_breaks_nothing(broker: MosquittoBroker, proxy: TcpProxy) -> None:
    proxy.latency_s = 0.05
    with Listener(broker.port) as listener, Sender(transport_to(proxy.port)) as sender:
        sender.send(ALL)
        listener.wait_for_all(ALL)
        wait_for(lambda: sender.idle, "the last acknowledgement")
        assert sender.ups == 1
    assert listener.received == list(ALL)


def test_a_stopped_broker_is_noticed_by_its_silence_and_everything_arrives_once_it_goes_on(
    broker: MosquittoBroker,
) -> None:
    with Listener(broker.port) as listener, Sender(transport_to(broker.port)) as sender:
        sender.send(BEFORE)
        listener.wait_for_all(BEFORE)
        broker.pause()
        sender.send(DURING)
        wait_for(lambda: any("acknowledged nothing for 1 s" in reason for reason in sender.reasons), "the loss")
        wait_for(lambda: any("did not answer within 1 s" in reason for reason in sender.reasons), "a vain attempt")
        broker.resume()
        sender.send(AFTER)
        listener.wait_for_all(ALL)


def test_a_killed_broker_that_comes_back_gets_everything(broker: MosquittoBroker, proxy: TcpProxy) -> None:
    with Listener(broker.port) as listener, Sender(transport_to(proxy.port)) as sender:
        sender.send(BEFORE)
        listener.wait_for_all(BEFORE)
        wait_for(lambda: sender.idle, "the acknowledgements")
        proxy.cut()  # the listener's session died with the broker: it must be back before the sender is
        broker.kill()
        sender.send(DURING)
        wait_for(lambda: not sender.up, "the loss to be noticed")
        broker.start()
        listener.wait_ready()
        proxy.restore()
        sender.send(AFTER)
        listener.wait_for_all(ALL)


def test_a_broker_that_is_away_at_the_start_is_found_when_it_comes(broker: MosquittoBroker, proxy: TcpProxy) -> None:
    proxy.cut()
    with Listener(broker.port) as listener, Sender(transport_to(proxy.port)) as sender:
        sender.send(ALL)
        wait_for(lambda: len(sender.reasons) > 2, "vain attempts")
        proxy.restore()
        listener.wait_for_all(ALL)


def test_a_peer_that_speaks_nonsense_is_reported_and_tried_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10.0)

        def babble() -> None:
            for answer in (b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x20\xff\xff\xff\xff\xff", b"\x20\x00", b"\xf0\x00"):
                connection, _ = server.accept()
                with connection:
                    connection.recv(1024)
                    connection.sendall(answer)

        thread = threading.Thread(target=babble, name="babble")
        thread.start()
        with Sender(transport_to(server.getsockname()[1])) as sender:
            thread.join(30.0)
            wait_for(lambda: len(sender.reasons) >= 4, "four failures")
            assert sender.ups == 0
