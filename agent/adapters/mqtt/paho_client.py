"""A paho client that counts message ids over connections and accepts only a PUBACK for QoS 1.

paho starts at 1 with each client. A broker that repeats a late PUBACK of an older connection would then acknowledge a
message that it never received. paho also accepts a PUBCOMP, which belongs to QoS 2, as the end of a QoS 1 message. Its
public interface cannot change either, so three private methods are replaced;
`tests/unit/agent/adapters/mqtt/test_paho_client.py` fails when a new paho does not call them any more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

import paho.mqtt.client as paho
from paho.mqtt.enums import MQTTErrorCode

if TYPE_CHECKING:
    import random
    from collections import Counter
    from collections.abc import Iterator

_MAX_ID: Final = 65_535


def message_ids(rng: random.Random) -> Iterator[int]:
    """Yield packet ids 1 to 65,535 cyclically from a random start: an earlier process used ids of its own."""
    number = rng.randrange(_MAX_ID)
    while True:
        yield number + 1
        number = (number + 1) % _MAX_ID


class StrictAckClient(paho.Client):
    """See the module. `ids` continues from one client to the next; `stray` counts answers that are invalid at QoS 1."""

    def __init__(self, *arguments: Any, ids: Iterator[int], stray: Counter[str], **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._ids = ids
        self._stray = stray

    def limit_in_flight(self, receive_maximum: int) -> None:
        """Bound the unacknowledged messages on the wire from now on; call before anything is published.

        Further messages wait in the client and are sent with the next PUBACK, without a detour over another thread.
        paho's own setter refuses on an open connection, because switching the bound on or off there is not tested;
        here it is on from the start and only becomes smaller.
        """
        self._max_inflight_messages = min(self._max_inflight_messages, receive_maximum)

    def _mid_generate(self) -> int:
        with self._mid_generate_mutex:
            return next(self._ids)

    def _handle_pubackcomp(self, cmd: Literal["PUBACK", "PUBCOMP"]) -> MQTTErrorCode:
        if cmd == "PUBCOMP":
            self._stray["wrong_answer"] += 1
            return MQTTErrorCode.MQTT_ERR_SUCCESS
        return super()._handle_pubackcomp(cmd)

    def _handle_pubrec(self) -> MQTTErrorCode:
        self._stray["wrong_answer"] += 1  # nothing is published at QoS 2
        return MQTTErrorCode.MQTT_ERR_SUCCESS
