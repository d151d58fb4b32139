"""The live view's files: what OpenSearch imports fits the documents that are sent."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from agent import wire
from agent.errors import MessageError
from pipeline.infra.dashboards.live_dashboard import (
    DASHBOARD_PATH,
    INDEX_PATTERN_ID,
    INDEX_TEMPLATE_PATH,
    rendered_files,
)
from pipeline.ingest import firehose
from pipeline.ingest.live_documents import FIELDS, live_document
from tests.kits.cloud import messages as kit
from tests.kits.cloud.messages import firehose_event as event

NAMES = {field.name for field in FIELDS}


def objects() -> list[dict[str, Any]]:
    return [json.loads(line) for line in DASHBOARD_PATH.read_text(encoding="utf-8").splitlines()]


def test_the_files_are_what_the_module_makes() -> None:
    for path, text in rendered_files().items():
        assert path.read_text(encoding="utf-8") == text, "run python -m pipeline.infra.dashboards.live_dashboard"


def test_every_reference_of_a_saved_object_is_in_the_file() -> None:
    known = {(found["type"], found["id"]) for found in objects()}
    for found in objects():
        assert {(ref["type"], ref["id"]) for ref in found["references"]} <= known
    (dashboard,) = (found for found in objects() if found["type"] == "dashboard")
    panels = json.loads(dashboard["attributes"]["panelsJSON"])
    assert {panel["panelRefName"] for panel in panels} == {ref["name"] for ref in dashboard["references"]}
    assert ("index-pattern", INDEX_PATTERN_ID) in known


def test_panels_do_not_overlap_and_fit_the_width() -> None:
    (dashboard,) = (found for found in objects() if found["type"] == "dashboard")
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(dashboard["attributes"]["panelsJSON"]):
        grid = panel["gridData"]
        cells = {
            (x, y) for x in range(grid["x"], grid["x"] + grid["w"]) for y in range(grid["y"], grid["y"] + grid["h"])
        }
        assert max(x for x, _ in cells) < 48
        assert not cells & taken
        taken |= cells


def test_every_field_of_a_chart_exists_in_the_documents() -> None:
    used: set[str] = set()
    for found in objects():
        attributes = found["attributes"]
        if found["type"] == "visualization":
            state = json.loads(attributes["visState"])
            used |= {aggregation["params"]["field"] for aggregation in state["aggs"]}
            assert state["aggs"][0]["params"]["field"] in {"parts", "latency_us"}
        if found["type"] == "search":
            used |= set(attributes["columns"])
        if found["type"] in {"search", "visualization"}:
            source = json.loads(attributes["kibanaSavedObjectMeta"]["searchSourceJSON"])
            used |= set(re.findall(r"(\w+):", source["query"]["query"]))
    assert used <= NAMES
    pattern = next(found for found in objects() if found["type"] == "index-pattern")
    assert {field["name"] for field in json.loads(pattern["attributes"]["fields"])} == NAMES


@pytest.mark.parametrize("payload", [wire.encode_verdict(kit.defect(1)), kit.full_envelope()[0]])
def test_a_document_has_only_fields_that_the_strict_template_knows_with_their_types(payload: bytes) -> None:
    mappings = json.loads(INDEX_TEMPLATE_PATH.read_text(encoding="utf-8"))["template"]["mappings"]
    assert mappings["dynamic"] == "strict"
    kinds = {"keyword": str, "date": str, "long": int, "double": float, "boolean": bool}
    found = json.loads(live_document(payload, site=kit.SITE) or b"{}")
    for name, value in found.items():
        assert isinstance(value, kinds[mappings["properties"][name]["type"]])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", found["captured_at"])


def test_an_envelope_is_one_document_that_stands_for_all_its_parts() -> None:
    payload, count = kit.full_envelope()
    found = json.loads(live_document(payload, site=kit.SITE) or b"{}")
    assert (found["parts"], found["outcome"], found["key"]) == (count, "ok", f"press-1/top/3/{count - 1}")


def test_the_live_stream_gets_one_document_a_record_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KENSA_SITE", kit.SITE)
    payloads = [wire.encode_verdict(kit.defect(1)), kit.full_envelope()[0], kit.gap(), kit.heartbeat(), b"{"]
    answer = firehose.handler(event(payloads, "live-verdicts"), None)["records"]
    assert [record["result"] for record in answer] == ["Ok", "Ok", "Dropped", "Dropped", "ProcessingFailed"]


def test_a_site_that_is_no_name_is_refused_in_the_live_view_too() -> None:
    with pytest.raises(MessageError):
        live_document(kit.gap(), site="../x")
