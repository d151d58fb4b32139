"""Outbox, transport and broker together: every verdict arrives, once when de-duplicated."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from agent.outbox import Outbox, OutboxLimits
from agent.records import Judgement, Origin, Outcome, Verdict
from agent.timing.clock import SystemClock
from simulator.doubles.network.mqtt_broker import MosquittoBroker
from simulator.doubles.network.tcp_proxy import TcpProxy
from simulator.probes.verdict_subscriber import VerdictSubscriber
from tests.kits.mqtt import require_mosquitto, transport_to, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ORIGIN = Origin("thing-1", "line-1", "surface", "cam-1", 1, "c" * 64, "p" * 64, None, ("ok", "scratch"))
WAVE = 400


def verdict(seq: int) -> Verdict:
    outcome = Outcome.DEFECT if seq % 20 == 0 else Outcome.OK
    judgement = Judgement(outcome, "scratch" if outcome is Outcome.DEFECT else "ok", 0.5, (0.5, 0.5))
    return Verdict(ORIGIN, seq, time.time_ns(), judgement, 2_500)


def wave(outbox: Outbox, first: int) -> None:
    """Hand over verdicts as a line does: a few at a time, not all at once."""
    for seq in range(first, first + WAVE, 4):
        outbox.append([verdict(seq + i) for i in range(4)])
        time.sleep(0.002)


def black_hole(proxy: TcpProxy, _broker: MosquittoBroker) -> None:
    proxy.silence()


def cut(proxy: TcpProxy, _broker: MosquittoBroker) -> None:
    proxy.cut()


def reset(proxy: TcpProxy, _broker: MosquittoBroker) -> None:
    proxy.reset()


def stop_the_broker(_proxy: TcpProxy, broker: MosquittoBroker) -> None:
    broker.pause()


@pytest.mark.parametrize("harm", [black_hole, cut, reset, stop_the_broker], ids=lambda harm: harm.__name__)
def test_every_verdict_arrives_once_after_the_network_failed(
    tmp_path: Path, harm: Callable[[TcpProxy, MosquittoBroker], None]
) -> None:
    require_mosquitto()
    clock = SystemClock()
    with (
        MosquittoBroker() as broker,
        TcpProxy(port=broker.port) as proxy,
        VerdictSubscriber(host=broker.host, port=broker.port) as subscriber,
    ):
        outbox = Outbox(
            state_dir=tmp_path, transport=transport_to(proxy.port), clock=clock, limits=OutboxLimits(ack_timeout_s=2.0)
        )
        outbox.start()
        try:
            wave(outbox, 0)
            harm(proxy, broker)
            wave(outbox, WAVE)
            time.sleep(1.5)  # long enough for the silence to be noticed
            proxy.restore()
            broker.resume()
            wave(outbox, 2 * WAVE)
            wait_for(lambda: outbox.stats().rows == 0 and outbox.is_drained, "the outbox to drain")
        finally:
            outbox.close(clock.monotonic_ns() + 5_000_000_000)
        wait_for(lambda: subscriber.counts.unique == 3 * WAVE, "the subscriber's ledger")
        assert sorted(v.seq for v in subscriber.received()) == list(range(3 * WAVE))
        assert subscriber.counts.gaps == 0
        assert subscriber.counts.refused == 0
