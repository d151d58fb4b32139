from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
from hypothesis import given, settings

from agent import wire
from agent.errors import MessageError
from tests.kits import model_status
from tests.kits.requirements import ROOT

if TYPE_CHECKING:
    from agent.release_records import ModelStatus

SCHEMA: dict[str, Any] = json.loads(Path(ROOT / "docs" / "schema" / "model.schema.json").read_text())


@settings(max_examples=60)
@given(model_status.SHORT)
def test_a_report_comes_back_as_it_was(status: ModelStatus) -> None:
    report = wire.decode(wire.encode_report(status, reporter=model_status.REPORTER, utc_ns=model_status.UTC_NS))
    assert isinstance(report, wire.ModelReport)
    assert report.to_model_status() == status
    assert (report.thing, report.line, report.boot_epoch) == ("thing-1", "line-1", 3)
    assert not report.shortened


@settings(max_examples=60)
@given(model_status.ANY)
def test_a_report_always_fits_into_one_message_of_its_published_schema(status: ModelStatus) -> None:
    payload = wire.encode_report(status, reporter=model_status.REPORTER, utc_ns=model_status.UTC_NS)
    assert len(payload) < wire.MAX_MESSAGE_BYTES
    jsonschema.Draft202012Validator(SCHEMA).validate(json.loads(payload))
    report = wire.decode(payload)
    assert isinstance(report, wire.ModelReport)
    assert report.inspection == status.inspection
    if status.refusal is not None:
        assert report.refusal is not None
        assert (report.refusal.gate, report.refusal.reason) == (status.refusal.gate, status.refusal.reason)


def test_figures_that_json_cannot_hold_are_left_out_or_become_the_largest_number() -> None:
    status = model_status.status(progress={"e_value": math.inf, "worst": -math.inf, "p": math.nan, "no name!": 1.0})
    report = wire.decode(wire.encode_report(status, reporter=model_status.REPORTER, utc_ns=0))
    assert isinstance(report, wire.ModelReport)
    assert report.progress == {"e_value": 1.7e308, "worst": -1.7e308}


def test_a_long_text_is_shortened_before_the_gate_and_its_figures() -> None:
    refusal = model_status.REFUSAL
    status = model_status.status(alarm="ä" * 5_000, refusal=refusal)
    report = wire.decode(wire.encode_report(status, reporter=model_status.REPORTER, utc_ns=0))
    assert isinstance(report, wire.ModelReport)
    assert report.shortened
    assert report.refusal is not None
    assert report.refusal.to_record() == refusal


def test_an_inspection_that_fits_into_no_topic_is_refused_with_its_name() -> None:
    with pytest.raises(MessageError, match="top side"):
        wire.encode_report(model_status.status("top side"), reporter=model_status.REPORTER, utc_ns=0)


@pytest.mark.parametrize("good", ["parts/1.0.0", "a-b_C/0.10.2-rc.1", "n" * 64 + "/999999.0.0"])
def test_a_release_is_named_by_name_and_version(good: str) -> None:
    assert wire.is_release_id(good)


@pytest.mark.parametrize(
    "bad",
    [
        "", "parts", "parts/1.0", "parts/1.0.0/x", "../1.0.0", "p p/1.0.0", "parts/1.0.0\n", "parts/v1.0.0",
        "n" * 65 + "/1.0.0", "parts/1.0.0+b", "pärts/1.0.0", "parts/\uff11.0.0",
    ],
)  # fmt: skip
def test_anything_else_names_no_release(bad: str) -> None:
    assert not wire.is_release_id(bad)
