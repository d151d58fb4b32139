"""A broker that denies one topic of six: by an answer (MQTT 5) and by hanging up (3.1.1)."""

from __future__ import annotations

import pytest

from simulator.bench.messaging.denied_topic import PROTOCOLS, Protocol, run_protocol


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("forbidden", ["cam-0", "cam-4"])
def test_every_other_topic_arrives_and_nothing_is_lost(protocol: Protocol, forbidden: str) -> None:
    result = run_protocol(protocol, forbidden, seconds=4.0)
    assert result.lost == 0
    assert result.waiting == result.appended, "what is forbidden waits on disk, whole"
    assert result.held_back == (f"kensa/bench/verdicts/{forbidden}",)
    assert result.connections <= (1 if protocol == "5" else 8)
    # `kensa bench denied-topic` holds this to 2 s on a quiet machine.
    assert result.longest_s < 20.0
