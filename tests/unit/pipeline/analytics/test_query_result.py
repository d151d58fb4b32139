"""Every query gives what plain Python computes from the same rows."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from datetime import date, datetime, timedelta
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from agent.sequential_tests import psi, wilson
from pipeline.analytics.duckdb_engine import DuckDbEngine, EngineLimits
from pipeline.analytics.queries import get_query
from simulator.history.timeline import HistorySettings
from tests.kits.cloud.analytics import Past, make_past

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pipeline.analytics.query_result import QueryResult

Record = dict[str, Any]
REJECTED = {"defect", "unsure"}


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Past:
    settings = HistorySettings(
        rows=20_000, days=12, sample_rate=0.2, duplicates=0.02, lost=0.005, dropped=0.005, seed=3
    )
    return make_past(tmp_path_factory.mktemp("past"), settings)


@pytest.fixture(scope="module")
def lake(past: Past) -> Iterator[DuckDbEngine]:
    with DuckDbEngine(past.folder, limits=EngineLimits(threads=1)) as opened:
        yield opened


def ask(lake: DuckDbEngine, name: str, **given: str) -> list[Record]:
    answer: QueryResult = lake.execute(get_query(name), given)
    return list(answer.records())


def grouped(rows: Iterable[Record], key: Callable[[Record], Any]) -> dict[Any, list[Record]]:
    found: dict[Any, list[Record]] = defaultdict(list)
    for row in rows:
        found[key(row)].append(row)
    return dict(found)


def count(rows: Iterable[Record], *outcomes: str) -> int:
    return sum(row["outcome"] in outcomes for row in rows)


def newcombe(k: int, n: int, before_k: int, before_n: int) -> tuple[float, float]:
    """Newcombe (1998), method 10, of k / n - before_k / before_n."""
    (low, high), (before_low, before_high) = wilson(k, n), wilson(before_k, before_n)
    p, before = k / n, before_k / before_n
    return (
        p - before - math.hypot(p - low, before_high - before),
        p - before + math.hypot(high - p, before - before_low),
    )


def close(value: float | None) -> Any:
    return pytest.approx(value, rel=1e-9, abs=1e-12)


# --- counts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grain", ["hour", "day", "week"])
def test_the_yield_of_each_line_and_period_counts_every_key_once(past: Past, lake: DuckDbEngine, grain: str) -> None:
    def period(at: datetime) -> datetime:
        start = at.replace(minute=0, second=0, microsecond=0)
        if grain != "hour":
            start = start.replace(hour=0)
        return start - timedelta(days=start.weekday()) if grain == "week" else start

    expected = grouped(past.verdicts, lambda row: (row["line"], period(row["captured_at"])))
    answer = ask(lake, "yield_by_line", grain=grain)
    assert len(past.rows("verdicts")) > len(past.verdicts)
    assert [(row["line"], row["period"]) for row in answer] == sorted(expected)
    for row in answer:
        rows = expected[row["line"], row["period"]]
        ok, inspected = count(rows, "ok"), len(rows) - count(rows, "unknown")
        low, high = wilson(ok, inspected)
        assert row["parts"] == len(rows)
        assert (row["defect"], row["unsure"]) == (count(rows, "defect"), count(rows, "unsure"))
        assert (row["yield"], row["yield_low"], row["yield_high"]) == (close(ok / inspected), close(low), close(high))


def test_a_window_and_a_line_leave_out_all_others(past: Past, lake: DuckDbEngine) -> None:
    answer = ask(lake, "yield_by_line", line="press-2", first_day="2026-01-07", last_day="2026-01-08", grain="day")
    chosen = [r for r in past.verdicts if r["line"] == "press-2" and r["day"] in {"2026-01-07", "2026-01-08"}]
    assert {row["line"] for row in answer} == {"press-2"}
    assert sum(row["parts"] for row in answer) == len(chosen)
    assert len(answer) == 2


def test_the_pareto_orders_the_classes_and_adds_up_to_one(past: Past, lake: DuckDbEngine) -> None:
    answer = ask(lake, "defect_pareto")
    for line, found in groupby(answer, key=lambda row: row["line"]):
        rows = [row for row in past.verdicts if row["line"] == line and row["outcome"] != "unknown"]
        classes = Counter(row["class"] for row in rows if row["outcome"] == "defect")
        expected = sorted(classes.items(), key=lambda item: (-item[1], item[0]))
        placed = list(found)
        assert [(row["class"], row["parts"]) for row in placed] == expected
        assert [row["place"] for row in placed] == list(range(1, len(expected) + 1))
        assert placed[-1]["cumulative_share"] == close(1.0)
        assert placed[0]["share"] == close(expected[0][1] / sum(classes.values()))
        assert placed[0]["per_million"] == close(1e6 * expected[0][1] / len(rows))


# --- models -----------------------------------------------------------------------------------------------------------


def test_versions_are_compared_with_the_one_before_on_the_same_line(past: Past, lake: DuckDbEngine) -> None:
    alone = [row for row in past.verdicts if row["arm"] in {None, "champion"}]
    answer = ask(lake, "model_comparison")
    assert len(answer) == 9
    before: Record | None = None
    for row in answer:
        rows = [r for r in alone if (r["line"], r["model_version"]) == (row["line"], row["model_version"])]
        inspected, rejected = len(rows) - count(rows, "unknown"), count(rows, *REJECTED)
        low, high = wilson(rejected, inspected)
        assert (row["parts"], row["rejected"]) == (inspected, rejected)
        assert (row["reject_low"], row["reject_high"]) == (close(low), close(high))
        assert row["first_at"] == min(r["captured_at"] for r in rows)
        if before is not None and before["line"] == row["line"]:
            low, high = newcombe(rejected, inspected, before["rejected"], before["parts"])
            assert row["before_version"] == before["model_version"]
            assert (row["difference_low"], row["difference_high"]) == (close(low), close(high))
            assert row["finding"] == ("higher" if low > 0 else "lower" if high < 0 else "alike")
        else:
            assert row["difference"] is None
            assert row["finding"] is None
        before = row


def test_a_trial_is_read_from_the_parts_that_chance_assigned(past: Past, lake: DuckDbEngine) -> None:
    tried = grouped(
        (row for row in past.verdicts if row["arm"] == "challenger"),
        lambda row: (row["line"], row["model_version"], row["challenger_sha256"]),
    )
    answer = ask(lake, "ab_readout")
    assert len(answer) == len(tried) == 7
    for row in answer:
        both = tried[row["line"], row["champion_version"], row["challenger_sha256"]]
        first, last = min(r["captured_at"] for r in both), max(r["captured_at"] for r in both)
        alone = [
            r
            for r in past.verdicts
            if (r["line"], r["model_version"], r["arm"]) == (row["line"], row["champion_version"], "champion")
            and first <= r["captured_at"] <= last
        ]
        inspected, rejected = len(alone) - count(alone, "unknown"), count(alone, *REJECTED)
        other = sum(r["challenger_outcome"] in REJECTED for r in both)
        low, high = newcombe(other, len(both), rejected, inspected)
        assert (row["champion_parts"], row["champion_rejected"]) == (inspected, rejected)
        assert (row["challenger_parts"], row["challenger_rejected"]) == (len(both), other)
        assert (row["difference_low"], row["difference_high"]) == (close(low), close(high))
        missed = sum(r["outcome"] in REJECTED and r["challenger_outcome"] == "ok" for r in both)
        assert row["let_through"] == missed
    assert {row["challenger_version"] for row in answer} == {"1.1.0", "1.2.0", "1.3.0"}


def test_the_history_of_releases_tells_commits_rollbacks_and_first_verdicts(past: Past, lake: DuckDbEngine) -> None:
    answer = ask(lake, "release_history")
    told = {(row["line"], row["event"], row["release"], row["detail"]) for row in answer}
    assert ("coat-1", "rolling_back", "surface/1.2.0", "rejects_more") in told
    assert ("press-1", "committed", "surface/1.3.0", None) in told
    firsts = {(row["thing"], row["release"]): row["at"] for row in answer if row["event"] == "first verdict"}
    expected: dict[tuple[str, str], datetime] = {}
    for row in past.verdicts:
        key = (row["thing"], f"surface/{row['model_version']}")
        expected[key] = min(expected.get(key, row["captured_at"]), row["captured_at"])
    assert firsts == expected


# --- latency and loss -------------------------------------------------------------------------------------------------


def test_latencies_are_nearest_rank_percentiles_to_a_tenth_of_a_millisecond(past: Past, lake: DuckDbEngine) -> None:
    inspected = [row for row in past.verdicts if row["outcome"] != "unknown"]
    expected = grouped(inspected, lambda row: (row["thing"], row["captured_at"].date()))
    answer = ask(lake, "latency", limit_us="4000")
    assert {(row["thing"], row["date"]) for row in answer} == set(expected)
    for row in answer:
        times = sorted(r["latency_us"] for r in expected[row["thing"], row["date"]])
        for name, share in (("p50_us", 0.5), ("p95_us", 0.95), ("p99_us", 0.99)):
            assert row[name] == math.ceil(times[math.ceil(share * len(times)) - 1] / 100) * 100
        assert row["max_us"] == times[-1]
        assert row["late"] == sum(time > 4_000 for time in times)
        assert row["late_share"] == close(row["late"] / len(times))


def test_every_missing_verdict_is_explained_by_drops_and_gaps_but_for_the_ends(past: Past, lake: DuckDbEngine) -> None:
    expected = grouped(past.verdicts, lambda row: (row["thing"], row["camera"], row["boot_epoch"]))
    copies = Counter((r["thing"], r["camera"], r["boot_epoch"]) for r in past.rows("verdicts"))
    lost: Counter[tuple[str, str, int]] = Counter()
    for row in past.rows("gaps"):
        lost[row["thing"], row["camera"], row["boot_epoch"]] += row["lost"]
    answer = ask(lake, "loss")
    assert len(answer) == len(expected)
    assert sum(row["missing"] for row in answer) > 50
    for row in answer:
        key = (row["thing"], row["camera"], row["boot_epoch"])
        numbers = {r["seq"] for r in expected[key]}
        assert row["frames"] == max(numbers) - min(numbers) + 1
        assert row["arrived"] == len(numbers)
        assert row["twice"] == copies[key] - len(numbers)
        assert row["lost"] == lost[key]
        assert row["unexplained"] == 0


def test_a_verdict_that_vanishes_without_a_word_is_unexplained(tmp_path: Any) -> None:
    past = make_past(tmp_path, HistorySettings(rows=900, days=3, lost=0.05, dropped=0.0))
    for path in (tmp_path / "gaps").rglob("*.parquet"):
        path.unlink()
    with DuckDbEngine(past.folder) as lake:
        assert sum(row["unexplained"] for row in ask(lake, "loss")) > 10


def test_the_fleet_is_what_each_cameras_last_heartbeat_said(past: Past, lake: DuckDbEngine) -> None:
    latest: dict[tuple[str, str], Record] = {}
    for row in past.rows("heartbeats"):
        key = (row["thing"], row["camera"])
        if key not in latest or row["sent_at"] > latest[key]["sent_at"]:
            latest[key] = row
    answer = ask(lake, "fleet")
    assert {(r["thing"], r["camera"]): (r["last_seen"], r["state"], r["fps"]) for r in answer} == {
        key: (row["sent_at"], row["state"], row["fps"]) for key, row in latest.items()
    }


# --- drift ------------------------------------------------------------------------------------------------------------


def scores(rows: Iterable[Record]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Scores of four digits often lie on the edge of a bin, whose last bit is nobody's business."""
    return np.array([row["score"] + 1e-9 for row in rows])


