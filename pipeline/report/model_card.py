"""Renders the model card of a proposed candidate, or the page that explains why none is proposed.

Markdown and HTML have the same sections, in the order of M. Mitchell et al., Model Cards for Model Reporting, FAT* 2019
(use, data, metrics, slices, comparison, limits, lineage). Only the HTML has charts. No script, no address; every text
from outside is escaped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pipeline.comparison.comparison_result import SliceVerdict
from pipeline.report import charts
from pipeline.report.html_page import render_html, render_markdown
from pipeline.report.text_format import (
    HEADLINE_METRICS,
    format_percent,
    key_values,
    metric_name,
    percent_interval,
    signed_points,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from agent.release.manifest import Manifest
    from pipeline.comparison.comparison_result import (
        CandidateAssessment,
        CandidateChoice,
        MetricComparison,
        ReleaseComparison,
        SliceResult,
    )

_SHOWN_DIGITS: Final = 12  # of a digest
_MAX_SLICE_NAME: Final = 40  # characters that fit beside the chart
_POINTS: Final = charts.ValueFormat(100.0, None)


@dataclass(frozen=True, slots=True)
class _Section:
    title: str
    paragraphs: tuple[str, ...] = ()
    head: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    chart: str = ""  # of the HTML page only


def render_card_markdown(choice: CandidateChoice, manifest: Manifest | None) -> str:
    """The page as Markdown; `manifest` is the proposed candidate's, None when none is proposed."""
    return render_markdown("model_card.md.j2", title=_title(choice), sections=list(_sections(choice, manifest)))


def render_card_html(choice: CandidateChoice, manifest: Manifest | None) -> str:
    """The page as HTML."""
    return render_html(
        "model_card.html.j2",
        kind="model-card",
        title=_title(choice),
        about=choice.reasons[0],
        sections=list(_sections(choice, manifest)),
    )


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
                f"Classifies images of parts like those of its data set as one of {', '.join(manifest.classes)}; "
                f"{', '.join(manifest.defects) or 'none'} are defects. Input: {geometry.mode}, {geometry.height}×"
                f"{geometry.width}×{geometry.channels}. It runs on a line under Kensa's agent, which tries it beside "
                "the running model before it decides, and routes uncertain parts to a person."
            ),
            (
                "Not for products, cameras or light other than those of its slices, and not as the only safeguard "
                "where a missed defect endangers people."
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
        (metric_name(name), format_percent(one.figures[name]), percent_interval(intervals.get(name)))
        for name in HEADLINE_METRICS
        if one.figures.get(name) is not None
    ]
    rows += [(f"recall {name}", format_percent(value), "") for name, value in one.figures.get("recall", {}).items()]
    return _Section("Metrics", (), ("metric", "value", "95 % interval"), tuple(rows))


def _comparison(one: CandidateAssessment, comparison: ReleaseComparison) -> _Section:
    text = (
        (
            f"{one.name} {one.version} ({one.model_sha256[:_SHOWN_DIGITS]}) against {comparison.champion} "
            f"({comparison.champion_sha256[:_SHOWN_DIGITS]}) on the same images: split {comparison.split} of "
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
            f"{signed_points(s.difference, 1)} ({signed_points(s.low, 1)} to {signed_points(s.high, 1)})",
            f"{-100 * s.margin:.1f}",
            ("" if s.passed else "FAILS: ") + s.verdict,
        )
        for s in comparison.slices
    )
    head = ("slice", "images", "right", "champion", "gained / lost", "difference, points", "allowed", "verdict")
    return _Section(f"Slices of {comparison.data}", text, head, rows, _slice_chart(comparison.slices))


def _slice_chart(slices: Sequence[SliceResult]) -> str:
    """Each slice's difference, its interval, and its margin."""
    rows = [
        charts.IntervalRow(
            f"{_short(s.slice)}, {s.of}, {s.pictures}",
            s.difference,
            s.low,
            s.high,
            "good" if s.passed else "bad",
            s.margin,
        )
        for s in slices
    ]
    note = "points against the champion; | is the margin"
    return charts.interval_chart(rows, _POINTS, "difference by slice", is_difference=True, note=note)


def _short(name: str) -> str:
    return name if len(name) <= _MAX_SLICE_NAME else f"{name[: _MAX_SLICE_NAME - 3]}..."


def _metric_line(figure: MetricComparison) -> str:
    if figure.difference is None:
        return f"{figure.name}: cannot be compared on this split."
    span = (
        ""
        if figure.low is None or figure.high is None
        else f" ({signed_points(figure.low)} to {signed_points(figure.high)})"
    )
    return (
        f"{figure.name}: {format_percent(figure.candidate)} against {format_percent(figure.champion)}, "
        f"{signed_points(figure.difference)} points{span}, 95 % by paired bootstrap over parts."
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
        "Metrics are from images that were held out from the same data set version; the thresholds "
        f"({', '.join(f'{k} {v:.3f}' for k, v in sorted(manifest.decision.thresholds.items())) or 'none'}) were chosen "
        "on its split val, which makes the metrics slightly optimistic. The trial on the line decides."
    )
    few = [f"{s.slice}, {s.of}" for c in one.comparisons for s in c.slices if s.verdict == SliceVerdict.TOO_FEW]
    if few:
        yield f"Too few parts to detect more than a gross difference: {'; '.join(few)}."
    worse = [f"{s.slice}, {s.of}" for c in one.comparisons for s in c.slices if s.verdict == SliceVerdict.WORSE]
    if worse:
        yield f"Worse than the champion, though within the margin: {'; '.join(worse)}."
    unseen = [name for name, value in one.figures.get("recall", {}).items() if value is None]
    if unseen:
        yield f"Not measured, for lack of images: {', '.join(unseen)}."
    yield "Conditions without a slice (a new product, another lens, a dirty window) are not covered by any metric here."


def _lineage(manifest: Manifest) -> _Section:
    lineage = manifest.lineage
    rows = (
        ("model.onnx", manifest.files["model.onnx"].sha256),
        ("golden.npz", manifest.files["golden.npz"].sha256),
        ("preprocessing", manifest.preprocess_sha256),
        ("code", lineage.code_version),
        ("seed", str(lineage.seed)),
        ("parameters", key_values(lineage.parameters)),
        ("libraries", key_values(lineage.libraries, " ")),
        ("CPU, threads", f"{lineage.cpu}, {lineage.threads}"),
        ("training job", lineage.training_job or "none"),
        ("made", f"{lineage.created_utc}, in {lineage.duration_s:.0f} s"),
    )
    return _Section("Lineage", (), ("item", "value"), rows)
