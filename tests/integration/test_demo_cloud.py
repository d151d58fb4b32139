"""`kensa demo --cloud` runs the whole improvement cycle; an early end loses nothing."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from simulator.doubles.network.mqtt_broker import mosquitto_program
from tests.kits.requirements import ROOT, require

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200), pytest.mark.xdist_group("demo")]

PATIENCE_S = 900.0
COMMAND = [
    sys.executable,
    "-c",
    "import sys; from agent.cli import main; sys.exit(main())",
    "demo",
    "--cloud",
    "--json",
]


@pytest.fixture(autouse=True)
def _needs() -> None:
    require(mosquitto_program(), "mosquitto", "apt install mosquitto")
    require(importlib.util.find_spec("torch"), "torch", "install the extra `train`")


def assert_nothing_lost(report: dict[str, Any]) -> None:
    assert report["frames_lost"] == 0
    devices = report["devices"].values()
    assert all(device["captured"] == device["inspected"] + device["dropped"] for device in devices)
    assert report["delivered"] == sum(device["inspected"] for device in devices) > 0


def test_the_cycle_brings_accuracy_back_and_refuses_wrong_labels(tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "--out", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["complete"], report["problems"]) == (True, [])
    assert_nothing_lost(report)
    assert report["accuracy_drifted"] < report["accuracy_before"] - 0.1
    assert report["accuracy_after"] >= report["accuracy_before"] - 0.01
    assert (report["cycle"], report["poisoned_refused"]) == ("promoted", True)
    assert {device["model"] for device in report["devices"].values()} == {report["release"]}


def test_a_signal_ends_it_early_with_its_report_and_nothing_lost(tmp_path: Path) -> None:
    with subprocess.Popen(
        [*COMMAND, "--out", str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        shown = []
        for line in process.stderr:  # the progress of a demo without a terminal
            shown.append(line)
            if "accuracy" in line:  # the lines run, and are told of
                break
        time.sleep(5.0)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=PATIENCE_S)
    report = json.loads(output)
    assert process.returncode != 0, errors
    assert report["complete"] is False
    assert any("ended early" in problem for problem in report["problems"])
    assert_nothing_lost(report)
    assert "Traceback" not in "".join(shown) + errors
