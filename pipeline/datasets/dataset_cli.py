"""The commands `kensa cloud labels`, `kensa cloud dataset` and `kensa cloud collected`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agent.errors import UsageError
from pipeline.cloud.storage import open_storage
from pipeline.dataset_reader import DatasetError
from pipeline.datasets import dataset_version, frame_transfer, label_formats, version_summary
from pipeline.datasets.collected_frames import fetch_image, scan_frames
from pipeline.datasets.dataset_builder import BuildSettings, LabelQualityLimits, SplitShares, build_dataset
from pipeline.datasets.label_conflicts import find_disagreements, find_duplicate_conflicts, find_revisions
from pipeline.datasets.label_store import LabelHistory, LabelStore, load_labels, to_csv, utc_now
from pipeline.progress import ProgressDisplay

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pipeline.datasets.collected_frames import FrameScan

_SUSPICIOUS_EXIT: Final = 3  # built, but the labels are suspicious
_MAX_SHOWN: Final = 20


def _parser(prog: str, text: str) -> tuple[argparse.ArgumentParser, Callable[[str, str], argparse.ArgumentParser]]:
    parser = argparse.ArgumentParser(prog=f"kensa cloud {prog}", description=text)
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.add_argument("--json", action="store_true", help="one JSON object on standard output")
        return made

    return parser, command


def _print_result(arguments: argparse.Namespace, tree: dict[str, Any], lines: Sequence[str]) -> None:
    print(json.dumps(tree) if arguments.json else "\n".join(lines))


def _problem_lines(problems: Sequence[str]) -> list[str]:
    """The first problems as lines of text, and how many more there are."""
    left = len(problems) - _MAX_SHOWN
    return [*(f"  {p}" for p in problems[:_MAX_SHOWN]), *([f"  and {left} more"] if left > 0 else [])]


# --- labels -----------------------------------------------------------------------------------------------------------


def labels(argv: list[str]) -> int:
    """Run `kensa cloud labels ...`."""
    parser, command = _parser("labels", "Labels that people gave to collected frames.")
    add = command("import", "add labels to a store; what is there already is not added again")
    add.add_argument("what", help="a manifest of Ground Truth, a .csv, a .jsonl, or a folder of CLASS/PICTURE")
    add.add_argument("--format", choices=("groundtruth", "csv", "jsonl", "folder"), help="default: from the name")
    add.add_argument("--to", required=True, help="label store: a folder, or s3://bucket/prefix")
    add.add_argument("--collected", help="collected frames, to find images: a folder, or s3://bucket/prefix")
    add.add_argument("--source", help="name of this batch; `review` settles conflicts")
    add.add_argument("--labeller", help="who labelled, where the file does not state it")
    add.add_argument("--good", action="append", default=[], metavar="CLASS", help="a class that is no defect")
    add.add_argument("--min-confidence", type=float, default=0.0, help="of Ground Truth's consolidation")
    add.add_argument("--machine", action="store_true", help="also labels that Ground Truth made by itself")
    add.add_argument("--attribute", help="label attribute of a Ground Truth manifest that has several")
    out = command("export", "write labels, or images that need a label")
    out.add_argument("--labels", required=True, help="label store, .csv or .jsonl")
    out.add_argument("--to", type=Path, required=True, help="file or, for `folder`, folder to write")
    out.add_argument(
        "--format",
        choices=("csv", "jsonl", "groundtruth", "input", "folder"),
        required=True,
        help="labels as csv, jsonl or Ground Truth output; images to label as Ground Truth input or as a folder",
    )
    out.add_argument("--collected", help="collected frames: a folder, or s3://bucket/prefix")
    out.add_argument("--history", action="store_true", help="csv, jsonl: every label, not only those that hold")
    out.add_argument("--conflicts", action="store_true", help="input, folder: images labellers disagree about")
    out.add_argument("--limit", type=int, help="input, folder: at most so many images")
    compare = command("conflicts", "show labels that cannot all be right")
    compare.add_argument("--labels", required=True, help="label store, .csv or .jsonl")
    compare.add_argument("--collected", help="also compare labels of equal images")
    arguments = parser.parse_args(argv)
    return {"import": _import, "export": _export, "conflicts": _conflicts}[arguments.command](arguments)


def _scan(uri: str | None) -> FrameScan | None:
    return None if uri is None else scan_frames(open_storage(uri))


def _require_scan(found: FrameScan | None, why: str) -> FrameScan:
    if found is None:
        raise UsageError(f"{why} needs the collected frames: give them with --collected")
    return found


def _import(arguments: argparse.Namespace) -> int:
    what = Path(arguments.what)
    kind = arguments.format or _format_of(what)
    defaults = label_formats.ImportOptions(
        now=utc_now(),
        source=arguments.source,
        labeller=arguments.labeller,
        good=tuple(arguments.good),
        min_confidence=arguments.min_confidence,
        machine=arguments.machine,
        attribute=arguments.attribute,
    )
    found = _read(kind, arguments.what, _scan(arguments.collected), defaults)
    stored = LabelStore(open_storage(arguments.to)).append(found.labels, repeats=kind not in {"csv", "folder"})
    tree = {"read": len(found.labels), "stored": stored, "problems": list(found.problems)}
    lines = [f"{len(found.labels)} labels read, {stored} of them new"]
    if found.problems:
        lines += [f"{len(found.problems)} entries give no label:", *_problem_lines(found.problems)]
    _print_result(arguments, tree, lines)
    return 0 if found.labels else DatasetError.exit_code


def _format_of(what: Path) -> str:
    if what.is_dir():
        return "folder"
    kind = {".csv": "csv", ".jsonl": "jsonl", ".manifest": "groundtruth"}.get(what.suffix)
    if kind is None:
        raise UsageError(f"the format of {what} is ambiguous: give --format")
    return kind


def _read(
    kind: str, what: str, found: FrameScan | None, defaults: label_formats.ImportOptions
) -> label_formats.LabelImport:
    if kind == "jsonl":
        return label_formats.LabelImport(tuple(load_labels(Path(what)).all()), ())
    if kind == "csv":
        return label_formats.read_csv(
            _content(what), what, None if found is None else label_formats.FrameIndex(found), defaults
        )
    index = label_formats.FrameIndex(_require_scan(found, "a folder" if kind == "folder" else "a manifest"))
    if kind == "folder":
        return label_formats.read_folder(Path(what), index, defaults)
    return label_formats.read_ground_truth(_content(what), what, index, defaults)


def _content(what: str) -> bytes:
    """A file's bytes, here or on S3."""
    folder, slash, name = what.rpartition("/")
    return open_storage(folder or slash or ".").read(name)


