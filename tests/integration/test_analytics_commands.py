"""`kensa cloud query|report|ingest` as a person and a program use them."""

from __future__ import annotations

import csv
import io
import json
import re
from typing import TYPE_CHECKING

import pytest

from agent import wire
from pipeline.analytics.queries import catalogue
from pipeline.cloud.cloud_cli import main
from simulator.history.timeline import HistorySettings
from tests.kits.cloud import messages as kit
from tests.kits.cloud.analytics import Past, make_past

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Past:
    return make_past(tmp_path_factory.mktemp("past"), HistorySettings(rows=6_000, days=12, sample_rate=0.2))


def test_without_a_name_every_query_is_listed_on_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["query"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(catalogue())


def test_a_query_is_described_with_its_parameters_and_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["query", "escapes", "--describe"]) == 0
    text = capsys.readouterr().out
    assert "z = 1.959963984540054" in text
    assert "escape_rate_low: " in text


def test_json_csv_and_the_table_give_the_same_rows(past: Past, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["query", "defect_pareto", "--data", str(past.folder), "--param", "line=press-2"]
    assert main([*asked, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert main([*asked, "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert main(asked) == 0
    table = capsys.readouterr().out.splitlines()
    assert (found["query"], found["version"], found["parameters"]["line"]) == ("defect_pareto", 2, "press-2")
    assert [row["class"] for row in found["rows"]] == [row["class"] for row in rows]
    assert [float(row["share"]) for row in rows] == [row["share"] for row in found["rows"]]
    assert len(table) == len(rows) + 1
    assert table[0].split()[:4] == ["site", "line", "place", "class"]


def test_a_statement_can_be_read_before_it_is_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["query", "loss", "--sql", "athena", "--param", "first_day=2026-01-05"]) == 0
    assert "'2026-01-05'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["query", "yields", "--data", "."], "There is no query"),
        (["query", "loss"], "--data DIR is needed"),
        (["query", "loss", "--data", "/nowhere"], "is not a folder"),
        (["query", "loss", "--data", ".", "--param", "line"], "NAME=VALUE"),
        (["query", "loss", "--data", ".", "--param", "line=a", "--param", "line=b"], "each name once"),
        (["query", "loss", "--data", ".", "--param", "line='; DROP TABLE verdicts; --"], "a name of 1 to 64"),
        (["query", "loss", "--data", ".", "--threads", "0"], "above 0"),
        (["ingest", "/nowhere.jsonl", "--out", ".", "--site", "kyoto"], "cannot be read"),
    ],
)
def test_what_is_wrong_is_told_in_a_sentence(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) != 0
    told = capsys.readouterr().err
    assert complaint in told
    assert "Traceback" not in told


def test_messages_of_a_file_are_appended_and_bad_ones_named_by_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = tmp_path / "messages.jsonl"
    lines.write_bytes(b"\n".join([wire.encode_verdict(kit.defect(1)), b"{", b"", kit.heartbeat()]) + b"\n")
    assert main(["ingest", str(lines), "--out", str(tmp_path / "lake"), "--site", "kyoto"]) == 4
    told = capsys.readouterr()
    assert "line 2: " in told.err
    assert "3 rows; 1 messages refused" in told.out
    assert main(["query", "yield_by_line", "--data", str(tmp_path / "lake"), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert (row["parts"], row["defect"]) == (1, 1)


def test_the_report_is_one_page_that_loads_nothing_and_tells_the_story(past: Past, tmp_path: Path) -> None:
    out = tmp_path / "pages" / "report.html"
    assert main(["report", "--data", str(past.folder), "--out", str(out)]) == 0
    page = out.read_text(encoding="utf-8")
    assert not re.search(r"""(src|href)\s*=|url\(|@import|<script""", page)
    assert page.count("<svg") >= 6
    for text in ("surface/1.2.0 was rolled back", "press-1 1.3.0", "prefers-color-scheme", "1.3.0, press-1 + press-2"):
        assert text in page
    for tag in ("section", "table", "svg", "ul"):
        assert page.count(f"<{tag}") == page.count(f"</{tag}>")


def test_the_report_of_a_window_without_verdicts_says_so(
    past: Past, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["report", "--data", str(past.folder), "--out", str(tmp_path / "r.html"), "--site", "osaka"]
    assert main(arguments) == 2
    assert "There are no verdicts" in capsys.readouterr().err
    assert not (tmp_path / "r.html").exists()


def test_names_from_the_tables_cannot_become_markup(tmp_path: Path) -> None:
    """Only `reason`, `alarm` and the like may hold any text; what reaches the page is escaped."""
    beat = json.loads(kit.heartbeat())
    beat["inspections"][0]["alarm"] = "<script>alert(1)</script>"
    lines = tmp_path / "messages.jsonl"
    lines.write_bytes(wire.encode_verdict(kit.defect(1)) + b"\n" + json.dumps(beat).encode() + b"\n")
    assert main(["ingest", str(lines), "--out", str(tmp_path / "lake"), "--site", "kyoto"]) == 0
    assert main(["report", "--data", str(tmp_path / "lake"), "--out", str(tmp_path / "r.html")]) == 0
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
