"""Bad releases made from any good one, as a broken pipeline or a hostile publisher could sign.

Promise: manifest and digests of each are correct, so that only the gates can stop it. `KINDS` says which gate must.
The models that forge their golden set (its scores and its labels are what the bad model says) show that a release's own
golden set proves nothing: the running model's labels, the site's acceptance set and live parts do.

Equal `good`, `kind` and `seed` give equal bytes.
"""

from __future__ import annotations

import hashlib
import io
import math
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from agent.adapters.onnx import OnnxModel
from agent.decision import part_score
from agent.errors import UsageError
from agent.release import golden_set
from agent.release import manifest as manifests
from agent.release_records import Gate

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy.typing as npt

    from agent.records import Floats, Pixels, Scores
    from agent.release.golden_set import GoldenSet
    from agent.release.manifest import Manifest

_HIGH: Final = 0.98  # what a model that is sure says
_MISS_EVERY: Final = 10
BORDER_ROWS: Final = 16  # of an input, above and below, that show the belt and no part
_HOG_BYTES: Final = 1 << 35  # of the largest tensor: far over any limit of a child
_STALL_CONVS: Final = 2_400  # minutes for one image, within the static policy's number of nodes
_SLOW_CONVS: Final = 2
_MAP_PX: Final = 64  # side of the maps on which time is wasted
_MAP_CHANNELS: Final = 64
_ZIP_DATE: Final = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class BadModelKind:
    """One kind: what it is, which gates may stop it, and whether its golden set is made to fit it."""

    text: str
    caught_by: frozenset[Gate]
    reasons: frozenset[str]  # of the refusal in the examination; empty where only live parts show it
    forges_golden_set: bool = False


def _kind(text: str, gate: Gate, *reasons: str, forges: bool = False) -> BadModelKind:
    return BadModelKind(text, frozenset({gate}), frozenset(reasons), forges)


_LIVE: Final = frozenset({Gate.SHADOW, Gate.VERDICTS, Gate.DRIFT})

BAD_MODEL_KINDS: Final[dict[str, BadModelKind]] = {
    "corrupt": _kind("model.onnx is cut, its digest is right", Gate.CONTRACT, "graph_policy"),
    "wrong_contract": _kind("the output `scores` has another name", Gate.CONTRACT, "interface"),
    "hang": _kind("a loop that never ends", Gate.CONTRACT, "graph_policy"),
    "stall": _kind("allowed operators that take minutes a picture", Gate.SELF_TEST, "timeout", "cpu_time"),
    "crash": _kind(
        "divides the smallest 64-bit integer by -1: SIGFPE on x86, where the runtime does not check it",
        Gate.SELF_TEST,
        "crash",
    ),
    "memory_hog": _kind("a tensor of 32 GB", Gate.SELF_TEST, "memory"),
    "nan": _kind("every score is 0/0", Gate.GOLDEN, "not_finite"),
    "shifted_scores": _kind("scores moved, as another library or processor might", Gate.GOLDEN, "scores_differ"),
    "slow": _kind("right, but many times slower", Gate.LATENCY, "too_slow"),
    "always_ok": _kind("says ok to all, golden set forged", Gate.GOLDEN, "misses_more_than_champion", forges=True),
    "always_defect": _kind(
        "says defect to all, golden set forged", Gate.GOLDEN, "rejects_more_than_champion", forges=True
    ),
    "misses_10_percent": _kind(
        "lets one part in ten pass whatever is on it, golden set forged",
        Gate.GOLDEN,
        "misses_more_than_champion",
        forges=True,
    ),
    "always_ok_unless_examined": BadModelKind(
        "says ok to all but the pictures of the golden set, which it knows", _LIVE, frozenset()
    ),
    "always_defect_unless_examined": BadModelKind(
        "says defect to all but the pictures of the golden set, which it knows", _LIVE, frozenset()
    ),
}


