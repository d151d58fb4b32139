"""The setup of a connection before it takes messages: status, subscriptions and shadow, one by one.

Each is tried alone, so that it is known which one made the broker end the connection; `step` names it. All of them
together take `SETUP_TIMEOUT_S` at most from the CONNACK on: answers that are missing then may still come, and the
connection is used. Everything here runs in the connection's serving thread.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import paho.mqtt.client as paho
from paho.mqtt.enums import MQTTErrorCode

from agent.adapters.mqtt.broker_features import Feature
from agent.timing.clock import NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agent.adapters.mqtt.broker_features import BrokerFeatures

SETUP_TIMEOUT_S: Final = 2.0
_TOPICS_A_REQUEST: Final = 8  # AWS IoT Core takes no more in one SUBSCRIBE
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SetupPlan:
    """The messages of the setup. Empty fields are skipped."""

    status: tuple[str, Callable[[], bytes]] | None  # topic and maker of the payload, retained
    topics: tuple[str, ...]  # subscriptions to plain topics
    shadow_topics: tuple[str, ...]  # subscriptions under `$aws/`
    first_message: (
        Callable[[], tuple[str, bytes]] | None
    )  # the shadow's first request; an arrival on its topics answers it
    on_refused: Callable[[str], None]  # called with the reason when the shadow must not be used


class ConnectionSetup:
    """Runs a `SetupPlan` on one connection. `step` waits for its answer; None before, between and after steps."""

    def __init__(self, *, plan: SetupPlan, client: paho.Client, broker: str, features: BrokerFeatures) -> None:
        """`broker` names it in texts; `features` records what the broker supports."""
        self.step: Feature | None = None
        self.has_sent_status = False  # the broker may show this device as online
        self._plan = plan
        self._client = client
        self._broker = broker
        self._features = features
        self._deadline_ns = 0
        self._left: deque[Feature] = deque()
        self._messages: dict[int, Feature] = {}  # message ids of publishes that wait for a PUBACK
        self._requests: dict[int, tuple[Feature, tuple[str, ...]]] = {}  # of SUBSCRIBEs that wait for a SUBACK
        self._asked = False
        self._refused = ""  # why the shadow's topics are refused

    def begin(self, now_ns: int, *, retains: bool) -> None:
        """Begin after the broker accepted the CONNECT; `retains`: whether it supports retained messages (MQTT 5)."""
        self._deadline_ns = now_ns + int(SETUP_TIMEOUT_S * NS_PER_S)
        plan = self._plan
        wanted = {
            Feature.STATUS: plan.status is not None and retains,
            Feature.SUBSCRIPTIONS: bool(plan.topics),
            Feature.SHADOW: bool(plan.shadow_topics),
        }
        self._left.extend(feature for feature, is_wanted in wanted.items() if is_wanted)

    def advance(self, now_ns: int) -> bool:
        """Send the next messages; return whether everything is answered or time is up. Raises OSError."""
        if now_ns >= self._deadline_ns:
            self._give_up()
            return True
        while self.step is None and self._left:
            self.step = self._left.popleft()
            match self.step:
                case Feature.STATUS:
                    assert self._plan.status is not None  # noqa: S101 - `begin` checked
                    topic, make = self._plan.status
                    self._publish(Feature.STATUS, topic, make(), retain=True)
                    self.has_sent_status = True
                case Feature.SUBSCRIPTIONS:
                    self._subscribe(Feature.SUBSCRIPTIONS, self._plan.topics)
                case _:
                    self._subscribe(Feature.SHADOW, self._plan.shadow_topics)
        return self.step is None

    def _give_up(self) -> None:
        """Use the connection without the steps that were not answered in time."""
        step, self.step = self.step, None
        left, self._left = tuple(self._left), deque()
        if Feature.SUBSCRIPTIONS in left:
            self._subscribe(Feature.SUBSCRIPTIONS, self._plan.topics)
        if Feature.SHADOW in left:  # it is requested alone or not at all
            self._plan.on_refused("the broker was too slow for it on this connection")
        if step is None:
            return
        what = f"did not answer within {SETUP_TIMEOUT_S:g} s"
        if step is Feature.SHADOW and self._asked:  # the broker may support it, only nobody serves the shadow
            self._features.record_success(step)
            _log.info("%s: no answer on the shadow's topics; verdicts go on", self._broker)
        else:
            self._features.record_failure(step, f"the broker {what}")
            if step is Feature.SHADOW:
                self._plan.on_refused(f"the broker {what}")
            _log.warning("%s %s (%s); verdicts go on", self._broker, what, step)

    # --- answers of the broker ---

    def is_own(self, mid: int) -> bool:
        """Whether the PUBACK `mid` answers a message from here."""
        return mid in self._messages

    def on_puback(self, mid: int, refusal: str | None) -> None:
        """Handle a PUBACK for a message from here; `refusal` is the reason where it was refused."""
        feature = self._messages.pop(mid)
        if feature is Feature.SHADOW:
            if refusal is not None:
                self._on_answer(feature, f"the request is refused: {refusal}")
            return
        self._on_answer(feature, refusal)

    def on_suback(self, mid: int, refusals: Sequence[str | None]) -> None:
        """Handle a SUBACK; a refusal is a reason, None stands for a subscription that is made."""
        feature, topics = self._requests.pop(mid, (None, ()))
        if feature is None:
            return
        for topic, refusal in zip(topics, refusals, strict=False):
            if refusal is not None:
                _log.warning("%s refuses the subscription to %s: %s", self._broker, topic, refusal)
                self._refused = f"the subscription to {topic} is refused: {refusal}"
        if any(waiting is feature for waiting, _ in self._requests.values()):
            return
        refused, self._refused = self._refused, ""
        if (
            feature is Feature.SHADOW
            and not refused
            and self._plan.first_message is not None
            and self.step is Feature.SHADOW
        ):
            self._asked = True
            self._publish(Feature.SHADOW, *self._plan.first_message(), retain=False)
        else:  # verdicts matter more than hints: the connection is used all the same
            self._on_answer(feature, refused or None)

    def on_arrival(self, topic: str) -> None:
        """Handle the arrival of a message."""
        if self._asked and topic in self._plan.shadow_topics:
            self._on_answer(Feature.SHADOW, None)

    def _on_answer(self, feature: Feature, refusal: str | None) -> None:
        if refusal is None:
            self._features.record_success(feature)
        else:
            self._features.record_failure(feature, refusal)
            self.has_sent_status &= feature is not Feature.STATUS
            if feature is Feature.SHADOW:
                self._plan.on_refused(refusal)
        if self.step is feature:
            self.step = None

    # --- messages to the broker ---

    def _publish(self, feature: Feature, topic: str, payload: bytes, *, retain: bool) -> None:
        info = self._client.publish(topic, payload, qos=1, retain=retain)
        if info.rc is not MQTTErrorCode.MQTT_ERR_SUCCESS:
            raise OSError(f"publishing to {topic} failed: {paho.error_string(info.rc)}")
        self._messages[info.mid] = feature

    def _subscribe(self, feature: Feature, topics: tuple[str, ...]) -> None:
        for first in range(0, len(topics), _TOPICS_A_REQUEST):
            some = topics[first : first + _TOPICS_A_REQUEST]
            status, mid = self._client.subscribe([(topic, 1) for topic in some])
            if status is not MQTTErrorCode.MQTT_ERR_SUCCESS or mid is None:
                raise OSError(f"subscribing failed: {paho.error_string(status)}")
            self._requests[mid] = (feature, some)
