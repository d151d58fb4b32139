"""Evaluates a finished release on a data set; the agent's own code loads the release."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agent.adapters.onnx import OnnxModel
from pipeline.dataset_reader import Dataset, DatasetError
from pipeline.evaluation import model_evaluation as evaluation
from pipeline.evaluation import model_runner
from pipeline.release_writer import FLOAT_NAME, sha256

if TYPE_CHECKING:
    from pathlib import Path

    from agent.release.manifest import Manifest
    from pipeline.evaluation.model_evaluation import Evaluation
    from pipeline.progress import Progress


@dataclass(frozen=True, slots=True, eq=False)
class ReleaseEvaluation:
    """The result of `kensa evaluate`."""

    manifest: Manifest
    split: str
    int8: Evaluation
    fp32: Evaluation | None
    figures: dict[str, Any]  # JSON-ready: those of int8, `int8_agreement`, and `fp32` where the float export is there


def _float_reference(release_dir: Path, manifest: Manifest) -> tuple[bytes | None, str]:
    """Return the float export, or None and why it cannot be used."""
    path = release_dir / FLOAT_NAME
    if not path.is_file():
        return None, f"{path} is missing; only the folder that `kensa train` wrote holds it"
    data = path.read_bytes()
    if sha256(data) != manifest.lineage.parameters.get("float_sha256"):
        return None, f"{path} is not the float export that the manifest names"
    return data, ""


def evaluate_release(release_dir: Path, data: Path, split: str, *, progress: Progress) -> ReleaseEvaluation:
    """Evaluate. Raises ReleaseError for the release, DatasetError for the data."""
    model = OnnxModel.load(release_dir)
    dataset = Dataset.load(data)
    samples = dataset.split(split)
    unknown = sorted({s.class_name for s in samples} - set(model.rule.classes))
    if unknown:
        raise DatasetError(
            f"{data}: the classes {', '.join(unknown)} are not known to the release, whose classes are "
            f"{', '.join(model.rule.classes)}."
        )
    reference, why = _float_reference(release_dir, model.manifest)
    infers: list[model_runner.Infer] = [model.infer]
    if reference is not None:
        infers.append(model_runner.make_float_infer(reference, evidence="evidence" in model.manifest.outputs))
    raws = model_runner.run_models(infers, samples, model.geometry, progress=progress)
    int8 = evaluation.evaluate(raws[0], samples, model.rule)
    fp32 = evaluation.evaluate(raws[1], samples, model.rule) if reference is not None else None
    figures: dict[str, Any] = {
        "model": model.identity.name,
        "version": model.identity.version,
        "sha256": model.identity.sha256,
        "split": split,
        **int8.figures,
        "int8_agreement": None,
    }
    if fp32 is None:
        figures["float_missing"] = why
    else:
        figures |= {**evaluation.int8_agreement(fp32, int8), "fp32": fp32.figures}
    return ReleaseEvaluation(model.manifest, split, int8, fp32, figures)
