"""The commands `kensa cloud registry` and `kensa cloud reproduce`: arguments in, exit code out."""

from __future__ import annotations

import argparse
import getpass
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agent.errors import UsageError
from agent.release.manifest import MANIFEST_NAME, read_manifest
from pipeline.extras import require_extra
from pipeline.progress import ProgressDisplay
from pipeline.selection.candidate_record import CandidateStatus
from pipeline.selection.choice_folder import register_choice
from pipeline.selection.registry.registry_location import open_registry

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pipeline.comparison.comparison_result import CandidateAssessment
    from pipeline.selection.candidate_record import RegistryEntry
    from pipeline.selection.registry.model_registry import ModelRegistry

REFUSED: Final = 3  # the exit code of refused releases: no candidate is proposed
_REGISTRY_VARIABLE: Final = "KENSA_REGISTRY"


# --- kensa cloud registry ---------------------------------------------------------------------------------------------


def registry(argv: Sequence[str]) -> int:
    """Run `kensa cloud registry ...`; returns the exit code."""
    parser = argparse.ArgumentParser(prog="kensa cloud registry", description="Candidates, and what became of them.")
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        where = f"a folder, or s3://bucket/prefix (default: {_REGISTRY_VARIABLE}, or ./registry)"
        made.add_argument("--registry", default=os.environ.get(_REGISTRY_VARIABLE, "registry"), help=where)
        made.add_argument("--json", action="store_true", help="print one JSON object")
        return made

    command("list", "all candidates, or those of one model").add_argument("name", nargs="?")
    command("show", "one candidate with its comparison and history").add_argument("version", help="NAME/VERSION")
    command("choices", "every candidate that was compared, with its reasons").add_argument("name")
    for name, text in (("approve", "let a candidate be released"), ("reject", "never release it")):
        made = command(name, text)
        made.add_argument("version", help="NAME/VERSION")
        made.add_argument("--why", required=True, help="one sentence for those who ask later")
        made.add_argument("--by", default=getpass.getuser(), help="who decides (default: you)")
    made = command("add", "register what a search or a job proposes")
    made.add_argument("result", type=Path, help="folder with choice.json")
    made.add_argument("--data", help="location of the data set version: a folder, or s3://bucket/prefix")
    made.add_argument("--by", default=getpass.getuser())
    made.add_argument("--why", default="proposed by a comparison")
    made = command("fetch", "write a candidate's release folder")
    made.add_argument("version", help="NAME/VERSION")
    made.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args(argv)
    return _COMMANDS[arguments.command](open_registry(arguments.registry), arguments)


def _parse_release_id(text: str) -> tuple[str, str]:
    name, slash, version = text.partition("/")
    if not slash or not name or not version:
        raise UsageError(f"{text!r} is no candidate: write NAME/VERSION, such as parts/1.2.0.")
    return name, version


def candidate_line(one: CandidateAssessment) -> str:
    """One candidate of a choice in a line of text."""
    return f"{one.model_sha256[:12]} seed {one.seed}, objective {one.objective:.4f}: {' '.join(one.reasons)}"


def _list(kept: ModelRegistry, arguments: argparse.Namespace) -> int:
    entries = kept.list(arguments.name)
    if arguments.json:
        print(json.dumps({"candidates": [_entry_dict(entry) for entry in entries]}))
        return 0
    for entry in entries:
        last = entry.history[-1]
        print(f"{entry.record.release_id:<24} {entry.status:<11} {last.at_utc}  {last.by}: {last.why}")
    if not entries:
        print("there are no candidates")
    return 0


def _list_choices(kept: ModelRegistry, arguments: argparse.Namespace) -> int:
    choices = kept.list_choices(arguments.name)
    if arguments.json:
        print(json.dumps({"choices": [choice.model_dump(mode="json") for choice in choices]}))
        return 0
    for choice in choices:
        print(f"on {choice.dataset_digest[:12]}, champion {choice.champion or 'none'}: {' '.join(choice.reasons)}")
        for one in choice.assessments:
            print(f"  {candidate_line(one)}")
    if not choices:
        print("no candidates were compared")
    return 0


