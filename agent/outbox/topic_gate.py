"""Decides which topics may be published on: a refused topic holds back its own messages only.

Promise: a topic that the broker refuses by an answer is held back alone. A broker of MQTT 3.1.1, and AWS IoT Core, end
the connection instead; then the refused topic is found by elimination. Unanswered publishes make their topics suspects;
suspects are sent one message at a time and one topic at a time, while all other topics flow; and the suspect whose
message was alone with the broker when the connection ended is held back. A topic that is held back is tried again after
a jittered wait that grows; an acknowledgement clears it. Nothing is ever discarded here.

These topics become suspects when a connection ends: the topics in flight that the broker has never acknowledged, or,
where there are none, those that were unanswered at the previous end as well (a plain network failure makes no suspects
then). The newest is tried first: a message sent after the refused one is innocent, and its acknowledgement proves the
connection.

Pure: no I/O, no clock of its own; used from the sender's thread only.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from agent.timing.backoff import Backoff
from agent.timing.clock import NS_PER_S

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable

_REFUSED: Final = Backoff(first_s=1.0, longest_s=300.0)  # an answered refusal costs nothing
# Each attempt on a topic for which the broker closes the connection costs all topics that connection.
_ENDED: Final = Backoff(first_s=1.0, longest_s=300.0, growth=4.0)
_UNWITNESSED: Final = replace(_ENDED, longest_s=30.0)  # nothing else was acknowledged: the broker itself may be faulty
_HANG_UP_NS: Final = 5 * NS_PER_S  # a connection that ends later after the publish did not end because of it
_TURN_NS: Final = NS_PER_S // 2  # turn of a suspect that has nothing to send
_IDLE_NS: Final = 3_600 * NS_PER_S


@dataclass(frozen=True, slots=True)
class HeldTopic:
    """A topic whose messages wait because the broker refused it."""

    topic: str
    reason: str
    since_ns: int  # monotonic
    tries: int  # refusals so far
    retry_ns: int  # monotonic; when it is tried again


@dataclass(frozen=True, slots=True)
class TopicChange:
    """A topic was held back, or is accepted again where it `is_over`."""

    held: HeldTopic
    is_over: bool


@dataclass(slots=True)
class _Probe:
    """The one message of a suspect that is with the broker."""

    topic: str
    sent_ns: int
    is_overtaken: bool = False  # a later message was acknowledged before it


class TopicGate:
    """Learns from messages sent and answered, and decides which topics are held back."""

    def __init__(self, *, random: random.Random) -> None:
        """`random` spreads the tries of many devices."""
        self._random = random
        self._refused: dict[str, HeldTopic] = {}  # also while they are tried again, until they are acknowledged
        self._suspects: list[str] = []  # the first has its turn
        self._turn_ns = 0
        self._probe: _Probe | None = None
        self._proven: set[str] = set()  # acknowledged, and not refused since
        self._unanswered: set[str] = set()  # when a connection ended, and not acknowledged since
        self._acked_here: set[str] = set()  # on this connection
        self._held_back: frozenset[str] | None = frozenset()
        self.changes: deque[TopicChange] = deque()  # taken by the sender
        self.rejected = 0  # messages that the broker refused by an answer

    @property
    def is_open(self) -> bool:
        """Whether every topic may be sent freely; the common case."""
        return not (self._refused or self._suspects)

    @property
    def refused_topics(self) -> tuple[HeldTopic, ...]:
        """The refused topics, the longest refused first."""
        return tuple(sorted(self._refused.values(), key=lambda held: held.since_ns))

    @property
    def held_back(self) -> frozenset[str]:
        """The topics that must not be sent now; the same object until it changes."""
        if self._held_back is None:
            turn = self._suspects[:1] if self._probe is None else []
            self._held_back = frozenset({*self._refused, *self._suspects}.difference(turn))
        return self._held_back

    def may_send(self, topic: str) -> bool:
        """Whether a message on `topic` may be published now."""
        return topic not in self.held_back

    # --- events -------------------------------------------------------------------------------------------------------

    def note_sent(self, topic: str, now_ns: int) -> None:
        """Note that a message on `topic`, which `may_send` allowed, was published."""
        if self._suspects and self._suspects[0] == topic:
            self._probe = _Probe(topic, now_ns)
            self._held_back = None

    def note_acknowledged(self, topic: str, sent_ns: int, now_ns: int) -> None:
        """Note an acknowledgement of a message published at `sent_ns`: the broker accepts this topic."""
        self._proven.add(topic)
        self._acked_here.add(topic)
        self._unanswered.discard(topic)
        if self._probe is not None and self._probe.topic != topic and sent_ns > self._probe.sent_ns:
            self._probe.is_overtaken = True
        if self.is_open:
            return
        self._end_probe(topic)
        if topic in self._suspects:
            self._suspects.remove(topic)
            self._begin_turn(now_ns)
        if topic in self._refused:
            held = self._refused.pop(topic)
            self.changes.append(TopicChange(held, is_over=True))
        self._held_back = None

    def note_refused(self, topic: str, reason: str, now_ns: int) -> None:
        """Note that the broker refused a message on `topic` by an answer; the connection stays."""
        self.rejected += 1
        self._unanswered.discard(topic)
        known = self._refused.get(topic)
        if known is not None and topic not in self._suspects:
            return  # of a message that was in flight when the topic was held back
        self._end_probe(topic)
        self._hold_back(topic, reason, now_ns, _REFUSED)

    def note_connected(self, now_ns: int) -> None:
        """Note that a new connection is up."""
        self._acked_here.clear()
        self._begin_turn(now_ns)

    def note_disconnected(self, unanswered: Iterable[str], reason: str, now_ns: int) -> None:
        """Note the end of a connection with these topics in flight, in the order of publishing."""
        found = list(dict.fromkeys(unanswered))
        probe, self._probe = self._probe, None
        unproven = [topic for topic in found if topic not in self._proven and topic not in self._refused]
        if probe is None:
            both = [topic for topic in found if topic in self._unanswered]
            self._suspect(reversed(unproven or both))
        elif others := [t for t in unproven if t != probe.topic and t not in self._suspects]:
            self._suspect(reversed(others))  # it may be one of them: from now on they are sent one at a time
        elif probe.is_overtaken or now_ns - probe.sent_ns <= _HANG_UP_NS:
            self._hold_back_suspect(probe.topic, reason, now_ns)
        else:
            self._rotate(now_ns)
        self._unanswered = set(found)
        self._held_back = None

    def tick(self, now_ns: int) -> int:
        """Start retries that are due and end an unused turn; return when to call again."""
        if self.is_open:
            return now_ns + _IDLE_NS
        due = [
            held.topic for held in self.refused_topics if held.retry_ns <= now_ns and held.topic not in self._suspects
        ]
        if due and not self._suspects:
            self._begin_turn(now_ns)
        self._suspect(due)
        if self._probe is None and len(self._suspects) > 1 and now_ns - self._turn_ns >= _TURN_NS:
            self._rotate(now_ns)
        times = [held.retry_ns for held in self._refused.values() if held.topic not in self._suspects]
        if self._probe is None and len(self._suspects) > 1:
            times.append(self._turn_ns + _TURN_NS)
        return min(times, default=now_ns + _IDLE_NS)

    # --- the suspects -------------------------------------------------------------------------------------------------

    def _suspect(self, topics: Iterable[str]) -> None:
        for topic in topics:
            if topic not in self._suspects:
                self._suspects.append(topic)
                self._held_back = None

    def _begin_turn(self, now_ns: int) -> None:
        self._turn_ns = now_ns

    def _rotate(self, now_ns: int) -> None:
        self._suspects.append(self._suspects.pop(0))
        self._begin_turn(now_ns)
        self._held_back = None

    def _end_probe(self, topic: str) -> None:
        if self._probe is not None and self._probe.topic == topic:
            self._probe = None

    def _hold_back_suspect(self, topic: str, reason: str, now_ns: int) -> None:
        """Hold back the suspect that was alone with the broker when the connection ended."""
        backoff = _ENDED if self._acked_here - {topic} else _UNWITNESSED
        text = f"the connection ended while only a message on this topic waited for its acknowledgement ({reason})"
        self._hold_back(topic, text, now_ns, backoff)

    def _hold_back(self, topic: str, reason: str, now_ns: int, backoff: Backoff) -> None:
        known = self._refused.get(topic)
        since_ns, tries = (now_ns, 0) if known is None else (known.since_ns, known.tries)
        retry_ns = now_ns + round(backoff.delay_s(tries + 1, self._random) * NS_PER_S)
        held = self._refused[topic] = HeldTopic(topic, reason, since_ns, tries + 1, retry_ns)
        self._proven.discard(topic)
        if topic in self._suspects:
            self._suspects.remove(topic)
        self._begin_turn(now_ns)
        self._held_back = None
        self.changes.append(TopicChange(held, is_over=False))
