"""Renders report.html: one self-contained page with the metrics and mistakes of a release.

It is for the person who decides whether to trust the release.

No script, no address: inline SVG and base64 images. Every text from outside is escaped.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np

from agent.records import Outcome
from pipeline.evaluation import metrics
from pipeline.evaluation.model_evaluation import predicted_classes, true_classes
from pipeline.model_inputs import read_image, read_mask
from pipeline.report import charts
from pipeline.report.html_page import Cell, ReportTable, Tile, render_html
from pipeline.report.text_format import (
    HEADLINE_METRICS,
    NO_VALUE,
    difficulty_levels,
    format_percent,
    key_values,
    metric_name,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agent.records import Judgement, Pixels
    from agent.release.manifest import Manifest
    from pipeline.dataset_reader import Sample
    from pipeline.evaluation.model_evaluation import Evaluation

MAX_MISTAKES: Final = 24  # images shown
_IMAGE_PX: Final = 220  # longer side of a shown image
_BOX_BGR, _MASK_BGR = (0, 140, 255), (60, 220, 60)


@dataclass(frozen=True, slots=True)
class ReportSubject:
    """What the page is about."""

    manifest: Manifest
    int8: Evaluation
    fp32: Evaluation
    split: str


def render_release_report(subject: ReportSubject) -> str:
    """Return the whole page."""
    manifest, evaluation = subject.manifest, subject.int8
    geometry = manifest.geometry
    about = (
        f"{len(manifest.classes)} classes · {geometry.mode} {geometry.height}×{geometry.width}×{geometry.channels} · "
        f"evaluated on {evaluation.figures['images']} images of split {subject.split} · model.onnx "
        f"{manifest.files['model.onnx'].length_bytes / 1000:.0f} kB"
    )
    wrong = rank_mistakes(evaluation)
    return render_html(
        "release.html.j2",
        kind="release",
        title=f"{manifest.name} {manifest.version}",
        about=about,
        numbers=_tiles(evaluation.figures, manifest.metrics),
        confusion=_confusion_matrix(evaluation),
        metrics=_metrics_table(subject),
        curves=_curves(evaluation),
        histogram=_histogram(evaluation),
        kinds=_kinds(evaluation.figures),
        mistakes=[_mistake(evaluation.samples[i], evaluation.judgements[i]) for i in wrong[:MAX_MISTAKES]],
        mistake_count=len(wrong),
        sample_count=len(evaluation.samples),
        lineage=_lineage(manifest),
    )


def _tiles(figures: Mapping[str, Any], all_metrics: Mapping[str, Any]) -> list[Tile]:
    shown = [
        Tile(format_percent(figures["accuracy"]), "accuracy, int8"),
        Tile(format_percent(figures["macro_f1"]), "macro F1"),
        Tile(NO_VALUE if figures["auroc"] is None else f"{figures['auroc']:.4f}", "AUROC, ok against defect"),
        Tile(format_percent(figures.get("escape_rate")), "escapes"),
        Tile(format_percent(figures.get("false_reject_rate")), "false rejects"),
        Tile(format_percent(all_metrics.get("int8_agreement")), "int8 agrees with fp32"),
        Tile(format_percent(figures.get("localisation_hit_rate")), "located within 16 px"),
    ]
    return [tile for tile in shown if tile.value != NO_VALUE]


def _confusion_matrix(evaluation: Evaluation) -> dict[str, Any]:
    """Columns and rows; a cell's colour is the decile of its share of the row."""
    rule = evaluation.rule
    table = metrics.confusion(
        true_classes(evaluation.samples, rule), predicted_classes(evaluation.judgements, rule), len(rule.classes)
    )
    names = [*rule.classes, "none"]
    columns = range(len(names) if table[:, -1].any() else len(rule.classes))
    rows = []
    for r, name in enumerate(rule.classes):
        total = max(1, int(table[r].sum()))
        cells = [
            {"count": count, "css": f"{'right' if r == c else 'wrong'} d{min(9, 10 * count // total)}" if count else ""}
            for c in columns
            for count in [int(table[r, c])]
        ]
        rows.append({"name": name, "cells": cells})
    return {"columns": [names[c] for c in columns], "rows": rows}


def _metrics_table(subject: ReportSubject) -> ReportTable:
    both = (subject.fp32.figures, subject.int8.figures)
    rows: list[tuple[Cell | str, ...]] = [
        (metric_name(key), *(Cell(format_percent(f.get(key)), _interval(f["intervals"].get(key))) for f in both))
        for key in HEADLINE_METRICS
        if subject.int8.figures.get(key) is not None
    ]
    rows += [
        (f"recall {name}", *(format_percent(figures["recall"][name]) for figures in both))
        for name in subject.int8.rule.classes
    ]
    return ReportTable(("", "fp32", "int8"), tuple(rows))


def _interval(value: Sequence[float] | None) -> str:
    return "" if value is None else f"({100 * value[0]:.1f} – {100 * value[1]:.1f})"


