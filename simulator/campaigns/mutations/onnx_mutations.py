"""Seeded damage to ONNX files: flipped bytes, and graphs rearranged to hurt a runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import onnx

from agent.release.graph_policy import OPERATORS

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

_EXTREMES: Final = (-(2**63), -(2**31), -1, 0, 1, 2, 7, 255, 2**31 - 1, 2**40, 2**63 - 1)
_RAW_SHARE: Final = 0.5  # of the cases damage bytes, the others the graph
_TYPES: Final = range(1, 24)  # onnx.TensorProto.DataType
_OPERATORS: Final = sorted(OPERATORS)


def mutate_onnx(data: bytes, source: random.Random) -> bytes:
    """`data`, a valid model, changed in one to four ways. Never returns `data` itself."""
    changed = _raw(data, source) if source.random() < _RAW_SHARE else _rearranged(data, source)
    return changed if changed != data else data[:-1] + bytes([data[-1] ^ 1])


def _raw(data: bytes, source: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(source.randint(1, 4)):
        at = source.randrange(len(changed)) if changed else 0
        match source.randrange(6):
            case 0:
                changed = changed[:at]
            case 1:
                del changed[at : at + source.randint(1, 64)]
            case 2:
                changed[at:at] = changed[at : at + 64] * source.randint(1, 20)
            case 3:
                changed[at : at + 1] = bytes([source.randrange(256)])
            case _:
                changed[at : at + 1] = bytes([(changed[at] if changed else 0) ^ (1 << source.randrange(8))])
    return bytes(changed)


def _rearranged(data: bytes, source: random.Random) -> bytes:
    model = onnx.load_model_from_string(data)
    for _ in range(source.randint(1, 4)):
        try:
            source.choice(_EDITS)(model.graph, source)
        except (ValueError, TypeError, IndexError):
            continue  # this edit does not fit this node
    return bytes(model.SerializeToString())


def _operator(graph: Any, source: random.Random) -> None:
    source.choice(graph.node).op_type = source.choice(_OPERATORS)


def _wiring(graph: Any, source: random.Random) -> None:
    node, other = source.choice(graph.node), source.choice(graph.node)
    node.input[source.randrange(len(node.input))] = source.choice([*other.input, *other.output, ""])


def _attribute(graph: Any, source: random.Random) -> None:
    attribute = source.choice([a for node in graph.node for a in node.attribute])
    if attribute.ints:
        attribute.ints[source.randrange(len(attribute.ints))] = source.choice(_EXTREMES)
    elif attribute.type == onnx.AttributeProto.INT:
        attribute.i = source.choice(_EXTREMES)
    else:
        attribute.type = source.randint(0, 14)


def _shape(graph: Any, source: random.Random) -> None:
    tensor = source.choice(graph.initializer)
    if tensor.dims and source.random() < 0.7:  # noqa: PLR2004 - mostly a size, sometimes a dimension more
        tensor.dims[source.randrange(len(tensor.dims))] = source.choice(_EXTREMES)
    else:
        tensor.dims.append(source.choice(_EXTREMES))


def _type(graph: Any, source: random.Random) -> None:
    source.choice(graph.initializer).data_type = source.choice(_TYPES)


def _values(graph: Any, source: random.Random) -> None:
    tensor = source.choice(graph.initializer)
    tensor.raw_data = bytes(source.choice((0x00, 0x7F, 0x80, 0xFF)) for _ in tensor.raw_data[:4096])


def _interface(graph: Any, source: random.Random) -> None:
    value = source.choice([*graph.input, *graph.output])
    sizes = value.type.tensor_type.shape.dim
    sizes[source.randrange(len(sizes))].dim_value = source.choice(_EXTREMES)


def _drop(graph: Any, source: random.Random) -> None:
    del graph.node[source.randrange(len(graph.node))]


def _repeat(graph: Any, source: random.Random) -> None:
    graph.node.insert(source.randrange(len(graph.node)), source.choice(graph.node))


_EDITS: Final[tuple[Callable[[Any, random.Random], None], ...]] = (
    _operator,
    _wiring,
    _attribute,
    _attribute,
    _shape,
    _type,
    _values,
    _values,
    _interface,
    _drop,
    _repeat,
)