def _show(kept: ModelRegistry, arguments: argparse.Namespace) -> int:
    entry = kept.get(*_parse_release_id(arguments.version))
    if arguments.json:
        print(json.dumps(_entry_dict(entry)))
        return 0
    record = entry.record
    print(f"{record.release_id}: {entry.status}; {record.decision.outcome}. {' '.join(record.decision.reasons)}")
    print(f"model.onnx {record.model_sha256}\ntrained on {record.dataset_digest} {record.dataset_uri or ''}")
    print(f"artifacts {record.artifacts_uri}")
    for comparison in record.comparison:
        print(f"against {comparison.champion} on {comparison.data}, split {comparison.split}:")
        for s in comparison.slices:
            mark = " " if s.passed else "!"
            print(
                f"{mark} {s.slice + ', ' + s.of:<34} {s.pictures:>6}  {100 * s.difference:+6.1f} "
                f"({100 * s.low:+.1f} to {100 * s.high:+.1f}), allowed {-100 * s.margin:.1f}: {s.verdict}"
            )
    for change in entry.history:
        print(f"{change.at_utc} {change.status:<11} {change.by}: {change.why}")
    return 0


def _status_command(status: CandidateStatus) -> Callable[[ModelRegistry, argparse.Namespace], int]:
    def change(kept: ModelRegistry, arguments: argparse.Namespace) -> int:
        entry = kept.set_status(*_parse_release_id(arguments.version), status, by=arguments.by, why=arguments.why)
        print(json.dumps(_entry_dict(entry)) if arguments.json else f"{entry.record.release_id}: {entry.status}")
        return 0

    return change


def _add(kept: ModelRegistry, arguments: argparse.Namespace) -> int:
    entry = register_choice(kept, arguments.result, by=arguments.by, why=arguments.why, dataset_uri=arguments.data)
    if entry is None:
        print(f"{arguments.result} proposes no candidate: nothing was registered")
        return REFUSED
    print(json.dumps(_entry_dict(entry)) if arguments.json else f"{entry.record.release_id}: {entry.status}")
    return 0


def _fetch(kept: ModelRegistry, arguments: argparse.Namespace) -> int:
    folder = kept.download(*_parse_release_id(arguments.version), arguments.out)
    print(json.dumps({"release": str(folder)}) if arguments.json else str(folder))
    return 0


def _entry_dict(entry: RegistryEntry) -> dict[str, Any]:
    return {"status": entry.status, **entry.model_dump(mode="json")}


_COMMANDS: Final[dict[str, Callable[[ModelRegistry, argparse.Namespace], int]]] = {
    "list": _list,
    "choices": _list_choices,
    "show": _show,
    "approve": _status_command(CandidateStatus.APPROVED),
    "reject": _status_command(CandidateStatus.REJECTED),
    "add": _add,
    "fetch": _fetch,
}


# --- kensa cloud reproduce --------------------------------------------------------------------------------------------


def reproduce(argv: Sequence[str]) -> int:
    """Run `kensa cloud reproduce`; returns the exit code: 0 reproduced, 1 not."""
    parser = argparse.ArgumentParser(
        prog="kensa cloud reproduce", description="Train a version again from its lineage, and compare."
    )
    where = f"a folder, or s3://bucket/prefix (default: {_REGISTRY_VARIABLE}, or ./registry)"
    parser.add_argument("version", help="NAME/VERSION in the registry, or a release folder")
    parser.add_argument("--registry", default=os.environ.get(_REGISTRY_VARIABLE, "registry"), help=where)
    parser.add_argument("--data", help="the data set version: a folder, or s3://bucket/prefix (default: the record's)")
    parser.add_argument("--tolerance", type=float, default=None, help="of figures, where bytes must differ")
    parser.add_argument("--out", type=Path, help="also keep the new release folder here")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args(argv)
    require_extra("train", "torch", "onnx")
    from pipeline import release_writer  # noqa: PLC0415 - OpenCV
    from pipeline.selection import reproduction as again  # noqa: PLC0415 - OpenCV

    if arguments.out:
        release_writer.check_output_folder(arguments.out)
    tolerance = again.TOLERANCE if arguments.tolerance is None else arguments.tolerance
    with tempfile.TemporaryDirectory(prefix="kensa-reproduce-") as folder:
        room = Path(folder)
        release_dir, uri = Path(arguments.version), arguments.data
        if not (release_dir / MANIFEST_NAME).is_file():
            kept, name = open_registry(arguments.registry), _parse_release_id(arguments.version)
            uri = uri or kept.get(*name).record.dataset_uri
            release_dir = kept.download(*name, room / "release")
        if not uri:
            raise UsageError(
                f"where the data of {arguments.version} lie is not recorded: give the data set version with the digest "
                f"{read_manifest(release_dir).lineage.dataset_sha256[:12]} with --data."
            )
        data = again.fetch_dataset(uri, room / "data")
        with ProgressDisplay(quiet=arguments.json) as progress:
            result = again.reproduce(release_dir, data, tolerance=tolerance, progress=progress)
    if arguments.out:
        release_writer.write_release(arguments.out, result.files)
    print(json.dumps(result.to_dict()) if arguments.json else result.text())
    return 0 if result.is_reproduced else 1
