"""The topic gate: which topics it holds back, how soon it finds a refused one, and which it spares."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.outbox.topic_gate import TopicGate
from agent.timing.clock import NS_PER_S

RTT_S = 0.02
RECONNECT_S = 0.5


@dataclass
class Plant:
    """A sender as small as can be, with `TopicGate` in it, and a broker that forbids topics; time is simulated."""

    topics: list[str]
    forbidden: set[str]
    answers: bool = False  # refuses by an answer; else it hangs up
    room: int = 8
    seed: int = 0
    now_ns: int = 0
    ends: int = 0
    waiting: dict[str, int] = field(default_factory=dict)
    delivered: dict[str, int] = field(default_factory=dict)
    longest_ns: dict[str, int] = field(default_factory=dict)  # of a topic without a delivery
    last_ns: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.gate = TopicGate(random=random.Random(self.seed))
        self.gate.note_connected(self.now_ns)
        self.flights: deque[tuple[str, int]] = deque()

    def run(self, seconds: float) -> None:
        until_ns = self.now_ns + round(seconds * NS_PER_S)
        while self.now_ns < until_ns:
            for topic in self.topics:
                self.waiting[topic] = self.waiting.get(topic, 0) + 1
            self.gate.tick(self.now_ns)
            self.publish()
            self.now_ns += round(RTT_S * NS_PER_S)
            self.answer()

    def publish(self) -> None:
        order = sorted(self.waiting, key=lambda topic: (self.last_ns.get(topic, 0), topic))
        for topic in order:
            while self.waiting[topic] and len(self.flights) < self.room and self.gate.may_send(topic):
                self.waiting[topic] -= 1
                self.gate.note_sent(topic, self.now_ns)
                self.flights.append((topic, self.now_ns))

    def answer(self) -> None:
        while self.flights:
            topic, sent_ns = self.flights.popleft()
            if topic not in self.forbidden:
                self.gate.note_acknowledged(topic, sent_ns, self.now_ns)
                self.delivered[topic] = self.delivered.get(topic, 0) + 1
                silent_ns = self.now_ns - self.last_ns.get(topic, 0)
                self.longest_ns[topic] = max(self.longest_ns.get(topic, 0), silent_ns)
                self.last_ns[topic] = self.now_ns
            elif self.answers:
                self.gate.note_refused(topic, "not authorized", self.now_ns)
                self.waiting[topic] += 1
            else:
                self.cut([topic, *(found for found, _ in self.flights)])

    def cut(self, unanswered: list[str] | None = None) -> None:
        """The connection ends, by the broker or by the network."""
        lost = [topic for topic, _ in self.flights] if unanswered is None else unanswered
        self.gate.note_disconnected(lost, "it hung up", self.now_ns)
        for topic in lost:
            self.waiting[topic] += 1
        self.flights.clear()
        self.ends += 1
        self.now_ns += round(RECONNECT_S * NS_PER_S)
        self.gate.note_connected(self.now_ns)

    @property
    def set_aside(self) -> set[str]:
        return {held.topic for held in self.gate.refused_topics}


TOPICS = [f"t{number}" for number in range(6)]
KINDS = {
    "first": {"t0"},
    "last": {"t5"},
    "three of six": {"t0", "t2", "t4"},
    "all but one": {"t0", "t1", "t2", "t3", "t4"},
}


@pytest.mark.parametrize("answers", [True, False], ids=["answers", "hangs up"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_forbidden_topics_are_found_and_the_others_go_on(kind: str, *, answers: bool) -> None:
    plant = Plant(TOPICS, KINDS[kind], answers=answers)
    plant.run(60.0)
    allowed = set(TOPICS) - KINDS[kind]
    assert plant.set_aside == KINDS[kind]
    assert set(plant.delivered) == allowed
    # What is sent in a round trip is bounded by the room; nothing of an allowed topic is left behind at the end.
    assert all(plant.waiting[topic] <= 2 for topic in allowed)
    if answers:
        assert plant.ends == 0


@pytest.mark.parametrize("topic", TOPICS)
def test_with_one_forbidden_topic_no_allowed_one_is_silent_for_more_than_two_seconds(topic: str) -> None:
    plant = Plant(TOPICS, {topic})
    plant.run(120.0)
    assert max(plant.longest_ns.values()) <= 2 * NS_PER_S
    assert plant.ends <= 8, "each try costs everybody a connection"


def test_a_topic_that_is_forbidden_later_is_found_within_three_connections() -> None:
    plant = Plant(TOPICS, set())
    plant.run(5.0)
    plant.forbidden = {"t3"}
    plant.run(2.0)
    assert plant.ends <= 3
    assert plant.set_aside == {"t3"}


@pytest.mark.parametrize("answers", [True, False], ids=["answers", "hangs up"])
def test_what_is_allowed_again_is_taken_again_and_told(*, answers: bool) -> None:
    plant = Plant(TOPICS, {"t3"}, answers=answers)
    plant.run(100.0)
    plant.forbidden = set()
    plant.run(301.0)
    assert plant.gate.is_open
    assert plant.gate.held_back == frozenset()
    assert plant.delivered["t3"] > 0
    assert [news.is_over for news in plant.gate.changes][-1]
    assert all(not news.is_over for news in list(plant.gate.changes)[:-1])


def test_a_plain_cut_of_the_network_makes_no_topic_wait() -> None:
    plant = Plant(TOPICS, set())
    plant.run(1.0)
    plant.publish()
    plant.cut()
    assert plant.gate.held_back == frozenset()
    plant.run(1.0)
    assert plant.gate.is_open


def test_a_broker_that_is_ill_for_everybody_is_forgiven_within_half_a_minute() -> None:
    plant = Plant(TOPICS, set(TOPICS))
    plant.run(300.0)
    assert plant.set_aside == set(TOPICS)
    plant.forbidden = set()
    plant.run(35.0)
    assert plant.gate.is_open


def test_refusals_of_what_was_in_flight_already_do_not_prolong_the_wait() -> None:
    gate = TopicGate(random=random.Random(0))
    for _ in range(5):
        gate.note_sent("t", 0)
    for _ in range(5):
        gate.note_refused("t", "not authorized", 0)
    assert [held.tries for held in gate.refused_topics] == [1]
    assert gate.rejected == 5
    assert len(gate.changes) == 1


def test_a_suspect_without_a_message_gives_its_turn_to_the_next() -> None:
    gate = TopicGate(random=random.Random(0))
    gate.note_connected(0)
    gate.note_sent("idle", 0)
    gate.note_sent("busy", 0)
    gate.note_disconnected(["busy", "idle"], "it hung up", 0)
    gate.note_connected(0)
    assert gate.held_back == {"busy"}, "the newest goes first"
    again_ns = gate.tick(1)
    assert again_ns <= NS_PER_S
    gate.tick(again_ns)
    assert gate.held_back == {"idle"}


@settings(max_examples=60, deadline=None)
@given(
    forbidden=st.sets(st.sampled_from(TOPICS), max_size=5),
    answers=st.booleans(),
    cuts=st.lists(st.floats(0.1, 3.0), max_size=6),
    room=st.integers(1, 20),
    seed=st.integers(0, 1_000),
)
def test_whatever_the_network_does_in_the_end_only_forbidden_topics_wait(
    forbidden: set[str],
    answers: bool,  # noqa: FBT001  drawn
    cuts: list[float],
    room: int,
    seed: int,
) -> None:
    plant = Plant(TOPICS, forbidden, answers=answers, room=room, seed=seed)
    for seconds in cuts:
        plant.run(seconds)
        plant.publish()
        plant.cut()
    plant.run(90.0)
    assert plant.set_aside <= forbidden, "an innocent topic is still held back"
    assert not set(plant.delivered) & forbidden
    assert plant.delivered.keys() == set(TOPICS) - forbidden
    held = plant.gate.held_back
    assert held <= forbidden
