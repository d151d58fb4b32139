"""The commands `kensa train` and `kensa evaluate`: arguments in, exit code out.

Expected failures print one or more sentences on standard error and give the error's exit code; results go to standard
output, progress to standard error. Heavy imports wait until the arguments are known to be good.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.errors import KensaError, OperatorError
from pipeline.extras import require_extra

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pipeline.training.release_builder import TrainingRequest

_NETWORK_NAMES = (
    "tiny",
    "slim",
    "fine",
    "small",
    "medium",
    "large",
)  # of pipeline.training.network.BACKBONES, which needs torch; a test keeps them equal


def _exit_code_of(work: Callable[[], int]) -> int:
    """Call `work`; an expected error becomes its text on standard error and its exit code."""
    try:
        return work()
    except KensaError as error:
        print(f"kensa: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("kensa: stopped; nothing was written.", file=sys.stderr)
        return 130


# --- train ------------------------------------------------------------------------------------------------------------


def train(argv: Sequence[str]) -> int:
    """Run `kensa train`; returns the exit code."""
    if "--search" in argv:
        return _exit_code_of(lambda: _search([word for word in argv if word != "--search"]))
    arguments = _train_parser().parse_args(argv)
    return _exit_code_of(lambda: _train(arguments))


def _search(argv: Sequence[str]) -> int:
    from pipeline.search.search_cli import search  # noqa: PLC0415

    return search(argv)


def _train_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kensa train", description="Train a network on labelled images, quantise it and write a release folder."
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder with manifest.csv, or with split/class/*.png")
    add("--out", type=Path, required=True, help="release folder to write; an earlier release there is replaced")
    add("--seed", type=int, default=0)
    add("--net", choices=_NETWORK_NAMES, default="small", help="size of the network (default: small)")
    add("--geometry", help="whole:HxW[xC] or tiles:HxW[xC][:rREDUCTION][:oOVERLAP] (default: follows from the data)")
    add("--head", choices=("classifier", "evidence"), help="default: evidence where there are masks and good parts")
    add("--epochs", type=int, help="default: depends on the head")
    add("--batch", type=int, default=32)
    add("--learning-rate", type=float, help="peak of the one cycle")
    add("--top-fraction", type=float, help="evidence head: share of the cells whose mean is the part's score")
    add("--teachers", type=int, help="evidence map on tiles: networks trained first to teach it (default: 2; 0: none)")
    add(
        "--false-rejects",
        type=float,
        metavar="SHARE",
        help="set the threshold to reject this share of good parts of val",
    )
    add(
        "--target-cpu", choices=("any", "avx2", "vnni"), default="any", help="any: safe everywhere; vnni: 8-bit weights"
    )
    add(
        "--threads",
        type=int,
        default=min(2, os.cpu_count() or 1),
        help="of the training; equal bytes need an equal number",
    )
    add("--name", help="the release's model name (default: the data folder's)")
    add("--version", default="0.1.0", help="semantic version of the release")
    add("--compare-to", type=Path, metavar="RELEASE_DIR", help="report how the new release differs from that one")
    add("--json", action="store_true", help="print the metrics as one JSON object")
    add("--search", action="store_true", help="train several and choose one: see kensa train --search --help")
    return parser


def _check_positive(arguments: argparse.Namespace) -> None:
    for name in ("epochs", "batch", "threads", "learning_rate"):
        value = getattr(arguments, name)
        if value is not None and value <= 0:
            raise OperatorError(f"--{name.replace('_', '-')} {value}: a number above 0 is needed.")
    if arguments.teachers is not None and arguments.teachers < 0:
        raise OperatorError(f"--teachers {arguments.teachers}: 0 or more networks are needed.")
    for name in ("top_fraction", "false_rejects"):
        value = getattr(arguments, name)
        if value is not None and not 0.0 < value <= 1.0:
            raise OperatorError(f"--{name.replace('_', '-')} {value}: a share above 0 and up to 1 is needed.")


def _request(arguments: argparse.Namespace) -> TrainingRequest:
    from pipeline.dataset_reader import Dataset  # noqa: PLC0415
    from pipeline.training.auto_config import DEFAULT_EPOCHS, choose_head  # noqa: PLC0415 - loads OpenCV
    from pipeline.training.recipe import TrainingParameters  # noqa: PLC0415
    from pipeline.training.release_builder import TrainingRequest  # noqa: PLC0415 - loads torch

    head = arguments.head or choose_head(Dataset.load(arguments.data, verify=False))
    given = {name: getattr(arguments, name) for name in ("learning_rate", "top_fraction", "teachers")}
    parameters = TrainingParameters(
        net=arguments.net,
        epochs=arguments.epochs or DEFAULT_EPOCHS[head],
        batch=arguments.batch,
        seed=arguments.seed,
        threads=arguments.threads,
        **{key: value for key, value in given.items() if value is not None},
    )
    name = arguments.name or re.sub(r"[^A-Za-z0-9_-]+", "-", arguments.data.resolve().name)[:64] or "model"
    return TrainingRequest(
        data=arguments.data,
        name=name,
        version=arguments.version,
        parameters=parameters,
        geometry=arguments.geometry,
        head=head,
        target_cpu=arguments.target_cpu,
        false_rejects=arguments.false_rejects,
    )


def _train(arguments: argparse.Namespace) -> int:
    _check_positive(arguments)
    require_extra("train", "torch", "onnx")
    # libgomp reads this when torch is loaded. Waiting threads must sleep: spinning halves the speed of a shared
    # machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from agent.release import manifest as manifests  # noqa: PLC0415
    from pipeline import release_writer  # noqa: PLC0415
    from pipeline.progress import ProgressDisplay  # noqa: PLC0415
    from pipeline.training.release_builder import build_release  # noqa: PLC0415

    # before training: the folder may be unreadable
    older = manifests.read_manifest(arguments.compare_to) if arguments.compare_to else None
    release_writer.check_output_folder(arguments.out)
    with ProgressDisplay() as progress:
        files = build_release(_request(arguments), progress=progress)
    comparison = release_writer.compare_release(files, arguments.compare_to, older) if older else []
    release_writer.write_release(arguments.out, files)
    metrics = files.manifest.metrics
    if arguments.json:
        print(
            json.dumps(
                {"out": str(arguments.out), **_lineage(files.manifest), "metrics": metrics, "compared": comparison}
            )
        )
        return 0
    print(
        f"{arguments.out}: {files.manifest.name} {files.manifest.version}, model.onnx {len(files.model) / 1000:.0f} kB"
    )
    for precision in ("fp32", "int8"):
        print(f"{precision:>5}  {_summary(metrics[precision])}")
    print(f"int8 agrees with fp32 on {100 * metrics['int8_agreement']:.2f} % of the validation images")
    print("\n".join([*comparison, f"report: {arguments.out / release_writer.REPORT_NAME}"]))
    print(f"{files.manifest.lineage.duration_s:.0f} s, {time.process_time():.0f} s of CPU time")
    return 0


def _lineage(manifest: Any) -> dict[str, Any]:
    return {
        "sha256": manifest.files["model.onnx"].sha256,
        "golden_sha256": manifest.files["golden.npz"].sha256,
        "duration_s": manifest.lineage.duration_s,
        "cpu_s": round(time.process_time(), 1),
    }


def _summary(figures: dict[str, Any]) -> str:
    from pipeline.report.text_format import HEADLINE_METRICS  # noqa: PLC0415

    shown = [(key, figures[key]) for key in ("images", *HEADLINE_METRICS) if figures.get(key) is not None]
    return "  ".join(f"{key} {value:.4f}" if isinstance(value, float) else f"{key} {value}" for key, value in shown)


# --- evaluate ---------------------------------------------------------------------------------------------------------


def evaluate(argv: Sequence[str]) -> int:
    """Run `kensa evaluate`; returns the exit code."""
    parser = argparse.ArgumentParser(prog="kensa evaluate", description="Evaluate a release on labelled images.")
    parser.add_argument("--release", type=Path, required=True, help="folder with manifest.json, model.onnx, golden.npz")
    parser.add_argument("--data", type=Path, required=True, help="folder with manifest.csv, or with split/class/*.png")
    parser.add_argument("--split", default="val", help="train, val or test (default: val)")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write the metrics as a page")
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write the full report")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args(argv)
    return _exit_code_of(lambda: _evaluate(arguments))


def _evaluate(arguments: argparse.Namespace) -> int:
    require_extra("pipeline", "onnx", "jinja2")
    from pipeline.evaluation.release_evaluation import evaluate_release  # noqa: PLC0415
    from pipeline.progress import ProgressDisplay  # noqa: PLC0415
    from pipeline.report.markdown_report import render_release_markdown  # noqa: PLC0415
    from pipeline.report.release_report import ReportSubject, render_release_report  # noqa: PLC0415

    with ProgressDisplay() as progress:
        result = evaluate_release(arguments.release, arguments.data, arguments.split, progress=progress)
    if arguments.markdown is not None:
        _write(arguments.markdown, render_release_markdown(result.manifest, result.figures, result.split))
    if arguments.html is not None:  # without the float export its column shows int8 again
        subject = ReportSubject(result.manifest, result.int8, result.fp32 or result.int8, result.split)
        _write(arguments.html, render_release_report(subject))
    figures = result.figures
    if arguments.json:
        print(json.dumps(figures))
        return 0
    print(_summary(figures))
    agreement = figures["int8_agreement"]
    print(
        "int8_agreement " + (f"{agreement:.4f}" if agreement is not None else f"not known: {figures['float_missing']}")
    )
    for name, value in figures["recall"].items():
        print(f"  recall {name}: " + ("no images" if value is None else f"{value:.4f}"))
    for kind, levels in figures.get("recall_by_kind", {}).items():
        print(
            f"  {kind}: "
            + ", ".join(f"{level} {cell['recall']:.3f} of {cell['parts']}" for level, cell in levels.items())
        )
    return 0


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OperatorError(f"{path} cannot be written: {error.strerror}.") from error
