"""Bad models made from the bundled release do not pass the real gates."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from simulator.campaigns.rollout.bad_model_rollouts import GOOD_KIND, run_bad_model_rollouts
from tests.kits.requirements import ROOT

if TYPE_CHECKING:
    from pathlib import Path

RELEASE = ROOT / "releases" / "default"


@pytest.mark.timeout(300)
def test_a_bad_model_is_stopped_where_it_must_be_and_what_passes_the_examination_leaves_the_line_soon(
    tmp_path: Path,
) -> None:
    kinds = ("wrong_contract", "nan", "always_ok_unless_examined", "always_defect_unless_examined")

    found = run_bad_model_rollouts(release=RELEASE, kinds=kinds, seeds=5, parts=80, work_dir=tmp_path)

    assert [(outcome.kind, outcome.committed, outcome.as_expected) for outcome in found.outcomes] == [
        (k, False, True) for k in kinds
    ]
    assert [outcome.gate for outcome in found.outcomes[:2]] == ["contract", "golden"]
    assert all(outcome.parts > 0 for outcome in found.outcomes[2:]), "live parts show these"
    assert [counts.refused for counts in found.live_only] == [5, 5]
    assert found.is_clean


@pytest.mark.timeout(300)
def test_the_same_gates_let_a_good_model_through(tmp_path: Path) -> None:
    found = run_bad_model_rollouts(release=RELEASE, kinds=(GOOD_KIND,), parts=80, work_dir=tmp_path)

    assert found.outcomes[0].committed
    assert found.outcomes[0].parts > 1_770, "the default policy's parts, and those that it did not get"
    assert found.bad_committed == []
    assert found.is_clean
