from __future__ import annotations

import numpy as np
import onnx
import pytest

from agent.errors import ContractError
from agent.release import graph_policy
from pipeline.evaluation import model_runner
from pipeline.evaluation.model_runner import FLOAT_INPUT
from pipeline.training import quantiser
from pipeline.training.network_weights import ClassifierHead, ConvWeights, EvidenceHead, NetworkWeights
from pipeline.training.onnx_export import build_float_model, evidence_shape, to_bytes

CLASSES = ("ok", "chip", "scratch")
DEFECTS = frozenset({"chip", "scratch"})


def make_plain(head: str, *, side: int = 32, channels: int = 3) -> NetworkWeights:
    random = np.random.default_rng(5)

    def conv(out: int, inside: int, kernel: int, stride: int, padding: int) -> ConvWeights:
        spread = (2.0 / (inside * kernel * kernel)) ** 0.5
        weight = random.normal(0, spread, (out, inside, kernel, kernel)).astype(np.float32)
        return ConvWeights(weight, random.normal(0, 0.1, out).astype(np.float32), stride, padding)

    convs = (conv(32, channels, 4, 4, 0), conv(32, 32, 3, 2, 1))
    if head == "evidence":
        made: ClassifierHead | EvidenceHead = EvidenceHead(*_weights(random, (3, 32, 1, 1)))
    else:
        made = ClassifierHead(*_weights(random, (3, 64)), "sigmoid" if head == "sigmoid" else "softmax")
    return NetworkWeights(side, side, channels, convs, made, CLASSES, DEFECTS)


def _weights(random: np.random.Generator, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    return random.normal(0, 0.3, shape).astype(np.float32), random.normal(0, 0.1, shape[0]).astype(np.float32)


def pictures(count: int, plain: NetworkWeights, seed: int = 1) -> np.ndarray:
    shape = (count, plain.height, plain.width, plain.channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def int8_bytes(plain: NetworkWeights, **choice: object) -> bytes:
    ranges = quantiser.calibrate_ranges(plain, pictures(24, plain))
    return to_bytes(quantiser.build_int8_model(plain, ranges, **choice))  # type: ignore[arg-type]


@pytest.mark.parametrize("head", ["softmax", "sigmoid", "evidence"])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_int8_graph_meets_the_model_contract(head: str, channels: int) -> None:
    plain = make_plain(head, channels=channels)
    session = model_runner.single_thread_session(int8_bytes(plain))

    (image,) = session.get_inputs()
    assert (image.name, image.type, image.shape) == ("image", "tensor(uint8)", ["N", 32, 32, channels])
    for count in (1, 3):
        results = session.run(None, {"image": pictures(count, plain)})
        assert results[0].dtype == np.float32
        assert results[0].shape == (count, 3)
        assert (results[0] >= 0).all()
        assert (results[0] <= 1).all()
        if head == "evidence":
            assert results[1].shape == (count, *evidence_shape(plain))


@pytest.mark.parametrize("head", ["softmax", "evidence"])
def test_no_convolution_stays_in_float(head: str) -> None:
    plain = make_plain(head)
    operators = quantiser.check_optimised(int8_bytes(plain), plain)
    assert operators["Conv"] == 0
    assert operators["QLinearConv"] == (3 if head == "evidence" else 2)


def test_a_graph_with_float_convolutions_is_refused_naming_them() -> None:
    plain = make_plain("softmax")
    with pytest.raises(ContractError, match="QLinearConv and no Conv are expected"):
        quantiser.check_optimised(to_bytes(build_float_model(plain)), plain)


@pytest.mark.parametrize("head", ["softmax", "evidence"])
def test_folding_the_stem_changes_no_bit(head: str) -> None:
    plain = make_plain(head)
    batch = pictures(8, plain, seed=9)
    folded, straight = (
        model_runner.single_thread_session(int8_bytes(plain, fold=fold)).run(None, {"image": batch})
        for fold in (True, False)
    )
    for one, other in zip(folded, straight, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("head", ["softmax", "sigmoid", "evidence"])
def test_int8_scores_are_near_those_of_the_float_export(head: str) -> None:
    plain = make_plain(head)
    batch = pictures(16, plain, seed=2)
    exact = model_runner.single_thread_session(to_bytes(build_float_model(plain)))
    wanted = exact.run(["scores"], {FLOAT_INPUT: model_runner.to_float_input(batch)})[0]
    found = model_runner.single_thread_session(int8_bytes(plain)).run(["scores"], {"image": batch})[0]
    assert np.abs(wanted - found).max() < 0.05


def test_the_evidence_head_orders_scores_by_class_and_complements_the_good_one() -> None:
    plain = make_plain("evidence")
    session = model_runner.single_thread_session(to_bytes(build_float_model(plain)))
    scores, evidence = session.run(
        ["scores", "evidence"], {FLOAT_INPUT: model_runner.to_float_input(pictures(4, plain))}
    )
    np.testing.assert_allclose(scores[:, 0], 1.0 - evidence.max(axis=(1, 2)), atol=1e-6)


@pytest.mark.parametrize(("target", "limit"), [("any", 64), ("avx2", 64), ("vnni", 127)])
def test_weights_keep_the_range_that_the_target_cpu_can_add_up(target: str, limit: int) -> None:
    model = onnx.load_from_string(int8_bytes(make_plain("evidence"), target_cpu=target))
    weights = [onnx.numpy_helper.to_array(t) for t in model.graph.initializer if t.name.endswith("_w")]
    weights = [w for w in weights if w.dtype == np.int8]
    assert len(weights) == 3
    assert max(int(np.abs(w.astype(int)).max()) for w in weights) == limit


def test_equal_weights_give_equal_bytes() -> None:
    assert int8_bytes(make_plain("evidence")) == int8_bytes(make_plain("evidence"))


@pytest.mark.parametrize("head", ["softmax", "sigmoid", "evidence"])
def test_the_devices_graph_policy_accepts_what_is_written(head: str) -> None:
    graph_policy.check_graph(int8_bytes(make_plain(head)), source="model.onnx")


def test_a_channel_without_weights_does_not_divide_by_zero() -> None:
    plain = make_plain("softmax")
    plain.convs[1].weight[3] = 0.0
    scores = model_runner.single_thread_session(int8_bytes(plain)).run(["scores"], {"image": pictures(2, plain)})[0]
    assert np.isfinite(scores).all()
