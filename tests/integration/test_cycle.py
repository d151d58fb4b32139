"""The state machine, executed: every way that a cycle can go, on the real handlers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.aws_kit import aws, aws_server
from tests.cycle_kit import MODEL, SITE, make_plant

if TYPE_CHECKING:
    from pathlib import Path

    from simulator.aws.local import LocalAws

__all__ = ["aws", "aws_server"]  # fixtures
pytestmark = pytest.mark.timeout(180)


def test_a_better_model_reaches_the_canary_and_then_the_fleet(
    aws: LocalAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant = make_plant(aws, tmp_path, monkeypatch)
    plant.collect(0, 120)
    ended, record = plant.run()
    assert (ended["status"], record["result"]) == ("SUCCEEDED", "promoted"), (ended, record)
    assert record["released"]["release_id"] == f"{MODEL}/1.1.0"
    assert record["released"]["previous"] == f"{MODEL}/1.0.0"
    assert {device.active.version for device in plant.devices.values() if device.active} == {"1.1.0"}
    assert plant.messages() == [f"Kensa: {MODEL} at {SITE}: promoted"]
