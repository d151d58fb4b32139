"""Digests stop damaged model files; policy and self-test stop signed ones."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from simulator.campaigns.mutations.mutated_models import run_mutated_models
from simulator.campaigns.mutations.onnx_mutations import mutate_onnx
from tests.kits.releases import spot_model
from tests.kits.selftest import labelled_release

if TYPE_CHECKING:
    from pathlib import Path


def test_no_changed_file_is_loaded_and_a_signed_one_passes_only_when_it_judges_as_before(tmp_path: Path) -> None:
    release = labelled_release(tmp_path / "good")

    found = run_mutated_models(release=release, files=300, signed=120, children=2, seed=11, work_dir=tmp_path)

    assert found.is_clean
    assert found.loaded == 0
    assert found.refused + found.harmless + found.different + found.crashed + found.hung == 122
    assert found.different == 0
    assert found.reasons["contract/graph_policy"] > 0
    assert found.reasons["contract/interface"] > 0


def test_a_mutation_always_changes_something_and_replays() -> None:
    honest = spot_model().SerializeToString()
    for index in range(200):
        changed = mutate_onnx(honest, random.Random(index))
        assert changed != honest
        assert changed == mutate_onnx(honest, random.Random(index))
