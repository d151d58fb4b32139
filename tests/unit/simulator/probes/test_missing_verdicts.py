"""A verdict that the subscriber did not get is named: its key, its outcome, who had it, what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.outbox import Outbox
from agent.outbox.storage.store import STORE_NAME
from agent.records import Outcome
from agent.timing.clock import NS_PER_S, SystemClock
from simulator.doubles.network.memory_transport import MemoryTransport
from simulator.probes.missing_verdicts import describe_missing
from tests.kits.mqtt import wait_for
from tests.kits.outbox import make_verdict, make_verdicts

if TYPE_CHECKING:
    from pathlib import Path

STREAM = ("line1", "cam1", 1)


def deliver(state_dir: Path, *, connected: bool) -> None:
    """Eight good parts and a defect with number 8; 3 has no verdict: it was dropped."""
    outbox = Outbox(state_dir=state_dir, transport=MemoryTransport(connected=connected), clock=SystemClock())
    outbox.start()
    outbox.append([one for one in make_verdicts(0, 8) if one.seq != 3])
    outbox.append([make_verdict(8, Outcome.DEFECT)])
    if connected:
        wait_for(lambda: outbox.stats().connected and outbox.is_drained, "everything to be delivered")
    outbox.close(SystemClock().monotonic_ns() + NS_PER_S)


def test_what_the_broker_acknowledged_and_did_not_deliver_is_named_with_its_outcome(tmp_path: Path) -> None:
    deliver(tmp_path, connected=True)
    (sentence,) = describe_missing(tmp_path, {STREAM: {0, 1, 2, 4, 5, 6, 7}}, broker="amqtt")
    assert "line1/cam1/1/8 (defect)" in sentence
    assert "(amqtt) acknowledged it" in sentence
    assert "apt install mosquitto, then --broker mosquitto" in sentence


def test_what_still_waits_in_the_outbox_is_named_as_such(tmp_path: Path) -> None:
    deliver(tmp_path, connected=False)
    (sentence,) = describe_missing(tmp_path, {STREAM: {0, 1, 2, 4, 5, 6, 7}}, broker="mosquitto")
    assert "line1/cam1/1/8 (defect)" in sentence
    assert "waits in the outbox" in sentence


def test_five_are_named_and_the_rest_is_a_number(tmp_path: Path) -> None:
    deliver(tmp_path, connected=True)
    sentences = describe_missing(tmp_path, {}, broker="iotcore")
    assert len(sentences) == 6
    assert sentences[-1] == "and 3 more of the kind"


def test_nothing_is_named_when_everything_arrived(tmp_path: Path) -> None:
    deliver(tmp_path, connected=True)
    assert describe_missing(tmp_path, {STREAM: set(range(9))}, broker="amqtt") == ()


def test_a_damaged_file_is_said_instead(tmp_path: Path) -> None:
    (tmp_path / STORE_NAME).write_bytes(b"no database" * 100)
    (sentence,) = describe_missing(tmp_path, {}, broker="amqtt")
    assert "cannot be said" in sentence