def _export(arguments: argparse.Namespace) -> int:
    label_history = load_labels(arguments.labels)
    found = _scan(arguments.collected)
    to: Path = arguments.to
    if arguments.format in {"csv", "jsonl"}:
        chosen = (
            list(label_history.all())
            if arguments.history
            else [history[-1] for history in label_history.by_key.values()]
        )
        text = to_csv(chosen) if arguments.format == "csv" else "".join(x.line() + "\n" for x in chosen).encode()
        count = len(chosen)
    elif arguments.format == "folder":
        return _export_folder(arguments, _require_scan(found, "a folder of images"), label_history)
    else:
        usable = _require_scan(found, "a manifest")
        uri = open_storage(arguments.collected).uri
        if arguments.format == "groundtruth":
            lines = list(label_formats.to_ground_truth(label_history, usable, uri))
        else:
            wanted = label_formats.frames_to_label(
                usable, label_history, conflicts=arguments.conflicts, limit=arguments.limit
            )
            lines = [json.dumps({"source-ref": f"{uri}/{frame.image_path}"}, separators=(",", ":")) for frame in wanted]
        text, count = "".join(line + "\n" for line in lines).encode(), len(lines)
    open_storage(to.parent).write(to.name, text)
    _print_result(arguments, {"written": str(to), "entries": count}, [f"{count} entries written to {to}"])
    return 0


def _export_folder(arguments: argparse.Namespace, found: FrameScan, label_history: LabelHistory) -> int:
    source, target = open_storage(arguments.collected), open_storage(arguments.to)
    wanted = label_formats.frames_to_label(found, label_history, conflicts=arguments.conflicts, limit=arguments.limit)
    with ProgressDisplay(quiet=arguments.json) as display:
        for number, frame in enumerate(wanted, start=1):
            name = f"{frame.sidecar.image.sha256[:12]}-{frame.image_path.rpartition('/')[2]}"
            target.write(f"{label_formats.suggested_class(frame, label_history)}/{name}", fetch_image(source, frame))
            display("images", number, len(wanted))
    lines = [f"{len(wanted)} images written to {arguments.to}: sort them into CLASS folders and import the folder"]
    _print_result(arguments, {"written": str(arguments.to), "entries": len(wanted)}, lines)
    return 0


def _conflicts(arguments: argparse.Namespace) -> int:
    label_history = load_labels(arguments.labels)
    found = _scan(arguments.collected)
    pairs = [(k.sidecar.image.sha256, x) for k in (found.frames if found else ()) if (x := label_history.latest(k.key))]
    kinds = {
        "disagreements": sorted(find_disagreements(label_history).values()),
        "changes": find_revisions(label_history),
        "equal_pictures": sorted(find_duplicate_conflicts(pairs).values()),
    }
    lines = []
    for name, items in kinds.items():
        lines += [f"{len(items)} {name.replace('_', ' ')}", *_problem_lines([str(item) for item in items])]
    tree = {name: [{"keys": item.keys, "labels": item.labels} for item in items] for name, items in kinds.items()}
    _print_result(arguments, tree, lines)
    return 0


# --- dataset ----------------------------------------------------------------------------------------------------------


