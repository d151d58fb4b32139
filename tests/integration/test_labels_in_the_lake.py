"""From collected frames and labels to the estimate of escapes: sidecars, label store, table, query."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from agent.records import Outcome
from agent.wire.collected_frame import CollectReason
from pipeline.analytics.duckdb_engine import DuckDbEngine
from pipeline.analytics.queries import get_query
from pipeline.cloud.cloud_cli import main
from pipeline.cloud.storage import open_storage
from pipeline.cycle.triggers import labels_trigger as daily
from pipeline.datasets.collected_frames import scan_frames
from pipeline.datasets.label_store import LabelStore
from tests.kits.cloud.datasets import Line, label

if TYPE_CHECKING:
    from pathlib import Path

PASSED, SAMPLED, ESCAPED = 400, 40, 4  # verdicts `ok`, of them in the sample, of those bad
REJECTED, GOOD = 10, 2  # verdicts `defect`, of them good


@pytest.fixture
def plant(tmp_path: Path) -> Path:
    """A line that judged, kept frames, and labels that came back, a few of them wrong at first."""
    store = open_storage(tmp_path)
    line = Line(store)
    for seq in range(SAMPLED):
        line.keep(seq, outcome=Outcome.OK, score=0.1, reason=CollectReason.SAMPLE, rate=SAMPLED / PASSED)
    for seq in range(PASSED, PASSED + REJECTED):
        line.keep(seq)
    disputed = line.keep(PASSED - 1, outcome=Outcome.OK, score=0.4, reason=CollectReason.DISAGREEMENT)
    kept = scan_frames(store).frames
    lines = []
    for frame in kept:
        message = json.loads(frame.sidecar.verdict.model_dump_json(by_alias=True, exclude_none=True))
        lines.append(json.dumps(message))
        if frame.key == "line-1/cam/1/0":
            lines += [json.dumps(message | {"seq": seq, "captured_utc_us": message["captured_utc_us"] + seq})
                      for seq in range(SAMPLED, PASSED - 1)]  # fmt: skip
    (tmp_path / "messages.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    labels = [label(f"line-1/cam/1/{seq}", "spot" if seq < ESCAPED else "ok") for seq in range(SAMPLED)]
    labels += [label(f"line-1/cam/1/{PASSED + i}", "ok" if i < GOOD else "spot") for i in range(REJECTED)]
    labels += [label("line-1/cam/1/5", "spot", at="2026-01-15T00:00:00Z"), label("line-9/cam/1/5", "spot")]
    labels += [label(disputed, "spot")]
    LabelStore(store).append(labels)
    return tmp_path


def test_labels_that_come_back_give_an_unbiased_estimate_of_escapes(
    plant: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lake = str(plant / "lake")
    assert main(["ingest", str(plant / "messages.jsonl"), "--out", lake, "--site", "plant-a"]) == 0
    for _ in range(2):  # a refresh changes nothing
        assert main(["ingest", "--labels", str(plant), "--collected", str(plant), "--out", lake]) == 0
        assert f"{SAMPLED + REJECTED + 1} labels" in capsys.readouterr().out
    with DuckDbEngine(plant / "lake") as opened:
        (row,) = opened.execute(get_query("escapes")).records()
        (kind,) = opened.execute(get_query("escapes_by_class")).records()
    assert (row["passed"], row["rejected"]) == (PASSED, REJECTED)
    assert (row["labelled_passed"], row["labelled_rejected"]) == (SAMPLED, REJECTED)  # the disputed one is no sample
    assert row["escapes"] == pytest.approx(PASSED * ESCAPED / SAMPLED)
    assert row["false_rejects"] == pytest.approx(GOOD)
    bad = PASSED * ESCAPED / SAMPLED + REJECTED - GOOD
    assert row["escape_rate"] == pytest.approx(PASSED * ESCAPED / SAMPLED / bad)
    assert kind["label_class"] == "spot"
    assert kind["recall"] == pytest.approx((REJECTED - GOOD) / bad)


def test_a_correction_replaces_the_label_and_an_excluded_frame_leaves_the_estimate(
    plant: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lake = str(plant / "lake")
    arguments = ["ingest", "--labels", str(plant), "--collected", str(plant), "--out", lake]
    assert main(["ingest", str(plant / "messages.jsonl"), "--out", lake, "--site", "plant-a"]) == 0
    assert main(arguments) == 0
    later = "2026-03-01T00:00:00Z"
    corrections = [label("line-1/cam/1/0", "ok", at=later), label("line-1/cam/1/1", "exclude", at=later)]
    LabelStore(open_storage(plant)).append(corrections)
    assert main(arguments) == 0
    capsys.readouterr()
    with DuckDbEngine(plant / "lake") as opened:
        (row,) = opened.execute(get_query("escapes")).records()
    assert row["labelled_passed"] == SAMPLED - 1
    assert row["escapes"] == pytest.approx(PASSED * (ESCAPED - 2) / (SAMPLED - 1))


def test_the_daily_function_brings_labels_into_the_lake_and_passes_over_what_is_damaged(
    plant: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lake = plant / "lake"
    assert main(["ingest", str(plant / "messages.jsonl"), "--out", str(lake), "--site", "plant-a"]) == 0
    for name, value in (("DATA", str(plant)), ("SITE", "plant-a"), ("MODEL", "spots"), ("LABEL_COUNT", "1000")):
        monkeypatch.setenv(f"KENSA_{name}", value)
    store = open_storage(plant)
    damaged = f"{scan_frames(store, keys=['line-1/cam/1/39']).frames[0].image_path.rpartition('.')[0]}.json"
    store.write(damaged, b"{}")
    for _ in range(2):  # a second call changes nothing
        told = daily.handler({}, None)
        assert told == {"new": SAMPLED + REJECTED + 3, "asked": False, "rows": SAMPLED + REJECTED}
    assert damaged in caplog.text
    with DuckDbEngine(lake) as opened:
        (row,) = opened.execute(get_query("escapes")).records()
    assert (row["labelled_passed"], row["labelled_rejected"]) == (SAMPLED - 1, REJECTED)
    assert row["escapes"] == pytest.approx(PASSED * ESCAPED / (SAMPLED - 1))


def test_a_scan_for_keys_reads_their_frames_only(tmp_path: Path) -> None:
    store = open_storage(tmp_path)
    wanted = Line(store).keep(0)
    Line(store, line="line-2", thing="thing-2").keep(0)  # called alike
    other = Line(store, thing="thing-3").keep(1)
    (broken,) = [stored.key for stored in store.list() if "thing-3" in stored.key and stored.key.endswith(".json")]
    store.write(broken, b"no sidecar")
    found = scan_frames(store, keys=[wanted, "line-1/cam/1/77"])
    assert ([frame.key for frame in found.frames], found.problems) == ([wanted], ())
    assert scan_frames(store, keys=[other]).problems
    assert scan_frames(store, keys=[]).frames == ()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["ingest", "--out", "x"], "Give a file of messages"),
        (["ingest", "m.jsonl", "--out", "x"], "--site is needed"),
        (["ingest", "--labels", "x", "--out", "x"], "--collected is needed"),
        (["ingest", "m.jsonl", "--labels", "x", "--out", "x"], "Give a file of messages"),
    ],
)
def test_what_is_missing_is_named(arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 64
    assert complaint in capsys.readouterr().err