def drift_days(
    past: Past, key: Callable[[Record], Any], days: int, bins: int
) -> dict[tuple[Any, date], tuple[int, float]]:
    """By group and day: parts and PSI against the group's reference, which begins with its line's model."""
    rows = [r for r in past.verdicts if r["outcome"] != "unknown" and r["arm"] in {None, "champion"}]
    began: dict[Any, date] = {}
    for row in rows:
        of = (row["line"], row["model_version"])
        began[of] = min(began.get(of, date.max), row["captured_at"].date())
    found = {}
    for group, members in grouped(rows, key).items():
        start = began[members[0]["line"], members[0]["model_version"]]
        by_day = grouped(members, lambda row: row["captured_at"].date())
        reference = [r for day, rs in by_day.items() if day < start + timedelta(days=days) for r in rs]
        for day, those in by_day.items():
            if day >= start + timedelta(days=days) and reference:
                value = psi(scores(reference), scores(those), bins=bins, edges="fixed")
                found[group, day] = (len(those), value)
    return found


def test_score_drift_is_the_stability_index_of_the_agents_own_statistics(past: Past, lake: DuckDbEngine) -> None:
    expected = drift_days(past, lambda row: (row["line"], row["model_version"]), 2, 20)
    answer = ask(lake, "score_drift", reference_days="2")
    assert {((row["line"], row["model_version"]), row["date"]) for row in answer} == set(expected)
    for row in answer:
        parts, value = expected[(row["line"], row["model_version"]), row["date"]]
        assert (row["parts"], row["psi"]) == (parts, pytest.approx(value, rel=1e-6))
        assert row["finding"] == ("steady" if value < 0.1 else "moderate" if value < 0.25 else "changed")


