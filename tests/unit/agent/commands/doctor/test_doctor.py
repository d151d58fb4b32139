"""`kensa doctor` finds what keeps a line from running, names the remedy, and never shows a traceback."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from agent import cli
from agent.commands.doctor import command
from agent.commands.doctor.check_result import CheckStatus
from tests.kits.doctor_site import findings, good_picture, healthy_site, written

if TYPE_CHECKING:
    from pathlib import Path

    from agent.records import Pixels


@pytest.fixture
def site(tmp_path: Path) -> dict[str, Any]:
    return healthy_site(tmp_path)


def test_a_healthy_site_can_run(tmp_path: Path, site: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.main(["doctor", str(written(tmp_path, site))])
    out = capsys.readouterr().out

    assert code == 0, out
    assert "OK    camera cam: 64x64 px mono, first frame after" in out
    assert "8 of 8 golden images classified as where the release was made" in out
    assert "WARN  release top: spots 1.0.0" in out
    assert "untrusted" in out
    assert "the line can run" in out
    assert max(map(len, out.splitlines())) <= 120


def test_json_is_one_object_for_machines(
    tmp_path: Path, site: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    site["inspections"]["top"]["cameras"]["cam"]["path"] = str(tmp_path / "nowhere")

    code = cli.main(["doctor", "--json", str(written(tmp_path, site))])
    told = json.loads(capsys.readouterr().out)

    assert code == 2
    assert told["ok"] is False
    broken = [f for f in told["findings"] if f["status"] == "fail"]
    assert [f["check"] for f in broken] == ["camera cam"]
    assert "nowhere" in broken[0]["seen"]
    assert all(f["remedy"] for f in told["findings"] if f["status"] != "ok")


def test_without_a_configuration_the_machine_is_looked_at() -> None:
    checks = [finding.check for finding in command.run_checks(None)]

    assert checks == ["python", "libraries", "processor", "clock"]


@pytest.mark.parametrize(
    ("picture", "status", "words"),
    [
        (np.full((64, 64), 1, np.uint8), CheckStatus.FAIL, "dark: brightness 1 of 255"),
        (np.full((64, 64), 255, np.uint8), CheckStatus.FAIL, "bright: brightness 255 of 255"),
        (np.full((64, 64), 30, np.uint8), CheckStatus.FAIL, "flat: contrast 0.0"),
        (
            np.hstack([good_picture()] * 2),
            CheckStatus.WARN,
            "another aspect than trained: 128x64 px are 2.00 wide to high",
        ),
        (good_picture()[::4, ::4], CheckStatus.WARN, "smaller than the model's input: 16x16 px against 32x32"),
        (good_picture() + np.uint8(60), CheckStatus.WARN, "in the golden set"),
    ],
)
def test_a_picture_unlike_those_that_the_model_was_trained_on_is_said_so(
    tmp_path: Path, site: dict[str, Any], picture: Pixels, status: CheckStatus, words: str
) -> None:
    cv2.imwrite(str(tmp_path / "images" / "0.png"), picture)

    found = findings(tmp_path, site)["camera cam"]

    assert found.status is status
    assert words in found.seen
    assert found.remedy


def test_a_bad_configuration_ends_the_examination(tmp_path: Path, site: dict[str, Any]) -> None:
    found = findings(tmp_path, {**site, "thing": "a b"})

    assert found["configuration"].status is CheckStatus.FAIL
    assert "thing: given" in found["configuration"].seen
    assert list(found)[-1] == "configuration"