def _curves(evaluation: Evaluation) -> str:
    title = "precision over recall"
    defect = np.array([s.is_defect for s in evaluation.samples])
    if defect.any() and not defect.all():
        scores = np.array([j.score for j in evaluation.judgements])
        return charts.precision_recall_curves({"defect": metrics.precision_recall(scores, defect)}, title)
    table = np.array([j.scores for j in evaluation.judgements])
    truth = true_classes(evaluation.samples, evaluation.rule)
    found = {
        name: metrics.precision_recall(table[:, i], truth == i)
        for i, name in enumerate(evaluation.rule.classes)
        if (truth == i).any()
    }
    return charts.precision_recall_curves(found, title)


def _histogram(evaluation: Evaluation) -> str:
    scores = np.array([j.score for j in evaluation.judgements])
    defect = np.array([s.is_defect for s in evaluation.samples])
    if defect.any() and not defect.all():
        thresholds = sorted(set(evaluation.rule.thresholds.values()))
        return charts.score_histogram({"ok": scores[~defect], "defect": scores[defect]}, thresholds, "defect score")
    right = true_classes(evaluation.samples, evaluation.rule) == predicted_classes(
        evaluation.judgements, evaluation.rule
    )
    return charts.score_histogram({"right": scores[right], "wrong": scores[~right]}, [], "score of the named class")


def _kinds(figures: Mapping[str, Any]) -> ReportTable:
    kinds: Mapping[str, Mapping[str, Mapping[str, Any]]] = figures.get("recall_by_kind", {})
    columns = difficulty_levels(kinds)
    rows: list[tuple[Cell | str, ...]] = [
        (kind, *(_kind_cell(row.get(level)) for level in columns)) for kind, row in kinds.items()
    ]
    return ReportTable(("", *columns), tuple(rows))


def _kind_cell(cell: Mapping[str, Any] | None) -> Cell:
    return Cell(NO_VALUE) if cell is None else Cell(format_percent(cell["recall"], 1), f"of {cell['parts']}")


def rank_mistakes(evaluation: Evaluation) -> list[int]:
    """Indices of wrong verdicts, the most confident first: escapes by how low they scored, others by how high."""
    truth, predicted = (
        true_classes(evaluation.samples, evaluation.rule),
        predicted_classes(evaluation.judgements, evaluation.rule),
    )
    wrong = np.flatnonzero(truth != predicted)
    return sorted((int(i) for i in wrong), key=lambda i: -_mistake_confidence(evaluation.judgements[i]))


def _mistake_confidence(judgement: Judgement) -> float:
    return 1.0 - judgement.score if judgement.outcome == Outcome.OK else judgement.score


def _mistake(sample: Sample, judgement: Judgement) -> dict[str, str]:
    return {
        "image": _image_data_uri(sample, judgement),
        "truth": sample.class_name,
        "verdict": judgement.class_name or "unknown",
        "score": f"{judgement.score:.2f}",
        "details": " ".join(x for x in (sample.kind, sample.difficulty, sample.surface) if x) or sample.name,
    }


def _image_data_uri(sample: Sample, judgement: Judgement) -> str:
    pixels = read_image(sample.path)
    scale = _IMAGE_PX / max(pixels.shape[:2])
    shown: Pixels = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    if shown.ndim == 2:  # noqa: PLR2004 - mono
        shown = cv2.cvtColor(shown, cv2.COLOR_GRAY2BGR)  # type: ignore[assignment]
    mask = read_mask(sample)
    if mask is not None:
        small = cv2.resize(mask, (shown.shape[1], shown.shape[0]), interpolation=cv2.INTER_AREA)
        outlines, _ = cv2.findContours((small > 0).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        cv2.drawContours(shown, outlines, -1, _MASK_BGR, 1)
    if judgement.box is not None:
        x, y, w, h = (round(v * scale) for v in judgement.box)
        cv2.rectangle(shown, (x, y), (x + w, y + h), _BOX_BGR, 2)
    _, data = cv2.imencode(".jpg", shown, [cv2.IMWRITE_JPEG_QUALITY, 80])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()


def _lineage(manifest: Manifest) -> ReportTable:
    lineage, decision = manifest.lineage, manifest.decision
    thresholds = {name: f"{value:.3f}" for name, value in decision.thresholds.items()}
    rows: tuple[tuple[str, object], ...] = (
        ("model.onnx", manifest.files["model.onnx"].sha256),
        ("golden.npz", manifest.files["golden.npz"].sha256),
        ("data set", lineage.dataset_sha256),
        ("preprocessing", manifest.preprocess_sha256),
        ("code", lineage.code_version),
        ("seed", lineage.seed),
        ("parameters", key_values(lineage.parameters)),
        ("decision", f"{decision.score}, {decision.aggregation} of {decision.top_fraction:g}"),
        ("thresholds", key_values(thresholds, " ")),
        ("libraries", key_values(lineage.libraries, " ")),
        ("CPU, threads", f"{lineage.cpu}, {lineage.threads}"),
        ("made", f"{lineage.created_utc}, in {lineage.duration_s:.0f} s"),
    )
    return ReportTable((), tuple((name, Cell(str(value), is_code=True)) for name, value in rows))
