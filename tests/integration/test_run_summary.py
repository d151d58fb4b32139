"""`kensa run` prints a table at the end and writes every verdict to --results."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import cv2
import pytest

from agent.app.results_file import COLUMNS, ResultsFile
from agent.app.run_summary import RunSummary
from agent.errors import OperatorError
from agent.records import DroppedFrames, DropReason, Judgement, Origin, Outcome, Verdict
from agent.supervision import ThreadSupervisor
from tests.kits.releases import spot_images, write_release
from tests.kits.requirements import ROOT

if TYPE_CHECKING:
    from pathlib import Path

PATIENCE_S = 120.0
ORIGIN = Origin("thing", "line", "spots", "cam", 1, "", "", None, ("ok", "spot"))


@pytest.fixture
def line(tmp_path: Path) -> Path:
    """A folder of twelve parts, one of them no picture, and a configuration for it."""
    write_release(tmp_path / "release")
    (tmp_path / "images").mkdir()
    for index, image in enumerate(spot_images(11)[0]):
        cv2.imwrite(str(tmp_path / "images" / f"{index:02d}.png"), image)
    (tmp_path / "images" / "99.png").write_bytes(b"no picture")
    write_config(tmp_path)
    return tmp_path


def write_config(folder: Path, **camera: Any) -> None:
    settings = {"kind": "folder", "path": "images", **camera}
    inspection = {"release": "release", "intake": {"policy": "wait"}, "cameras": {"cam": settings}}
    tree = {
        "thing": "thing", "line": "line", "state_dir": "state", "transport": {"kind": "none"},
        "inspections": {"spots": inspection},
    }  # fmt: skip
    (folder / "line.yaml").write_text(json.dumps(tree))


def kensa_run(folder: Path, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    code = "import sys; from agent.cli import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-c", code, "run", str(folder / "line.yaml"), *arguments],
        capture_output=True, text=True, timeout=PATIENCE_S, check=False, **options,
    )  # fmt: skip


def rows_of(path: Path) -> list[dict[str, Any]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file)) if path.suffix == ".csv" else [json.loads(line) for line in file]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_every_verdict_of_a_folder_is_a_row_and_the_table_adds_up(line: Path, suffix: str) -> None:
    path = line / f"results{suffix}"
    done = kensa_run(line, "--results", str(path))
    assert done.returncode == 0, done.stderr
    rows = sorted(rows_of(path), key=lambda row: int(row["seq"]))  # they come in the order of judging
    assert [row["part_id"] for row in rows] == [*(f"{index:02d}.png" for index in range(11)), "99.png"]
    assert [str(row["seq"]) for row in rows] == [str(seq) for seq in range(12)]
    outcomes = [row["outcome"] for row in rows]
    assert (outcomes.count("ok"), outcomes.count("defect"), outcomes[-1]) == (6, 5, "unknown")
    assert rows[-1]["reason"].startswith("corrupt: ")
    table = [row.split() for row in done.stdout.splitlines()]
    assert ["spots", "cam", "ok", "ok", "6", "50.00%"] in table
    assert ["spots", "cam", "defect", "spot", "5", "41.67%"] in table
    assert ["spots", "cam", "unknown", "corrupt", "1", "8.33%"] in table
    assert ["spots", "cam", "all", "12"] in table
    assert "99.png is unknown" in done.stderr


def test_a_file_that_exists_is_refused_before_anything_is_judged_and_left_as_it_is(line: Path) -> None:
    path = line / "results.csv"
    path.write_text("of another day\n")
    done = kensa_run(line, "--results", str(path))
    assert done.returncode == 2
    assert "it exists already. Give another name" in done.stderr
    assert path.read_text() == "of another day\n"
    assert not (line / "state").exists()


@pytest.mark.parametrize(("name", "code"), [("results.txt", 64), ("results", 64), ("no/such/folder.csv", 2)])
def test_a_file_that_cannot_be_is_refused_with_the_remedy(line: Path, name: str, code: int) -> None:
    done = kensa_run(line, "--results", str(line / name))
    assert done.returncode == code
    assert f"--results {line / name}: " in done.stderr


def test_an_agent_that_does_not_start_leaves_no_empty_file(line: Path) -> None:
    (line / "release" / "model.onnx").write_bytes(b"no model")
    assert kensa_run(line, "--results", str(line / "results.csv")).returncode != 0
    assert not (line / "results.csv").exists()


def test_a_stop_leaves_a_complete_file_of_what_was_judged(line: Path) -> None:
    write_config(line, loop=True, fps=200.0)
    path = line / "results.jsonl"
    code = "import sys; from agent.cli import main; sys.exit(main(sys.argv[1:]))"
    running = subprocess.Popen(
        [sys.executable, "-c", code, "run", str(line / "line.yaml"), "--results", str(path)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + PATIENCE_S
    while not path.exists() or path.read_bytes().count(b"\n") < 50:  # the file can be read along
        assert time.monotonic() < deadline
        assert running.poll() is None
        time.sleep(0.05)
    running.send_signal(signal.SIGTERM)
    said, errors = running.communicate(timeout=PATIENCE_S)
    assert running.returncode == 0, errors
    rows = rows_of(path)
    assert sorted(row["seq"] for row in rows) == list(range(len(rows)))
    assert f"{len(rows):,} rows in {path}" in said


_FORTY_ROWS = """
import json, resource, sys
from pathlib import Path
from agent.app.results_file import ResultsFile
from agent.errors import OperatorError
from agent.supervision import ThreadSupervisor
from tests.integration.test_run_summary import verdict
limit, path = int(sys.argv[1]), Path(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
supervisor = ThreadSupervisor()
results, error = ResultsFile(path, inspections={"cam": "spots"}, supervisor=supervisor), ""
for seq in range(40):
    results.add_verdicts([verdict(seq)])
try:
    results.close()
except OperatorError as problem:
    error = str(problem)
print(json.dumps([results.error, results.rows, results.lost, supervisor.losses.snapshot(), error]))
"""


def test_a_full_disk_of_the_file_does_not_stop_the_line_and_ends_in_a_word_and_an_exit_code(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    limit = len(",".join(COLUMNS)) + 250  # bytes: the limit on files stands for a full disk after a few rows
    child = subprocess.run(
        [sys.executable, "-c", _FORTY_ROWS, str(limit), str(path)],
        capture_output=True, text=True, timeout=PATIENCE_S, check=True, cwd=ROOT,
    )  # fmt: skip
    problem, count, lost, losses, error = json.loads(child.stdout)
    assert problem.startswith("the disk refuses it: ")
    assert count + lost == 40
    assert lost > 30
    assert losses == {"results_rows": lost}
    assert "rows are missing" in error
    assert OperatorError.exit_code == 2
    rows = rows_of(path)
    assert len(rows) == count
    assert all(row["outcome"] == "defect" for row in rows), "each row is whole"


def verdict(seq: int) -> Verdict:
    judgement = Judgement(Outcome.DEFECT, "spot", 0.9, (0.1, 0.9), (1, 2, 3, 4))
    return Verdict(origin=ORIGIN, seq=seq, captured_utc_ns=0, judgement=judgement, latency_us=1_000, part_id=f"p{seq}")


def test_a_disk_that_hangs_holds_the_line_up_once_and_every_row_that_is_missing_is_counted(tmp_path: Path) -> None:
    supervisor = ThreadSupervisor()
    results = ResultsFile(tmp_path / "results.csv", inspections={"cam": "spots"}, supervisor=supervisor)
    reader, writer = os.pipe()  # takes 64 KiB and then hangs, as a network disk may
    os.dup2(writer, results._file)
    os.close(writer)
    began, longest_s, count = time.monotonic(), 0.0, 3_000
    for seq in range(count):
        before = time.monotonic()
        results.add_verdicts([verdict(seq)])
        longest_s = max(longest_s, time.monotonic() - before)
    assert results.error is not None
    assert longest_s >= 1.0
    assert time.monotonic() - began < 30.0, "it waits once, not for each row"
    assert results.lost > 0
    drained = bytearray()
    while len(drained) < 10_000_000 and (chunk := _read(reader, results)):
        drained += chunk
    with pytest.raises(OperatorError, match=f"{results.lost} rows are missing"):
        results.close()
    assert results.rows + results.lost == count
    os.close(reader)


def _read(reader: int, results: ResultsFile) -> bytes:
    """Read what the results' thread writes, until it has nothing left."""
    os.set_blocking(reader, False)
    for _ in range(200):
        try:
            return os.read(reader, 65_536)
        except BlockingIOError:
            if results._waiting.empty():
                time.sleep(0.01)
            else:
                time.sleep(0.001)
    return b""


def test_frames_without_a_verdict_are_rows_and_lines_of_the_table_too(tmp_path: Path) -> None:
    cameras = {"cam": "spots"}
    results, tally = (
        ResultsFile(tmp_path / "r.jsonl", inspections=cameras, supervisor=ThreadSupervisor()),
        RunSummary(cameras),
    )
    for dropped in (
        DroppedFrames("cam", DropReason.OVERRUN, count=7),
        DroppedFrames("cam", DropReason.CORRUPT, seq=8, detail="cut", name="08.png"),
    ):
        results.add_dropped(dropped)
        tally.add_dropped(dropped)
    results.close()
    rows = rows_of(tmp_path / "r.jsonl")
    assert [(row["outcome"], row["reason"], row["seq"], row["count"], row["part_id"]) for row in rows] == [
        ("dropped", "overrun", None, 7, None),
        ("dropped", "corrupt: cut", 8, 1, "08.png"),
    ]
    assert all(row["inspection"] == "spots" for row in rows)
    assert ["spots", "cam", "dropped", "overrun", "7", "87.50%"] in [row.split() for row in tally.text().splitlines()]


def test_reasons_of_any_number_do_not_grow_the_table_without_bound() -> None:
    tally = RunSummary({"cam": "spots"})
    for number in range(1_000):
        judgement = Judgement(Outcome.UNKNOWN, None, 0.0, (), None, f"reason {number}")
        tally.add_verdicts([Verdict(ORIGIN, number, 0, judgement, 0)])
    assert len(tally.text().splitlines()) < 40
    assert "other reasons" in tally.text()
