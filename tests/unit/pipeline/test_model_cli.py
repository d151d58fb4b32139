from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import pytest

from pipeline import model_cli
from tests.kits.cloud.training import write_parts

if TYPE_CHECKING:
    from pathlib import Path


def test_the_command_offers_every_network() -> None:
    network = pytest.importorskip("pipeline.training.network", reason="needs the extra `train`")
    assert tuple(network.BACKBONES) == model_cli._NETWORK_NAMES


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        (["--epochs", "0"], "--epochs 0: a number above 0"),
        (["--learning-rate", "-1"], "--learning-rate -1.0: a number above 0"),
        (["--teachers", "-1"], "--teachers -1: 0 or more"),
        (["--false-rejects", "2"], "--false-rejects 2.0: a share"),
        (["--geometry", "huge"], "--geometry 'huge' is invalid"),
        (["--compare-to", "nowhere"], "A release is a folder with manifest.json"),
    ],
)
def test_a_wrong_argument_is_explained_without_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], extra: list[str], expected: str
) -> None:
    pytest.importorskip("torch", reason="needs the extra `train`")
    write_parts(tmp_path / "data", train=2, val=1, masks=False)
    assert model_cli.train(["--data", str(tmp_path / "data"), "--out", str(tmp_path / "out"), *extra]) != 0
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_training_without_torch_names_the_extra(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else object())
    assert model_cli.train(["--data", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "torch is not installed. Install the extra `train`" in capsys.readouterr().err


def test_training_does_not_start_when_the_result_could_not_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch", reason="needs the extra `train`")
    write_parts(tmp_path / "data", train=2, val=1, masks=False)
    assert model_cli.train(["--data", str(tmp_path / "data"), "--out", str(tmp_path / "data")]) == 2
    assert "is not a release folder" in capsys.readouterr().err


def test_evaluating_a_folder_that_is_no_release_says_what_a_release_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert model_cli.evaluate(["--release", str(tmp_path), "--data", str(tmp_path)]) == 3
    assert "A release is a folder with manifest.json" in capsys.readouterr().err