def test_a_camera_is_compared_with_its_own_past_and_with_the_others(past: Past, lake: DuckDbEngine) -> None:
    expected = drift_days(past, lambda row: (row["line"], row["camera"], row["model_version"]), 1, 10)
    beats = grouped(past.rows("heartbeats"), lambda row: (row["line"], row["camera"], row["sent_at"].date()))
    answer = ask(lake, "camera_drift", reference_days="1")
    assert len(answer) == len(expected)
    for row in answer:
        group = (row["line"], row["camera"], row["model_version"])
        others = [
            value
            for ((line, camera, version), day), (_, value) in expected.items()
            if (line, version, day) == (row["line"], row["model_version"], row["date"]) and camera != row["camera"]
        ]
        value = expected[group, row["date"]][1]
        assert row["psi"] == pytest.approx(value, rel=1e-6)
        assert row["others_psi"] == pytest.approx(sum(others) / len(others), rel=1e-6)
        mine = beats[row["line"], row["camera"], row["date"]]
        assert row["fps"] == pytest.approx(sum(r["fps"] for r in mine) / len(mine))
        assert row["not_running_share"] == close(sum(r["state"] != "running" for r in mine) / len(mine))
        alone = sum(others) / len(others) < 0.25
        assert row["finding"] == ("steady" if value < 0.25 else "camera" if alone else "line")


