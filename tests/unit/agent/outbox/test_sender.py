from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from agent.errors import TransportError
from agent.outbox.handoff import WriterSenderQueues
from agent.outbox.outbox_records import OutboxLimits, Priority, Row, Stream
from agent.outbox.sender import OutboxSender
from agent.records import Outcome
from agent.wire import encode_verdict
from simulator.doubles.clocks.manual_clock import ManualClock
from simulator.doubles.network.memory_transport import DeliveryFaults, MemoryTransport
from tests.kits.outbox import ORIGIN, make_verdict, read

if TYPE_CHECKING:
    from collections.abc import Iterable

STREAM = Stream.of(ORIGIN)


@dataclass
class Bench:
    transport: MemoryTransport
    queues: WriterSenderQueues
    clock: ManualClock
    sender: OutboxSender

    def delivered(self) -> list[tuple[int, bool]]:
        return [(verdict.seq, replay) for verdict, replay in read(self.transport.delivered)[0]]


def make_bench(transport: MemoryTransport, *, in_flight: int = 64) -> Bench:
    queues, clock = WriterSenderQueues(live_rows=8), ManualClock()
    limits = OutboxLimits(in_flight=in_flight, ack_timeout_s=5.0, retry_s=1.0, retry_max_s=4.0)
    sender = OutboxSender(transport=transport, queues=queues, clock=clock, limits=limits, random=random.Random(1))
    sender.start()
    sender.step()
    return Bench(transport, queues, clock, sender)


def rows(seqs: Iterable[int]) -> list[Row]:
    return [
        Row(seq, Priority.DEFECT, STREAM, seq, seq, 1, 0, encode_verdict(make_verdict(seq, Outcome.DEFECT)))
        for seq in seqs
    ]


def test_live_messages_go_before_the_backlog_which_is_marked() -> None:
    bench = make_bench(MemoryTransport())
    bench.queues.offer_backlog(rows([1, 2]))
    assert bench.queues.offer_live(rows([3, 4])) == 2
    bench.sender.step()
    assert bench.delivered() == [(3, False), (4, False), (1, True), (2, True)]
    bench.sender.step()
    assert [row.id for row in bench.queues.acked] == [3, 4, 1, 2]


def test_a_defect_overtakes_good_parts_that_were_committed_before_it() -> None:
    bench = make_bench(MemoryTransport(max_in_flight=2, auto_ack=False))
    good = [replace(row, priority=Priority.OK) for row in rows([0, 1, 2])]
    assert bench.queues.offer_live([*good, *rows([3])]) == 4
    assert bench.queues.offer_live(rows([4])) == 1
    for _ in range(3):
        bench.sender.step()
        bench.transport.acknowledge(2)
    assert [seq for seq, _ in bench.delivered()] == [3, 4, 0, 1, 2]
    assert bench.queues.offer_live([*rows(range(5)), *good]) == 8


def test_no_more_than_the_smaller_bound_is_in_flight() -> None:
    for own, theirs, expected in ((64, 3, 3), (2, 32, 2)):
        bench = make_bench(MemoryTransport(max_in_flight=theirs, auto_ack=False), in_flight=own)
        bench.queues.offer_live(rows(range(8)))
        bench.sender.step()
        assert len(bench.transport.delivered) == expected
        bench.transport.acknowledge(1)
        bench.sender.step()
        assert len(bench.transport.delivered) == expected + 1
        assert [row.id for row in bench.queues.acked] == [0]


def test_live_messages_beyond_the_queue_stay_with_the_writer() -> None:
    bench = make_bench(MemoryTransport(auto_ack=False))
    assert bench.queues.offer_live(rows(range(20))) == 8
    assert bench.queues.offer_live(rows(range(20))) == 0


def test_a_message_without_acknowledgement_is_published_again_and_either_acknowledgement_counts() -> None:
    bench = make_bench(MemoryTransport(auto_ack=False))
    bench.queues.offer_live(rows([1]))
    bench.sender.step()
    bench.clock.advance(5.7)
    bench.sender.step()
    assert bench.delivered() == [(1, False), (1, False)]
    bench.transport.acknowledge(1)  # the first one, late
    bench.sender.step()
    assert [row.id for row in bench.queues.acked] == [1]
    bench.transport.acknowledge(1)
    bench.sender.step()
    assert [row.id for row in bench.queues.acked] == [1]
    assert bench.sender.is_idle


def test_a_refusal_is_tried_again_after_a_wait_that_grows_up_to_a_bound() -> None:
    bench = make_bench(MemoryTransport(faults=DeliveryFaults(refuse=1.0)))
    bench.queues.offer_live(rows([1]))
    waits = []
    for _ in range(8):
        wait = bench.sender.step()
        waits.append(wait)
        bench.clock.advance(wait + 0.001)
    assert 0.5 <= waits[0] <= 1.0
    assert all(2.0 <= wait <= 4.0 for wait in waits[2:])
    assert not bench.sender.is_idle, "the message is still there"


def test_without_a_connection_everything_goes_back_and_nothing_spins() -> None:
    bench = make_bench(MemoryTransport(auto_ack=False, max_in_flight=2))
    bench.queues.offer_live(rows([1, 2, 3]))
    bench.queues.offer_backlog(rows([4]))
    bench.sender.step()
    bench.transport.set_connected(False)
    assert bench.sender.step() >= 1.0
    assert sorted(row.id for row in bench.queues.released) == [1, 2, 3, 4]
    assert bench.sender.is_idle
    assert bench.queues.offer_live(rows([5])) == 0
    assert not bench.queues.wants_backlog
    bench.transport.set_connected(True)
    bench.queues.backlog_rows = 4
    bench.sender.step()
    assert bench.queues.wants_backlog


def test_a_late_acknowledgement_of_a_released_message_is_ignored() -> None:
    bench = make_bench(MemoryTransport(auto_ack=False))
    bench.queues.offer_live(rows([1]))
    bench.sender.step()
    token = bench.transport.delivered[0].token
    bench.transport.set_connected(False)
    bench.sender.step()
    bench.sender._on_ack(token)
    bench.sender.step()
    assert not bench.queues.acked
    assert [row.id for row in bench.queues.released] == [1]


def test_only_the_newest_heartbeat_is_published_and_before_everything_else() -> None:
    bench = make_bench(MemoryTransport())
    bench.queues.offer_live(rows([1]))
    bench.sender.publish_now("kensa/device-7/heartbeat", [b"old"])
    bench.sender.publish_now("kensa/device-7/heartbeat", [b"new 1", b"new 2"])
    bench.sender.step()
    assert [message.payload for message in bench.transport.delivered][:2] == [b"new 1", b"new 2"]
    bench.sender.step()
    assert bench.sender.is_idle
    assert [row.id for row in bench.queues.acked] == [1]


def test_a_heartbeat_that_the_transport_never_takes_does_not_stand_before_the_verdicts() -> None:
    class Choosy(MemoryTransport):
        def publish(self, token: int, topic: str, payload: bytes) -> None:
            if topic.endswith("heartbeat"):
                raise TransportError("too long")
            super().publish(token, topic, payload)

    bench = make_bench(Choosy())
    bench.sender.publish_now("kensa/device-7/heartbeat", [b"x"])
    bench.queues.offer_live(rows([1, 2]))
    for _ in range(3):
        bench.clock.advance(bench.sender.step() + 0.001)
    assert [seq for seq, _ in bench.delivered()] == [1, 2]
