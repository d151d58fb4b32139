"""The graph policy accepts the model contract and names the fault of other graphs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from agent.errors import ContractError
from agent.release import graph_policy

if TYPE_CHECKING:
    from collections.abc import Callable


def make_model(nodes: list[NodeProto], *, initializers: list[TensorProto] | None = None, **kwargs: Any) -> ModelProto:
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 16, 16, 3])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 2])
    graph = helper.make_graph(nodes, "g", [image], [scores], initializers or [])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], **kwargs)


def honest_model() -> ModelProto:
    weight = numpy_helper.from_array(np.ones((3, 2), np.float32), "w")
    return make_model(
        [
            helper.make_node("Transpose", ["image"], ["t"], perm=[0, 3, 1, 2]),
            helper.make_node("Cast", ["t"], ["f"], to=TensorProto.FLOAT),
            helper.make_node("GlobalMaxPool", ["f"], ["p"]),
            helper.make_node("Flatten", ["p"], ["v"]),
            helper.make_node("Gemm", ["v", "w"], ["logits"], alpha=0.5),
            helper.make_node("Sigmoid", ["logits"], ["scores"]),
        ],
        initializers=[weight],
    )


def check(model: ModelProto) -> None:
    graph_policy.check_graph(model.SerializeToString(), source="model.onnx")


def refusal(model: ModelProto) -> str:
    with pytest.raises(ContractError) as caught:
        check(model)
    return str(caught.value)


def test_an_honest_model_passes() -> None:
    check(honest_model())


def test_quantisation_operators_of_onnxruntime_pass() -> None:
    check(make_model([helper.make_node("QLinearGlobalAveragePool", ["image"], ["scores"], domain="com.microsoft")]))
    check(make_model([helper.make_node("Relu", ["image"], ["scores"], domain="ai.onnx")]))


def test_a_constant_node_with_its_tensor_inside_passes() -> None:
    value = numpy_helper.from_array(np.ones(3, np.float32))
    check(make_model([helper.make_node("Constant", [], ["scores"], value=value)]))


def test_numbers_packed_or_one_by_one_pass() -> None:
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [2], [1.0, 2.0])
    tensor.MergeFrom(TensorProto(int64_data=[1, 2], double_data=[1.0], uint64_data=[3], int32_data=[-1]))
    check(make_model([helper.make_node("Clip", ["image"], ["scores"], floats=[0.5, 1.0])], initializers=[tensor]))


@pytest.mark.parametrize("operator", ["Loop", "If", "Scan", "RandomNormal", "Expand", "StringConcat", "NonZero", ""])
def test_an_operator_outside_the_list_is_named(operator: str) -> None:
    message = refusal(make_model([helper.make_node(operator, ["image"], ["scores"])]))

    assert message.startswith("model.onnx is refused before loading: operators ")
    assert (operator or "(no name)") in message


@pytest.mark.parametrize(
    ("operator", "domain"),
    [("Conv", "com.example"), ("FusedConv", "com.microsoft"), ("Normalizer", "ai.onnx.ml"), ("ExecuteScript", "x")],
)
def test_an_operator_of_another_domain_is_named(operator: str, domain: str) -> None:
    assert f"{domain}:{operator}" in refusal(make_model([helper.make_node(operator, ["image"], ["s"], domain=domain)]))


def test_many_unknown_operators_are_counted_and_each_is_named_once() -> None:
    nodes = [helper.make_node(f"Op{i % 7}", ["image"], [f"x{i}"]) for i in range(14)]

    assert "operators Op0, Op1, Op2, Op3, Op4 and 2 more are not allowed" in refusal(make_model(nodes))


def with_subgraph() -> ModelProto:
    body = helper.make_graph([helper.make_node("Relu", ["a"], ["b"])], "body", [], [])
    return make_model([helper.make_node("Relu", ["image"], ["scores"], body=body)])


def with_subgraphs() -> ModelProto:
    body = helper.make_graph([helper.make_node("Relu", ["a"], ["b"])], "body", [], [])
    return make_model([helper.make_node("Relu", ["image"], ["scores"], bodies=[body, body])])


def with_function() -> ModelProto:
    function = helper.make_function(
        "com.example", "Mine", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    return make_model([helper.make_node("Relu", ["image"], ["scores"])], functions=[function])


def external_tensor() -> TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3, 2], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../../etc/passwd")
    return tensor


def external_initializer() -> ModelProto:
    return make_model([helper.make_node("Relu", ["image"], ["scores"])], initializers=[external_tensor()])


def external_location_without_entries() -> ModelProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    return make_model([helper.make_node("Relu", ["image"], ["scores"])], initializers=[tensor])


def external_attribute() -> ModelProto:
    return make_model([helper.make_node("Constant", [], ["scores"], value=external_tensor())])


def external_attribute_list() -> ModelProto:
    node = helper.make_node("Constant", [], ["scores"])
    node.attribute.append(AttributeProto(name="values", type=AttributeProto.TENSORS, tensors=[external_tensor()]))
    return make_model([node])


def sparse_initializer() -> ModelProto:
    model = honest_model()
    values = numpy_helper.from_array(np.ones(1, np.float32), "sparse")
    indices = numpy_helper.from_array(np.zeros(1, np.int64), "indices")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4]))
    return model


def sparse_attribute() -> ModelProto:
    values = numpy_helper.from_array(np.ones(1, np.float32), "sparse")
    indices = numpy_helper.from_array(np.zeros(1, np.int64), "indices")
    sparse = helper.make_sparse_tensor(values, indices, [4])
    return make_model([helper.make_node("Constant", [], ["scores"], sparse_value=sparse)])


def training_information() -> ModelProto:
    model = honest_model()
    model.training_info.add()
    return model


@pytest.mark.parametrize(
    ("build", "finding"),
    [
        (with_subgraph, "a subgraph"),
        (with_subgraphs, "subgraphs"),
        (with_function, "a function of its own"),
        (external_initializer, "external data"),
        (external_location_without_entries, "data_location is external"),
        (external_attribute, "external data"),
        (external_attribute_list, "external data"),
        (sparse_initializer, "a sparse initializer"),
        (sparse_attribute, "a sparse tensor"),
        (training_information, "training information"),
    ],
)
def test_what_reaches_beyond_a_plain_graph_is_refused_by_name(build: Callable[[], ModelProto], finding: str) -> None:
    assert finding in refusal(build())


def test_a_second_graph_cannot_hide_behind_the_first() -> None:
    merged = honest_model().SerializeToString() + external_initializer().SerializeToString()

    with pytest.raises(ContractError, match="external"):
        graph_policy.check_graph(merged, source="m")


def test_a_second_operator_name_in_a_node_is_refused() -> None:
    # protobuf lets the last one win: a checker that takes the first would be deceived
    relu = helper.make_node("Relu", ["image"], ["scores"]).SerializeToString() + b"\x22\x04Loop"
    graph = b"\x0a" + bytes([len(relu)]) + relu
    assert onnx.load_model_from_string(b"\x3a" + bytes([len(graph)]) + graph).graph.node[0].op_type == "Loop"

    with pytest.raises(ContractError, match="twice"):
        graph_policy.check_graph(b"\x3a" + bytes([len(graph)]) + graph, source="m")


def test_a_chain_of_too_many_nodes_is_refused() -> None:
    nodes = [helper.make_node("Relu", ["image"], ["x"])] * (graph_policy.MAX_NODES + 1)

    check(make_model(nodes[:-1]))
    assert "more than 5,000 nodes" in refusal(make_model(nodes))


def test_a_flood_of_fields_is_given_up() -> None:
    with pytest.raises(ContractError, match="more than 500,000 fields"):
        graph_policy.check_graph(b"\x08\x01" * (graph_policy.MAX_FIELDS + 1), source="m")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        b"not a model",
        b"\xff" * 40,
        b"\x3a\xff\xff\xff\xff\x0f",
        b"\x08",
        b"\x3b\x3c",
        b"PK\x03\x04",
        b"{}",
    ],
)
def test_what_is_no_model_is_refused(data: bytes) -> None:
    with pytest.raises(ContractError):
        graph_policy.check_graph(data, source="m")


def test_every_cut_of_a_model_is_refused_or_passes_as_a_whole_message() -> None:
    data = honest_model().SerializeToString()
    for length in range(len(data)):
        try:
            graph_policy.check_graph(data[:length], source="m")
        except ContractError:
            continue
        onnx.load_model_from_string(
            data[:length]
        )  # reads it too: the cut fell between two fields of the outermost message


HONEST = honest_model().SerializeToString()
EXTERNAL = external_initializer().SerializeToString()


@given(
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=4),
    st.sampled_from([HONEST, EXTERNAL]),
)
def test_whatever_is_changed_the_answer_is_a_pass_or_a_contract_error(
    changes: list[tuple[int, int]], original: bytes
) -> None:
    data = bytearray(original)
    for position, byte in changes:
        data[position % len(data)] = byte
    try:
        graph_policy.check_graph(bytes(data), source="m")
    except ContractError:
        return
    # What passed is read by the reference parser the same way, if it reads it: nothing external, nothing nested.
    try:
        model = onnx.load_model_from_string(bytes(data))
    except DecodeError:
        return
    for tensor in model.graph.initializer:
        assert tensor.data_location == TensorProto.DEFAULT
        assert not tensor.external_data
    assert all(n.op_type in graph_policy.OPERATORS | graph_policy.MICROSOFT_OPERATORS for n in model.graph.node)
