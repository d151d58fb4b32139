"""Reports on models in the outbox are stored until the broker has acknowledged them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agent import wire
from agent.outbox import Outbox, OutboxLimits
from agent.outbox.storage import verdict_lookup
from agent.outbox.storage.store import STORE_NAME
from agent.records import Outcome
from agent.timing.clock import NS_PER_S, SystemClock
from simulator.doubles.clocks.manual_clock import ManualClock
from simulator.doubles.network.memory_transport import MemoryTransport
from tests.kits import model_status
from tests.kits.mqtt import wait_for
from tests.kits.outbox import make_verdict, make_verdicts

if TYPE_CHECKING:
    from pathlib import Path

    from agent.release_records import ModelStatus

TOPIC = "kensa/thing-1/model"


def append(outbox: Outbox, status: ModelStatus) -> None:
    reporter = model_status.REPORTER
    outbox.append_report(
        thing=reporter.thing,
        line=reporter.line,
        inspection=status.inspection,
        boot_epoch=reporter.boot_epoch,
        payload=wire.encode_report(status, reporter=reporter, utc_ns=model_status.UTC_NS),
    )


def deliver_all(outbox: Outbox) -> None:
    wait_for(lambda: outbox.stats().connected and outbox.is_drained, "everything to be delivered")
    outbox.close(SystemClock().monotonic_ns())


def reports(transport: MemoryTransport) -> list[ModelStatus]:
    messages = [wire.decode(message.payload) for message in transport.delivered if message.topic == TOPIC]
    return [message.to_model_status() for message in messages if isinstance(message, wire.ModelReport)]


def test_a_refusal_waits_for_the_broker_over_a_restart_of_the_agent(tmp_path: Path) -> None:
    clock = SystemClock()
    away = Outbox(state_dir=tmp_path, transport=MemoryTransport(connected=False), clock=clock)
    away.start()
    append(away, model_status.ROLLED_BACK)
    append(away, model_status.IN_TRIAL)
    away.append([make_verdict(1, Outcome.DEFECT)])
    assert away.close(clock.monotonic_ns() + NS_PER_S // 4).rows == 3
    transport = MemoryTransport()
    back = Outbox(state_dir=tmp_path, transport=transport, clock=clock)
    back.start()
    deliver_all(back)
    assert reports(transport) == [model_status.ROLLED_BACK, model_status.IN_TRIAL]
    assert len(transport.delivered) == 3


def test_a_report_leaves_at_once_while_the_broker_is_there(tmp_path: Path) -> None:
    transport, clock = MemoryTransport(), SystemClock()
    outbox = Outbox(state_dir=tmp_path, transport=transport, clock=clock)
    outbox.start()
    append(outbox, model_status.IN_TRIAL)
    deliver_all(outbox)
    assert reports(transport) == [model_status.IN_TRIAL]


def test_a_full_outbox_gives_up_verdicts_not_reports(tmp_path: Path) -> None:
    clock = ManualClock()
    outbox = Outbox(state_dir=tmp_path, transport=None, clock=clock, limits=OutboxLimits(max_bytes=256 * 1024))
    append(outbox, model_status.ROLLED_BACK)
    outbox.writer.step()
    for seq in range(0, 4_000, 100):
        outbox.append(make_verdicts(seq, 100, Outcome.DEFECT))
        clock.advance(1.0)
        outbox.writer.step()
    assert outbox.stats().evicted > 0
    outbox.close(clock.monotonic_ns())
    transport = MemoryTransport()
    back = Outbox(state_dir=tmp_path, transport=transport, clock=SystemClock())
    back.start()
    deliver_all(back)
    assert reports(transport) == [model_status.ROLLED_BACK]


def test_reports_without_end_are_bounded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    outbox = Outbox(state_dir=tmp_path, transport=None, clock=ManualClock())
    for _ in range(20):
        for _ in range(60):
            append(outbox, model_status.status())
        outbox.writer.step()
    assert 1_000 <= outbox.stats().rows < 1_060
    assert "is not kept" in caplog.text
    outbox.close(0)


def test_reports_are_not_among_the_verdicts_that_explain_knows(tmp_path: Path) -> None:
    outbox = Outbox(state_dir=tmp_path, transport=None, clock=ManualClock())
    append(outbox, model_status.status())
    outbox.append([make_verdict(7, Outcome.DEFECT)])
    outbox.close(0)
    assert [(known.camera, known.first_seq) for known in verdict_lookup.known_ranges(tmp_path)] == [("cam1", 7)]


@pytest.mark.parametrize("at", range(8))
def test_a_damaged_outbox_still_opens_and_takes_reports(tmp_path: Path, at: int) -> None:
    outbox = Outbox(state_dir=tmp_path, transport=None, clock=ManualClock())
    for _ in range(40):
        append(outbox, model_status.ROLLED_BACK)
        outbox.append([make_verdict(1, Outcome.DEFECT)])
    outbox.close(0)
    path = tmp_path / STORE_NAME
    content = bytearray(path.read_bytes())
    start = len(content) * at // 8
    content[start : start + 4_096] = b"\xa5" * len(content[start : start + 4_096])
    path.write_bytes(content)
    transport = MemoryTransport()
    again = Outbox(state_dir=tmp_path, transport=transport, clock=SystemClock())
    again.start()
    append(again, model_status.IN_TRIAL)
    again.append([make_verdict(2, Outcome.DEFECT)])
    deliver_all(again)
    assert model_status.IN_TRIAL in reports(transport)


def test_whoever_watches_the_connection_hears_of_each_change(tmp_path: Path) -> None:
    transport, heard = MemoryTransport(), list[bool]()
    outbox = Outbox(state_dir=tmp_path, transport=transport, clock=SystemClock())
    outbox.add_connection_listener(heard.append)
    outbox.start()
    transport.set_connected(False)
    transport.set_connected(True)
    wait_for(lambda: len(heard) == 3, "the news")
    outbox.close(0)
    assert heard == [True, False, True]
