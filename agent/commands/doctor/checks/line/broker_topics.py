"""Checks every topic that the line uses, with one `probe` message on each, which consumers ignore.

Each topic has a connection of its own, because a broker may end the connection on a forbidden one. The client id ends
with `-doctor`, so that a running agent keeps its connection; a policy that fixes the client id (AWS IoT Core: allow
`client/THING_NAME*`) may forbid that one, and then the agent's own is used, where no agent runs.
"""

from __future__ import annotations

import logging
import queue
import time
from typing import TYPE_CHECKING, Final

from agent import config as configuration
from agent.app.factories import make_mqtt_transport
from agent.commands.doctor.check_result import CheckResult, fail, ok, warn
from agent.errors import KensaError, TransportError
from agent.timing.clock import SystemClock
from agent.wire import heartbeat_topic, model_topic, shadow_topic, status_topic, verdict_topic
from agent.wire.probe import Probe, encode_probe
from agent.wire.shadow_documents import encode_get

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.commands.doctor.check_context import CheckContext
    from agent.config import Config

_UP_S: Final = 10.0
_ANSWER_S: Final = 5.0
_ECHO_S: Final = 1.0
_ALLOW: Final = "allow it in the broker's access rules (AWS IoT Core: the policy of the certificate)"
_ANSWERS: Final = ("get/accepted", "get/rejected", "update/accepted", "update/rejected", "update/delta")


def published_topics(config: Config) -> list[str]:
    """Return the topics that the line publishes to, except those of the shadow."""
    thing = config.thing
    cameras = [camera for inspection in config.inspections.values() for camera in inspection.cameras]
    topics = [verdict_topic(thing, camera) for camera in cameras]
    topics += [heartbeat_topic(thing), status_topic(thing)]
    return topics if config.updates is None else [*topics, model_topic(thing)]


def run_checks(context: CheckContext) -> Iterator[CheckResult]:
    """Check each topic, where an agent runs or the broker accepted a connection."""
    if context.agent_pid is not None or context.has_passed("broker"):
        yield from check_topics(context.config, running=context.agent_pid is not None)


def check_topics(config: Config, *, running: bool) -> Iterator[CheckResult]:
    """Report topic by topic what is allowed; nothing where there is no broker. `running`: an agent is connected."""
    chosen = config.transport
    if isinstance(chosen, configuration.NoTransportConfig):
        return
    log = logging.getLogger("agent.adapters.mqtt")
    before = log.level
    log.setLevel(logging.ERROR)  # the results report why connections end
    try:
        yield from _topics(config, chosen.client_id or config.thing, running=running)
    finally:
        log.setLevel(before)


def _topics(config: Config, own: str, *, running: bool) -> Iterator[CheckResult]:
    client_id = f"{own}-doctor"[-128:]
    try:
        if (refused := _ProbeConnection(config, client_id).connect()) is not None and not running:
            client_id, refused = own, _ProbeConnection(config, own).connect()
        if refused is not None:
            remedy = "allow this client id (AWS IoT Core: client/THING_NAME*), or read the log for refused topics"
            yield warn("topics", f"not tested: {client_id}: {refused}", remedy)
            return
        for topic in published_topics(config):
            yield _ProbeConnection(config, client_id).probe_topic(topic)
        if config.updates is not None and config.updates.shadow:
            yield _ProbeConnection(config, client_id).probe_shadow()
    except KensaError as error:
        yield warn("topics", f"not tested: {error}", "correct what the check of the broker reports")


