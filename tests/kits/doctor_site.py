"""A healthy site for the tests of `kensa doctor`, as a configuration tree and its files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import yaml

from agent.commands.doctor import command
from tests.kits.releases import spot_images, write_release

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from agent.commands.doctor.check_result import CheckResult
    from agent.records import Pixels


def good_picture() -> Pixels:
    """A picture [64, 64] like those of the release's golden set."""
    picture: Pixels = np.kron(spot_images()[0][0, :, :, 0], np.ones((2, 2), np.uint8))
    return picture


def healthy_site(tmp_path: Path) -> dict[str, Any]:
    """A healthy configuration as a tree."""
    write_release(tmp_path / "release")
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "0.png"), good_picture())
    return {
        "thing": "thing-1",
        "line": "line-1",
        "state_dir": str(tmp_path / "state"),
        "inspections": {
            "top": {
                "release": str(tmp_path / "release"),
                "cameras": {"cam": {"kind": "folder", "path": str(tmp_path / "images")}},
            }
        },
        "transport": {"kind": "none"},
        "workers": 1,
    }


def written(folder: Path, tree: Mapping[str, Any]) -> Path:
    path = folder / "kensa.yaml"
    path.write_text(yaml.safe_dump(dict(tree)))
    return path


def findings(folder: Path, tree: Mapping[str, Any]) -> dict[str, CheckResult]:
    return {finding.check: finding for finding in command.run_checks(written(folder, tree))}
