"""Builds ONNX graphs from plain arrays, node by node: equal weights give equal bytes.

`build_float_model` is the float export: input `input` float32 [N, C, H, W], (byte - 128) / 128, as is usual for
public networks. It is the reference for the quantised model and is never sent to a device. `add_classifier_head` and
`add_evidence_head` write the heads of both models in float: they are too small to gain from int8.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from onnx import ModelProto, TensorProto, checker, helper, numpy_helper

from pipeline.evaluation.model_runner import FLOAT_INPUT
from pipeline.training.network_weights import ClassifierHead, EvidenceHead

if TYPE_CHECKING:
    from onnx import NodeProto, ValueInfoProto

    from pipeline.training.network_weights import NetworkWeights

OPSET: Final = 17
IR_VERSION: Final = 9


class GraphBuilder:
    """Collects nodes and constants; every name is unique and follows from the order of calls alone."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []

    def add(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Append one node with one output and return the output's name."""
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def constant(self, name: str, value: Any) -> str:
        """Store an array (of its own dtype) and return its name."""
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def model(self, inputs: list[ValueInfoProto], outputs: list[ValueInfoProto]) -> ModelProto:
        """Finish and check the graph."""
        graph = helper.make_graph(self.nodes, "kensa", inputs, outputs, self.constants)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        made.producer_name = "kensa"
        checker.check_model(made, full_check=True)
        return made


def to_bytes(model: ModelProto) -> bytes:
    """Serialise; equal models give equal bytes."""
    return model.SerializeToString(deterministic=True)


def conv_attributes(kernel: tuple[int, int], stride: tuple[int, int], padding: int) -> dict[str, list[int]]:
    """ONNX attributes of a convolution with equal padding on all sides."""
    return {"kernel_shape": list(kernel), "strides": list(stride), "pads": [padding] * 4}


def evidence_shape(plain: NetworkWeights) -> tuple[int, int]:
    """(height, width) of the last feature map."""
    height, width = plain.height, plain.width
    for conv in plain.convs:
        kernel_h, kernel_w = conv.weight.shape[2:]
        height = (height + 2 * conv.padding - kernel_h) // conv.stride + 1
        width = (width + 2 * conv.padding - kernel_w) // conv.stride + 1
    return height, width


def output_infos(plain: NetworkWeights) -> list[ValueInfoProto]:
    """The outputs of the model contract: `scores` [N, classes], and `evidence` [N, h, w] for an evidence head."""
    outputs = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", len(plain.classes)])]
    if isinstance(plain.head, EvidenceHead):
        outputs.append(helper.make_tensor_value_info("evidence", TensorProto.FLOAT, ["N", *evidence_shape(plain)]))
    return outputs


def add_classifier_head(graph: GraphBuilder, head: ClassifierHead, maxima: str, means: str) -> None:
    """[N, F, 1, 1] maxima and means -> `scores`."""
    graph.add("Concat", [maxima, means], "pooled", axis=1)
    graph.add("Flatten", ["pooled"], "features")
    weight, bias = graph.constant("head_w", head.weight), graph.constant("head_b", head.bias)
    graph.add("Gemm", ["features", weight, bias], "logits", transB=1)
    if head.activation == "softmax":
        graph.add("Softmax", ["logits"], "scores", axis=1)
    else:
        graph.add("Sigmoid", ["logits"], "scores")


def add_evidence_head(graph: GraphBuilder, plain: NetworkWeights, logits: str, maxima: str) -> None:
    """Logit map [N, 1 + defects, h, w] and its maxima [N, 1 + defects, 1, 1] -> `scores`, `evidence`.

    1 - sigmoid(x) = sigmoid(-x), so one product with a matrix of 0, 1 and -1 puts the maxima in the classes' order.
    """
    order = np.zeros((1 + len(plain.defect_rows), len(plain.classes)), np.float32)
    order[0] = -1.0
    for channel, row in enumerate(plain.defect_rows, start=1):
        order[:, row] = 0.0
        order[channel, row] = 1.0
    graph.add("Flatten", [maxima], "flat_maxima")
    graph.add("MatMul", ["flat_maxima", graph.constant("order", order)], "ordered")
    graph.add("Sigmoid", ["ordered"], "scores")
    bounds = [graph.constant(f"first_{name}", np.array([value], np.int64)) for name, value in (("from", 0), ("to", 1))]
    axis = graph.constant("channel_axis", np.array([1], np.int64))
    graph.add("Slice", [logits, *bounds, axis], "evidence_logits")
    graph.add("Sigmoid", ["evidence_logits"], "evidence_map")
    graph.add("Squeeze", ["evidence_map", axis], "evidence")


def build_float_model(plain: NetworkWeights, *, taps: bool = False) -> ModelProto:
    """Build the float graph. With `taps` the maps whose ranges quantisation needs are outputs too.

    The taps are `relu0`, `relu1` ..., then `means` or `logit_map`.
    """
    graph = GraphBuilder()
    value, taps_made = FLOAT_INPUT, []
    for i, conv in enumerate(plain.convs):
        names = [value, graph.constant(f"w{i}", conv.weight), graph.constant(f"b{i}", conv.bias)]
        kernel = (conv.weight.shape[2], conv.weight.shape[3])
        graph.add("Conv", names, f"conv{i}", **conv_attributes(kernel, (conv.stride, conv.stride), conv.padding))
        value = graph.add("Relu", [f"conv{i}"], f"relu{i}")
        taps_made.append(value)
    if isinstance(plain.head, ClassifierHead):
        graph.add("MaxPool", [value], "maxima", kernel_shape=list(evidence_shape(plain)))
        graph.add("GlobalAveragePool", [value], "means")
        add_classifier_head(graph, plain.head, "maxima", "means")
        taps_made.append("means")
    else:
        names = [value, graph.constant("head_w", plain.head.weight), graph.constant("head_b", plain.head.bias)]
        graph.add("Conv", names, "logit_map", **conv_attributes((1, 1), (1, 1), 0))
        graph.add("MaxPool", ["logit_map"], "maxima", kernel_shape=list(evidence_shape(plain)))
        add_evidence_head(graph, plain, "logit_map", "maxima")
        taps_made.append("logit_map")
    shape: list[str | int | None] = ["N", plain.channels, plain.height, plain.width]
    outputs = output_infos(plain)
    if taps:
        outputs += [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [f"{name}_{d}" for d in range(4)])
            for name in taps_made
        ]
    return graph.model([helper.make_tensor_value_info(FLOAT_INPUT, TensorProto.FLOAT, shape)], outputs)
