"""`kensa demo --greengrass` deploys and updates a component without loss."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from simulator.doubles.network.mqtt_broker import mosquitto_program
from tests.kits.requirements import ROOT, require

PATIENCE_S = 560.0
COMMAND = [sys.executable, "-c", "import sys; from agent.cli import main; sys.exit(main())", "demo", "--json"]
WHOLE_S = "60"  # from which all updates take place


@dataclass(frozen=True, slots=True)
class Ended:
    code: int
    report: dict[str, Any]
    errors: str


def demo(folder: Path, mode: str, *arguments: str) -> Ended:
    done = subprocess.run(
        [*COMMAND, "--greengrass", mode, "--out", str(folder), *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    return Ended(done.returncode, json.loads(done.stdout or "{}"), done.stderr)


def needs() -> None:
    require(mosquitto_program(), "mosquitto", "apt install mosquitto")
    require(importlib.util.find_spec("awsiot"), "the extra greengrass", "pip install 'kensa[greengrass]'")
    require(importlib.util.find_spec("ensurepip"), "ensurepip", "apt install python3-venv")


def assert_complete(ended: Ended) -> None:
    report = ended.report
    assert ended.code == 0, ended.errors
    assert report["problems"] == []
    assert report["complete"] is True
    assert report["taken"] == report["captured"] == report["inspected"] + report["dropped"]
    assert report["delivered"] == report["inspected"] > 0
    assert (report["frames_lost"], report["pid_changed"]) == (0, False)
    assert all(update["outcome"] == update["expected"] for update in report["updates"])
    assert (
        report["false_rejects"] < report["inspected"] // 50
    )  # numbers name parts: the truth is that of the right part


def processes_of(folder: Path) -> list[int]:
    """Processes whose command lies below `folder`: components that nobody ended."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if str(folder / "nucleus").encode() in command:
                found.append(int(entry.name))
    return found


@pytest.mark.timeout(600)
@pytest.mark.xdist_group("demo")  # each keeps both cores busy
def test_a_deployed_component_takes_a_model_by_deployment_and_loses_nothing(tmp_path: Path) -> None:
    needs()
    ended = demo(tmp_path, "lite", "--seconds", "8")
    assert_complete(ended)
    report = ended.report
    assert [(update["how"], update["release"]) for update in report["updates"]] == [("deployment", "parts/1.1.0")]
    assert report["greengrass"] == "lite"
    assert report["model"]["version"] == "1.1.0"
    assert report["model"]["trusted"] is True
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert "no wheels are vendored" in ended.errors  # what is not as on a device is said
    assert processes_of(tmp_path) == []


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.xdist_group("demo")
@pytest.mark.parametrize("mode", ["lite", "classic"])
def test_models_come_by_deployment_shadow_and_component_and_a_damaged_one_is_refused(tmp_path: Path, mode: str) -> None:
    needs()
    ended = demo(tmp_path, mode, "--seconds", WHOLE_S)
    assert_complete(ended)
    assert [(update["how"], update["outcome"]) for update in ended.report["updates"]] == [
        ("deployment", "serving"),
        ("deployment", "refused"),
        ("shadow", "serving"),
        ("component", "serving"),
    ]
    assert ended.report["model"]["version"] == "1.4.0"
    assert ended.report["escapes"] < ended.report["found"]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.xdist_group("demo")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_early_with_its_report_and_leaves_no_component_behind(
    tmp_path: Path, number: signal.Signals
) -> None:
    needs()
    with subprocess.Popen(
        [*COMMAND, "--greengrass", "classic", "--out", str(tmp_path), "--seconds", "600"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        deadline = time.monotonic() + PATIENCE_S
        log = tmp_path / "nucleus" / "logs" / "com.kensa.Inspector.log"
        while not (log.exists() and "first verdict" in log.read_text()):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        time.sleep(3.0)
        process.send_signal(number)
        output, errors = process.communicate(timeout=PATIENCE_S)
    assert_complete(Ended(process.returncode, json.loads(output), errors))
    assert json.loads(output)["updates_not_begun"] > 0
    assert processes_of(tmp_path) == []


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.xdist_group("demo")
@pytest.mark.parametrize("mode", ["lite", "classic"])
def test_without_mosquitto_the_update_by_shadow_is_left_out(tmp_path: Path, mode: str) -> None:
    needs()
    ended = demo(tmp_path, mode, "--seconds", "25", "--broker", "amqtt")
    assert_complete(ended)
    assert ended.report["broker"] == "amqtt"
    assert [update["how"] for update in ended.report["updates"]] == ["deployment"]


def test_an_option_of_the_other_demo_is_refused_by_name(tmp_path: Path) -> None:
    ended = demo(tmp_path, "lite", "--outage", "5", "--cameras", "1")
    assert ended.code == 64
    assert "--cameras, --outage cannot be combined with --greengrass" in ended.errors
    assert "Traceback" not in ended.errors


def test_a_folder_whose_nucleus_is_not_the_demos_is_left_alone(tmp_path: Path) -> None:
    needs()
    (tmp_path / "nucleus").mkdir()
    (tmp_path / "nucleus" / "precious").write_text("keep me")
    ended = demo(tmp_path, "lite")
    assert ended.code == 2
    assert "no demo made" in ended.errors
    assert (tmp_path / "nucleus" / "precious").read_text() == "keep me"
