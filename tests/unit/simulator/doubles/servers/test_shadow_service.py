"""The simulated shadow service answers as AWS IoT's does."""

from __future__ import annotations

import json
from typing import Any

import pytest

from simulator.doubles.servers.shadow_service import ShadowMessage, ShadowStore

THING, NAME = "thing-1", "kensa"


def ask(store: ShadowStore, request: str, body: Any = None) -> list[ShadowMessage]:
    payload = b"" if body is None else json.dumps(body).encode()
    return store.handle(THING, NAME, request, payload)


def update(store: ShadowStore, **more: Any) -> list[ShadowMessage]:
    return ask(store, "update", more)


def suffixes(answers: list[ShadowMessage]) -> list[str]:
    return [answer.suffix for answer in answers]


def refused(answers: list[ShadowMessage]) -> tuple[str, int]:
    (answer,) = answers
    return answer.suffix, answer.content["code"]


def test_a_shadow_that_does_not_exist_is_404_with_the_askers_token() -> None:
    (answer,) = ask(ShadowStore(utc_s=lambda: 7.9), "get", {"clientToken": "me"})
    assert answer.suffix == "get/rejected"
    assert answer.content == {
        "code": 404, "message": "No shadow exists with name: 'kensa'", "clientToken": "me", "timestamp": 7,
    }  # fmt: skip


def test_an_update_is_accepted_and_what_is_desired_and_not_reported_is_the_delta() -> None:
    store = ShadowStore(utc_s=lambda: 5.0)
    answers = update(store, state={"desired": {"a": {"b": 1, "c": [1, 2]}}}, clientToken="x")
    assert suffixes(answers) == ["update/accepted", "update/delta", "update/documents"]
    accepted, delta, documents = (answer.content for answer in answers)
    assert (accepted["version"], delta["version"], accepted["clientToken"]) == (1, 1, "x")
    assert delta["state"] == {"a": {"b": 1, "c": [1, 2]}}
    assert delta["metadata"]["a"]["c"] == [{"timestamp": 5}, {"timestamp": 5}]
    assert documents["previous"]["version"] == 0
    assert documents["current"]["state"] == {"desired": {"a": {"b": 1, "c": [1, 2]}}}
    second = update(store, state={"reported": {"a": {"b": 1}}})
    assert second[1].content["state"] == {"a": {"c": [1, 2]}}
    third = update(store, state={"reported": {"a": {"c": [1, 2]}}})
    assert suffixes(third) == ["update/accepted", "update/documents"]
    (whole,) = ask(store, "get")
    assert whole.content["version"] == 3
    assert "delta" not in whole.content["state"]
    assert whole.content["metadata"]["reported"]["a"]["b"] == {"timestamp": 5}


def test_null_removes_and_arrays_are_replaced() -> None:
    store = ShadowStore()
    update(store, state={"reported": {"a": 1, "b": {"c": 1, "d": 2}, "e": [1, 2, 3]}})
    update(store, state={"reported": {"a": None, "b": {"c": None}, "e": [4]}})
    assert store.state(THING, NAME) == {"reported": {"b": {"d": 2}, "e": [4]}}
    (whole,) = ask(store, "get")
    assert set(whole.content["metadata"]["reported"]) == {"b", "e"}
    update(store, state={"reported": None})
    assert store.state(THING, NAME) == {}


def test_another_version_is_a_conflict() -> None:
    store = ShadowStore()
    update(store, state={"desired": {"a": 1}})
    assert refused(update(store, state={"desired": {"a": 2}}, version=0)) == ("update/rejected", 409)
    assert suffixes(update(store, state={"desired": {"a": 2}}, version=1))[0] == "update/accepted"


def test_a_document_over_8_kb_is_refused_and_nothing_changes() -> None:
    store = ShadowStore()
    update(store, state={"desired": {"a": "x" * 5_000}})
    assert refused(update(store, state={"reported": {"b": "x" * 5_000}})) == ("update/rejected", 413)
    assert refused(update(store, state={"reported": {"b": "x" * 9_000}})) == ("update/rejected", 413)
    assert list(store.state(THING, NAME)) == ["desired"]


def nested(levels: int) -> dict[str, Any]:
    return {"a": 1} if levels == 1 else {"a": nested(levels - 1)}


def test_eight_levels_are_the_deepest() -> None:
    store = ShadowStore()
    assert suffixes(update(store, state={"desired": nested(8)}))[0] == "update/accepted"
    assert refused(update(store, state={"desired": nested(9)})) == ("update/rejected", 400)


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"{", 400), (b"[]", 400), (b"\xff", 415), (b"{}", 400), (b'{"state":1}', 400),
        (b'{"state":{"desired":1}}', 400),
        (b'{"state":{"wanted":{}}}', 400), (b'{"state":{},"clientToken":1}', 400), (b"[" * 5_000, 400),
    ],
)  # fmt: skip
def test_nonsense_is_refused(payload: bytes, code: int) -> None:
    assert refused(ShadowStore().handle(THING, NAME, "update", payload)) == ("update/rejected", code)


def test_deleting_keeps_the_version() -> None:
    store = ShadowStore()
    update(store, state={"desired": {"a": 1}})
    assert suffixes(ask(store, "delete")) == ["delete/accepted"]
    assert refused(ask(store, "get")) == ("get/rejected", 404)
    assert refused(ask(store, "delete")) == ("delete/rejected", 404)
    assert update(store, state={"desired": {"a": 1}})[0].content["version"] == 2