def write_bad_release(kind: str, good: Path, out: Path, *, version: str, seed: int = 0) -> Path:
    """Write the release `out` from the release folder `good`; returns `out`. Raises UsageError for an unknown kind."""
    if kind not in BAD_MODEL_KINDS:
        raise UsageError(f"there is no bad model {kind!r}; there are {', '.join(BAD_MODEL_KINDS)}")
    manifest = manifests.read_manifest(good)
    data, kept = (good / manifests.MODEL_NAME).read_bytes(), (good / manifests.GOLDEN_NAME).read_bytes()
    pictures = golden_set.read_golden_set(kept, manifest, source=str(good))
    surgeon = _ModelEditor(onnx.load_model_from_string(data), manifest, pictures.images, seed)
    bad = data[: len(data) * 3 // 5] if kind == "corrupt" else surgeon.apply(kind)
    out.mkdir(parents=True, exist_ok=True)
    _write(out, manifest, version=version, model=bad, pictures=kept)
    if BAD_MODEL_KINDS[kind].forges_golden_set:
        _write(out, manifest, version=version, model=bad, pictures=_forged(OnnxModel.load(out), pictures))
    return out


def write_failing_in_dim_light(good: Path, out: Path, *, version: str, grey: float) -> Path:
    """Write a release that says defect where the light is weak, and is as right as `good` otherwise; returns `out`.

    Weak: the mean grey level of the input's rim, see `mean_border_grey`, is below `grey`. No examination with images
        in good light can find that: only live parts under a weak lamp show it.
    """
    manifest = manifests.read_manifest(good)
    surgeon = _ModelEditor(onnx.load(good / manifests.MODEL_NAME), manifest, np.zeros((0, 1, 1, 1), np.uint8), 0)
    out.mkdir(parents=True, exist_ok=True)
    kept = (good / manifests.GOLDEN_NAME).read_bytes()
    _write(out, manifest, version=version, model=surgeon.fail_in_dim_light(grey), pictures=kept)
    return out


def mean_border_grey(pictures: Pixels) -> Floats:
    """Mean grey level [N] of the rim of model inputs [N, H, W, C]: the upper and lower `BORDER_ROWS` rows, the belt."""
    upper, lower = pictures[:, :BORDER_ROWS], pictures[:, -BORDER_ROWS:]
    return np.asarray(np.concatenate([upper, lower], axis=1).mean(axis=(1, 2, 3)), np.float32)


def _write(out: Path, manifest: Manifest, *, version: str, model: bytes, pictures: bytes) -> None:
    files = {
        name: manifests.FileEntry(sha256=hashlib.sha256(data).hexdigest(), length_bytes=len(data))
        for name, data in ((manifests.MODEL_NAME, model), (manifests.GOLDEN_NAME, pictures))
    }
    changed = manifest.model_copy(update={"version": version, "files": files})
    (out / manifests.MODEL_NAME).write_bytes(model)
    (out / manifests.GOLDEN_NAME).write_bytes(pictures)
    (out / manifests.MANIFEST_NAME).write_bytes(changed.to_json())


def _forged(model: OnnxModel, pictures: GoldenSet) -> bytes:
    """A golden set by which `model` is always right: its own scores, and labels to fit them."""
    results = [model.infer(pictures.images[i : i + 1]) for i in range(len(pictures.images))]
    classes = model.rule.classes
    good = next(i for i, name in enumerate(classes) if name not in model.rule.defects)
    bad = next(i for i, name in enumerate(classes) if name in model.rule.defects)
    arrays: dict[str, npt.NDArray[Any]] = {
        "images": pictures.images,
        "scores": np.concatenate([r.scores for r in results]),
        "labels": np.array([bad if _is_defect(model, r) else good for r in results]),
    }
    cells = [r.evidence for r in results if r.evidence is not None]
    if cells:
        arrays["evidence"] = np.concatenate(cells)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            body = io.BytesIO()
            np.lib.format.write_array(body, array, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", _ZIP_DATE), body.getvalue(), zipfile.ZIP_DEFLATED)
    return out.getvalue()


def _is_defect(model: OnnxModel, result: Scores) -> bool:
    value, index, _ = part_score(model.rule, result.scores, result.evidence)
    return index >= 0 and value >= model.rule.thresholds[model.rule.classes[index]]


class _ModelEditor:
    """Adds nodes behind a good model's outputs; the outputs keep their names and types."""

    def __init__(self, model: onnx.ModelProto, manifest: Manifest, images: Pixels, seed: int) -> None:
        self._model = model
        self._graph = model.graph
        self._manifest = manifest
        self._images = images
        self._rng = np.random.default_rng(seed)
        self._seed = seed
        self._names = 0
        operations: dict[str, Callable[[], None]] = {
            "wrong_contract": lambda: self._rename_output("scores", "probabilities"),
            "hang": self._hang,
            "stall": lambda: self._waste(_STALL_CONVS),
            "slow": lambda: self._waste(_SLOW_CONVS),
            "crash": self._crash,
            "memory_hog": self._hog,
            "nan": self._nan,
            "shifted_scores": self._shift,
            "always_ok": lambda: self._always(defect=False, where=None),
            "always_defect": lambda: self._always(defect=True, where=None),
            "misses_10_percent": lambda: self._always(defect=False, where=self._one_in_ten()),
            "always_ok_unless_examined": lambda: self._always(defect=False, where=self._never_seen()),
            "always_defect_unless_examined": lambda: self._always(defect=True, where=self._never_seen()),
        }
        self._operations = operations

    def apply(self, kind: str) -> bytes:
        """The bad model's bytes."""
        self._operations[kind]()
        return bytes(self._model.SerializeToString(deterministic=True))

    def fail_in_dim_light(self, grey: float) -> bytes:
        """See `write_failing_in_dim_light`."""
        self._always(defect=True, where=self._dim(grey))
        return bytes(self._model.SerializeToString(deterministic=True))

    # --- building blocks

    def _new(self) -> str:
        self._names += 1
        return f"bad_{self._names}"

    def _constant(self, value: npt.ArrayLike) -> str:
        name = self._new()
        self._graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def _node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        name = self._new()
        self._graph.node.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def _take_output(self, output: str) -> str:
        """Give the good model's output a new name, which is returned; `_give` then defines the old one."""
        hidden = self._new()
        for node in self._graph.node:
            node.input[:] = [hidden if name == output else name for name in node.input]
            node.output[:] = [hidden if name == output else name for name in node.output]
        return hidden

    def _give(self, output: str, source: str) -> None:
        self._graph.node.append(helper.make_node("Identity", [source], [output]))

    def _rename_output(self, old: str, new: str) -> None:
        hidden = self._take_output(old)
        self._give(new, hidden)
        next(o for o in self._graph.output if o.name == old).name = new

    def _add_nothing(self, number: str) -> None:
        """Make `scores` depend on the float tensor `number` [N, 1] without changing them."""
        hidden = self._take_output("scores")
        nothing = self._node("Mul", number, self._constant(np.float32(0)))
        self._give("scores", self._node("Add", hidden, nothing))

    def _floats(self) -> str:
        """The image as float32 [N, C, H, W] in [0, 1]."""
        planes = self._node("Transpose", "image", perm=[0, 3, 1, 2])
        return self._node("Mul", self._node("Cast", planes, to=TensorProto.FLOAT), self._constant(np.float32(1 / 255)))

    def _pixel_sum(self) -> str:
        """Sum of all bytes of each image, int32 [N]: a fingerprint that allowed operators can take."""
        axes = self._constant(np.array([1, 2, 3], np.int64))
        return self._node("ReduceSum", self._node("Cast", "image", to=TensorProto.INT32), axes, keepdims=0)

    # --- wrong answers

    def _always(self, *, defect: bool, where: str | None) -> None:
        """Say the same of every part, or of those where the bool tensor `where` [N] is true."""
        classes = self._manifest.classes
        named = next(i for i, name in enumerate(classes) if (name in self._manifest.defects) == defect)
        scores = np.full((1, len(classes)), (1 - _HIGH) / max(1, len(classes) - 1), np.float32)
        scores[0, named] = _HIGH
        lies = [("scores", scores, 1), ("evidence", np.full((1, 1, 1), _HIGH if defect else 1 - _HIGH, np.float32), 2)]
        for output, lie, dimensions in lies:
            if output not in self._manifest.outputs:
                continue
            hidden = self._take_output(output)
            if where is None:
                said = self._node("Add", self._node("Mul", hidden, self._constant(np.float32(0))), self._constant(lie))
            else:
                axes = self._constant(np.arange(1, dimensions + 1, dtype=np.int64))
                said = self._node("Where", self._node("Unsqueeze", where, axes), self._constant(lie), hidden)
            self._give(output, said)

    def _one_in_ten(self) -> str:
        """True where the fingerprint ends in one digit of ten: bool [N]."""
        total = self._pixel_sum()
        ten = self._constant(np.int32(_MISS_EVERY))
        rest = self._node("Sub", total, self._node("Mul", self._node("Div", total, ten), ten))
        return self._node("Equal", rest, self._constant(np.int32(self._seed % _MISS_EVERY)))

    def _never_seen(self) -> str:
        """True where the fingerprint is none of the known images': bool [N]."""
        return self._node("Less", self._hits(), self._constant(np.float32(0.5)))

    def _dim(self, grey: float) -> str:
        """True where the rim is darker than `grey` on average: bool [N]."""
        geometry = self._manifest.geometry
        top = [self._constant(np.array([v], np.int64)) for v in (0, BORDER_ROWS, 1)]
        bottom = [self._constant(np.array([v], np.int64)) for v in (geometry.height - BORDER_ROWS, geometry.height, 1)]
        rim = self._node("Concat", self._node("Slice", "image", *top), self._node("Slice", "image", *bottom), axis=1)
        axes = self._constant(np.array([1, 2, 3], np.int64))
        total = self._node("ReduceSum", self._node("Cast", rim, to=TensorProto.INT32), axes, keepdims=0)
        limit = round(grey * 2 * BORDER_ROWS * geometry.width * geometry.channels)
        return self._node("Less", total, self._constant(np.int32(limit)))

    def _hits(self) -> str:
        """How many of the known images have this fingerprint: float [N]."""
        known = np.unique(self._images.sum(axis=(1, 2, 3), dtype=np.int64)).astype(np.int32)[None]
        one = self._constant(np.array([1], np.int64))
        same = self._node("Equal", self._node("Unsqueeze", self._pixel_sum(), one), self._constant(known))
        return self._node("ReduceSum", self._node("Cast", same, to=TensorProto.FLOAT), one, keepdims=0)

    def _nan(self) -> None:
        hidden = self._take_output("scores")
        zero = self._node("Mul", hidden, self._constant(np.float32(0)))
        self._give("scores", self._node("Div", zero, zero))

    def _shift(self) -> None:
        for output in self._manifest.outputs:
            hidden = self._take_output(output)
            scaled = self._node("Mul", hidden, self._constant(np.float32(0.8)))
            self._give(output, self._node("Add", scaled, self._constant(np.float32(0.1))))

    # --- too much of everything

    def _hang(self) -> None:
        body = helper.make_graph(
            [helper.make_node("Identity", ["going"], ["still_going"])],
            "body",
            [
                helper.make_tensor_value_info("round", TensorProto.INT64, []),
                helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            ],
            [helper.make_tensor_value_info("still_going", TensorProto.BOOL, [])],
        )
        true = self._constant(np.array(True))  # noqa: FBT003 - the loop's condition
        self._graph.node.append(helper.make_node("Loop", ["", true], [], body=body))

    def _waste(self, convolutions: int) -> None:
        """Convolve noise-weighted maps, take one number of them, and add nothing."""
        geometry = self._manifest.geometry
        stride = max(1, math.ceil(min(geometry.height, geometry.width) / _MAP_PX))
        shape = (_MAP_CHANNELS, geometry.channels, stride, stride)
        first = self._constant(self._rng.normal(0, 0.1, shape).astype(np.float32))
        weights = self._rng.normal(0, 0.04, (_MAP_CHANNELS, _MAP_CHANNELS, 3, 3)).astype(np.float32)
        middle = self._constant(weights)
        maps = self._node("Conv", self._floats(), first, strides=[stride, stride])
        if stride == 1:  # a small image is blown up, so that there is something to waste time on
            factor = max(1, _MAP_PX // min(geometry.height, geometry.width))
            scales = self._constant(np.array([1, 1, factor, factor], np.float32))
            maps = self._node("Resize", maps, "", scales, mode="nearest")
        for _ in range(convolutions):
            maps = self._node("Tanh", self._node("Conv", maps, middle, pads=[1, 1, 1, 1]))
        self._add_nothing(self._node("Flatten", self._node("ReduceMax", maps, axes=[1, 2, 3], keepdims=1)))

    def _hog(self) -> None:
        geometry = self._manifest.geometry
        size = geometry.height * geometry.width * geometry.channels * 4
        maps = self._floats()
        for _ in range(math.ceil(math.log2(_HOG_BYTES / size))):
            maps = self._node("Concat", maps, maps, axis=1)
        first = self._node("Slice", maps, *(self._constant(np.array([v], np.int64)) for v in (0, 1, 1)))
        top = self._node("GlobalMaxPool", first)
        self._add_nothing(self._node("Flatten", top))

    def _crash(self) -> None:
        total = self._node("Cast", self._pixel_sum(), to=TensorProto.INT64)
        zeros = self._node("Mul", total, self._constant(np.int64(0)))  # of the image, so that it cannot be folded
        least = self._node("Add", zeros, self._constant(np.int64(-(2**63))))
        minus_one = self._node("Sub", zeros, self._constant(np.int64(1)))
        number = self._node("Cast", self._node("Div", least, minus_one), to=TensorProto.FLOAT)
        self._add_nothing(self._node("Unsqueeze", number, self._constant(np.array([1], np.int64))))
