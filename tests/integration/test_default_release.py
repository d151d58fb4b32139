"""The documented command makes the bundled release; it takes an hour and a half."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pytest

from agent.adapters.onnx import OnnxModel
from agent.release import manifest as manifests
from tests.kits.requirements import ROOT

if TYPE_CHECKING:
    from pathlib import Path

MAX_MODEL_BYTES = 500_000
MAX_FOLDER_BYTES = 12_000_000  # nearly all of it the golden set: 120 inputs with their answers


@pytest.mark.slow
@pytest.mark.train
@pytest.mark.timeout(4 * 3600)
def test_the_documented_command_makes_a_release_that_meets_its_targets(tmp_path: Path) -> None:
    out = tmp_path / "release"
    command = [str(ROOT / "scripts" / "train-default"), str(tmp_path / "work"), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    figures = json.loads(done.stdout.splitlines()[-1])

    assert figures["images"] == 2000
    assert figures["false_reject_rate"] <= 0.01
    hard = [levels[x] for levels in figures["recall_by_kind"].values() for x in ("medium", "strong") if x in levels]
    escaped = sum((1.0 - cell["recall"]) * cell["parts"] for cell in hard)
    assert escaped / sum(cell["parts"] for cell in hard) <= 0.01
    assert figures["int8_agreement"] >= 0.99
    assert manifests.read_manifest(out).files["model.onnx"].length_bytes <= MAX_MODEL_BYTES
    assert sum(file.stat().st_size for file in out.iterdir()) <= MAX_FOLDER_BYTES
    OnnxModel.load(out)
