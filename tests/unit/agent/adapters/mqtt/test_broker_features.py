"""Learning a broker's features from the ends of connections, and remembering them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from agent.adapters.mqtt.broker_features import RETRY_AFTER_S, BrokerFeatures, Feature
from simulator.doubles.clocks.manual_clock import ManualClock

if TYPE_CHECKING:
    from pathlib import Path

EVERYTHING = frozenset(Feature)
BROKER = "MQTT broker plant:1883 as thing-1"


def features(path: Path | None, clock: ManualClock, *, broker: str = BROKER) -> BrokerFeatures:
    made = BrokerFeatures(broker=broker, path=path, clock=clock)
    made.load()
    return made


def one_round(found: BrokerFeatures, feature: Feature = Feature.SHADOW) -> None:
    """Connections that end on `feature` until one goes without it, which works."""
    while feature in (tried := found.features_to_try()):
        found.record_failure(feature, "the broker ended the connection")
    found.record_working_connection(tried)


def test_the_third_connection_goes_without_what_ended_two() -> None:
    found = features(None, ManualClock())
    for _ in range(2):
        assert found.features_to_try() == EVERYTHING
        found.record_failure(Feature.SHADOW, "ended")
    assert found.features_to_try() == EVERYTHING - {Feature.SHADOW}


def test_it_is_tried_once_more_before_it_is_left_out_for_a_day(tmp_path: Path) -> None:
    clock = ManualClock()
    found = features(tmp_path / "broker.json", clock)
    one_round(found)
    assert Feature.SHADOW in found.features_to_try(), "a network that broke at the wrong moments looks the same"
    assert found.disabled() == {"shadow": "the broker ended the connection"}
    found.record_failure(Feature.SHADOW, "the broker ended the connection")
    found.record_working_connection(found.features_to_try())
    assert Feature.SHADOW not in found.features_to_try()
    clock.advance(RETRY_AFTER_S - 1)
    assert Feature.SHADOW not in found.features_to_try()
    clock.advance(2)
    assert Feature.SHADOW in found.features_to_try()


def test_after_a_restart_one_more_failure_is_enough_and_then_none(tmp_path: Path) -> None:
    clock, path = ManualClock(), tmp_path / "broker.json"
    one_round(features(path, clock))
    second = features(path, clock)
    second.record_failure(Feature.SHADOW, "the broker ended the connection")
    assert Feature.SHADOW not in second.features_to_try()
    second.record_working_connection(second.features_to_try())
    assert features(path, clock).features_to_try() == EVERYTHING - {Feature.SHADOW}


def test_another_broker_is_tried_in_full(tmp_path: Path) -> None:
    clock, path = ManualClock(), tmp_path / "broker.json"
    found = features(path, clock)
    found.disable(Feature.STATUS, "not authorised")
    assert features(path, clock, broker="MQTT broker other:1883 as thing-1").features_to_try() == EVERYTHING
    assert features(path, clock).features_to_try() == EVERYTHING - {Feature.STATUS}


def test_a_network_that_breaks_all_the_time_puts_the_blame_on_nothing() -> None:
    found = features(None, ManualClock())
    for _ in range(2):
        found.record_failure(Feature.SHADOW, "lost")
    found.record_unexplained_end(found.features_to_try())
    assert found.features_to_try() == EVERYTHING
    assert found.disabled() == {}


def test_an_answer_clears_what_was_suspected_and_known(tmp_path: Path) -> None:
    clock, path = ManualClock(), tmp_path / "broker.json"
    found = features(path, clock)
    one_round(found)
    found.record_success(Feature.SHADOW)
    assert found.disabled() == {}
    found.disable(Feature.WILL, "no")
    found.record_success(Feature.WILL)
    assert features(path, clock).features_to_try() == EVERYTHING


def test_a_clock_that_was_set_back_behind_the_file_lets_everything_be_tried(tmp_path: Path) -> None:
    clock, path = ManualClock(), tmp_path / "broker.json"
    features(path, clock).disable(Feature.SHADOW, "no")
    content = json.loads(path.read_text())
    content["refused"]["shadow"]["since_utc_s"] += 10 * RETRY_AFTER_S
    content["refused"]["shadow"]["until_utc_s"] += 10 * RETRY_AFTER_S
    path.write_text(json.dumps(content))
    assert features(path, clock).features_to_try() == EVERYTHING


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"7", b'{"broker": 3}', b"\xff", b'{"broker":"MQTT broker plant:1883 as thing-1"}',
                b'{"broker":"MQTT broker plant:1883 as thing-1","refused":{"wings":{}},"suspected":{}}'],
)  # fmt: skip
def test_a_damaged_file_costs_two_connections_and_no_more(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "broker.json"
    path.write_bytes(content)
    assert features(path, ManualClock()).features_to_try() == EVERYTHING
    assert "broker.json" in caplog.text or content == b'{"broker": 3}'


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = features(tmp_path / "missing" / "broker.json", ManualClock())
    found.disable(Feature.SHADOW, "no")
    assert "cannot be written" in caplog.text
    assert Feature.SHADOW not in found.features_to_try()
