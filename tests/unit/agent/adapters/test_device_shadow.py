"""The named shadow on a virtual clock: what is read, what is reported, and what is only counted."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import MessageError
from agent.release_records import DesiredRelease, ModelStatus
from agent.wire import shadow_documents as documents
from tests.kits import model_status
from tests.kits.device_shadow import PREFIX, Rig

ASKER = "12345678-1"
WISH = DesiredRelease("parts/1.1.0", "release", 0.5, "shadow")


def rig_at_rest(**desired: Any) -> Rig:
    """Connected, with a shadow that desires this, everything read and told."""
    rig = Rig()
    rig.desire(desired)
    rig.shadow.report(model_status.status())
    rig.connect()
    rig.settle()
    return rig


def counted(rig: Rig) -> dict[str, int]:
    return {reason: count for reason, count in rig.shadow.counters.items() if reason not in {"taken", "duplicate"}}


# --- what is desired --------------------------------------------------------------------------------------------------


def test_what_is_desired_is_read_when_the_connection_comes() -> None:
    rig = Rig()
    rig.desire({"surface": {"release": "parts/1.1.0"}})
    assert rig.step() > 0
    assert rig.published == 0
    rig.connect()
    rig.settle()
    assert rig.heard == [("surface", WISH)]


def test_a_device_without_a_shadow_makes_one_by_reporting() -> None:
    rig = Rig()
    rig.connect()
    rig.settle(4)
    assert rig.heard == []
    rig.shadow.report(model_status.status())
    rig.settle()
    assert rig.reported["surface"]["state"] == "IDLE"
    assert counted(rig) == {}


def test_a_delta_leads_to_a_look_and_the_whole_document_counts() -> None:
    rig = rig_at_rest(surface={"release": "parts/1.0.0", "mode": "ab", "share": 0.25})
    rig.shadow.report(model_status.status(state="ab", candidate=model_status.release("1.0.0"), share=0.25))
    rig.settle()
    rig.desire({"surface": {"release": "parts/1.1.0"}})  # the delta does not say that the mode is ab
    rig.settle()
    assert rig.heard[-1] == ("surface", DesiredRelease("parts/1.1.0", "ab", 0.25, "shadow"))


def test_the_same_wish_is_told_once_however_often_it_is_read() -> None:
    rig = rig_at_rest(surface={"release": "parts/1.1.0"})
    for _ in range(3):
        rig.connect(up=False)
        rig.step()
        rig.connect()
        rig.settle(3)
    assert rig.heard == [("surface", WISH)]


def test_a_wish_that_came_while_the_broker_was_away_is_read_after_it() -> None:
    rig = rig_at_rest()
    rig.connect(up=False)
    rig.desire({"surface": {"release": "parts/1.1.0"}})
    rig.answers.clear()
    rig.step()
    rig.connect()
    rig.settle()
    assert rig.heard == [("surface", WISH)]


def test_a_lost_delta_is_made_good_within_the_hour() -> None:
    rig = rig_at_rest()
    rig.desire({"surface": {"release": "parts/1.1.0"}})
    rig.answers.clear()
    rig.settle()
    assert rig.heard == []
    rig.step(3_600)
    rig.settle()
    assert rig.heard == [("surface", WISH)]


def test_a_shadow_that_was_made_anew_with_a_lower_version_is_followed() -> None:
    rig = rig_at_rest(surface={"release": "parts/1.1.0"})
    rig.store = type(rig.store)()
    rig.desire({"surface": {"release": "parts/1.2.0"}})
    rig.answers.clear()
    rig.connect(up=False)
    rig.connect()
    rig.settle()
    assert rig.heard[-1][1].release_id == "parts/1.2.0"


def test_an_unanswered_look_is_repeated_ever_more_seldom() -> None:
    rig = Rig()
    rig.connect()
    times = []
    for second in range(3_000):
        before = rig.published
        rig.step(1.0)
        times += [second] * (rig.published - before)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert 5 < len(times) < 20
    assert gaps == sorted(gaps)
    assert gaps[0] >= 3
    assert gaps[-1] <= 600


def test_a_broker_that_ends_the_connection_on_shadow_topics_is_left_alone() -> None:
    rig = Rig()
    rig.shadow.report(model_status.status())
    for _ in range(50):
        rig.connect()
        rig.step(0.1)
        rig.connect(up=False)
        rig.step(1.0)
    assert rig.published == 6  # a look and a report, three times
    assert counted(rig) == {"refused_by_broker": 1}
    rig.desire({"surface": {"release": "parts/1.1.0"}})
    rig.answers.clear()
    rig.connect()
    rig.step(3_600.0)
    rig.settle()
    assert rig.heard == [("surface", WISH)]


def test_a_network_that_breaks_often_is_no_such_broker() -> None:
    rig = Rig()
    for _ in range(50):
        rig.connect()
        rig.step(0.1)
        rig.serve()
        rig.deliver()
        rig.step(0.1)
        rig.connect(up=False)
        rig.step(1.0)
    assert counted(rig) == {}


# --- hints that do nothing --------------------------------------------------------------------------------------------


def delta(version: int, inspections: Any) -> bytes:
    return json.dumps({"version": version, "state": {"inspections": inspections}}).encode()


@pytest.mark.parametrize(
    ("suffix", "payload", "reason"),
    [
        ("update/delta", delta(1, {"surface": {"release": "parts/9.0.0"}}), "stale"),
        ("update/delta", delta(99, "no object"), "malformed"),
        ("update/delta", b"{" * 100, "malformed"),
        ("update/delta", b'{"state":{}}', "malformed"),
        ("update/delta", delta(99, {"surface": {"release": "x" * 9_000}}), "oversized"),
        ("get/accepted", delta(99, {}), "foreign"),
        ("get/accepted", b"x" * 32_768, "malformed"),
        ("get/rejected", b'{"code":404,"message":"gone"}', "foreign"),
        ("update/rejected", b'{"code":409}', "foreign"),
        ("update/rejected", b'{"message":"no code"}', "malformed"),
        ("update/accepted", b"[]", "malformed"),
    ],
)
def test_a_bad_hint_does_nothing_but_count(suffix: str, payload: bytes, reason: str) -> None:
    rig = rig_at_rest(surface={"release": "parts/1.1.0"})
    published = rig.published
    for _ in range(3):
        rig.transport.publish_to_agent(PREFIX + suffix, payload)
        rig.step()
    rig.settle(2)
    assert counted(rig) == {reason: 3}
    assert rig.heard == [("surface", WISH)]
    assert rig.published == published


@pytest.mark.parametrize(
    ("wish", "reason"),
    [
        ({"release": 5}, "malformed"),
        ({"release": "../../etc/passwd"}, "malformed"),
        ({"release": "parts/1.1"}, "malformed"),
        ({"release": "parts/1.1.0", "mode": "force"}, "malformed"),
        ({"release": "parts/1.1.0", "mode": "ab", "share": 7}, "malformed"),
        ({"release": "parts/1.1.0", "mode": "ab", "share": True}, "malformed"),
        ({"release": "parts/1.1.0", "shar": 0.1}, "malformed"),
        ({}, "malformed"),
        ("parts/1.1.0", "malformed"),
    ],
)
def test_a_wish_that_cannot_be_is_counted_and_the_others_are_followed(wish: Any, reason: str) -> None:
    rig = rig_at_rest(edge=wish, surface={"release": "parts/1.1.0"}, backside={"release": "parts/1.1.0"})
    assert rig.heard == [("surface", WISH)]
    assert counted(rig) == {reason: 1, "unknown_inspection": 1}


def test_bad_hints_without_end_log_one_line_an_hour(caplog: pytest.LogCaptureFixture) -> None:
    rig = rig_at_rest()
    for _ in range(120):
        for _ in range(10):
            rig.transport.publish_to_agent(PREFIX + "update/delta", b"nonsense")
        rig.step(1.0)
    assert rig.shadow.counters["malformed"] == 1_200
    assert len(caplog.records) == 1


def test_more_than_can_wait_is_counted_and_dropped() -> None:
    rig = rig_at_rest()
    for _ in range(1_000):
        rig.transport.publish_to_agent(PREFIX + "update/delta", b"nonsense")
    rig.step()
    assert counted(rig) == {"malformed": 256, "overrun": 744}


def test_a_made_up_version_blocks_no_later_wish() -> None:
    rig = rig_at_rest()
    rig.transport.publish_to_agent(PREFIX + "update/delta", delta(2**53 - 1, {"surface": {"release": "parts/9.9.9"}}))
    rig.settle(3)
    assert rig.heard == []
    rig.desire({"surface": {"release": "parts/1.1.0"}})
    rig.settle()
    assert rig.heard == [("surface", WISH)]


def test_a_flood_of_deltas_costs_one_look_a_second() -> None:
    rig = rig_at_rest()
    published = rig.published
    for number in range(200):
        rig.transport.publish_to_agent(
            PREFIX + "update/delta", delta(1_000 + number, {"surface": {"release": "parts/9.9.9"}})
        )
        rig.step(0.1)
        rig.serve()
        rig.deliver()
    assert rig.published - published <= 21
    assert rig.heard == []


HOSTILE = st.one_of(
    st.binary(max_size=40),
    st.recursive(
        st.none() | st.booleans() | st.integers(-5, 2**70) | st.floats() | st.text(max_size=6)
        | st.sampled_from(["parts/1.1.0", "surface", "x" * 9_000]),
        lambda inner: st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["state", "desired", "reported", "inspections", "surface", "release", "mode", "share", "version",
                 "code", "clientToken", "x"]
            ), inner, max_size=5,
        ),
        max_leaves=20,
    ).map(lambda value: json.dumps(value).encode()),
)  # fmt: skip
SUFFIXES = st.sampled_from(["get/accepted", "get/rejected", "update/accepted", "update/rejected", "update/delta"])


@settings(max_examples=150)
@given(st.lists(st.tuples(SUFFIXES, HOSTILE), max_size=12), st.integers(0, 2**32))
def test_whatever_arrives_nothing_breaks_and_the_true_wish_is_followed(
    messages: list[tuple[str, bytes]], seed: int
) -> None:
    rig, rng = Rig(), random.Random(seed)
    rig.shadow.report(model_status.status())
    rig.connect()
    for number, (suffix, payload) in enumerate(messages):
        rig.transport.publish_to_agent(PREFIX + suffix, payload)
        if rng.random() < 0.3:
            rig.desire({"surface": {"release": f"parts/1.{number}.0"}})
        if rng.random() < 0.5:
            rig.answers += rng.sample(rig.answers, min(2, len(rig.answers)))  # twice
            rig.deliver(shuffle=rng)
        if rng.random() < 0.2:
            rig.connect(up=False)
            rig.connect()
        rig.step(rng.choice([0.0, 0.1, 1.0]))
        rig.serve()
    assert {inspection for inspection, _ in rig.heard} <= {"surface"}
    assert all(wish.release_id.startswith("parts/1.") and wish.source == "shadow" for _, wish in rig.heard)
    rig.desire({"surface": {"release": "parts/2.0.0"}})
    rig.settle(30)
    assert rig.heard[-1] == ("surface", DesiredRelease("parts/2.0.0", "release", 0.5, "shadow"))
    assert rig.reported["surface"]["state"] == "IDLE"


# --- what is reported -------------------------------------------------------------------------------------------------


def test_what_happens_within_a_second_is_told_once_with_the_newest_state() -> None:
    rig = rig_at_rest()
    published = rig.published
    for number in range(50):
        rig.shadow.report(model_status.status(state=f"s{number}"))
        rig.step(0.01)
    rig.settle()
    assert rig.reported["surface"]["state"] == "s49"
    assert rig.published - published <= 2


def test_moving_figures_alone_are_told_every_ten_seconds() -> None:
    rig = rig_at_rest()
    published = rig.published
    for number in range(100):
        rig.shadow.report(model_status.status(progress={"pairs": float(number)}))
        rig.step(1.0)
        rig.serve()
        rig.deliver()
    assert 9 <= rig.published - published <= 11
    assert rig.reported["surface"]["progress"].startswith("pairs 9")


def test_what_was_told_while_the_connection_broke_is_told_again() -> None:
    rig = rig_at_rest()
    rig.shadow.report(model_status.ROLLED_BACK)
    rig.step()
    assert len(rig.sent) == 1
    rig.connect(up=False)  # takes it along
    rig.step()
    rig.connect()
    rig.settle()
    assert rig.reported["surface"]["refusal"]["gate"] == "verdicts"
    assert rig.reported["surface"]["reason"] == "finds_fewer_defects"


def test_an_update_that_nobody_confirms_is_told_again() -> None:
    rig = rig_at_rest()
    rig.shadow.report(model_status.ROLLED_BACK)
    rig.step()
    rig.sent.clear()
    rig.step(11.0)
    rig.settle()
    assert rig.reported["surface"]["alarm"] == "Too many rollbacks today."


def test_a_refused_update_is_not_repeated_until_something_changes() -> None:
    rig = rig_at_rest()
    rig.shadow.report(model_status.ROLLED_BACK)
    rig.step()
    ((_, payload),) = rig.sent
    token = json.loads(payload)["clientToken"]
    rig.sent.clear()
    refusal = {"code": 413, "message": "too large", "clientToken": token}
    rig.transport.publish_to_agent(PREFIX + "update/rejected", json.dumps(refusal).encode())
    published = rig.published
    for _ in range(300):
        rig.step()
    assert rig.published == published
    assert counted(rig) == {"rejected": 1}
    rig.shadow.report(model_status.status())
    rig.settle()
    assert rig.reported["surface"]["state"] == "IDLE"


def test_what_is_over_disappears_from_the_shadow() -> None:
    rig = rig_at_rest()
    rig.shadow.report(model_status.IN_TRIAL)
    rig.settle()
    assert rig.reported["surface"]["candidate"] == "parts/1.1.0"
    assert rig.reported["surface"]["progress"] == "parts 120, parts_wanted 200, e_value 0.7"
    rig.shadow.report(model_status.status())
    rig.settle()
    assert rig.reported["surface"] == {
        "release": "parts/1.0.0", "mode": "release", "active": "parts/1.0.0", "state": "IDLE",
        "since_utc_s": 1_790_000_000,
    }  # fmt: skip


def test_an_inspection_that_is_not_configured_any_more_is_forgotten() -> None:
    rig = Rig()
    rig.request("update", b'{"state":{"reported":{"inspections":{"backside":{"state":"idle"},"bad name":{"a":1}}}}}')
    rig.answers.clear()
    rig.shadow.report(model_status.status())
    rig.connect()
    rig.settle()
    assert "backside" not in rig.reported
    assert rig.reported["surface"]["state"] == "IDLE"


def test_the_delta_is_what_is_still_to_be_done() -> None:
    rig = rig_at_rest(surface={"release": "parts/1.0.0", "mode": "release"})
    (whole,) = rig.store.handle("thing-1", "kensa", "get", b"")
    assert "delta" not in whole.content["state"]
    rig.desire({"surface": {"release": "parts/1.1.0"}})
    (whole,) = rig.store.handle("thing-1", "kensa", "get", b"")
    assert whole.content["state"]["delta"] == {"inspections": {"surface": {"release": "parts/1.1.0"}}}


@settings(max_examples=60)
@given(st.lists(model_status.ANY, min_size=1, max_size=40))
def test_a_report_always_fits_into_a_shadow_beside_what_is_desired(statuses: list[ModelStatus]) -> None:
    named = {
        f"{number:02}" * 32: replace(status, inspection=f"{number:02}" * 32) for number, status in enumerate(statuses)
    }
    payload = documents.encode_reported(named, gone=(), token=ASKER)
    assert len(payload) <= documents.MAX_REPORTED_BYTES
    rig = Rig()
    rig.request("update", payload)
    topic, _ = rig.answers[0]
    assert topic.endswith("update/accepted")


def test_where_not_all_inspections_fit_those_stay_in_which_something_is_wrong_or_under_way() -> None:
    quiet = {f"{n:02}" * 32: model_status.status(f"{n:02}" * 32) for n in range(60)}
    loud = {
        "zz": replace(model_status.ROLLED_BACK, inspection="zz"),
        "zy": replace(model_status.IN_TRIAL, inspection="zy"),
    }
    payload = documents.encode_reported({**quiet, **loud}, gone=(), token=ASKER)
    reported = json.loads(payload)["state"]["reported"]
    assert {"zz", "zy"} <= set(reported["inspections"])
    assert reported["left_out"] == 62 - len(reported["inspections"])


def test_a_share_of_nothing_is_no_wish() -> None:
    with pytest.raises(MessageError, match="above 0"):
        documents.parse_desired({"release": "parts/1.0.0", "mode": "ab", "share": 0})
