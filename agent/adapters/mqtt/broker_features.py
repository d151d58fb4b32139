"""Learns from the ends of connections what a broker does not support, and remembers it over restarts.

A broker can refuse other messages in ways that cost the verdicts too: rumqttd ends the connection on a SUBSCRIBE to a
topic that begins with `$`, amqtt drops the messages after a PUBLISH to one, AWS IoT Core ends the connection where the
policy lacks a topic. So each such feature is tried alone at the beginning of a connection. When the connection ends
there twice in a row, the third does not use the feature. When that one works, the feature is suspected: the next
connection tries it once more, also after a restart, because a network that fails at the wrong moments looks the same;
and when that one ends there too, the feature is disabled for a day. Another broker address, user or client id is
another broker, of which nothing is known.

Promise: no exception leaves; a file that cannot be read or written is named in the log and costs two connections.
"""

from __future__ import annotations

import json
import logging
import threading
from collections import Counter
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from agent.durable import replace_durably
from agent.timing.clock import NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from agent.timing.clock import Clock

FEATURES_FILE: Final = "broker.json"
FAILURES_UNTIL_DISABLED: Final = 2
RETRY_AFTER_S: Final = 86_400.0
_VERSION: Final = 1
_MAX_FILE_BYTES: Final = 65_536
_MAX_REASON: Final = 200
_log = logging.getLogger(__name__)


class Feature(StrEnum):
    """What a connection does beside publishing verdicts, in the order in which it is tried."""

    WILL = "will"  # the last will in the CONNECT
    STATUS = "status"  # the retained message that says `online`
    SUBSCRIPTIONS = "subscriptions"  # to topics that do not begin with `$`
    SHADOW = "shadow"  # subscriptions and requests under `$aws/`


_REMEDIES: Final[Mapping[Feature, str]] = {
    Feature.WILL: "Allow publishing and retaining kensa/{thing}/status, also as a last will",
    Feature.STATUS: "Allow iot:Publish and iot:RetainPublish (AWS IoT Core) on kensa/{thing}/status",
    Feature.SUBSCRIPTIONS: "Allow the subscriptions in the broker's access rules",
    Feature.SHADOW: "Allow the shadow's topics, or set updates.shadow: false where the broker has no shadows",
}


@dataclass(frozen=True, slots=True)
class UnsupportedFeature:
    """A feature that the broker does not support."""

    reason: str
    since_utc_s: float
    until_utc_s: float  # tried again by the first connection after this


