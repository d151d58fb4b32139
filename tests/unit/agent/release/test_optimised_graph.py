"""The optimised graph of this machine is used where it fits and never trusted otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from agent.adapters import onnx as adapter
from agent.adapters.onnx import OnnxModel, optimised_file_name, save_optimised, warm_up
from agent.errors import IntegrityError
from agent.release import optimised_graph
from tests.kits.releases import spot_images, write_release

if TYPE_CHECKING:
    from pathlib import Path

    from agent.records import Pixels, Scores


@pytest.fixture
def release(tmp_path: Path) -> Path:
    return write_release(tmp_path / "release")


def inspected(model: OnnxModel) -> Scores:
    return model.infer(spot_images()[0])


def loads(caplog: pytest.LogCaptureFixture) -> bool:
    """Was it loaded without a word of falling back?"""
    return "loading model.onnx" not in caplog.text


def test_it_gives_the_same_bits(release: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    path, digest = save_optimised(release)

    quick = inspected(OnnxModel.load(release, optimised=path, optimised_sha256=digest))

    assert loads(caplog)
    assert np.array_equal(quick.scores, inspected(OnnxModel.load(release)).scores)


def test_a_damaged_one_is_passed_over(release: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, digest = save_optimised(release)
    path.write_bytes(path.read_bytes()[:-1])

    model = OnnxModel.load(release, optimised=path, optimised_sha256=digest)

    assert not loads(caplog)
    assert len(inspected(model).scores) == 8


def test_one_with_its_digest_that_the_runtime_refuses_is_passed_over(
    release: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, _ = save_optimised(release)
    path.write_bytes(b"")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

    OnnxModel.load(release, optimised=path, optimised_sha256=empty)

    assert not loads(caplog)


def test_a_missing_one_and_a_link_are_passed_over(release: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, digest = save_optimised(release)
    path.rename(release / "elsewhere")
    OnnxModel.load(release, optimised=path, optimised_sha256=digest)
    assert not loads(caplog)

    caplog.clear()
    path.symlink_to(release / "elsewhere")
    OnnxModel.load(release, optimised=path, optimised_sha256=digest)
    assert not loads(caplog)


def test_one_of_another_runtime_is_passed_over(
    release: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    path, digest = save_optimised(release)
    monkeypatch.setattr(adapter, "_RUNTIME", "onnxruntime 0.0.1")

    OnnxModel.load(release, optimised=path, optimised_sha256=digest)

    assert not loads(caplog)


def test_the_releases_own_bytes_are_still_checked(release: Path) -> None:
    path, digest = save_optimised(release)
    (release / "model.onnx").write_bytes(b"x")

    with pytest.raises(IntegrityError):
        OnnxModel.load(release, optimised=path, optimised_sha256=digest)


def test_the_name_says_model_runtime_options_and_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {
        optimised_graph.optimised_graph_name("a" * 64, runtime="r 1", options="o"),
        optimised_graph.optimised_graph_name("b" * 64, runtime="r 1", options="o"),
        optimised_graph.optimised_graph_name("a" * 64, runtime="r 2", options="o"),
        optimised_graph.optimised_graph_name("a" * 64, runtime="r 1", options="p"),
    }
    monkeypatch.setattr(optimised_graph, "cpu_identity", lambda: "another processor")
    names.add(optimised_graph.optimised_graph_name("a" * 64, runtime="r 1", options="o"))

    assert len(names) == 5
    assert optimised_file_name("a" * 64).startswith("optimised-")


def test_this_processor_has_an_identity() -> None:
    assert len(optimised_graph.cpu_identity().split()[-1]) == 16


def test_warming_runs_every_batch_size_and_rests_between(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = OnnxModel.load(release)
    sizes: list[int] = []
    rests: list[float] = []
    infer = model.infer

    def counted(batch: Pixels) -> Scores:
        sizes.append(len(batch))
        return infer(batch)

    monkeypatch.setattr(model, "infer", counted)
    monkeypatch.setattr("agent.adapters.onnx.time.sleep", rests.append)

    warm_up(model, 5, pause_s=0.25)

    assert sorted(sizes) == [1, 2, 3, 4, 5]
    assert rests == [0.25] * 5
