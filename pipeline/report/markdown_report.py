"""Renders the metrics of a release as a short Markdown page for the documentation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.report.html_page import render_markdown
from pipeline.report.text_format import HEADLINE_METRICS, NO_VALUE, difficulty_levels, format_percent, metric_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.release.manifest import Manifest


def render_release_markdown(manifest: Manifest, figures: Mapping[str, Any], split: str) -> str:
    """Return the page. `figures` are those of `kensa evaluate --json`."""
    model, kinds = manifest.files["model.onnx"], figures.get("recall_by_kind", {})
    levels = difficulty_levels(kinds)
    return render_markdown(
        "release.md.j2",
        title=f"{manifest.name} {manifest.version}",
        model_bytes=f"{model.length_bytes:,}",
        model_sha256=model.sha256,
        image_count=f"{figures['images']:,}",
        split=split,
        metrics=_metric_rows(figures),
        levels=levels,
        kinds=[(kind, *(_cell(row.get(level)) for level in levels)) for kind, row in kinds.items()],
    )


def _metric_rows(figures: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    fp32 = figures.get("fp32", {})
    rows = [
        (metric_name(key), format_percent(figures[key]), format_percent(fp32.get(key)))
        for key in HEADLINE_METRICS
        if figures.get(key) is not None
    ]
    rows += [
        (f"recall {name}", format_percent(value), format_percent(fp32.get("recall", {}).get(name)))
        for name, value in figures["recall"].items()
    ]
    return [*rows, ("agreement of int8 with fp32", format_percent(figures.get("int8_agreement")), "")]


def _cell(cell: Mapping[str, Any] | None) -> str:
    return NO_VALUE if cell is None else f"{format_percent(cell['recall'], 1)} of {cell['parts']}"
