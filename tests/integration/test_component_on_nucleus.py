"""The built component installs, inspects and updates on the simulated nucleus."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from greengrass.packaging.build import INSPECTOR, build
from simulator.doubles.network.mqtt_broker import open_broker
from simulator.nucleus import Deployment, Nucleus
from tests.kits.greengrass.component_build import VERSION, inspector_plan
from tests.kits.mqtt import require_mosquitto, wait_for

if TYPE_CHECKING:
    from simulator.nucleus.limits import Mode

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
NEXT = "7.9.0"


def pictures(folder: Path) -> Path:
    folder.mkdir()
    for index in range(4):
        cv2.imwrite(str(folder / f"{index}.png"), np.full((32, 32), 40 * index, np.uint8))
    return folder


@pytest.mark.parametrize("mode", ["lite", "classic"])
def test_the_built_inspector_judges_is_updated_and_outlives_a_version_that_does_not_install(
    tmp_path: Path, mode: Mode
) -> None:
    require_mosquitto()
    store = tmp_path / "store"
    plan = inspector_plan(tmp_path)
    build(plan, store)
    build(replace(plan, version=NEXT), store)
    broken = build(replace(plan, version="7.9.1"), store)
    broken.artifacts[1].write_bytes(b"cut off")
    camera = {"kind": "folder", "path": str(pictures(tmp_path / "pictures")), "loop": "true", "fps": "20"}
    merge = {"merge": {"inspections": {"main": {"cameras": {"cam1": camera}}}}}

    def deployment(version: str) -> Deployment:
        return Deployment(components={INSPECTOR.name: version}, configuration_update={INSPECTOR.name: merge})

    with (
        open_broker("mosquitto") as broker,
        Nucleus(mode, root=tmp_path / "nucleus", broker=(broker.host, broker.port)) as nucleus,
    ):
        nucleus.wait_online()
        assert nucleus.deploy(deployment(VERSION), store).succeeded, nucleus.log(INSPECTOR.name)
        first = nucleus.component(INSPECTOR.name)
        assert first.pid is not None
        assert b"greengrass" in Path(f"/proc/{first.pid}/cmdline").read_bytes()
        wait_for(lambda: nucleus.published > 0, "verdicts at the broker")

        assert nucleus.deploy(deployment(NEXT), store).succeeded, nucleus.log(INSPECTOR.name)
        second = nucleus.component(INSPECTOR.name)
        assert (second.version, second.state) == (NEXT, "RUNNING")
        assert second.pid != first.pid
        work = tmp_path / "nucleus" / "work" / INSPECTOR.name
        assert {VERSION, NEXT, "state"} <= {path.name for path in work.iterdir()}

        outcome = nucleus.deploy(deployment("7.9.1"), store)
        assert not outcome.succeeded
        if mode == "classic":  # lite has no rollback
            assert nucleus.component(INSPECTOR.name).version == NEXT
        assert nucleus.connections_refused == 0
