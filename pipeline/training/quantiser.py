"""Quantises the float network to the int8 graph of the model contract.

QDQ form, activations uint8, weights int8 per output channel, ranges by minimum and maximum over a calibration set.
The graph is written directly rather than by onnxruntime.quantization: the family is a chain, and this way the bytes
depend only on weights and ranges, the input's scale is exact, the two pools have ranges of their own, and the
small heads stay float.

The contract's input is uint8 [N, H, W, C]; the bytes are the quantised tensor, with scale 1/128 and zero point 128.
The stem is folded: [N, H, W, C] -> [N, H, W/4, 4C] costs nothing, its kernel becomes 4x1, and the sums are the same
integers. A ReLU is the clip at 0 of a quantisation whose zero point is 0, so there is no Relu node.

`target_cpu`: on x86 without VNNI, uint8 x int8 products are added in pairs in 16 bits and saturate with full-range
weights. `any` (the default) and `avx2` keep weights within +-64, which cannot saturate (2 * 255 * 64 < 2^15), costs no
speed and gives the same integers on every CPU. `vnni` uses +-127, for CPUs with VNNI or dot-product instructions only.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import onnx
import onnxruntime as ort
from onnx import ModelProto, TensorProto, helper

from agent.errors import ContractError
from pipeline.evaluation.model_runner import FLOAT_INPUT, INPUT_SCALE, INPUT_ZERO, single_thread_session, to_float_input
from pipeline.training.network_weights import ClassifierHead, ConvWeights
from pipeline.training.onnx_export import (
    GraphBuilder,
    add_classifier_head,
    add_evidence_head,
    build_float_model,
    conv_attributes,
    evidence_shape,
    output_infos,
    to_bytes,
)

if TYPE_CHECKING:
    import numpy.typing as npt

    from agent.records import Pixels
    from pipeline.training.network_weights import NetworkWeights

TargetCpu = Literal["any", "avx2", "vnni"]
WEIGHT_LIMIT: Final[dict[str, int]] = {"any": 64, "avx2": 64, "vnni": 127}
LOGIT_LIMIT: Final = 10.0  # beyond it a sigmoid is 0 or 1; a wider range would waste the 256 steps
_BATCH: Final = 16


@dataclass(frozen=True, slots=True)
class ActivationRanges:
    """Ranges from the calibration: the largest value after each ReLU, and the span of `means` or `logit_map`."""

    relu: tuple[float, ...]
    head: tuple[float, float]


def calibrate_ranges(plain: NetworkWeights, pixels: Pixels) -> ActivationRanges:
    """Run `pixels` [N, H, W, C] uint8 through the float network and return the ranges of its maps."""
    session = single_thread_session(to_bytes(build_float_model(plain, taps=True)))
    names = [f"relu{i}" for i in range(len(plain.convs))]
    names.append("means" if isinstance(plain.head, ClassifierHead) else "logit_map")
    low, high = np.full(len(names), np.inf), np.full(len(names), -np.inf)
    for start in range(0, len(pixels), _BATCH):
        for i, value in enumerate(session.run(names, {FLOAT_INPUT: to_float_input(pixels[start : start + _BATCH])})):
            low[i], high[i] = min(low[i], value.min()), max(high[i], value.max())
    return ActivationRanges(tuple(float(v) for v in high[:-1]), (float(low[-1]), float(high[-1])))


def fold_stem(weight: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """[out, C, 4, 4] -> [out, 4 * C, 4, 1]: four neighbouring pixels of a row become the channels of one."""
    out, channels, height, width = weight.shape
    return weight.transpose(0, 3, 1, 2).reshape(out, width * channels, height, 1)


class _Quantiser:
    """Writes the int8 graph; `graph` grows with each call."""

    def __init__(self, limit: int) -> None:
        self.graph = GraphBuilder()
        self._limit = limit  # largest absolute value of a quantised weight

    def quantise(self, value: str, name: str, *, scale: float, zero: int) -> str:
        """Float tensor -> uint8 tensor `name`; remembers scale and zero point under that name."""
        self.parameters(name, scale=scale, zero=zero)
        return self.graph.add("QuantizeLinear", [value, f"{name}_scale", f"{name}_zero"], name)

    def parameters(self, name: str, *, scale: float, zero: int) -> None:
        """Store scale and zero point of the uint8 tensor `name`."""
        self.graph.constant(f"{name}_scale", np.float32(scale))
        self.graph.constant(f"{name}_zero", np.uint8(zero))

    def dequantise(self, name: str, output: str) -> str:
        """uint8 tensor `name` -> float tensor."""
        return self.graph.add("DequantizeLinear", [name, f"{name}_scale", f"{name}_zero"], output)

    def conv(self, source: str, source_scale: float, conv: ConvWeights, name: str, *, folded: bool = False) -> str:
        """Add a convolution on the uint8 tensor `source`; returns its float output, to be quantised by the caller."""
        flat = conv.weight.reshape(len(conv.weight), -1).astype(np.float64)
        largest = np.abs(flat).max(axis=1)
        scales = np.where(largest > 0, largest / self._limit, 1.0).astype(np.float32)
        whole = np.rint(conv.weight / scales[:, None, None, None]).clip(-self._limit, self._limit).astype(np.int8)
        bias_scales = (np.float32(source_scale) * scales).astype(np.float32)
        bias = np.rint(conv.bias / bias_scales.astype(np.float64)).clip(-(2**31), 2**31 - 1).astype(np.int32)
        stride = (conv.stride, conv.stride)
        if folded:
            whole, stride = np.ascontiguousarray(fold_stem(whole)).astype(np.int8), (conv.stride, 1)
        constant, zeros = self.graph.constant, np.zeros(len(scales))
        weight = [constant(f"{name}_w", whole), constant(f"{name}_w_scale", scales)]
        weight.append(constant(f"{name}_w_zero", zeros.astype(np.int8)))
        offset = [constant(f"{name}_b", bias), constant(f"{name}_b_scale", bias_scales)]
        offset.append(constant(f"{name}_b_zero", zeros.astype(np.int32)))
        names = [
            self.dequantise(source, f"{name}_in"),
            self.graph.add("DequantizeLinear", weight, f"{name}_w_float", axis=0),
            self.graph.add("DequantizeLinear", offset, f"{name}_b_float", axis=0),
        ]
        kernel = (whole.shape[2], whole.shape[3])
        return self.graph.add("Conv", names, f"{name}_out", **conv_attributes(kernel, stride, conv.padding))


def _scale_and_zero(low: float, high: float) -> tuple[float, int]:
    """Scale and zero point of a uint8 range that contains 0."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / 255.0 or 1.0
    return scale, round(-low / scale)