class BrokerFeatures:
    """The features that the next connection to one broker may try. For the transport's thread; `disabled` for any."""

    def __init__(self, *, broker: str, path: Path | None, clock: Clock) -> None:
        """`broker` names address and identity; `path` is the file, or None to remember nothing."""
        self._broker = broker
        self._path = path
        self._clock = clock
        self._lock = threading.Lock()
        self._failures: Counter[Feature] = Counter()
        self._last: dict[Feature, str] = {}  # how the connection ended at the last failure
        self._suspects: dict[Feature, str] = {}  # a connection without it worked; the reason
        self._refusals: dict[Feature, UnsupportedFeature] = {}

    def load(self) -> None:
        """Read the file, if there is one; once the state directory is locked."""
        if self._path is None:
            return
        try:
            with self._path.open("rb") as file:
                content = json.loads(file.read(_MAX_FILE_BYTES))  # ours has some hundred bytes
            is_ours = content.get("broker") == self._broker
            found = self._parsed(content) if is_ours else {}
            suspects = {Feature(name): str(why) for name, why in content["suspected"].items()} if is_ours else {}
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            _log.warning("%s cannot be used (%s); the broker's features are learnt anew", self._path, error)
            return
        with self._lock:
            self._refusals, self._suspects = found, suspects
            self._failures = Counter(dict.fromkeys(suspects, FAILURES_UNTIL_DISABLED - 1))
            self._last.update(suspects)
        for feature, refusal in found.items():
            _log.warning("%s: not using %s (%s), known from before", self._broker, feature, refusal.reason)

    def _parsed(self, content: Mapping[str, Any]) -> dict[Feature, UnsupportedFeature]:
        return {
            Feature(name): UnsupportedFeature(
                str(r["reason"])[:_MAX_REASON], float(r["since_utc_s"]), float(r["until_utc_s"])
            )
            for name, r in content["refused"].items()
        }

    def features_to_try(self) -> frozenset[Feature]:
        """Return the features that the next connection tries."""
        now_s = self._clock.utc_ns() / NS_PER_S
        with self._lock:
            # A clock that was set back by more than it is ahead proves nothing: try.
            held = {f for f, r in self._refusals.items() if r.since_utc_s <= now_s < r.until_utc_s}
            suspected = {feature for feature, count in self._failures.items() if count >= FAILURES_UNTIL_DISABLED}
        return frozenset(Feature) - held - suspected

    def record_failure(self, feature: Feature, reason: str) -> None:
        """Note that a connection ended while `feature` was tried, or that the broker refused it."""
        with self._lock:
            self._failures[feature] += 1
            self._last[feature] = reason[:_MAX_REASON]

    def record_success(self, feature: Feature) -> None:
        """Note that the broker accepted `feature`."""
        with self._lock:
            self._failures.pop(feature, None)
            known = self._refusals.pop(feature, None)
            suspect = self._suspects.pop(feature, None)
        if known is not None:
            _log.info("%s: supports %s again", self._broker, feature)
        if known is not None or suspect is not None:
            self._save()

    def record_unexplained_end(self, tried: frozenset[Feature]) -> None:
        """Note that a connection without the suspected features ended too, for an unknown reason.

        So they are not to blame. `tried` is what that connection tried.
        """
        with self._lock:
            for feature in [
                f for f, count in self._failures.items() if count >= FAILURES_UNTIL_DISABLED and f not in tried
            ]:
                del self._failures[feature]

    def record_working_connection(self, tried: frozenset[Feature]) -> None:
        """Note that a connection works: the features that it did not use probably ended the others."""
        with self._lock:
            found = {
                f: self._last.get(f, "")
                for f, n in self._failures.items()
                if n >= FAILURES_UNTIL_DISABLED and f not in tried
            }
            proven = {feature: reason for feature, reason in found.items() if feature in self._suspects}
            new = {feature: reason for feature, reason in found.items() if feature not in self._suspects}
            self._suspects.update(new)
            for feature in new:
                self._failures[feature] = FAILURES_UNTIL_DISABLED - 1  # it is tried once more
        for feature, reason in proven.items():
            self.disable(feature, reason)
        for feature, reason in new.items():
            _log.warning(
                "%s: verdicts go on without %s for this connection: %s. %s",
                self._broker,
                feature,
                reason,
                _REMEDIES[feature],
            )
        if new:
            self._save()

    def disable(self, feature: Feature, reason: str) -> None:
        """Disable `feature` for a day, and log it."""
        now_s = self._clock.utc_ns() / NS_PER_S
        with self._lock:
            self._failures.pop(feature, None)
            self._suspects.pop(feature, None)
            self._refusals[feature] = UnsupportedFeature(reason[:_MAX_REASON], now_s, now_s + RETRY_AFTER_S)
        _log.warning(
            "%s does not carry %s: %s. Verdicts go on without it; it is tried again in %.0f hours. %s",
            self._broker,
            feature,
            reason,
            RETRY_AFTER_S / 3_600,
            _REMEDIES[feature],
        )
        self._save()

    def disabled(self) -> dict[str, str]:
        """Each feature that is disabled, or was at the last connection, with the reason; any thread."""
        with self._lock:
            known = {feature: refusal.reason for feature, refusal in self._refusals.items()}
            return {str(feature): reason for feature, reason in {**self._suspects, **known}.items()}

    def reason(self, feature: Feature) -> str:
        """Return why a connection does not use `feature`."""
        with self._lock:
            known = self._refusals.get(feature)
            return known.reason if known is not None else self._last.get(feature, "the broker does not carry it")

    def _save(self) -> None:
        if self._path is None:
            return
        with self._lock:
            refused = {str(feature): asdict(refusal) for feature, refusal in self._refusals.items()}
            suspected = {str(feature): reason for feature, reason in self._suspects.items()}
        content = {"v": _VERSION, "broker": self._broker, "refused": refused, "suspected": suspected}
        try:
            replace_durably(self._path, json.dumps(content, indent=1).encode())
        except OSError as error:
            _log.warning("%s cannot be written (%s); the next start learns it anew", self._path, error)
