"""Generates `verdicts-template.json` and `live.ndjson`, the files of the live view.

`python -m pipeline.infra.dashboards.live_dashboard`; a test compares them with the code.

Import with `PUT _index_template/verdicts` and with Dashboards' `POST api/saved_objects/_import`. Identifiers are fixed,
so a second import replaces the first. Charts sum `parts`, because a document may represent a whole envelope.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from pipeline.ingest.live_documents import FIELDS

FOLDER: Final = Path(__file__).parent
INDEX_TEMPLATE_PATH: Final = FOLDER / "verdicts-template.json"
DASHBOARD_PATH: Final = FOLDER / "live.ndjson"
INDEX_PATTERN_ID: Final = "kensa-verdicts"
TIME_FIELD: Final = "captured_at"
_SHARDS: Final = 1  # a day of a plant's messages is far below the capacity of one shard


def index_template() -> dict[str, Any]:
    """The index template, with an explicit type for every field."""
    properties: dict[str, Any] = {field.name: {"type": field.type} for field in FIELDS}
    properties[TIME_FIELD]["format"] = "strict_date_optional_time"
    return {
        "index_patterns": ["verdicts-*"],
        "priority": 100,
        "template": {
            "settings": {"number_of_shards": _SHARDS, "number_of_replicas": 1, "refresh_interval": "5s"},
            "mappings": {"dynamic": "strict", "properties": properties},
        },
        "_meta": {"description": "Kensa's live view: one document a message"},
    }


def saved_objects() -> list[dict[str, Any]]:
    """Index pattern, charts, the list of the latest rejects, and their dashboard."""
    panels = [*_charts(), _latest()]
    return [_pattern(), *panels, _dashboard(panels)]


def _pattern() -> dict[str, Any]:
    kinds = {"keyword": "string", "date": "date", "long": "number", "double": "number", "boolean": "boolean"}
    fields = [
        {
            "name": field.name, "type": kinds[field.type], "esTypes": [field.type], "searchable": True,
            "aggregatable": True, "readFromDocValues": True, "scripted": False, "count": 0,
        }
        for field in FIELDS
    ]  # fmt: skip
    attributes = {"title": "verdicts-*", "timeFieldName": TIME_FIELD, "fields": json.dumps(fields)}
    return {"type": "index-pattern", "id": INDEX_PATTERN_ID, "attributes": attributes, "references": []}


def _sum(field: str = "parts", *, name: str = "parts", kind: str = "sum") -> dict[str, Any]:
    return {
        "id": "1", "enabled": True, "type": kind, "schema": "metric", "params": {"field": field, "customLabel": name},
    }  # fmt: skip


def _terms(number: int, field: str, schema: str, *, size: int = 8) -> dict[str, Any]:
    params = {"field": field, "orderBy": "1", "order": "desc", "size": size}
    return {"id": str(number), "enabled": True, "type": "terms", "schema": schema, "params": params}


def _time(number: int) -> dict[str, Any]:
    params = {"field": TIME_FIELD, "interval": "auto", "min_doc_count": 1}
    return {"id": str(number), "enabled": True, "type": "date_histogram", "schema": "segment", "params": params}


def _charts() -> list[dict[str, Any]]:
    rejected = "outcome: (defect or unsure)"
    return [
        _chart("parts", "Parts", "metric", [_sum()], {}),
        _chart("rejected", "Rejected or unsure", "metric", [_sum()], {}, query=rejected),
        _chart("unknown", "Without a judgement", "metric", [_sum()], {}, query="outcome: unknown"),
        _chart("outcomes", "Parts by outcome", "histogram", [_sum(), _time(2), _terms(3, "outcome", "group")],
               _STACKED),
        _chart("classes", "Rejected by class", "histogram", [_sum(), _time(2), _terms(3, "class", "group")], _STACKED,
               query="outcome: defect"),
        _chart("cameras", "Rejected by camera", "table",
               [_sum(), _terms(2, "line", "bucket"), _terms(3, "camera", "bucket", size=20)], {"perPage": 10},
               query=rejected),
        _chart("models", "Parts by model", "pie", [_sum(), _terms(2, "model", "segment")], {"isDonut": True}),
        _chart("latency", "Longest latency, µs", "line",
               [_sum("latency_us", name="µs", kind="max"), _time(2), _terms(3, "thing", "group")], {}),
    ]  # fmt: skip


_STACKED: Final = {"seriesParams": [{"data": {"id": "1"}, "mode": "stacked", "show": True, "type": "histogram"}]}


def _search_source(query: str) -> str:
    return json.dumps(
        {"query": {"query": query, "language": "kuery"}, "filter": [], "indexRefName": "kibanaSavedObjectMeta.index"}
    )


_REFERENCE: Final = [{"name": "kibanaSavedObjectMeta.index", "type": "index-pattern", "id": INDEX_PATTERN_ID}]


def _chart(
    name: str, title: str, kind: str, aggregations: list[dict[str, Any]], params: dict[str, Any], *, query: str = ""
) -> dict[str, Any]:
    state = {"title": title, "type": kind, "aggs": aggregations, "params": {"addLegend": True, **params}}
    attributes = {
        "title": title, "visState": json.dumps(state), "uiStateJSON": "{}", "description": "", "version": 1,
        "kibanaSavedObjectMeta": {"searchSourceJSON": _search_source(query)},
    }  # fmt: skip
    return {"type": "visualization", "id": f"kensa-{name}", "attributes": attributes, "references": _REFERENCE}


def _latest() -> dict[str, Any]:
    columns = ["line", "camera", "outcome", "class", "score", "model", "key", "image"]
    attributes = {
        "title": "Latest rejects", "description": "", "hits": 0, "columns": columns, "sort": [[TIME_FIELD, "desc"]],
        "version": 1, "kibanaSavedObjectMeta": {"searchSourceJSON": _search_source("outcome: (defect or unsure)")},
    }  # fmt: skip
    return {"type": "search", "id": "kensa-latest", "attributes": attributes, "references": _REFERENCE}


def _dashboard(panels: list[dict[str, Any]]) -> dict[str, Any]:
    places = [(0, 0, 16, 6), (16, 0, 16, 6), (32, 0, 16, 6), (0, 6, 24, 12), (24, 6, 24, 12), (0, 18, 16, 14),
              (16, 18, 16, 14), (32, 18, 16, 14), (0, 32, 48, 16)]  # x, y, width, height of 48 columns  # fmt: skip
    placed = [
        {
            "panelIndex": str(i), "gridData": {"x": x, "y": y, "w": w, "h": h, "i": str(i)}, "version": "2.17.0",
            "embeddableConfig": {}, "panelRefName": f"panel_{i}",
        }
        for i, (x, y, w, h) in enumerate(places)
    ]  # fmt: skip
    attributes = {
        "title": "Kensa: what the lines do now", "description": "", "hits": 0, "version": 1, "timeRestore": True,
        "timeFrom": "now-1h", "timeTo": "now", "refreshInterval": {"pause": False, "value": 10_000},
        "panelsJSON": json.dumps(placed), "optionsJSON": json.dumps({"hidePanelTitles": False, "useMargins": True}),
        "kibanaSavedObjectMeta": {"searchSourceJSON": json.dumps({"query": {"query": "", "language": "kuery"},
                                                                  "filter": []})},
    }  # fmt: skip
    references = [{"name": f"panel_{i}", "type": p["type"], "id": p["id"]} for i, p in enumerate(panels)]
    return {"type": "dashboard", "id": "kensa-live", "attributes": attributes, "references": references}


def rendered_files() -> dict[Path, str]:
    """The content of the files, by path."""
    lines = "".join(json.dumps(found) + "\n" for found in saved_objects())
    return {INDEX_TEMPLATE_PATH: json.dumps(index_template(), indent=1) + "\n", DASHBOARD_PATH: lines}


if __name__ == "__main__":
    for path, text in rendered_files().items():
        path.write_text(text, encoding="utf-8")
