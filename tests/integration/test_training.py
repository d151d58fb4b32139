"""Training end to end: data in, a release that the agent loads out."""

from __future__ import annotations

import hashlib
import io
import json
import re
from typing import TYPE_CHECKING

import numpy as np
import pytest

from agent.adapters.onnx import OnnxModel
from agent.release import manifest as manifests
from pipeline import model_cli
from tests.kits.cloud.training import SIDE, write_parts
from tests.kits.requirements import require

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.train, pytest.mark.timeout(600)]


@pytest.fixture(autouse=True)
def _torch() -> None:
    try:
        import torch  # noqa: F401, PLC0415
    except ImportError:
        require(condition=False, what_is_missing="torch", remedy="install the extra `train`")


def train(data: Path, out: Path, *extra: str) -> None:
    arguments = ["--data", str(data), "--out", str(out), "--net", "tiny", "--threads", "2", *extra]
    assert model_cli.train(arguments) == 0


@pytest.mark.parametrize(("masks", "head"), [(False, "classifier"), (True, "evidence")])
def test_a_trained_release_loads_in_the_agent_and_judges_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], *, masks: bool, head: str
) -> None:
    data, out = tmp_path / "data", tmp_path / "release"
    write_parts(data, train=48, val=20, masks=masks)
    train(data, out, "--epochs", "12", "--batch", "16")

    manifest = manifests.read_manifest(out)
    assert manifest.lineage.parameters["head"] == head
    assert manifest.geometry.to_record().height == SIDE
    assert manifest.geometry.channels == 1
    model = OnnxModel.load(out)
    with np.load(io.BytesIO((out / "golden.npz").read_bytes()), allow_pickle=False) as golden:
        result = model.infer(golden["images"])
        np.testing.assert_array_equal(result.scores, golden["scores"])
    assert (result.evidence is None) == (head == "classifier")

    capsys.readouterr()
    assert model_cli.evaluate(["--release", str(out), "--data", str(data), "--split", "val", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["images"] == 60
    assert figures["accuracy"] >= 0.9
    assert figures["macro_f1"] >= 0.9
    assert figures["auroc"] >= 0.97
    assert figures["int8_agreement"] >= 0.95
    if masks:
        assert figures["localisation_hit_rate"] >= 0.9
    report = (out / "report.html").read_text(encoding="utf-8")
    for heading in ("Confusion", "fp32 against int8", "Precision and recall", "Scores", "Worst mistakes", "Lineage"):
        assert f"<h2>{heading}</h2>" in report
    assert not re.search(r"(src|href)=.https?:", report)
    assert "<script" not in report


def test_equal_data_parameters_and_seed_give_equal_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    write_parts(data, train=12, val=4, masks=False)
    outs = [tmp_path / name for name in ("first", "again", "other")]
    train(data, outs[0], "--epochs", "1")
    train(data, outs[1], "--epochs", "1", "--compare-to", str(outs[0]))
    same = capsys.readouterr().out
    train(data, outs[2], "--epochs", "1", "--seed", "1", "--compare-to", str(outs[0]))
    different = capsys.readouterr().out

    for name in ("model.onnx", "golden.npz", "float.onnx"):
        first, again, other = (hashlib.sha256((out / name).read_bytes()).hexdigest() for out in outs)
        assert first == again
        assert first != other
    first_manifest, second_manifest = (json.loads((out / "manifest.json").read_text()) for out in outs[:2])
    for manifest in (first_manifest, second_manifest):
        del manifest["lineage"]["created_utc"], manifest["lineage"]["duration_s"]
    assert first_manifest == second_manifest
    assert "model.onnx: identical" in same
    assert "seed: 0 -> 1" in different
    assert "model.onnx: identical" not in different


def test_a_release_is_refused_for_data_with_other_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out, other = tmp_path / "data", tmp_path / "release", tmp_path / "other"
    write_parts(data, train=8, val=4, masks=False)
    train(data, out, "--epochs", "1")
    write_parts(other, train=2, val=2, masks=False, classes=("ok", "dent"))
    assert model_cli.evaluate(["--release", str(out), "--data", str(other), "--split", "val"]) == 2
    assert "the classes dent are not known to the release" in capsys.readouterr().err
