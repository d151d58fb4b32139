"""A small honest release: it finds bright spots. Written by hand, so that tests need no training.

`evidence` is the mean brightness of 8x8 cells, `scores` are [1 - peak, peak] for the classes ok and spot.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

from agent import preprocess
from agent.records import Geometry

if TYPE_CHECKING:
    from pathlib import Path

    from agent.records import Pixels

SIDE = 32
CELL = 8
GEOMETRY = Geometry(mode="whole", height=SIDE, width=SIDE, channels=1)


def spot_model(*, side: int = SIDE, channels: int = 1, batch: int | str = "N", classes: int = 2) -> ModelProto:
    """The graph; with three channels the first one is looked at."""
    cells = side // CELL
    nodes = [
        helper.make_node("Transpose", ["image"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["planes"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("AveragePool", ["floats"], ["means"], kernel_shape=[CELL, CELL], strides=[CELL, CELL]),
        helper.make_node("Slice", ["means", "zero", "one", "one"], ["first"]),
        helper.make_node("Mul", ["first", "scale"], ["map"]),
        helper.make_node("Squeeze", ["map", "one"], ["evidence"]),
        helper.make_node("MaxPool", ["map"], ["top"], kernel_shape=[cells, cells]),
        helper.make_node("Flatten", ["top"], ["peak"]),
        helper.make_node("Gemm", ["peak", "weight", "bias"], ["scores"]),
    ]
    weight, bias = np.full((1, classes), 1.0, np.float32), np.zeros(classes, np.float32)
    weight[0, 0], bias[0] = -1.0, 1.0
    constants = {
        "zero": np.array([0], np.int64),
        "one": np.array([1], np.int64),
        "scale": np.float32(1 / 255),
        "weight": weight,
        "bias": bias,
    }
    graph = helper.make_graph(
        nodes,
        "spots",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [batch, side, side, channels])],
        [
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, classes]),
            helper.make_tensor_value_info("evidence", TensorProto.FLOAT, [batch, cells, cells]),
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model


def spot_images(count: int = 8) -> tuple[Pixels, list[str]]:
    """`count` pictures [N, SIDE, SIDE, 1] and their classes in turn."""
    rng = np.random.default_rng(5)
    images = rng.integers(10, 40, (count, SIDE, SIDE, 1)).astype(np.uint8)
    labels = []
    for i, image in enumerate(images):
        labels.append("spot" if i % 2 else "ok")
        if i % 2:
            image[CELL : 2 * CELL, 2 * CELL : 3 * CELL] = 230
    return images, labels


def line_images(defects: int = 8) -> list[Pixels]:
    """Pictures of a line that is well: one in four has a spot, for a line that rejects every second part is not."""
    images, _ = spot_images(2 * defects)
    order = [i for spot in range(1, 2 * defects, 2) for i in (spot - 1, spot, (spot + 1) % (2 * defects), 0)]
    return [images[i] for i in order]


def golden_arrays(images: Pixels, labels: list[str]) -> dict[str, Any]:
    """What the model above answers, computed without it."""
    cells = SIDE // CELL
    blocks = images[:, :, :, 0].astype(np.float32).reshape(len(images), cells, CELL, cells, CELL)
    evidence = blocks.mean(axis=(2, 4)) / np.float32(255)
    peak = evidence.max(axis=(1, 2))
    scores = np.stack([1 - peak, peak], axis=1).astype(np.float32)
    indices = np.array([["ok", "spot"].index(label) for label in labels])
    return {"images": images, "scores": scores, "evidence": evidence.astype(np.float32), "labels": indices}


def manifest_tree(*, model: bytes = b"m", golden: bytes = b"g", geometry: Geometry = GEOMETRY) -> dict[str, Any]:
    """A valid manifest as a tree of JSON, to be changed by tests."""
    return {
        "schema_version": 1,
        "name": "spots",
        "version": "1.0.0",
        "counter": 0,
        "classes": ["ok", "spot"],
        "defects": ["spot"],
        "geometry": {
            "mode": geometry.mode,
            "height": geometry.height,
            "width": geometry.width,
            "channels": geometry.channels,
        },
        "preprocess_sha256": preprocess.digest(geometry),
        "decision": {"thresholds": {"spot": 0.5}, "unsure_band": 0.1},
        "outputs": ["scores", "evidence"],
        "metrics": {},
        "rollout": {},
        "lineage": {
            "dataset_sha256": "0" * 64,
            "code_version": "test",
            "seed": 1,
            "parameters": {},
            "libraries": {"onnx": onnx.__version__},
            "cpu": "test",
            "threads": 1,
            "created_utc": "2026-01-01T00:00:00Z",
        },
        "files": {
            "model.onnx": {"sha256": hashlib.sha256(model).hexdigest(), "length_bytes": len(model)},
            "golden.npz": {"sha256": hashlib.sha256(golden).hexdigest(), "length_bytes": len(golden)},
        },
    }


def write_release(folder: Path, *, model: bytes | None = None, golden: bytes | None = None, **changes: Any) -> Path:
    """Write a release whose manifest fits the files, whatever they are; `changes` replace keys of the manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    model = spot_model().SerializeToString() if model is None else model
    if golden is None:
        np.savez(folder / "golden.npz", **golden_arrays(*spot_images()))
        golden = (folder / "golden.npz").read_bytes()
    (folder / "model.onnx").write_bytes(model)
    (folder / "golden.npz").write_bytes(golden)
    tree = {**manifest_tree(model=model, golden=golden), **changes}
    (folder / "manifest.json").write_text(json.dumps(tree), encoding="utf-8")
    return folder
