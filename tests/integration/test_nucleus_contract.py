"""The simulated lite nucleus answers every call as the real one did, seen through the real SDK."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from simulator.doubles.network.mqtt_broker import MosquittoBroker
from simulator.nucleus import Nucleus, NucleusBehaviour
from tests.kits.greengrass.nucleus_probe import COMPONENT, CONFIGURATION, THING
from tests.kits.mqtt import require_mosquitto
from tests.kits.requirements import ROOT

if TYPE_CHECKING:
    from pathlib import Path

RECORDED = ROOT / "tests" / "recorded" / "nucleus-lite-2.6.0.txt"
AS_RECORDED = NucleusBehaviour(health=False)  # the health daemon did not run then


def test_every_answer_is_the_one_that_nucleus_lite_2_6_0_gave(tmp_path: Path) -> None:
    require_mosquitto()
    with (
        MosquittoBroker() as broker,
        # the health daemon did not run when the answers were recorded
        Nucleus(
            "lite", root=tmp_path, broker=(broker.host, broker.port), thing=THING, behaviour=AS_RECORDED
        ) as nucleus,
    ):
        environment = nucleus.add_client(COMPONENT, CONFIGURATION)
        nucleus.wait_online()
        probe = subprocess.run(
            [sys.executable, "-m", "tests.kits.greengrass.nucleus_probe", str(broker.port)],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            text=True,
            timeout=60,
            check=True,
        )
    assert probe.stdout.splitlines() == RECORDED.read_text(encoding="utf-8").splitlines()
