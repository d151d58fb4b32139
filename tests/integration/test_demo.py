"""`kensa demo` ends with a report that accounts for every frame and verdict."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from simulator.demos.demo_options import make_parser
from simulator.doubles.network.mqtt_broker import has_iotcore, mosquitto_program
from tests.kits.requirements import ROOT, require

if TYPE_CHECKING:
    from pathlib import Path

PATIENCE_S = 100.0
COMMAND = [sys.executable, "-c", "import sys; from agent.cli import main; sys.exit(main())", "demo", "--json"]
# The same on a machine that lacks brokers: what is not installed there is not found.
LACKING = (
    "import sys; from simulator.doubles.network import mqtt_broker as broker; from agent.cli import main; "
    "broker.mosquitto_program = lambda: None; {}"
    "sys.exit(main())"
)
BROKERS = ("mosquitto", "iotcore", "amqtt")


@dataclass(frozen=True, slots=True)
class Ended:
    code: int
    report: dict[str, Any]
    errors: str


def demo(folder: Path, *arguments: str) -> Ended:
    done = subprocess.run(
        [*COMMAND, "--out", str(folder), *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    return Ended(done.returncode, json.loads(done.stdout or "{}"), done.stderr)


def newcomer(broker: str) -> list[str]:
    """The command as it starts where `broker` is the best that is there, without saying so."""
    if broker == "mosquitto":
        require(mosquitto_program(), "mosquitto", "apt install mosquitto")
        return COMMAND
    if broker == "iotcore":
        require(has_iotcore(), "iotcore", "pip install 'kensa[sim]' on x86_64")
        return [COMMAND[0], "-c", LACKING.format(""), *COMMAND[3:]]
    return [COMMAND[0], "-c", LACKING.format("broker.has_iotcore = lambda: False; "), *COMMAND[3:]]


def assert_complete(ended: Ended) -> None:
    report = ended.report
    assert ended.code == 0, ended.errors
    assert report["problems"] == []
    assert report["complete"] is True
    assert report["captured"] == report["inspected"] + report["dropped"]
    assert report["delivered"] == report["inspected"] > 0
    assert report["frames_lost"] == 0


@pytest.mark.xdist_group("demo")  # each keeps both cores busy while it renders
def test_the_demo_on_mosquitto_accounts_for_every_frame_and_writes_its_report(tmp_path: Path) -> None:
    require(mosquitto_program(), "mosquitto", "apt install mosquitto")
    ended = demo(tmp_path, "--seconds", "6", "--broker", "mosquitto")
    assert_complete(ended)
    report = ended.report
    assert set(report["cameras"]) == {"top", "side"}
    assert report["broker"] == "mosquitto"
    assert report["latency_p50_ms"] <= report["latency_p99_ms"]
    assert sum(report["latency_histogram"].values()) == report["inspected"]
    assert sum(report["outcomes"].values()) == report["inspected"]
    assert {"escapes", "false_rejects", "duplicates", "model"} <= report.keys()
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert (tmp_path / "contact-sheet.png").read_bytes().startswith(b"\x89PNG")
    assert "Every frame is accounted for" in ended.errors
    again, explain = report["try_next"]
    program, *options = shlex.split(again)
    assert os.access(ROOT / program, os.X_OK)
    assert make_parser().parse_args(options).outage_s == 5.0
    told = subprocess.run(shlex.split(explain), cwd=ROOT, capture_output=True, text=True, check=False, timeout=60.0)
    assert told.returncode == 0, told.stderr
    assert "demo-line/" in told.stdout
    assert (tmp_path / "explained.png").exists()


@pytest.mark.xdist_group("demo")  # each keeps both cores busy while it renders
def test_the_demo_on_amqtt_accounts_for_every_frame(tmp_path: Path) -> None:
    ended = demo(tmp_path, "--seconds", "6", "--broker", "amqtt", "--cameras", "1")
    assert_complete(ended)
    assert ended.report["broker"] == "amqtt"


@pytest.mark.xdist_group("demo")  # each keeps both cores busy while it renders
def test_unplugging_the_network_in_the_middle_delays_verdicts_but_loses_none(tmp_path: Path) -> None:
    ended = demo(tmp_path, "--seconds", "8", "--outage", "2", "--cameras", "1")
    assert_complete(ended)
    assert ended.report["replayed"] > 0


@pytest.mark.xdist_group("demo")
@pytest.mark.parametrize("broker", BROKERS[1:])  # mosquitto: see the demo of 90 s below
def test_stopped_while_a_release_arrives_it_has_every_verdict_and_asked_for_no_shadow(
    tmp_path: Path, broker: str
) -> None:
    with subprocess.Popen(
        [*newcomer(broker), "--out", str(tmp_path), "--seconds", "90", "--cameras", "1"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        deadline = time.monotonic() + PATIENCE_S
        changes = tmp_path / "state" / "models" / "surface"
        while not (changes.is_dir() and any("1.1.0" in str(path) for path in changes.rglob("*"))):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        time.sleep(1.0)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=PATIENCE_S)
    ended = Ended(process.returncode, json.loads(output or "{}"), errors)
    assert_complete(ended)
    assert ended.report["broker"] == broker
    assert [release["version"] for release in ended.report["updates"]["releases"]] == ["1.1.0"]
    written = yaml.safe_load((tmp_path / "demo.yaml").read_text())
    assert written["updates"]["shadow"] is False


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.xdist_group("demo")
@pytest.mark.parametrize("broker", BROKERS)
def test_the_newcomers_demo_of_90_s_brings_both_releases_and_has_every_verdict(tmp_path: Path, broker: str) -> None:
    done = subprocess.run(
        [*newcomer(broker), "--out", str(tmp_path), "--seconds", "90"],
        cwd=ROOT, capture_output=True, text=True, timeout=300.0, check=False,
    )  # fmt: skip
    ended = Ended(done.returncode, json.loads(done.stdout or "{}"), done.stderr)
    assert_complete(ended)
    assert ended.report["broker"] == broker
    assert [release["version"] for release in ended.report["updates"]["releases"]] == ["1.1.0", "1.2.0"]
    written = yaml.safe_load((tmp_path / "demo.yaml").read_text())
    assert written["updates"]["shadow"] is (broker == "mosquitto")


@pytest.mark.xdist_group("demo")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_demo_early_with_its_report_and_success(tmp_path: Path, number: signal.Signals) -> None:
    with subprocess.Popen(
        [*COMMAND, "--out", str(tmp_path), "--seconds", "600", "--cameras", "1"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        deadline = time.monotonic() + PATIENCE_S
        log = tmp_path / "agent.log"
        while not (log.exists() and "inspects" in log.read_text()):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        time.sleep(2.0)
        process.send_signal(number)
        output, errors = process.communicate(timeout=PATIENCE_S)
    assert_complete(Ended(process.returncode, json.loads(output), errors))
    assert json.loads(output)["seconds"] < 600.0


def test_a_missing_release_is_named_with_the_remedy(tmp_path: Path) -> None:
    ended = demo(tmp_path, "--release", str(tmp_path / "nowhere"), "--cameras", "1")
    assert ended.code == 2
    assert f"no release at {tmp_path / 'nowhere'}" in ended.errors
    assert "Traceback" not in ended.errors


def test_a_folder_whose_state_is_not_the_demos_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "precious").write_text("keep me")
    ended = demo(tmp_path)
    assert ended.code == 2
    assert "no demo made" in ended.errors
    assert (tmp_path / "state" / "precious").read_text() == "keep me"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [(["--seconds", "0"], "outside 1 to 86400"), (["--fps", "nan"], "outside"), (["--cameras", "3"], "invalid choice")],
)
def test_a_wrong_argument_is_refused_with_what_is_allowed(tmp_path: Path, arguments: list[str], complaint: str) -> None:
    ended = demo(tmp_path, *arguments)
    assert ended.code != 0
    assert complaint in ended.errors
