"""Damaged metadata always ends in an answer and is never accepted."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from simulator.campaigns.mutations.json_mutations import mutate_json
from simulator.campaigns.mutations.mutated_metadata import run_mutated_metadata
from tests.kits.releases import write_release

if TYPE_CHECKING:
    from pathlib import Path


def test_of_300_mutated_metadata_files_none_crashes_the_fetch_and_none_is_believed(tmp_path: Path) -> None:
    release = write_release(tmp_path / "release")

    result = run_mutated_metadata(release=release, files=300, children=4, seed=20, work_dir=tmp_path)

    assert result.is_clean, result
    assert result.refused + result.harmless == 304
    assert result.refused > 200
    assert {"arbitrary_software", "key_compromise", "metadata_invalid"} <= set(result.reasons)


def test_a_mutation_always_changes_something_and_replays_from_its_seed() -> None:
    data, others = b'{"signed": {"version": 1, "meta": {"a": [1, 2]}}}', [b"{}", b'{"signed": 1}']

    once = [mutate_json(data, others, random.Random(seed)) for seed in range(300)]

    assert data not in once
    assert once == [mutate_json(data, others, random.Random(seed)) for seed in range(300)]
