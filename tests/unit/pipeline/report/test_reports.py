"""The pages of a release and a choice: self-contained, escaped, equal bytes for equal inputs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from agent.release.manifest import read_manifest
from pipeline.evaluation.release_evaluation import ReleaseEvaluation, evaluate_release
from pipeline.progress import no_progress
from pipeline.report.html_page import escape_markdown
from pipeline.report.markdown_report import render_release_markdown
from pipeline.report.model_card import render_card_html, render_card_markdown
from pipeline.report.release_report import ReportSubject, render_release_report
from pipeline.selection.candidate_choice import choose_candidate
from tests.kits.cloud.candidates import parts, write_parts, write_spotter

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.comparison.comparison_result import CandidateChoice

LOADS = re.compile(r"""(href|src)\s*=(?!'data:)|url\(|@import|<script""")


@pytest.fixture
def evaluation(tmp_path: Path) -> ReleaseEvaluation:
    data = write_parts(tmp_path / "data", parts(6, 2, 4, dusty=1))
    return evaluate_release(write_spotter(tmp_path / "release", 0.5), data, "val", progress=no_progress)


def test_the_release_page_has_all_cards_and_loads_nothing(evaluation: ReleaseEvaluation) -> None:
    subject = ReportSubject(evaluation.manifest, evaluation.int8, evaluation.int8, "val")
    page = render_release_report(subject)

    assert page == render_release_report(subject)
    for heading in ("Confusion", "fp32 against int8", "Precision and recall", "Scores", "Worst mistakes", "Lineage"):
        assert f"<h2>{heading}</h2>" in page
    assert page.count("<svg") == 2
    assert page.count("data:image/jpeg;base64,") == 1, "the dusty good part was rejected"
    assert not LOADS.search(page)
    assert "prefers-color-scheme:dark" in page


def test_the_markdown_page_has_the_headline_metrics(evaluation: ReleaseEvaluation) -> None:
    page = render_release_markdown(evaluation.manifest, evaluation.figures, "val")

    assert "| accuracy | 92.31 % | – |" in page
    assert "Evaluated on 13 images of split `val`." in page
    assert page.endswith("|\n")
    assert "\n\n\n" not in page


def make_choice(root: Path, product: str) -> CandidateChoice:
    products = ("plain", product)
    found = [part for name in products for part in parts(30, 10, 20, dusty=4, marks={"product": name})]
    data = write_parts(root / "data", found)
    return choose_candidate([write_spotter(root / "new", 0.6, version="1.1.0")], write_spotter(root / "old", 0.5), data)


def test_the_model_card_escapes_what_comes_from_outside_and_draws_the_slices(tmp_path: Path) -> None:
    choice = make_choice(tmp_path, "<script>|")
    manifest = read_manifest(tmp_path / "new") if choice.proposed is not None else None
    page, text = render_card_html(choice, manifest), render_card_markdown(choice, manifest)

    assert page == render_card_html(choice, manifest)
    assert not LOADS.search(page)
    assert "&lt;script&gt;" in page
    assert page.count("<svg") == 1
    assert "<script" not in text
    assert "&lt;script>/" in text
    rows = [line for line in text.splitlines() if line.startswith("| all")]
    assert {line.count("|") for line in rows} == {9}


def test_a_cell_of_markdown_cannot_end_its_row() -> None:
    assert escape_markdown("a|b\n<i>") == "a/b &lt;i>"
