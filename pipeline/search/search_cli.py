"""The command `kensa train --search`: arguments in, exit code out."""

from __future__ import annotations

import argparse
import getpass
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agent.release.manifest import read_manifest
from pipeline.extras import require_extra
from pipeline.progress import ProgressDisplay
from pipeline.search.search_space import default_settings, read_settings
from pipeline.selection.choice_folder import register_choice
from pipeline.selection.registry.registry_location import open_registry
from pipeline.selection.selection_cli import REFUSED, candidate_line
from pipeline.selection.training_plan import next_version

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.search.search_space import SearchSettings

_INTERRUPTED: Final = 130  # as the shell reports a program ended by SIGINT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kensa train --search",
        description="Train several configurations and seeds, compare the best with the champion, and propose one.",
    )
    add = parser.add_argument
    add("--search-file", type=Path, metavar="FILE.yaml", help="what to vary (default: learning rates and seeds)")
    add("--data", type=Path, required=True, help="folder with manifest.csv, or with split/class/*.png")
    add("--out", type=Path, required=True, help="folder of the search; an interrupted search resumes there")
    add("--champion", type=Path, metavar="RELEASE_DIR", help="the running release, to be compared with")
    add(
        "--anchor",
        type=Path,
        action="append",
        default=[],
        metavar="DATA",
        help="further data to compare on; repeatable",
    )
    add("--name", help="model name (default: the champion's, the file's, or the data folder's)")
    add("--version", help="semantic version (default: the file's, or the champion's next minor one)")
    add("--net", help="size of the network, unless the file varies it")
    add("--epochs", type=int, help="of a full training")
    add("--threads", type=int, help="of each training; equal bytes need an equal number")
    add("--workers", type=int, help="trainings at once")
    add("--registry", help="register the proposed candidate: a folder, or s3://bucket/prefix")
    add("--json", action="store_true", help="print the result as one JSON object")
    return parser


def search(argv: Sequence[str]) -> int:
    """Run `kensa train --search`; returns the exit code: 0 when a candidate is proposed, 3 when none is."""
    arguments = _parser().parse_args(argv)
    require_extra("train", "torch", "onnx")
    from pipeline.search.search_runner import run_search  # noqa: PLC0415 - OpenCV and ONNX

    settings = _settings(arguments)
    places = (arguments.data, arguments.out, arguments.champion)
    try:
        with ProgressDisplay() as progress:
            choice, report = run_search(settings, *places, anchors=arguments.anchor, progress=progress)
    except KeyboardInterrupt:
        print("kensa: stopped. Run the same command to resume.", file=sys.stderr)
        return _INTERRUPTED
    entry = None
    if arguments.registry:
        registry = open_registry(arguments.registry)
        uri = str(arguments.data.resolve())
        entry = register_choice(registry, arguments.out, by=getpass.getuser(), why="found by a search", dataset_uri=uri)
    if arguments.json:
        tree = {"out": str(arguments.out), **choice.model_dump(mode="json"), "failed": len(report.failed)}
        print(json.dumps(tree))
    else:
        for training in report.failed:
            print(f"training {training.label} failed: {training.failure}")
        print("\n".join(choice.reasons))
        for one in choice.assessments:
            print(f"  {candidate_line(one)}")
        print(f"model card: {arguments.out / 'card.html'}")
        if entry is not None:
            print(f"registered: {entry.record.release_id}, {entry.status}")
    return 0 if choice.proposed is not None else REFUSED


def _settings(arguments: argparse.Namespace) -> SearchSettings:
    settings = read_settings(arguments.search_file) if arguments.search_file else default_settings()
    given = settings.model_fields_set
    champion = read_manifest(arguments.champion) if arguments.champion else None
    base = {key: getattr(arguments, key) for key in ("net", "epochs", "threads") if getattr(arguments, key) is not None}
    changes: dict[str, Any] = {"base": {**settings.base, **base}}
    if arguments.workers is not None:
        changes["workers"] = arguments.workers
    if arguments.name or "name" not in given:
        data_name = re.sub(r"[^A-Za-z0-9_-]+", "-", arguments.data.resolve().name)[:64] or "model"
        changes["name"] = arguments.name or (champion.name if champion else data_name)
    if arguments.version or ("version" not in given and champion):
        changes["version"] = arguments.version or next_version(champion.version if champion else "0.0.0")
    return type(settings).model_validate({**settings.model_dump(), **changes})
