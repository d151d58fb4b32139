"""The model card of a proposed candidate, or the page that says why none is proposed: Markdown, and HTML with a chart.

Both are written from the same sections, in the order of M. Mitchell et al., Model Cards for Model Reporting, FAT* 2019:
use, data, figures, slices, comparison, limits, lineage. No script, no address; every text from outside is escaped.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pipeline.evaluation
from pipeline.comparison.comparison_result import SliceVerdict
from pipeline.evaluation.markdown_report import HEADLINE_METRICS, format_percent
from pipeline.selection.forest_plot import forest_plot

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from agent.release.manifest import Manifest
    from pipeline.comparison.comparison_result import (
        CandidateAssessment,
        CandidateChoice,
        MetricComparison,
        ReleaseComparison,
    )

_STYLE: Final = (Path(pipeline.evaluation.__path__[0]) / "report.css").read_text(encoding="utf-8")
_NUMBERS: Final = "td{white-space:nowrap}td:first-child,td:last-child{white-space:normal;word-break:break-word}"
_SHOWN_DIGITS: Final = 12  # of a digest


@dataclass(frozen=True, slots=True)
class _Section:
    title: str
    paragraphs: tuple[str, ...] = ()
    head: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    chart: str = ""  # of the HTML page only


def render_markdown(choice: CandidateChoice, manifest: Manifest | None) -> str:
    """The page as Markdown; `manifest` is the proposed candidate's, None when none is."""
    lines = [f"# {_title(choice)}", ""]
    for section in _sections(choice, manifest):
        lines += [f"## {section.title}", ""]
        for paragraph in section.paragraphs:
            lines += [_escape_markdown(paragraph), ""]
        if section.rows:
            lines += [_row(section.head), "|" + "---|" * len(section.head), *map(_row, section.rows), ""]
    return "\n".join(lines)


def render_html(choice: CandidateChoice, manifest: Manifest | None) -> str:
    """The page as HTML."""
    title = escape(_title(choice))
    cards = []
    for section in _sections(choice, manifest):
        text = "".join(f"<p>{escape(paragraph)}</p>" for paragraph in section.paragraphs)
        table = ""
        if section.rows:
            head = "".join(f"<th>{escape(name)}</th>" for name in section.head)
            body = ("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in section.rows)
            table = f"<table><tr>{head}</tr>{''.join(body)}</table>"
        cards.append(f"<section class=card><h2>{escape(section.title)}</h2>{text}{section.chart}{table}</section>")
    return (
        f"<!doctype html><html lang=en><head><meta charset=utf-8><title>{title}</title>"
        f"<meta name=viewport content='width=device-width'><style>{_STYLE}{_NUMBERS}</style></head><body><main>"
        f"<h1>{title}</h1><p class=sub>{escape(choice.reasons[0])}</p>{''.join(cards)}</main></body></html>\n"
    )


def _escape_markdown(text: str) -> str:
    """Text from outside cannot break a table or a page of Markdown."""
    return text.replace("|", "/").replace("\n", " ").replace("<", "&lt;")


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_escape_markdown(cell) for cell in cells) + " |"


def _title(choice: CandidateChoice) -> str:
    one = choice.proposed
    return f"{one.name} {one.version}" if one else "No candidate is proposed"


def _sections(choice: CandidateChoice, manifest: Manifest | None) -> Iterator[_Section]:
    one = choice.proposed
    yield _Section("Decision", choice.reasons)
    if one is not None and manifest is not None:
        yield _use(manifest)
        yield _data(choice, manifest)
        yield _metrics(one)
    shown = one or choice.assessments[0]
    for comparison in shown.comparisons:
        yield _comparison(shown, comparison)
    yield _candidates(choice)
    if one is not None and manifest is not None:
        yield _Section("Limits", tuple(_limits(one, manifest)))
        yield _lineage(manifest)


def _use(manifest: Manifest) -> _Section:
    geometry = manifest.geometry
    return _Section(
        "Intended use",
        (
            (
                f"Judges pictures of parts like those of its data set as one of {', '.join(manifest.classes)}; "
                f"{', '.join(manifest.defects) or 'none'} are defects. Input: {geometry.mode}, {geometry.height}×"
                f"{geometry.width}×{geometry.channels}. It runs on a line under Kensa's agent, which tries it beside "
                "the running model before it decides, and routes what it is unsure of to a person."
            ),
            (
                "Not for other products, cameras or light than its slices show, and not as the only safeguard where a "
                "missed defect endangers people."
            ),
        ),
    )


def _data(choice: CandidateChoice, manifest: Manifest) -> _Section:
    same = choice.dataset_digest == manifest.lineage.dataset_sha256
    rows = (
        ("trained on", manifest.lineage.dataset_sha256),
        ("compared on", "the same version" if same else choice.dataset_digest),
        ("split", str(choice.policy.get("split", "val"))),
    )
    return _Section("Data", (), ("data set", "digest of the samples"), rows)


