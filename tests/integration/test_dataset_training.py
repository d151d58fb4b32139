"""A version of a data set trains with `kensa train`, rare classes as often as common ones."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from agent.release import manifest as manifests
from pipeline import model_cli
from pipeline.cloud.storage import open_storage
from pipeline.dataset_reader import Dataset
from pipeline.datasets.label_store import LabelStore
from tests.kits.cloud.datasets import NOW, Line, build, label
from tests.kits.requirements import require

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.train, pytest.mark.timeout(600)]


@pytest.fixture(autouse=True)
def _torch() -> None:
    try:
        import torch  # noqa: F401, PLC0415
    except ImportError:
        require(condition=False, what_is_missing="torch", remedy="install the extra `train`")


def test_a_built_version_becomes_a_release_whose_lineage_names_it(tmp_path: Path) -> None:
    storage = open_storage(tmp_path / "plant")
    line = Line(storage)
    for seq in range(60):
        line.keep(seq)
    labels = [label(key, "spot" if i % 5 == 0 else "ok") for i, key in enumerate(line.keys)]
    LabelStore(storage, now=lambda: NOW).append(labels)
    build(storage, storage, None, tmp_path / "v1")

    arguments = ["--data", str(tmp_path / "v1"), "--out", str(tmp_path / "release"), "--net", "tiny", "--epochs", "2"]
    assert model_cli.train([*arguments, "--threads", "1", "--json"]) == 0

    made = manifests.read_manifest(tmp_path / "release")
    assert made.classes == ("ok", "spot")
    assert made.lineage.dataset_sha256 == Dataset.load(tmp_path / "v1").digest
    assert json.loads((tmp_path / "v1" / "dataset.json").read_bytes())["name"] == "v1"


def test_batches_draw_by_weight_and_all_alike_without() -> None:
    import torch  # noqa: PLC0415

    from pipeline.training.training_loop import index_batches  # noqa: PLC0415

    equal = torch.full((10,), 0.5)
    drawn = torch.cat(list(index_batches(equal, 5, torch.Generator().manual_seed(1))))
    assert sorted(drawn.tolist()) == list(range(10))
    weights = torch.tensor([10.0] * 10 + [10 / 9] * 90)  # ten rare ones, as often as ninety others
    order = torch.cat(
        [b for seed in range(20) for b in index_batches(weights, 10, torch.Generator().manual_seed(seed))]
    )
    assert len(order) == 2_000
    assert 0.45 < float((order < 10).float().mean()) < 0.55