def dataset(argv: list[str]) -> int:
    """Run `kensa cloud dataset ...`."""
    parser, command = _parser("dataset", "Versions of data sets: manifests of digests.")
    make = command("build", "build a version from collected frames, labels and a base version")
    make.add_argument("--out", type=Path, required=True, help="folder of the version; its name is the version's name")
    make.add_argument("--collected", help="a folder, or s3://bucket/prefix")
    make.add_argument("--labels", help="label store, .csv or .jsonl")
    make.add_argument("--base", type=Path, help="folder of an earlier version, or of any data set")
    make.add_argument("--name", help="of the version (default: the folder's)")
    make.add_argument("--seed", type=int, default=0, help="which groups go to which split")
    make.add_argument("--site", help="frames of this site only")
    make.add_argument("--inspection", help="frames of this inspection only: a model is of one view")
    make.add_argument("--shares", default="0.7,0.15,0.15", metavar="TRAIN,VAL,TEST")
    make.add_argument("--neighbour-s", type=float, default=BuildSettings().neighbour_s, help="see docs/datasets.md")
    make.add_argument("--max-per-class", type=int, help="training images of a class")
    make.add_argument("--max-good-per-defect", type=float, help="good training images for each defective one")
    make.add_argument(
        "--max-contradicted", type=float, default=LabelQualityLimits().max_contradicted, help="see docs/datasets.md"
    )
    make.add_argument(
        "--max-rejected", type=float, default=LabelQualityLimits().max_rejected, help="see docs/datasets.md"
    )
    compare = command("diff", "the differences of two versions")
    compare.add_argument("old", type=Path)
    compare.add_argument("new", type=Path)
    shown = command("show", "what a version holds, and what to know before training on it")
    shown.add_argument("version", type=Path)
    arguments = parser.parse_args(argv)
    return {"build": _build, "diff": _diff, "show": _show}[arguments.command](arguments)


def _build(arguments: argparse.Namespace) -> int:
    guard = LabelQualityLimits(max_contradicted=arguments.max_contradicted, max_rejected=arguments.max_rejected)
    settings = BuildSettings(
        site=arguments.site,
        inspection=arguments.inspection,
        shares=_shares(arguments.shares),
        neighbour_s=arguments.neighbour_s,
        max_per_class=arguments.max_per_class,
        max_good_per_defect=arguments.max_good_per_defect,
        guard=guard,
    )
    with ProgressDisplay(quiet=arguments.json) as display:
        built = build_dataset(
            arguments.collected,
            arguments.labels,
            arguments.base,
            arguments.out,
            seed=arguments.seed,
            name=arguments.name,
            settings=settings,
            progress=display,
        )
    _print_result(arguments, version_summary.summary(built), list(version_summary.describe_version(built)))
    if built.quality.is_suspicious:
        print("kensa: the labels are suspicious; check them before training on this version.", file=sys.stderr)
        return _SUSPICIOUS_EXIT
    return 0


def _shares(text: str) -> SplitShares:
    try:
        train, val, test = (float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"--shares {text!r}: write three numbers, such as 0.7,0.15,0.15") from error
    return SplitShares(train, val, test)


def _diff(arguments: argparse.Namespace) -> int:
    found = version_summary.diff_versions(
        dataset_version.read_version(arguments.old), dataset_version.read_version(arguments.new)
    )
    _print_result(arguments, found.to_dict(), list(found.to_lines()))
    return 0


def _show(arguments: argparse.Namespace) -> int:
    found = dataset_version.read_version(arguments.version)
    _print_result(arguments, version_summary.summary(found), list(version_summary.describe_version(found)))
    return 0


# --- collected --------------------------------------------------------------------------------------------------------


def collected(argv: list[str]) -> int:
    """Run `kensa cloud collected ...`."""
    parser, command = _parser("collected", "Collected frames of an air-gapped site, on a disk.")
    out = command("export", "copy collected frames to a disk")
    out.add_argument("--collected", required=True, help="a folder, or s3://bucket/prefix")
    out.add_argument("--to", type=Path, required=True, metavar="DISK", help="a folder on the disk")
    out.add_argument("--site", help="frames of this site only")
    back = command("import", "copy the frames on a disk to where data sets are built from")
    back.add_argument("--from", dest="disk", type=Path, required=True, metavar="DISK", help="a folder on the disk")
    back.add_argument("--collected", required=True, help="a folder, or s3://bucket/prefix")
    arguments = parser.parse_args(argv)
    storage = open_storage(arguments.collected)
    with ProgressDisplay(quiet=arguments.json) as display:
        if arguments.command == "export":
            copied = frame_transfer.export_frames(storage, arguments.to, site=arguments.site, progress=display)
        else:
            copied = frame_transfer.import_frames(arguments.disk, storage, progress=display)
    tree = {"frames": copied.frames, "new": copied.new, "problems": list(copied.problems)}
    lines = [f"{copied.frames} frames, {copied.new} of them new"]
    if copied.problems:
        lines += [f"{len(copied.problems)} were not copied:", *_problem_lines(copied.problems)]
    _print_result(arguments, tree, lines)
    return 0 if not copied.problems else DatasetError.exit_code
