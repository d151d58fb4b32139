"""Runs models on labelled images: float exports, int8 bytes without a manifest, releases.

Every image goes through the agent's preprocessing once, whatever the number of models. Sessions use one thread: results
do not depend on the number of cores.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnxruntime as ort

from agent.preprocess import Preprocessor
from agent.records import Scores
from pipeline.model_inputs import prepare, read_image

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agent.preprocess import InputPlan
    from agent.records import Floats, Geometry, Pixels
    from pipeline.dataset_reader import Sample
    from pipeline.progress import Progress

    Infer = Callable[[Pixels], Scores]

FLOAT_INPUT: Final = "input"  # name of the float export's input
INPUT_SCALE: Final = 1.0 / 128.0
INPUT_ZERO: Final = 128


@dataclass(frozen=True, slots=True, eq=False)
class RawOutput:
    """The raw outputs for one image; rows are its tiles."""

    scores: Floats  # [tiles, classes]
    evidence: Floats | None  # [tiles, h, w]
    plan: InputPlan


def make_float_infer(model: bytes, *, evidence: bool) -> Infer:
    """Run the float export as if it were a `ports.Model`."""
    return _make_infer(model, evidence=evidence, name=FLOAT_INPUT, convert=to_float_input)


def make_int8_infer(model: bytes, *, evidence: bool) -> Infer:
    """Run int8 bytes that have no manifest yet; a release is run through `agent.adapters.onnx`."""
    return _make_infer(model, evidence=evidence, name="image", convert=lambda pixels: pixels)


def _make_infer(model: bytes, *, evidence: bool, name: str, convert: Callable[[Pixels], Any]) -> Infer:
    session = single_thread_session(model)
    names = ["scores", "evidence"] if evidence else ["scores"]

    def infer(batch: Pixels) -> Scores:
        results = session.run(names, {name: convert(batch)})
        return Scores(results[0], results[1] if evidence else None)

    return infer


def run_models(
    infers: Sequence[Infer], samples: Sequence[Sample], geometry: Geometry, *, progress: Progress
) -> tuple[tuple[RawOutput, ...], ...]:
    """Run each model on all samples; one tuple for each model. An image is read and preprocessed once."""
    preprocessor = Preprocessor(geometry)
    raws: list[list[RawOutput]] = [[] for _ in infers]
    for number, sample in enumerate(samples, start=1):
        pixels, plan = prepare(preprocessor, read_image(sample.path))
        for infer, found in zip(infers, raws, strict=True):
            result = infer(pixels)
            found.append(RawOutput(result.scores, result.evidence, plan))
        progress("evaluate", number, len(samples))
    return tuple(tuple(found) for found in raws)


def to_float_input(pixels: Pixels) -> Floats:
    """uint8 [N, H, W, C] -> input of the float export: float32 [N, C, H, W], (byte - 128) / 128."""
    result: Floats = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).astype(np.float32)
    result -= INPUT_ZERO
    result *= np.float32(INPUT_SCALE)
    return result


def single_thread_session(model: bytes) -> ort.InferenceSession:
    """Open a session whose results do not depend on the number of cores."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
