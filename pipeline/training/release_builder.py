"""Builds a release from a data set: the order of the steps, without their details.

Read, choose geometry and head, train, export, quantise, check the graph, set the threshold, evaluate, golden set,
manifest, report. One threshold is chosen on the int8 scores of the validation split and used for fp32 and int8 alike.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from agent import preprocess
from agent.errors import OperatorError
from agent.records import DecisionRule
from agent.release.manifest import GOLDEN_NAME, MODEL_NAME, DecisionSpec, FileEntry, GeometrySpec, Lineage, Manifest
from pipeline import release_writer
from pipeline.dataset_reader import Dataset, DatasetError
from pipeline.evaluation import model_evaluation as evaluation
from pipeline.evaluation import model_runner
from pipeline.model_inputs import load_inputs
from pipeline.report.release_report import ReportSubject, render_release_report
from pipeline.training.auto_config import choose_geometry, choose_head, describe_geometry, parse_geometry
from pipeline.training.network_weights import EvidenceHead
from pipeline.training.onnx_export import build_float_model, to_bytes
from pipeline.training.quantiser import build_int8_model, calibrate_ranges, check_optimised
from pipeline.training.recipe import TrainingParameters, TrainingTask
from pipeline.training.tiled_evidence import train_tiled_evidence
from pipeline.training.training_loop import train_classifier
from pipeline.training.whole_evidence import train_whole_evidence

if TYPE_CHECKING:
    from pathlib import Path

    from agent.records import Geometry, Pixels
    from pipeline.dataset_reader import Sample
    from pipeline.progress import Progress
    from pipeline.training.auto_config import Head
    from pipeline.training.network_weights import NetworkWeights
    from pipeline.training.quantiser import TargetCpu
    from pipeline.training.recipe import Recipe, TrainedNetwork

CALIBRATION_IMAGES: Final = 100
NEEDED_SPLITS: Final = ("train", "val")


@dataclass(frozen=True, slots=True)
class TrainingRequest:
    """The user's request; None lets the data decide."""

    data: Path
    name: str
    version: str
    parameters: TrainingParameters
    geometry: str | None = None
    head: Head | None = None
    target_cpu: TargetCpu = "any"
    false_rejects: float | None = None  # allowed share on the validation split; None: best mean of both recalls


def build_release(request: TrainingRequest, *, progress: Progress) -> release_writer.ReleaseFiles:
    """Train and build all files of the release folder. Raises OperatorError for unsuitable data."""
    started, created = time.monotonic(), datetime.now(UTC)
    task, dataset, head = _task(request)
    trained = _recipe(head, task.geometry)(task, progress=progress)
    plain = trained.net.to_weights(task.geometry)
    calibration = _calibration(task)
    model = to_bytes(build_int8_model(plain, calibrate_ranges(plain, calibration), target_cpu=request.target_cpu))
    check_optimised(model, plain)
    reference = to_bytes(build_float_model(plain))
    fp32, int8 = _evaluate(task, trained, reference, model, request.false_rejects, progress)
    golden = _golden(task, plain, model)
    manifest = _manifest(
        request, task, dataset, (fp32, int8), trained, model=model, golden=golden, reference=reference, head=head
    )
    lineage = manifest.lineage.model_copy(
        update={
            "created_utc": created.isoformat(timespec="seconds"),
            "duration_s": round(time.monotonic() - started, 1),
        }
    )
    manifest = manifest.model_copy(update={"lineage": lineage})
    page = render_release_report(ReportSubject(manifest=manifest, int8=int8, fp32=fp32, split="val"))
    return release_writer.ReleaseFiles(model, golden, reference, manifest, page)


def _task(request: TrainingRequest) -> tuple[TrainingTask, Dataset, Head]:
    dataset = Dataset.load(request.data)
    train, val = (dataset.split(name) for name in NEEDED_SPLITS)
    missing = set(dataset.classes) - {s.class_name for s in train}
    if missing:
        raise DatasetError(f"{dataset.root}: the classes {', '.join(sorted(missing))} have no training images.")
    if len(dataset.classes) < 2:  # noqa: PLR2004 - one class cannot be told from another
        raise DatasetError(f"{dataset.root}: the only class is {dataset.classes[0]}; at least two are needed.")
    geometry = parse_geometry(request.geometry, train) if request.geometry else choose_geometry(dataset, train)
    head = request.head or choose_head(dataset)
    if request.parameters.teachers and (head == "classifier" or geometry.mode == "whole"):
        raise OperatorError(
            f"--teachers {request.parameters.teachers}: only an evidence map on tiles learns from teachers, this is "
            f"{'a classifier' if head == 'classifier' else 'a map of whole images'}; leave --teachers out."
        )
    return TrainingTask(train, val, dataset.classes, dataset.defects, geometry, request.parameters), dataset, head


def _recipe(head: Head, geometry: Geometry) -> Recipe:
    if head == "classifier":
        return train_classifier
    return train_whole_evidence if geometry.mode == "whole" else train_tiled_evidence


