"""A seeded tenth of `kensa bench faults`."""

from __future__ import annotations

import pytest

from simulator.campaigns.crashes.outbox_kills import run_outbox_kills
from simulator.campaigns.crashes.power_cuts import power_cuts_unavailable_reason, run_power_cuts
from tests.kits.requirements import require


@pytest.mark.parametrize("seed", [1, 2])
def test_no_committed_verdict_is_lost_in_fifty_kills(seed: int) -> None:
    result = run_outbox_kills(kills=50, seed=seed)
    assert result.committed > 0
    assert (result.lost, result.repeated_epochs) == (0, 0)


@pytest.mark.power
def test_no_committed_verdict_is_lost_in_four_power_cuts() -> None:
    missing = power_cuts_unavailable_reason()
    require(missing is None, str(missing), "run as root on a machine with loop devices and e2fsprogs")
    result = run_power_cuts(power_cuts=4, seed=1)
    assert result.committed > 0
    assert (result.lost, result.stale_epochs) == (0, 0)
