"""Short rows of `kensa bench greengrass` count correctly."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from simulator.bench.greengrass import GreengrassBenchSettings, run_greengrass
from tests.kits.mqtt import require_mosquitto

if TYPE_CHECKING:
    from simulator.bench.greengrass import RequirementRow

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def rows(name: str, *, seconds: float | None = None) -> list[RequirementRow]:
    require_mosquitto()
    return run_greengrass(
        only=[name], settings=GreengrassBenchSettings(seconds=seconds, repeats=1), report=lambda _text: None
    )


def test_a_minute_with_cuts_of_the_broker_and_a_restart_of_the_nucleus_loses_and_doubles_nothing() -> None:
    (row,) = rows("cuts", seconds=60.0)
    assert row.met, row
    assert row.figures["starts"] == 2


def test_sixteen_cameras_stay_below_forty_publishes_a_second() -> None:
    rate, _latency = rows("rate", seconds=10.0)
    assert rate.figures["most_publishes_in_a_second"] <= 40, rate
    assert rate.figures["connections_closed_by_the_nucleus"] == 0, rate


@pytest.mark.parametrize("name", ["models", "refusals", "configurations", "sizes"])
def test_a_row_that_times_nothing_is_met(name: str) -> None:
    for row in rows(name):
        assert row.met, row


def test_an_update_of_the_component_keeps_model_and_outbox() -> None:
    (row,) = rows("update")
    figures = row.figures
    assert figures["active_model_kept"], row
    assert figures["delivered_after_a_change_without_a_network"] > 60, row
    assert (figures["lost"], figures["counted_twice"]) == (0, 0), row