# --- escapes and false rejects ----------------------------------------------------------------------------------------


def labelled(past: Past) -> dict[str, Record]:
    """The latest label of each key."""
    found: dict[str, Record] = {}
    for row in sorted(past.rows("labels"), key=lambda row: row["labelled_at"]):
        found[row["key"]] = row
    return found


def real_wilson(k: float, n: float) -> tuple[float, float]:
    """Wilson's interval for counts that need not be whole."""
    z = 1.959963984540054
    centre, half = (k + z * z / 2) / (n + z * z), z / (n + z * z) * math.sqrt(k * (n - k) / n + z * z / 4)
    return (0.0 if k == 0 else centre - half), (1.0 if k == n else centre + half)


def test_escapes_are_estimated_from_the_random_sample_and_false_rejects_from_the_rejected(
    past: Past, lake: DuckDbEngine
) -> None:
    labels = labelled(past)
    inspected = [row for row in past.verdicts if row["outcome"] != "unknown"]
    expected = grouped(inspected, lambda row: (row["line"], row["model_version"]))
    answer = ask(lake, "escapes")
    assert {(row["line"], row["model_version"]) for row in answer} == set(expected)
    for row in answer:
        rows = expected[row["line"], row["model_version"]]
        passed, rejected = count(rows, "ok"), count(rows, "defect")
        sample = [labels[r["key"]] for r in rows if r["outcome"] == "ok" and r["key"] in labels]
        checked = [labels[r["key"]] for r in rows if r["outcome"] == "defect" and r["key"] in labels]
        weights = [1 / label["sample_rate"] for label in sample]
        share = sum(w for w, label in zip(weights, sample, strict=True) if label["is_defect"]) / sum(weights)
        size = sum(weights) ** 2 / sum(w * w for w in weights)
        low, high = real_wilson(share * size, size)
        good = sum(not label["is_defect"] for label in checked)
        false_low, false_high = real_wilson(good, len(checked))
        assert (row["passed"], row["rejected"]) == (passed, rejected)
        assert (row["labelled_passed"], row["labelled_rejected"]) == (len(sample), len(checked))
        assert row["escapes"] == close(passed * share)
        assert row["escapes_low"] == pytest.approx(passed * low, abs=1e-6)
        assert row["escapes_high"] == pytest.approx(passed * high, rel=1e-9)
        assert row["false_rejects"] == close(rejected * good / len(checked))
        assert row["false_rejects_low"] == pytest.approx(rejected * false_low, abs=1e-6)
        assert row["false_rejects_high"] == pytest.approx(rejected * false_high, rel=1e-9)