class _ProbeConnection:
    """One connection that probes one topic."""

    def __init__(self, config: Config, client_id: str) -> None:
        """Raises ConfigError."""
        assert isinstance(config.transport, configuration.MqttConfig)  # noqa: S101 - checked by `check_topics`
        self._config = config
        self._is_mqtt5 = config.transport.protocol == "5"
        self._transport = make_mqtt_transport(
            config, config.transport, SystemClock(), client_id=client_id, state_dir=None
        )
        self._events: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
        self._seen: set[str] = set()  # kinds of events so far

    def connect(self) -> str | None:
        """Return why it cannot connect, or None."""
        try:
            self._start()
            what, reason = self._next_event(_UP_S)
            return None if what == "up" else reason
        finally:
            self._transport.close(timeout_s=2.0)

    def probe_topic(self, topic: str) -> CheckResult:
        """Publish a probe and report the outcome."""
        check = f"topic {topic}"
        self._transport.subscribe(topic, lambda _topic, _payload: self._events.put(("echo", "")))
        try:
            self._start()
            what, reason = self._next_event(_UP_S, until={"up"})
            if what != "up":
                return warn(check, f"not tested: {reason}", "run this again; the broker was reached a moment ago")
            probe = Probe(thing=self._config.thing, utc_us=time.time_ns() // 1_000)
            self._transport.publish(1, topic, encode_probe(probe))
            what, reason = self._next_event(_ANSWER_S, until={"acked", "rejected", "down"})
            if what == "rejected":
                return fail(check, reason, _ALLOW)
            if what == "down":
                return fail(check, f"the broker ends the connection on a message to it: {reason}", _ALLOW)
            if what != "acked":
                return fail(check, f"not acknowledged within {_ANSWER_S:.0f} s", "read the broker's log")
            return self._arrived(check)
        except TransportError as error:
            return fail(check, str(error), _ALLOW)
        finally:
            self._transport.close(timeout_s=2.0)

    def _arrived(self, check: str) -> CheckResult:
        if "echo" in self._seen or self._next_event(_ECHO_S, until={"echo"})[0] == "echo":
            return ok(check, "publishing is allowed; the message came back to a subscription")
        seen = "the broker acknowledges messages; none came back to a subscription"
        if self._is_mqtt5:  # a refusal would have been reported in the PUBACK
            return ok(check, f"{seen}, which the access rules may forbid")
        remedy = "MQTT 3.1.1 cannot refuse a message: check whether a consumer gets it, or use transport.protocol '5'"
        return warn(check, f"{seen}: it may drop them", remedy)

    def probe_shadow(self) -> CheckResult:
        """Request the shadow's document."""
        thing = self._config.thing
        check = f"topic {shadow_topic(thing, 'get')}"
        for answer in _ANSWERS:
            self._transport.subscribe(
                shadow_topic(thing, answer), lambda _topic, _payload: self._events.put(("answer", ""))
            )
        self._transport.publish_on_connect(
            lambda: (shadow_topic(thing, "get"), encode_get("doctor")),
            lambda reason: self._events.put(("refused", reason)),
        )
        try:
            self._start()
            what, reason = self._next_event(_UP_S, until={"answer", "refused", "up"})
        finally:
            self._transport.close(timeout_s=2.0)
        if what == "answer":
            return ok(check, "the shadow answers")
        remedy = "allow the shadow's topics, or set updates.shadow: false where the broker has no shadows"
        if what == "up":
            return warn(check, "nobody answers on the shadow's topics", remedy)
        return warn(check, f"{reason or 'no answer'}; verdicts continue without it", remedy)

    def _start(self) -> None:
        events = self._events
        self._transport.start(
            on_ack=lambda _token: events.put(("acked", "")),
            on_reject=lambda _token, reason: events.put(("rejected", reason)),
            on_connection=lambda up, reason: events.put(("up" if up else "down", reason)),
        )

    def _next_event(self, timeout_s: float, *, until: set[str] | None = None) -> tuple[str, str]:
        """Return the next event, or the next of a kind in `until`; `late` and the last reason after `timeout_s`."""
        deadline, last = time.monotonic() + timeout_s, ""
        while (left := deadline - time.monotonic()) > 0:
            try:
                what, reason = self._events.get(timeout=left)
            except queue.Empty:
                break
            self._seen.add(what)
            if until is None or what in until:
                return what, reason
            last = reason or last
        return "late", last or f"no answer within {timeout_s:.0f} s"
