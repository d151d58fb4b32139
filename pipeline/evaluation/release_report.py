"""report.html: one self-contained page on a release, for a person who decides whether to trust it.

No script, no address: inline SVG and base64 pictures. Every text from outside is escaped.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np

from agent.records import Outcome
from pipeline.evaluation import charts, metrics
from pipeline.evaluation.markdown_report import HEADLINE_METRICS, difficulty_levels, format_percent
from pipeline.evaluation.model_evaluation import predicted_classes, true_classes
from pipeline.model_inputs import read_image, read_mask

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from agent.records import Judgement, Pixels
    from agent.release.manifest import Manifest
    from pipeline.dataset_reader import Sample
    from pipeline.evaluation.model_evaluation import Evaluation

MAX_MISTAKES: Final = 24  # pictures shown
_IMAGE_PX: Final = 220  # longer side of a shown picture
_BOX_BGR, _MASK_BGR = (0, 140, 255), (60, 220, 60)

_STYLE: Final = (Path(__file__).parent / "report.css").read_text(encoding="utf-8")


@dataclass(frozen=True, slots=True)
class ReportSubject:
    """What the page is about."""

    manifest: Manifest
    int8: Evaluation
    fp32: Evaluation
    split: str


def render(subject: ReportSubject) -> str:
    """Return the whole page."""
    manifest, evaluation = subject.manifest, subject.int8
    title = f"{manifest.name} {manifest.version}"
    geometry = manifest.geometry
    about = (
        f"{len(manifest.classes)} classes · {geometry.mode} {geometry.height}×{geometry.width}×{geometry.channels} · "
        f"judged on {evaluation.figures['images']} pictures of split {subject.split} · model.onnx "
        f"{manifest.files['model.onnx'].length_bytes / 1000:.0f} kB"
    )
    confusion, figures = (
        _card("Confusion", _confusion_matrix(evaluation)),
        _card("fp32 against int8", _metrics_table(subject)),
    )
    curves, scores = _card("Precision and recall", _curves(evaluation)), _card("Scores", _histogram(evaluation))
    body = [
        f"<h1>{escape(title)}</h1><p class=sub>{escape(about)}</p>",
        _tiles(evaluation.figures, manifest.metrics),
        f"<div class=row>{confusion}{figures}</div>",
        f"<div class=row>{curves}{scores}</div>",
        _kinds(evaluation.figures),
        _card("Worst mistakes", _gallery(evaluation)),
        _card("Lineage", _lineage(manifest)),
    ]
    return (
        f"<!doctype html><html lang=en><head><meta charset=utf-8><title>{escape(title)}</title>"
        f"<meta name=viewport content='width=device-width'><style>{_STYLE}</style></head><body><main>"
        f"{''.join(body)}</main></body></html>\n"
    )


def _card(title: str, content: str) -> str:
    return f"<section class=card><h2>{escape(title)}</h2>{content}</section>"


def _interval(value: Sequence[float] | None) -> str:
    return "" if value is None else f" <small>({100 * value[0]:.1f} – {100 * value[1]:.1f})</small>"


def _tiles(figures: Mapping[str, Any], all_metrics: Mapping[str, Any]) -> str:
    shown = [
        ("accuracy, int8", format_percent(figures["accuracy"])),
        ("macro F1", format_percent(figures["macro_f1"])),
        ("AUROC, ok against defect", "–" if figures["auroc"] is None else f"{figures['auroc']:.4f}"),
        ("escapes", format_percent(figures.get("escape_rate"))),
        ("false rejects", format_percent(figures.get("false_reject_rate"))),
        ("int8 agrees with fp32", format_percent(all_metrics.get("int8_agreement"))),
        ("located within 16 px", format_percent(figures.get("localisation_hit_rate"))),
    ]
    cells = [f"<div class=tile><b>{value}</b><span>{name}</span></div>" for name, value in shown if value != "–"]
    return f"<div class=tiles>{''.join(cells)}</div>"


def _confusion_matrix(evaluation: Evaluation) -> str:
    rule = evaluation.rule
    table = metrics.confusion(
        true_classes(evaluation.samples, rule), predicted_classes(evaluation.judgements, rule), len(rule.classes)
    )
    names = [*rule.classes, "none"]
    columns = range(len(names) if table[:, -1].any() else len(rule.classes))
    head = "".join(f"<th>{escape(names[c])}</th>" for c in columns)
    rows = []
    for r, name in enumerate(rule.classes):
        total = max(1, int(table[r].sum()))
        cells = []
        for c in columns:
            count, share = int(table[r, c]), float(table[r, c]) / total
            colour = (
                f"rgba(20,121,90,{0.12 + 0.7 * share:.2f})"
                if r == c
                else f"rgba(184,51,31,{min(1.0, 0.15 + share):.2f})"
            )
            cells.append(f"<td style='background:{colour if count else '#eef1f4'}'>{count or '·'}</td>")
        rows.append(f"<tr><th>{escape(name)}</th>{''.join(cells)}</tr>")
    note = "<p class=note>Rows: truth. Columns: verdict of the int8 model at the release's thresholds.</p>"
    return f"<table class=matrix><tr><th></th>{head}</tr>{''.join(rows)}</table>{note}"


def _metrics_table(subject: ReportSubject) -> str:
    rows = []
    for key in HEADLINE_METRICS:
        values = [e.figures.get(key) for e in (subject.fp32, subject.int8)]
        if values[1] is None:
            continue
        spans = [e.figures["intervals"].get(key) for e in (subject.fp32, subject.int8)]
        cells = "".join(f"<td>{format_percent(v)}{_interval(s)}</td>" for v, s in zip(values, spans, strict=True))
        rows.append(f"<tr><td>{key.replace('_', ' ')}</td>{cells}</tr>")
    for name in subject.int8.rule.classes:
        cells = "".join(f"<td>{format_percent(e.figures['recall'][name])}</td>" for e in (subject.fp32, subject.int8))
        rows.append(f"<tr><td>recall {escape(name)}</td>{cells}</tr>")
    note = "<p class=note>In brackets: 95 % interval, drawing whole groups of pictures with replacement.</p>"
    return f"<table><tr><th></th><th>fp32</th><th>int8</th></tr>{''.join(rows)}</table>{note}"


def _curves(evaluation: Evaluation) -> str:
    defect = np.array([s.is_defect for s in evaluation.samples])
    if defect.any() and not defect.all():
        scores = np.array([j.score for j in evaluation.judgements])
        return charts.precision_recall_curves({"defect": metrics.precision_recall(scores, defect)})
    table = np.array([j.scores for j in evaluation.judgements])
    truth = true_classes(evaluation.samples, evaluation.rule)
    found = {
        name: metrics.precision_recall(table[:, i], truth == i)
        for i, name in enumerate(evaluation.rule.classes)
        if (truth == i).any()
    }
    return charts.precision_recall_curves(found)


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


def _kinds(figures: Mapping[str, Any]) -> str:
    kinds: Mapping[str, Mapping[str, Mapping[str, Any]]] = figures.get("recall_by_kind", {})
    if not kinds:
        return ""
    columns = difficulty_levels(kinds)
    head = "".join(f"<th>{escape(level)}</th>" for level in columns)
    rows = []
    for kind, row in kinds.items():
        cells = "".join(
            f"<td>{format_percent(row[x]['recall'], 1)} <small>of {row[x]['parts']}</small></td>"
            if x in row
            else "<td>–</td>"
            for x in columns
        )
        rows.append(f"<tr><td>{escape(kind)}</td>{cells}</tr>")
    return _card("Recall by kind and difficulty", f"<table><tr><th></th>{head}</tr>{''.join(rows)}</table>")


def rank_mistakes(evaluation: Evaluation) -> list[int]:
    """Indices of wrong verdicts, the surest first: escapes by how low, all others by how high they scored."""
    truth, predicted = (
        true_classes(evaluation.samples, evaluation.rule),
        predicted_classes(evaluation.judgements, evaluation.rule),
    )
    wrong = np.flatnonzero(truth != predicted)
    return sorted((int(i) for i in wrong), key=lambda i: -_mistake_confidence(evaluation.judgements[i]))


def _mistake_confidence(judgement: Judgement) -> float:
    return 1.0 - judgement.score if judgement.outcome == Outcome.OK else judgement.score


def _gallery(evaluation: Evaluation) -> str:
    wrong = rank_mistakes(evaluation)
    if not wrong:
        return "<p>None: every picture of this split was judged right.</p>"
    figures = []
    for i in wrong[:MAX_MISTAKES]:
        sample, judgement = evaluation.samples[i], evaluation.judgements[i]
        extra = " ".join(x for x in (sample.kind, sample.difficulty, sample.surface) if x)
        caption = (
            f"{escape(sample.class_name)} → <b>{escape(judgement.class_name or 'unknown')}</b> at {judgement.score:.2f}"
            f"<br>{escape(extra or sample.name)}"
        )
        figures.append(
            f"<figure><img alt='' "
            f"src='{_image_data_uri(sample, judgement)}'><figcaption>{caption}</figcaption></figure>"
        )
    note = f"<p class=note>{len(wrong)} wrong of {len(evaluation.samples)}, the surest first. Orange: where the model "
    note += "saw a defect. Green: the mask's outline.</p>"
    return f"<div class=gallery>{''.join(figures)}</div>{note}"


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


def _lineage(manifest: Manifest) -> str:
    lineage = manifest.lineage
    thresholds = ", ".join(f"{name} {value:.3f}" for name, value in sorted(manifest.decision.thresholds.items()))
    decision = manifest.decision
    rows: Iterable[tuple[str, object]] = (
        ("model.onnx", manifest.files["model.onnx"].sha256),
        ("golden.npz", manifest.files["golden.npz"].sha256),
        ("data set", lineage.dataset_sha256),
        ("preprocessing", manifest.preprocess_sha256),
        ("code", lineage.code_version),
        ("seed", lineage.seed),
        ("parameters", ", ".join(f"{k}={v}" for k, v in sorted(lineage.parameters.items()))),
        ("decision", f"{decision.score}, {decision.aggregation} of {decision.top_fraction:g}"),
        ("thresholds", thresholds),
        ("libraries", ", ".join(f"{k} {v}" for k, v in sorted(lineage.libraries.items()))),
        ("CPU, threads", f"{lineage.cpu}, {lineage.threads}"),
        ("made", f"{lineage.created_utc}, in {lineage.duration_s:.0f} s"),
    )
    cells = "".join(
        f"<tr><td>{name}</td><td style='text-align:left'><code>{escape(str(value))}</code></td></tr>"
        for name, value in rows
    )
    return f"<table>{cells}</table>"
