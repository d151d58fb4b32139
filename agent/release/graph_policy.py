"""Graph policy: a static check of untrusted model bytes before the runtime loads them.

Promise: a model that passes holds no reference to another file, no subgraph (so no endless loop), no function, only
operators of an allow-list, and at most MAX_NODES of them. The walk reads protobuf's wire format
(https://protobuf.dev/programming-guides/encoding/) by the field numbers of onnx.proto; it needs no ONNX package, reads
no tensor's contents, descends only through the five message types of the table, and stops after MAX_FIELDS fields. A
field that the table does not list is refused: another parser might read what this check skips.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NoReturn

from agent.errors import ContractError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_NODES: Final = 5_000  # a chain of 50,000 loads in 5 s; the networks of the pipeline have fewer than 100
MAX_FIELDS: Final = 500_000  # bounds the walk to about a second
_MAX_NAME_BYTES: Final = 128  # of an operator or a domain
_SHOWN: Final = 5  # findings of one kind that an error names


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Vision classifiers, float and quantised. Deliberately omitted: control flow, sequences, randomness, operators whose
# output's size comes from values (Expand, Tile, ConstantOfShape, Range, NonZero), and all that reads or writes text.
OPERATORS: Final = _names(
    "Abs Add AveragePool BatchNormalization Cast Ceil Clip Concat Constant Conv ConvInteger DepthToSpace "
    "DequantizeLinear Div Dropout DynamicQuantizeLinear Elu Equal Erf Exp Flatten Floor Gather Gelu Gemm "
    "GlobalAveragePool GlobalMaxPool Greater HardSigmoid HardSwish Identity InstanceNormalization LayerNormalization "
    "LeakyRelu Less Log LogSoftmax MatMul MatMulInteger Max MaxPool Min Mul Neg PRelu Pad Pow QLinearConv "
    "QLinearMatMul QuantizeLinear Reciprocal ReduceMax ReduceMean ReduceMin ReduceSum Relu Reshape Resize Round Shape "
    "Sigmoid Slice Softmax Softplus SpaceToDepth Split Sqrt Squeeze Sub Sum Tanh Transpose Unsqueeze Where"
)
MICROSOFT_OPERATORS: Final = _names(  # domain com.microsoft: quantisation only
    "DequantizeLinear QGemm QLinearAdd QLinearAveragePool QLinearConcat QLinearConv QLinearGlobalAveragePool "
    "QLinearLeakyRelu QLinearMul QLinearReduceMean QLinearSigmoid QLinearSoftmax QuantizeLinear"
)
_ALLOWED: Final = {"": OPERATORS, "ai.onnx": OPERATORS, "com.microsoft": MICROSOFT_OPERATORS}

_VARINT, _I64, _LEN, _I32 = 0, 1, 2, 5  # wire types; 3 and 4 (groups) are not in ONNX
_INT, _FLOAT, _DOUBLE, _BYTES = (_VARINT,), (_I32,), (_I64,), (_LEN,)
_INTS, _FLOATS, _DOUBLES = (_VARINT, _LEN), (_I32, _LEN), (_I64, _LEN)  # repeated numbers are packed or one by one

# Message -> field number -> wire types it may have. Type and shape descriptions and texts are bytes to this check.
_FIELDS: Final[dict[str, dict[int, tuple[int, ...]]]] = {
    "model": {1: _INT, **dict.fromkeys((2, 3, 4, 6, 7, 8, 14), _BYTES), 5: _INT},
    "graph": dict.fromkeys((1, 2, 5, 10, 11, 12, 13, 14, 16), _BYTES),
    "node": dict.fromkeys((1, 2, 3, 4, 5, 6, 7, 9), _BYTES),
    "attribute": {**dict.fromkeys((1, 4, 5, 9, 10, 13), _BYTES), 2: _FLOAT, 3: _INT, 7: _FLOATS, 8: _INTS, 20: _INT},
    "tensor": {
        **dict.fromkeys((6, 8, 9, 12, 16), _BYTES),
        **dict.fromkeys((1, 5, 7, 11), _INTS),
        2: _INT,
        4: _FLOATS,
        10: _DOUBLES,
        14: _INT,
    },
}
_REFUSED: Final = {  # fields missing above whose name helps a person
    ("model", 20): "training information",
    ("model", 25): "a function of its own; inline it",
    ("graph", 15): "a sparse initializer",
    ("node", 8): "an overloaded function",
    ("attribute", 6): "a subgraph (If, Loop, Scan and the like are refused)",
    ("attribute", 11): "subgraphs (If, Loop, Scan and the like are refused)",
    ("attribute", 21): "a reference into a function",
    ("attribute", 22): "a sparse tensor",
    ("attribute", 23): "sparse tensors",
    ("tensor", 13): "a reference to external data; save the model with its weights inside",
}


class _GraphCheck:
    """One pass over one model, with the counters that bound it."""

    def __init__(self, data: bytes, source: str) -> None:
        self._data = data
        self._source = source
        self._fields_left = MAX_FIELDS
        self._nodes = 0
        self._bad_operators: dict[str, None] = {}  # an ordered set

    def model(self) -> None:
        """Check everything. Raises ContractError."""
        for number, _, start, end in self._fields("model", 0, len(self._data)):
            if number == 7:  # noqa: PLR2004 - graph; when it is given twice, parsers merge the two
                self._graph(start, end)
        if self._bad_operators:
            names = list(self._bad_operators)
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            self._refuse(
                f"operators {', '.join(names[:_SHOWN])}{more} are not allowed; allowed are the vision operators of "
                "agent/release/graph_policy.py. Export the model without them"
            )
        if not self._nodes:
            self._refuse("it holds no graph with nodes; this is no ONNX model, or a cut one")

    def _graph(self, start: int, end: int) -> None:
        for number, _, first, last in self._fields("graph", start, end):
            if number == 1:  # node
                self._nodes += 1
                if self._nodes > MAX_NODES:
                    self._refuse(f"the graph has more than {MAX_NODES:,} nodes")
                self._node(first, last)
            elif number == 5:  # noqa: PLR2004 - initializer
                self._tensor(first, last)

    def _node(self, start: int, end: int) -> None:
        texts: dict[int, str] = {}  # 4: operator, 7: domain
        for number, _, first, last in self._fields("node", start, end):
            if number in {4, 7}:
                if number in texts:
                    self._refuse("a node gives its operator or domain twice")
                texts[number] = self._text(first, last)
            elif number == 5:  # noqa: PLR2004 - attribute
                self._attribute(first, last)
        operator, domain = texts.get(4, ""), texts.get(7, "")
        if operator not in _ALLOWED.get(domain, ()):
            self._bad_operators[f"{domain}:{operator}" if domain else operator or "(no name)"] = None

    def _attribute(self, start: int, end: int) -> None:
        for number, _, first, last in self._fields("attribute", start, end):
            if number in {5, 10}:  # t, tensors
                self._tensor(first, last)

    def _tensor(self, start: int, end: int) -> None:
        for number, value, _, _ in self._fields("tensor", start, end):
            if number == 14 and value != 0:  # noqa: PLR2004 - data_location; only DEFAULT lies in this file
                self._refuse("a tensor's data_location is external; save the model with its weights inside")

    def _fields(self, message: str, position: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """Yield (field number, value of a varint, start and end of the contents) of each field in [position, end)."""
        allowed = _FIELDS[message]
        while position < end:
            self._fields_left -= 1
            if self._fields_left < 0:
                self._refuse(f"it has more than {MAX_FIELDS:,} fields; a model of this size belongs in packed tensors")
            tag, position = self._varint(position, end)
            number, wire = tag >> 3, tag & 7
            if wire not in allowed.get(number, ()):
                what = _REFUSED.get(
                    (message, number), f"field {number} with wire type {wire}, which ONNX does not define"
                )
                self._refuse(f"a {message} holds {what}")
            value, start = 0, position
            if wire == _VARINT:
                value, position = self._varint(position, end)
            elif wire == _LEN:
                length, start = self._varint(position, end)
                position = start + length
            else:
                position += 8 if wire == _I64 else 4
            if position > end:
                self._refuse(f"a {message} is cut: field {number} reaches {position - end:,} bytes beyond its end")
            yield number, value, start, position

    def _varint(self, position: int, end: int) -> tuple[int, int]:
        """Return the value and the position after it."""
        value = shift = 0
        while True:
            if position >= end or shift >= 70:  # noqa: PLR2004 - ten bytes of seven bits
                self._refuse("it is cut or damaged: a number does not end")
            byte = self._data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:  # noqa: PLR2004 - the last byte's mark
                return value, position
            shift += 7

    def _text(self, start: int, end: int) -> str:
        if end - start > _MAX_NAME_BYTES:
            self._refuse(f"an operator's name has {end - start:,} bytes; at most {_MAX_NAME_BYTES} are allowed")
        try:
            text = self._data[start:end].decode("ascii")
        except UnicodeDecodeError:
            text = "\0"
        if not text.isprintable():
            self._refuse("an operator's name is not plain text")
        return text

    def _refuse(self, finding: str) -> NoReturn:
        raise ContractError(f"{self._source} is refused before loading: {finding}.")


def check_graph(data: bytes, *, source: str) -> None:
    """Check the bytes of an ONNX model; `source` names them in errors. Raises ContractError and nothing else."""
    _GraphCheck(data, source).model()