def _metrics(one: CandidateAssessment) -> _Section:
    intervals = one.figures.get("intervals", {})
    rows = [
        (name.replace("_", " "), format_percent(one.figures[name]), _interval(intervals.get(name)))
        for name in HEADLINE_METRICS
        if one.figures.get(name) is not None
    ]
    rows += [(f"recall {name}", format_percent(value), "") for name, value in one.figures.get("recall", {}).items()]
    return _Section("Figures", (), ("figure", "value", "95 % interval"), tuple(rows))


def _interval(value: Sequence[float] | None) -> str:
    return "" if value is None else f"{100 * value[0]:.2f} to {100 * value[1]:.2f} %"


def _comparison(one: CandidateAssessment, comparison: ReleaseComparison) -> _Section:
    text = (
        (
            f"{one.name} {one.version} ({one.model_sha256[:_SHOWN_DIGITS]}) against {comparison.champion} "
            f"({comparison.champion_sha256[:_SHOWN_DIGITS]}) on the same pictures: split {comparison.split} of "
            f"{comparison.data} ({comparison.dataset_digest[:_SHOWN_DIGITS]})."
        ),
        (
            f"A slice passes when its interval (Tango's score interval for pairs, {100 * comparison.level:g} % "
            f"one-sided, corrected for {comparison.candidates} candidates) does not reach below its margin. The margin "
            "follows from the size of the slice and the champion's errors in it."
        ),
        *(_metric_line(figure) for figure in comparison.figures),
    )
    rows = tuple(
        (
            f"{s.slice}, {s.of}",
            str(s.pictures),
            format_percent(s.candidate, 1),
            format_percent(s.champion, 1),
            f"{s.gained} / {s.lost}",
            f"{100 * s.difference:+.1f} ({100 * s.low:+.1f} to {100 * s.high:+.1f})",
            f"{-100 * s.margin:.1f}",
            ("" if s.passed else "FAILS: ") + s.verdict,
        )
        for s in comparison.slices
    )
    head = ("slice", "pictures", "right", "champion", "gained / lost", "difference, points", "allowed", "verdict")
    return _Section(f"Slices of {comparison.data}", text, head, rows, forest_plot(comparison.slices))


def _metric_line(figure: MetricComparison) -> str:
    if figure.difference is None:
        return f"{figure.name}: cannot be compared on this split."
    span = (
        "" if figure.low is None or figure.high is None else f" ({100 * figure.low:+.2f} to {100 * figure.high:+.2f})"
    )
    return (
        f"{figure.name}: {format_percent(figure.candidate)} against {format_percent(figure.champion)}, "
        f"{100 * figure.difference:+.2f} points{span}, 95 % by paired bootstrap over parts."
    )


def _candidates(choice: CandidateChoice) -> _Section:
    rows = tuple(
        (
            f"{one.name} {one.version} ({one.model_sha256[:_SHOWN_DIGITS]})",
            str(one.seed),
            f"{one.objective:.4f}",
            "proposed" if i == choice.chosen else ("could be" if one.proposable else "no"),
            " ".join(one.reasons),
        )
        for i, one in enumerate(choice.assessments)
    )
    return _Section("Candidates", (), ("candidate", "seed", choice.objective, "proposed", "why"), rows)


def _limits(one: CandidateAssessment, manifest: Manifest) -> Iterator[str]:
    yield (
        "Figures are of pictures that were set aside from the same data set version; the thresholds "
        f"({', '.join(f'{k} {v:.3f}' for k, v in sorted(manifest.decision.thresholds.items())) or 'none'}) were chosen "
        "on its split val, which flatters them a little. The trial on the line decides."
    )
    few = [f"{s.slice}, {s.of}" for c in one.comparisons for s in c.slices if s.verdict == SliceVerdict.TOO_FEW]
    if few:
        yield f"Too few parts to tell more than a gross difference: {'; '.join(few)}."
    worse = [f"{s.slice}, {s.of}" for c in one.comparisons for s in c.slices if s.verdict == SliceVerdict.WORSE]
    if worse:
        yield f"Worse than the champion, though within the margin: {'; '.join(worse)}."
    unseen = [name for name, value in one.figures.get("recall", {}).items() if value is None]
    if unseen:
        yield f"Not measured, for want of pictures: {', '.join(unseen)}."
    yield "What no slice marks (a new product, another lens, dirt on a window) is not covered by any figure here."


def _lineage(manifest: Manifest) -> _Section:
    lineage = manifest.lineage
    rows = (
        ("model.onnx", manifest.files["model.onnx"].sha256),
        ("golden.npz", manifest.files["golden.npz"].sha256),
        ("preprocessing", manifest.preprocess_sha256),
        ("code", lineage.code_version),
        ("seed", str(lineage.seed)),
        ("parameters", ", ".join(f"{k}={v}" for k, v in sorted(lineage.parameters.items()))),
        ("libraries", ", ".join(f"{k} {v}" for k, v in sorted(lineage.libraries.items()))),
        ("CPU, threads", f"{lineage.cpu}, {lineage.threads}"),
        ("training job", lineage.training_job or "none"),
        ("made", f"{lineage.created_utc}, in {lineage.duration_s:.0f} s"),
    )
    return _Section("Lineage", (), ("what", "value"), rows)
