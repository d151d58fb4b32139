"""A damaged or hostile model file is always a release error that names the file, never a crash."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, external_data_helper, helper

from agent.adapters.onnx import OnnxModel
from agent.errors import ContractError, IntegrityError, ManifestError, ReleaseError
from tests.kits.releases import golden_arrays, spot_images, spot_model, write_release

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HONEST = spot_model().SerializeToString()


def refusal(release: Path, kind: type[ReleaseError]) -> str:
    with pytest.raises(kind) as caught:
        OnnxModel.load(release)
    return str(caught.value)


def test_the_honest_release_loads_and_judges_as_its_golden_set_says(tmp_path: Path) -> None:
    model = OnnxModel.load(write_release(tmp_path))
    images, labels = spot_images()
    golden = golden_arrays(images, labels)

    result = model.infer(images)

    assert np.allclose(result.scores, golden["scores"], atol=1e-5)
    assert result.evidence is not None
    assert np.allclose(result.evidence, golden["evidence"], atol=1e-5)
    assert not model.identity.trusted


# --- what the digest catches ------------------------------------------------------------------------------------------


def test_one_changed_bit_anywhere_is_noticed(tmp_path: Path) -> None:
    release = write_release(tmp_path)
    rng = np.random.default_rng(1)
    for position in rng.integers(0, len(HONEST), 64):
        data = bytearray(HONEST)
        data[position] ^= 1 << int(rng.integers(0, 8))
        (release / "model.onnx").write_bytes(data)
        assert "is not the file that the manifest names" in refusal(release, IntegrityError)


@pytest.mark.parametrize("length", [0, 1, len(HONEST) // 2, len(HONEST) - 1])
def test_a_cut_file_is_noticed(tmp_path: Path, length: int) -> None:
    release = write_release(tmp_path)
    (release / "model.onnx").write_bytes(HONEST[:length])

    assert str(release / "model.onnx") in refusal(release, IntegrityError)


def test_a_file_that_grew_is_noticed_without_reading_all_of_it(tmp_path: Path) -> None:
    release = write_release(tmp_path)
    with (release / "model.onnx").open("ab") as file:
        file.truncate(64 * 1024**3)  # sparse: reading it all would take the machine's memory

    refusal(release, IntegrityError)


@pytest.mark.parametrize("name", ["model.onnx", "manifest.json"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    release = write_release(tmp_path)
    (release / name).unlink()

    assert name in refusal(release, ReleaseError)


def test_a_directory_in_place_of_the_model_is_refused(tmp_path: Path) -> None:
    release = write_release(tmp_path)
    (release / "model.onnx").unlink()
    (release / "model.onnx").mkdir()

    refusal(release, IntegrityError)


# --- bytes that their own manifest vouches for ------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_mutated_models_never_do_more_than_raise_a_release_error(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    loaded = 0
    for _ in range(40):
        data = bytearray(HONEST)
        for position in rng.integers(0, len(data), int(rng.integers(1, 6))):
            data[position] = int(rng.integers(0, 256))
        try:
            OnnxModel.load(write_release(tmp_path, model=bytes(data), golden=b"g"))
            loaded += 1
        except ReleaseError as error:
            assert "\n" not in str(error).strip()  # noqa: PT017 - whichever error it is, it is one line
    assert loaded < 40


@pytest.mark.parametrize("model", [b"x", b"PK\x03\x04 not a model", b"\x00" * 4_096, HONEST[: len(HONEST) // 2]])
def test_what_is_no_model_is_refused(tmp_path: Path, model: bytes) -> None:
    assert str(tmp_path / "model.onnx") in refusal(write_release(tmp_path, model=model), ContractError)


def with_input(name: str, kind: int, shape: list[Any]) -> ModelProto:
    model = spot_model()
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info(name, kind, shape))
    for node in model.graph.node:
        node.input[:] = [name if i == "image" else i for i in node.input]
    return model


def two_inputs() -> ModelProto:
    model = spot_model()
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))
    return model


def without_evidence() -> ModelProto:
    model = spot_model()
    del model.graph.output[1]
    return model


def renamed_scores() -> ModelProto:
    model = spot_model()
    model.graph.node[-1].output[0] = "probabilities"
    model.graph.output[0].name = "probabilities"
    return model


@pytest.mark.parametrize(
    ("build", "finding"),
    [
        (
            lambda: spot_model(side=64),
            "input is tensor(uint8) ['N', 64, 64, 1], expected tensor(uint8) [N, [32, 32, 1]]",
        ),
        (lambda: spot_model(channels=3), "expected tensor(uint8) [N, [32, 32, 1]]"),
        (lambda: spot_model(batch=1), "the batch dimension is fixed to 1, expected a dynamic N"),
        (lambda: spot_model(classes=3), "scores are float32 [2, 3], expected float32 [N, 2]"),
        (lambda: with_input("picture", TensorProto.UINT8, ["N", 32, 32, 1]), "expected exactly ['image']"),
        (lambda: with_input("image", TensorProto.FLOAT, ["N", 32, 32, 1]), "input is tensor(float)"),
        (two_inputs, "inputs are ['image', 'more'], expected exactly ['image']"),
        (without_evidence, "outputs are ['scores'], missing ['evidence']"),
        (renamed_scores, "missing ['scores']"),
    ],
)
def test_another_interface_than_the_manifest_says_is_refused_by_name(
    tmp_path: Path, build: Callable[[], ModelProto], finding: str
) -> None:
    release = write_release(tmp_path, model=build().SerializeToString())

    assert finding in refusal(release, ContractError)


def test_a_dimension_whose_name_is_no_text_is_refused(tmp_path: Path) -> None:
    model = HONEST.replace(b"\x12\x01N", b"\x12\x01\xce", 1)  # dim_param of the input
    assert model != HONEST

    assert "no UTF-8 text" in refusal(write_release(tmp_path, model=model), ContractError)


def test_a_manifest_of_other_bytes_is_refused(tmp_path: Path) -> None:
    release = write_release(tmp_path)
    tree = json.loads((release / "manifest.json").read_text())
    tree["files"]["model.onnx"]["sha256"] = "f" * 64
    (release / "manifest.json").write_text(json.dumps(tree))

    assert "expected ffffffffffff..." in refusal(release, IntegrityError)


def test_a_manifest_that_is_no_json_is_refused(tmp_path: Path) -> None:
    release = write_release(tmp_path)
    (release / "manifest.json").write_bytes(b"\x00" * 100)

    refusal(release, ManifestError)


# --- external data ----------------------------------------------------------------------------------------------------


def external_model(folder: Path, location: str) -> bytes:
    """The honest model with its weights in another file."""
    model = onnx.load_model_from_string(HONEST)
    external_data_helper.convert_model_to_external_data(model, location=location, size_threshold=0)
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save_model(model, folder / "exported.onnx")
    data = (folder / "exported.onnx").read_bytes()
    (folder / "exported.onnx").unlink()
    return data


def test_weights_in_another_file_are_refused_even_when_it_lies_beside_the_model(tmp_path: Path) -> None:
    release = write_release(tmp_path, model=external_model(tmp_path, "weights.bin"))
    assert (tmp_path / "weights.bin").exists()

    assert "external data" in refusal(release, ContractError)


def test_a_hardlink_to_a_secret_is_refused_as_any_external_data(tmp_path: Path) -> None:
    release = tmp_path / "release"
    data = external_model(release, "weights.bin")
    secret = tmp_path / "secret"
    secret.write_bytes(os.urandom(4_096))
    (release / "weights.bin").unlink()
    os.link(secret, release / "weights.bin")  # the runtime itself would read it

    assert "external data" in refusal(write_release(release, model=data), ContractError)


def test_a_path_out_of_the_release_is_refused_before_anything_is_opened(tmp_path: Path) -> None:
    model = spot_model()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../../etc/passwd")

    assert "external data" in refusal(write_release(tmp_path, model=model.SerializeToString()), ContractError)


# --- graphs that would hang or fill the machine -----------------------------------------------------------------------


def test_an_endless_loop_is_refused_before_the_runtime_sees_it(tmp_path: Path) -> None:
    model = spot_model()
    body = helper.make_graph([helper.make_node("Identity", ["c"], ["d"])], "body", [], [])
    model.graph.node.append(helper.make_node("Loop", ["", "", "image"], ["x"], body=body))

    assert "subgraph" in refusal(write_release(tmp_path, model=model.SerializeToString()), ContractError)


def test_a_chain_of_50000_nodes_is_refused_quickly(tmp_path: Path) -> None:
    model = spot_model()
    model.graph.node.extend(helper.make_node("Relu", [f"x{i}"], [f"x{i + 1}"]) for i in range(50_000))

    release = write_release(tmp_path, model=model.SerializeToString())

    assert "more than 5,000 nodes" in refusal(release, ContractError)


def test_a_custom_operator_is_refused_by_its_name(tmp_path: Path) -> None:
    model = spot_model()
    model.graph.node.append(helper.make_node("Shell", ["image"], ["x"], domain="com.example"))

    assert "com.example:Shell" in refusal(write_release(tmp_path, model=model.SerializeToString()), ContractError)


def test_a_tensor_that_claims_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    model = spot_model()
    model.graph.initializer[3].dims[:] = [1 << 31, 1 << 31]

    refusal(write_release(tmp_path, model=model.SerializeToString()), ContractError)
