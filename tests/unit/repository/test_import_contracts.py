"""Every import contract fails when it is broken on purpose in a copy of the packages."""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.kits.requirements import ROOT

if TYPE_CHECKING:
    from pathlib import Path

PACKAGES = ("agent", "greengrass", "pipeline", "simulator")

# module to spoil, what is added to it, what the linter must say
VIOLATIONS = [
    ("agent/stray.py", "", "- agent.stray"),
    ("agent/timing/clock.py", "import agent.ports", "agent.timing is not allowed to import agent.ports"),
    ("agent/errors.py", "import simulator", "agent is not allowed to import simulator"),
    ("pipeline/__init__.py", "import simulator", "pipeline is not allowed to import simulator"),
    ("pipeline/__init__.py", "import greengrass", "pipeline is not allowed to import greengrass"),
    (
        "agent/lifecycle/stray.py",
        "import agent.inspection",
        "agent.lifecycle is not allowed to import agent.inspection",
    ),
    ("agent/outbox/stray.py", "import agent.slot", "agent.outbox.stray -> agent.slot"),
    ("agent/adapters/stray.py", "import agent.adapters.onnx", "agent.adapters.stray -> agent.adapters.onnx"),
    ("agent/health/stray.py", "import paho.mqtt.client", "agent.health.stray -> paho"),
    ("agent/ports.py", "import onnxruntime", "agent.ports -> onnxruntime"),
    ("agent/decision.py", "import cv2", "agent.decision -> cv2"),
    ("agent/adapters/stray.py", "import boto3", "agent.adapters.stray -> boto3"),
    ("agent/lifecycle/stray.py", "import agent.fetch.download", "agent.lifecycle is not allowed to import agent.fetch"),
    ("agent/lifecycle/stray.py", "import tuf", "agent.lifecycle.stray -> tuf"),
    ("agent/commands/stray.py", "import securesystemslib", "agent.commands.stray -> securesystemslib"),
    ("agent/lifecycle/stray.py", "import torch", "agent.lifecycle.stray -> torch"),
    ("simulator/__init__.py", "import awsiot", "simulator -> awsiot"),
]


def not_code(_folder: str, names: list[str]) -> list[str]:
    return [name for name in names if "." in name and not name.endswith(".py")]


def test_every_forbidden_import_breaks_its_contract(tmp_path: Path) -> None:
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=not_code)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for module, code, _ in VIOLATIONS:
        with (tmp_path / module).open("a", encoding="utf-8") as file:
            file.write(f"\n{code}\n")

    result = subprocess.run(
        [f"{sys.prefix}/bin/lint-imports", "--no-cache", "--no-logo"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert [complaint for _, _, complaint in VIOLATIONS if complaint not in result.stdout] == [], result.stdout
    assert result.returncode == 1


def test_the_inspecting_process_loads_no_cloud_sdk_no_training_and_no_simulator() -> None:
    unwanted = {"awscrt", "awsiot", "boto3", "botocore", "onnx", "pipeline", "rich", "simulator", "torch", "tuf"}
    unwanted |= {"cryptography", "securesystemslib", "urllib3"}  # what tuf needs
    program = "import sys, agent.cli, agent.app; print(*sorted({m.partition('.')[0] for m in sys.modules}))"

    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )

    assert not unwanted & set(result.stdout.split())