def _evenly_spaced(samples: tuple[Sample, ...], count: int) -> tuple[Sample, ...]:
    """Evenly spaced samples; they are sorted by name, thus by class, so that each class is there."""
    return samples[:: max(1, len(samples) // count)]


def _calibration(task: TrainingTask) -> Pixels:
    return load_inputs(_evenly_spaced(task.train, CALIBRATION_IMAGES), task.geometry).pixels


def _evaluate(
    task: TrainingTask,
    trained: TrainedNetwork,
    reference: bytes,
    model: bytes,
    false_rejects: float | None,
    progress: Progress,
) -> tuple[evaluation.Evaluation, evaluation.Evaluation]:
    has_map = trained.net.head_kind == "evidence"
    infers = (
        model_runner.make_float_infer(reference, evidence=has_map),
        model_runner.make_int8_infer(model, evidence=has_map),
    )
    raw_float, raw_int8 = model_runner.run_models(infers, task.val, task.geometry, progress=progress)
    rule = DecisionRule(
        classes=task.classes,
        defects=task.defects,
        thresholds=dict.fromkeys(sorted(task.defects), 0.0),
        score=trained.score,
        aggregation=trained.aggregation,
        top_fraction=trained.top_fraction,
    )
    # Six digits: the manifest states exactly the value that is used here.
    threshold = round(evaluation.choose_threshold(raw_int8, task.val, rule, false_rejects=false_rejects), 6)
    rule = replace(rule, thresholds=dict.fromkeys(sorted(task.defects), threshold))
    return evaluation.evaluate(raw_float, task.val, rule), evaluation.evaluate(raw_int8, task.val, rule)


def _golden(task: TrainingTask, plain: NetworkWeights, model: bytes) -> bytes:
    """One input of each of a few validation images: of tiles the one with the highest int8 defect score."""
    index = {name: i for i, name in enumerate(task.classes)}
    truth = np.array([index[s.class_name] for s in task.val], np.int64)
    rows = release_writer.choose_golden_rows(truth, plain.height * plain.width * plain.channels)
    inputs = load_inputs([task.val[row] for row in rows], task.geometry)
    infer = model_runner.make_int8_infer(model, evidence=isinstance(plain.head, EvidenceHead))
    suspicion = infer(inputs.pixels).scores[:, plain.defect_rows].max(axis=1)
    chosen = [max(np.flatnonzero(inputs.sample_index == i), key=suspicion.__getitem__) for i in range(len(rows))]
    images = np.ascontiguousarray(inputs.pixels[chosen])
    return release_writer.encode_golden_set(images, infer(images), truth[rows])


def _manifest(
    request: TrainingRequest,
    task: TrainingTask,
    dataset: Dataset,
    evaluations: tuple[evaluation.Evaluation, evaluation.Evaluation],
    trained: TrainedNetwork,
    *,
    model: bytes,
    golden: bytes,
    reference: bytes,
    head: Head,
) -> Manifest:
    fp32, int8 = evaluations
    parameters: dict[str, Any] = {
        **asdict(task.parameters),
        "head": head,
        "geometry": describe_geometry(task.geometry),
        "target_cpu": request.target_cpu,
        "false_rejects": request.false_rejects,
        "calibration_pictures": len(_evenly_spaced(task.train, CALIBRATION_IMAGES)),
        "float_sha256": release_writer.sha256(reference),
        "labels_sha256": release_writer.labels_sha256(dataset.samples),
    }
    return Manifest(
        name=request.name,
        version=request.version,
        classes=task.classes,
        defects=tuple(c for c in task.classes if c in task.defects),
        geometry=_spec(task.geometry),
        preprocess_sha256=preprocess.digest(task.geometry),
        decision=DecisionSpec(
            thresholds=dict(int8.rule.thresholds),
            score=trained.score,
            aggregation=trained.aggregation,
            top_fraction=trained.top_fraction,
        ),
        outputs=("scores", "evidence") if trained.net.head_kind == "evidence" else ("scores",),
        metrics={"split": "val", "fp32": fp32.figures, "int8": int8.figures, **evaluation.int8_agreement(fp32, int8)},
        lineage=Lineage(
            dataset_sha256=dataset.digest,
            code_version=release_writer.code_version(),
            seed=task.parameters.seed,
            parameters=parameters,
            libraries=release_writer.library_versions(),
            cpu=release_writer.cpu_type(),
            threads=task.parameters.threads,
            created_utc="",
        ),
        files={
            MODEL_NAME: FileEntry(sha256=release_writer.sha256(model), length_bytes=len(model)),
            GOLDEN_NAME: FileEntry(sha256=release_writer.sha256(golden), length_bytes=len(golden)),
        },
    )


def _spec(geometry: Geometry) -> GeometrySpec:
    return GeometrySpec(
        mode=geometry.mode,
        height=geometry.height,
        width=geometry.width,
        channels=geometry.channels,
        reduction=geometry.reduction,
        overlap_px=geometry.overlap_px,
        roi=geometry.roi,
    )