def test_the_estimates_cover_the_truth(past: Past, lake: DuckDbEngine) -> None:
    expected: Counter[tuple[str, str]] = Counter()
    for row in past.verdicts:
        if row["outcome"] == "ok" and (row["line"], row["camera"], row["boot_epoch"], row["seq"]) in past.truth:
            expected[row["line"], row["model_version"]] += 1
    answer = ask(lake, "escapes")
    covered = [
        row["escapes_low"] - 1e-9 <= expected[row["line"], row["model_version"]] <= row["escapes_high"]
        for row in answer
    ]
    assert sum(covered) >= len(covered) - 1  # 95 % each
    assert sum(row["escapes"] for row in answer) == pytest.approx(expected.total(), rel=0.6)


def test_the_recall_of_each_kind_of_defect_weighs_what_was_caught_and_what_got_through(
    past: Past, lake: DuckDbEngine
) -> None:
    labels = labelled(past)
    inspected = [row for row in past.verdicts if row["outcome"] != "unknown"]
    for row in ask(lake, "escapes_by_class"):
        rows = [r for r in inspected if r["line"] == row["line"]]
        known = [(r["outcome"], labels[r["key"]]) for r in rows if r["key"] in labels]
        ok = [label for outcome, label in known if outcome == "ok"]
        caught = 0.0
        for outcome in REJECTED:
            those = [label for said, label in known if said == outcome]
            hits = sum(label["is_defect"] and label["label_class"] == row["label_class"] for label in those)
            caught += hits * count(rows, outcome) / len(those) if those else 0.0
        share = sum(label["is_defect"] and label["label_class"] == row["label_class"] for label in ok) / len(ok)
        escapes = share * count(rows, "ok")
        assert row["caught"] == close(caught)
        assert row["escapes"] == close(escapes)
        assert row["recall"] == close(caught / (caught + escapes))
        low, high = real_wilson(share * len(ok), len(ok))
        assert row["recall_low"] == close(caught / (caught + high * count(rows, "ok")))
        assert row["recall_high"] == pytest.approx(caught / (caught + low * count(rows, "ok")), rel=1e-9)
