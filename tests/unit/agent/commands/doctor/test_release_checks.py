"""The doctor checks the bytes, golden set and thresholds of each release."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from agent import config
from agent.adapters.onnx import OnnxModel
from agent.commands.doctor.check_context import CheckContext
from agent.commands.doctor.check_result import CheckResult, CheckStatus
from agent.commands.doctor.checks import releases
from agent.release import golden_set
from agent.release.manifest import GOLDEN_NAME
from tests.kits.doctor_site import healthy_site, written
from tests.kits.releases import golden_arrays, spot_images, write_release

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@pytest.fixture
def site(tmp_path: Path) -> dict[str, Any]:
    return healthy_site(tmp_path)


def release_findings(folder: Path, tree: Mapping[str, Any]) -> dict[str, CheckResult]:
    loaded = config.load(written(folder, tree))
    return {finding.check: finding for finding in releases.run_checks(CheckContext(loaded))}


def test_a_release_that_is_refused_is_named_with_the_reason(tmp_path: Path, site: dict[str, Any]) -> None:
    (tmp_path / "release" / "model.onnx").write_bytes(b"changed")

    found = release_findings(tmp_path, site)

    assert found["release top"].status is CheckStatus.FAIL
    assert "is not the file that the manifest names" in found["release top"].seen


def golden_bytes(folder: Path, arrays: Mapping[str, Any]) -> bytes:
    np.savez_compressed(folder / "changed.npz", **arrays)
    return (folder / "changed.npz").read_bytes()


@pytest.mark.parametrize(
    ("change", "status", "says"),
    [
        (lambda a: a, CheckStatus.OK, "scores within 0.0000"),
        (lambda a: {k: a[k] for k in ("images", "scores", "evidence")}, CheckStatus.OK, "8 of 8"),
        (lambda a: {**a, "scores": 1 - a["scores"]}, CheckStatus.FAIL, "0 of 8 golden images"),
        (lambda a: {**a, "scores": a["scores"] - np.float32(0.06)}, CheckStatus.WARN, "8 of 8"),
        (lambda a: {**a, "images": a["images"][:, :16]}, CheckStatus.FAIL, "images is uint8 [8, 16, 32, 1], expected"),
        (lambda a: {**a, "scores": a["scores"][:4]}, CheckStatus.FAIL, "scores is float32 [4, 2], expected float32"),
        (lambda a: {**a, "evidence": a["evidence"][:, :2]}, CheckStatus.FAIL, "evidence has another shape"),
        (lambda a: {**a, "evidence": a["evidence"][0]}, CheckStatus.FAIL, "evidence is float32 [4, 4]"),
        (lambda a: {"images": a["images"][:0], "scores": a["scores"][:0]}, CheckStatus.FAIL, "images is uint8 [0, 32"),
        (lambda a: {"scores": a["scores"]}, CheckStatus.FAIL, "images is missing"),
        (lambda _: {"images": np.array([{}], object)}, CheckStatus.FAIL, "is no golden set"),
    ],
)
def test_the_golden_set_must_come_out_again(
    tmp_path: Path, site: dict[str, Any], change: Any, status: CheckStatus, says: str
) -> None:
    arrays = change(golden_arrays(*spot_images()))
    write_release(tmp_path / "release", golden=golden_bytes(tmp_path, arrays))

    finding = release_findings(tmp_path, site)["release top golden"]

    assert finding.status is status, finding
    assert says in finding.seen


@pytest.mark.parametrize("data", [b"x", b"PK\x03\x04", b"\x93NUMPY\x01\x00"])
def test_a_golden_file_that_is_none_is_a_failure(tmp_path: Path, site: dict[str, Any], data: bytes) -> None:
    write_release(tmp_path / "release", golden=data)

    finding = release_findings(tmp_path, site)["release top golden"]

    assert finding.status is CheckStatus.FAIL
    assert GOLDEN_NAME in finding.seen


def test_a_golden_bomb_is_not_unpacked(tmp_path: Path, site: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(golden_set, "MAX_UNPACKED_BYTES", 1_000_000)  # the real limit would take seconds to make
    write_release(tmp_path / "release", golden=golden_bytes(tmp_path, {"images": np.zeros(2_000_000, np.uint8)}))

    finding = release_findings(tmp_path, site)["release top golden"]

    assert finding.status is CheckStatus.FAIL
    assert "at most 1,000,000 are read" in finding.seen


def test_thresholds_for_a_class_that_the_model_lacks_are_a_failure(tmp_path: Path, site: dict[str, Any]) -> None:
    site["inspections"]["top"]["thresholds"] = {"dent": 0.5}

    finding = release_findings(tmp_path, site)["release top thresholds"]

    assert finding.status is CheckStatus.FAIL
    assert "dent is no defect class of spots 1.0.0; its defects are spot" in finding.seen


def test_a_vnni_release_on_another_processor_is_warned_of(
    tmp_path: Path, site: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    release = write_release(tmp_path / "release")
    tree = json.loads((release / "manifest.json").read_text())
    tree["lineage"]["parameters"]["target_cpu"] = "vnni"
    (release / "manifest.json").write_text(json.dumps(tree))
    for has, expected in ((False, True), (True, False)):
        monkeypatch.setattr(releases, "own_processor_has_dot_product", lambda has=has: has)
        assert ("release top cpu" in release_findings(tmp_path, site)) is expected


def test_a_release_of_two_inspections_is_loaded_once(
    tmp_path: Path, site: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    site["inspections"]["side"] = {**site["inspections"]["top"], "cameras": {"b": {"kind": "v4l2"}}}
    loads: list[Path] = []
    load = OnnxModel.load

    def counted(path: Path) -> OnnxModel:
        loads.append(path)
        return load(path)

    monkeypatch.setattr(OnnxModel, "load", counted)

    found = release_findings(tmp_path, site)

    assert len(loads) == 1
    assert {"release top", "release side"} <= set(found)
