"""What becomes of a message: flat rows that the tables can hold, or a refusal."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import wire
from agent.errors import MessageError
from pipeline.analytics.lake_schema import TABLES
from pipeline.ingest.message_rows import message_to_rows
from pipeline.ingest.table_rows import Partition, format_timestamp, make_row, utc_day
from tests.kits.cloud import messages as kit

if TYPE_CHECKING:
    from pipeline.ingest.table_rows import Row

MIDNIGHT_US = kit.NOON_US + 12 * 3_600 * 1_000_000


def named(found: Row) -> dict[str, Any]:
    return dict(zip(TABLES[found.partition.table].column_names, found.values, strict=True))


def test_a_single_verdict_becomes_one_row_with_everything_it_said() -> None:
    (found,) = message_to_rows(wire.mark_replay(wire.encode_verdict(kit.defect(9))), site=kit.SITE)
    values = named(found)
    assert found.partition == Partition("verdicts", "kyoto", "press-1", "2026-03-02")
    assert values["key"] == "press-1/top/3/9"
    assert values["captured_at"] == "2026-03-02 12:00:00.000000"
    assert (values["outcome"], values["class"], values["score"]) == ("defect", "scratch", 0.9)
    assert (values["box_x"], values["box_y"], values["box_width"], values["box_height"]) == (10, 20, 30, 40)
    assert (values["model_version"], values["model_counter"], values["model_trusted"]) == ("1.2.0", 7, True)
    assert (values["arm"], values["challenger_outcome"], values["challenger_sha256"]) == ("challenger", "ok", "cd" * 32)
    assert (values["part_id"], values["image"], values["replay"]) == ("part-9", "frames/9.jpg", True)


def test_an_envelope_becomes_a_row_for_each_of_its_verdicts() -> None:
    payload, count = kit.full_envelope()
    rows = message_to_rows(payload, site=kit.SITE)
    assert len(rows) == count > wire.MIN_ROWS
    assert [named(found)["seq"] for found in rows] == list(range(count))
    assert {found.partition for found in rows} == {Partition("verdicts", "kyoto", "press-1", "2026-03-02")}


def test_the_rows_of_an_envelope_stay_together_across_midnight() -> None:
    verdicts = [kit.ok(1, at_us=MIDNIGHT_US - 1), kit.ok(2, at_us=MIDNIGHT_US)]
    rows = message_to_rows(kit.envelope(verdicts), site=kit.SITE)
    assert [found.partition.day for found in rows] == ["2026-03-02", "2026-03-02"]
    assert [named(found)["captured_at"] for found in rows] == [
        "2026-03-02 23:59:59.999999",
        "2026-03-03 00:00:00.000000",
    ]


def test_a_gap_becomes_one_row_with_the_number_of_lost_verdicts() -> None:
    (found,) = message_to_rows(kit.gap(), site=kit.SITE)
    values = named(found)
    assert found.partition.table == "gaps"
    assert (values["lost"], values["first_seq"], values["last_seq"], values["reason"]) == (10, 5, 24, "evicted")


def test_a_heartbeat_becomes_a_row_for_each_camera_with_its_model() -> None:
    top, left = (named(found) for found in message_to_rows(kit.heartbeat(), site=kit.SITE))
    assert (top["camera"], top["captured"], top["dropped"]) == ("top", 100, 0)
    assert (left["captured"], left["inspected"], left["dropped_overrun"], left["dropped_size"]) == (104, 99, 4, 0)
    assert top["captured"] == top["inspected"] + top["dropped"] + top["pending"]
    assert (left["model_version"], left["outbox_verdicts"], left["temperature_c"]) == ("1.2.0", 2, None)


def test_a_report_becomes_one_row_with_its_releases_and_refusal() -> None:
    (found,) = message_to_rows(kit.report(), site=kit.SITE)
    values = named(found)
    assert found.partition.table == "model_reports"
    assert (values["state"], values["active_version"], values["candidate_version"]) == (
        "rolling_back",
        "1.2.0",
        "1.3.0",
    )
    assert (values["refusal_gate"], values["refusal_reason"], values["refused_version"]) == (
        "verdicts",
        "rejects_more",
        "1.3.0",
    )
    assert json.loads(values["progress"]) == {"parts": 400.0}
    assert (values["share"], values["desired_release"], values["previous_name"]) == (0.25, "surface/1.3.0", None)


@pytest.mark.parametrize(
    "payload", [b"", b"{}", b"[]", b"\xff", b'{"kind":"collected"}', b'{"v":1,"kind":"ok"}', b"nul"]
)
def test_what_is_no_message_is_refused(payload: bytes) -> None:
    with pytest.raises(MessageError):
        message_to_rows(payload, site=kit.SITE)


@pytest.mark.parametrize("at_us", [0, 4_102_444_800_000_000, 2**53 - 1])
def test_a_clock_far_off_is_refused_and_named(at_us: int) -> None:
    with pytest.raises(MessageError, match="Set the clock"):
        message_to_rows(wire.encode_verdict(kit.defect(1, at_us=at_us)), site=kit.SITE)


@pytest.mark.parametrize("site", ["", "a/b", "../x", "kyoto' OR 1", "x" * 65])
def test_a_site_that_is_no_name_is_refused(site: str) -> None:
    with pytest.raises(MessageError, match="site"):
        message_to_rows(kit.gap(), site=site)


@given(data=st.binary(max_size=400), cut=st.integers(0, 2_000), at=st.integers(0, 2_000))
def test_damaged_messages_are_refused_or_give_rows_and_nothing_else(data: bytes, cut: int, at: int) -> None:
    whole, _ = kit.full_envelope()
    for payload in (data, whole[:cut], whole[:at] + data + whole[at:], kit.heartbeat()[:cut]):
        try:
            rows = message_to_rows(payload, site=kit.SITE)
        except MessageError:
            continue
        for found in rows:
            assert len(found.values) == len(TABLES[found.partition.table].columns)


@given(st.integers(1_420_070_400_000_000, 4_102_444_799_999_999))
def test_a_time_is_written_to_the_microsecond_and_begins_with_its_day(utc_us: int) -> None:
    text = format_timestamp(utc_us)
    assert text.startswith(utc_day(utc_us) + " ")
    assert int(text[-6:]) == utc_us % 1_000_000


def test_a_row_with_a_column_that_its_table_lacks_is_a_bug() -> None:
    with pytest.raises(KeyError, match="colour"):
        make_row(Partition("gaps", "kyoto", "press-1", "2026-03-02"), {"colour": "red"})


def test_a_line_leaves_out_what_is_not_known_and_gives_its_place_when_asked() -> None:
    (found,) = message_to_rows(kit.gap(), site=kit.SITE)
    assert "site" not in json.loads(found.to_json_line())
    assert json.loads(found.to_json_line(with_partition=True))["day"] == "2026-03-02"
    (verdict,) = message_to_rows(wire.encode_verdict(kit.ok(1)), site=kit.SITE)
    assert "box_x" not in json.loads(verdict.to_json_line())