def build_int8_model(
    plain: NetworkWeights, ranges: ActivationRanges, *, target_cpu: TargetCpu = "any", fold: bool = True
) -> ModelProto:
    """Build the int8 graph of the model contract: `image` uint8 [N, H, W, C] -> `scores`, and `evidence`.

    `fold` is there for the test that folding the stem changes no bit.
    """
    writer = _Quantiser(WEIGHT_LIMIT[target_cpu])
    graph, stem = writer.graph, plain.convs[0]
    image = "image"
    if fold:
        side = stem.stride
        shape = np.array([0, plain.height, plain.width // side, side * plain.channels], np.int64)
        image = graph.add("Reshape", ["image", graph.constant("folded_shape", shape)], "folded")
    value, scale = graph.add("Transpose", [image], "pixels", perm=[0, 3, 1, 2]), INPUT_SCALE
    writer.parameters(value, scale=INPUT_SCALE, zero=INPUT_ZERO)
    for i, conv in enumerate(plain.convs):
        out = writer.conv(value, scale, conv, f"conv{i}", folded=fold and i == 0)
        scale = _scale_and_zero(0.0, ranges.relu[i])[0]
        value = writer.quantise(out, f"relu{i}", scale=scale, zero=0)
    if isinstance(plain.head, ClassifierHead):
        maximum = graph.add(
            "MaxPool", [writer.dequantise(value, "max_in")], "max_out", kernel_shape=list(evidence_shape(plain))
        )
        maxima = writer.quantise(maximum, "maxima_q", scale=scale, zero=0)
        mean = graph.add("GlobalAveragePool", [writer.dequantise(value, "mean_in")], "mean_out")
        means = writer.quantise(mean, "means_q", scale=_scale_and_zero(*ranges.head)[0], zero=0)
        add_classifier_head(graph, plain.head, writer.dequantise(maxima, "maxima"), writer.dequantise(means, "means"))
    else:
        _evidence_head(writer, plain, value, scale, ranges)
    shape_in: list[str | int | None] = ["N", plain.height, plain.width, plain.channels]
    return graph.model([helper.make_tensor_value_info("image", TensorProto.UINT8, shape_in)], output_infos(plain))


def _evidence_head(
    writer: _Quantiser, plain: NetworkWeights, value: str, scale: float, ranges: ActivationRanges
) -> None:
    head = ConvWeights(plain.head.weight, plain.head.bias, 1, 0)
    out = writer.conv(value, scale, head, "head")
    low, high = max(ranges.head[0], -LOGIT_LIMIT), min(ranges.head[1], LOGIT_LIMIT)
    head_scale, zero = _scale_and_zero(low, high)
    logits = writer.quantise(out, "logits_q", scale=head_scale, zero=zero)
    pooled = writer.graph.add(
        "MaxPool", [writer.dequantise(logits, "pool_in")], "pool_out", kernel_shape=list(evidence_shape(plain))
    )
    maxima = writer.quantise(pooled, "maxima_q", scale=head_scale, zero=zero)
    add_evidence_head(writer.graph, plain, writer.dequantise(logits, "logit_map"), writer.dequantise(maxima, "maxima"))


def count_optimised_operators(model: bytes) -> Counter[str]:
    """Count the operators of the graph after the optimisation by ONNX Runtime on this machine."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimised.onnx"
        options = ort.SessionOptions()
        options.optimized_model_filepath = str(path)
        options.log_severity_level = 3
        ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return Counter(node.op_type for node in onnx.load(path).graph.node)


def check_optimised(model: bytes, plain: NetworkWeights) -> Counter[str]:
    """Check that every convolution runs in int8. Raises ContractError naming the operators that were found."""
    operators = count_optimised_operators(model)
    expected = len(plain.convs) + (0 if isinstance(plain.head, ClassifierHead) else 1)
    if operators["Conv"] or operators["FusedConv"] or operators["QLinearConv"] != expected:
        raise ContractError(
            f"after optimisation by ONNX Runtime {ort.__version__} the graph holds {dict(operators)}: {expected} "
            "QLinearConv and no Conv are expected. The runtime does not fuse it; use that of requirements/."
        )
    return operators
