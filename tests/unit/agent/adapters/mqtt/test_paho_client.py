"""The paho client of the MQTT transport, fed with packets through paho's own entry."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion

from agent.adapters.mqtt.paho_client import StrictAckClient, message_ids


def client(ids: itertools.count[int] | None = None, stray: Counter[str] | None = None) -> StrictAckClient:
    return StrictAckClient(
        CallbackAPIVersion.VERSION2,
        client_id="c",
        protocol=MQTTProtocolVersion.MQTTv5,
        ids=ids or itertools.count(1),
        stray=Counter() if stray is None else stray,
    )


def test_message_ids_are_every_packet_id_once_and_then_again_the_same() -> None:
    ids = message_ids(random.Random(3))
    first = list(itertools.islice(ids, 65_535))
    assert sorted(first) == list(range(1, 65_536))
    assert list(itertools.islice(ids, 3)) == first[:3]


def test_the_next_client_goes_on_counting_where_the_last_one_stopped() -> None:
    ids = itertools.count(500)
    first, second = client(ids), client(ids)
    assert [first.publish("t", b"", qos=1).mid for _ in range(2)] == [500, 501]
    assert second.publish("t", b"", qos=1).mid == 502


@pytest.mark.parametrize("packet", [0x70, 0x50], ids=["PUBCOMP", "PUBREC"])
def test_what_belongs_to_qos_2_is_no_acknowledgement_of_qos_1(packet: int) -> None:
    stray: Counter[str] = Counter()
    sending, heard = client(stray=stray), list[int]()
    sending.on_publish = lambda _c, _u, mid, *_: heard.append(mid)
    info = sending.publish("t", b"", qos=1)
    for command in (packet, 0x40):
        sending._in_packet["command"] = command
        sending._in_packet["packet"] = bytearray(info.mid.to_bytes(2, "big"))
        sending._in_packet["remaining_length"] = 2
        assert sending._packet_handle() is MQTTErrorCode.MQTT_ERR_SUCCESS
        assert heard == ([] if command == packet else [info.mid])
    assert stray == {"wrong_answer": 1}
