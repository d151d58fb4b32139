"""`kensa model acceptance add|list|remove|run` manages the site's labelled parts.

Every release must classify them right. The set of an inspection is in its state directory and outlives releases. `run`
classifies it with the running release, or with another one, by the site's own thresholds and ROI, and prints the parts
that are classified wrong. Exit code 0: all right, 3: not.
"""

from __future__ import annotations

import argparse
import getpass
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agent import config as configuration
from agent.adapters.onnx import OnnxModel
from agent.app.factories import make_site_lease
from agent.commands import explain
from agent.errors import OperatorError, ReleaseError
from agent.images.decode import MAX_IMAGE_BYTES
from agent.lifecycle.state.journal import load_read_only
from agent.lifecycle.state.model_status import lifecycle_dir
from agent.release import acceptance_set
from agent.release.acceptance_set import AcceptanceSet
from agent.release.release_store import ReleaseStore
from agent.timing.clock import SystemClock

if TYPE_CHECKING:
    from agent.config import Config
    from agent.release.acceptance_set import LabelledPart, LabelledPartResult

_KEY_PARTS: Final = 4  # line/camera/boot_epoch/seq
_SLOW_PARTS: Final = 50  # from so many on a terminal shows the progress


def _inspection(config: Config, given: str | None) -> str:
    """Return the inspection that is meant. Raises OperatorError."""
    names = sorted(config.inspections)
    if given is None and len(names) == 1:
        return names[0]
    if given is None:
        raise OperatorError(f"give --inspection: the configuration has {', '.join(names)}")
    if given not in config.inspections:
        raise OperatorError(f"there is no inspection {given!r}; the configuration has {', '.join(names)}")
    return given


def _acceptance_set(config: Config, name: str) -> AcceptanceSet:
    return AcceptanceSet(acceptance_set.acceptance_dir(config.state_dir, name))


def running_release(config: Config, name: str) -> Path:
    """Return the folder of the active release of `name`: the journal's, else the configuration's."""
    folder = lifecycle_dir(config.state_dir, name)
    record, _ = load_read_only(folder)
    if record.active is None:
        return config.inspections[name].release
    return ReleaseStore(folder, checkpoint=lambda _: None).release_dir(record.active.ref)


# --- the four commands ------------------------------------------------------------------------------------------------


def _load_picture(config: Config, name: str, given: str) -> tuple[bytes, str]:
    """Return bytes and origin of an image file, or of the kept frame of a verdict key. Raises KensaError."""
    path, origin = Path(given), given
    if not path.exists() and len(given.split("/")) == _KEY_PARTS and not path.suffix:
        explanation = explain.build_explanation(config.state_dir, config, given)
        inspection = explanation.verdict.origin.inspection
        if inspection != name:
            raise OperatorError(f"{given} belongs to the inspection {inspection}, not to {name}")
        if explanation.frame is None:
            raise OperatorError(f"there is no frame of {given}: {explanation.frame_note}")
        path, origin = explanation.frame, f"verdict {given}"
    try:
        with path.open("rb") as file:
            return file.read(MAX_IMAGE_BYTES + 1), origin
    except OSError as error:
        raise OperatorError(
            f"{given}: {error.strerror}. Give a picture (PNG, JPEG, BMP) or a verdict key line/camera/boot_epoch/seq"
        ) from error


def _check_label(config: Config, name: str, label: str) -> None:
    """Check that a class is one of the running release's. Raises OperatorError."""
    if label in {acceptance_set.OK, acceptance_set.DEFECT}:
        return
    try:
        classes = OnnxModel.load(running_release(config, name)).rule.classes
    except ReleaseError as error:
        raise OperatorError(f"--label {label} cannot be checked: {error}") from error
    if label not in classes:
        raise OperatorError(f"--label {label!r} is no class of the running release: ok, defect, {', '.join(classes)}")


def _add(config: Config, name: str, arguments: argparse.Namespace) -> int:
    _check_label(config, name, arguments.label)
    pictures = [_load_picture(config, name, given) for given in arguments.images]  # all of them before one is added
    parts, by = _acceptance_set(config, name), arguments.by or getpass.getuser()
    for data, origin in pictures:
        now_ns = SystemClock().utc_ns()
        part, is_new = parts.add(data, label=arguments.label, by=by, origin=origin, now_utc_ns=now_ns)
        print(f"{part.short_digest}  {part.label}  {'added' if is_new else 'label replaced'}: {origin}")
    return 0


def _list(config: Config, name: str, arguments: argparse.Namespace) -> int:
    parts = _acceptance_set(config, name).parts()
    if arguments.json:
        print(json.dumps([part.model_dump(mode="json") for part in parts]))
        return 0
    for part in parts:
        print(f"{part.short_digest}  {part.label:<12} {part.added_utc}  {part.by:<12} {part.origin}")
    good = sum(part.label == acceptance_set.OK for part in parts)
    size = sum(part.length_bytes for part in parts)
    print(f"{name}: {len(parts)} parts, {good} of them ok, {size / 1e6:.1f} MB")
    return 0


def _remove(config: Config, name: str, arguments: argparse.Namespace) -> int:
    for number in arguments.numbers:
        part = _acceptance_set(config, name).remove(number)
        print(f"{part.short_digest}  {part.label}  removed: {part.origin}")
    return 0


def _run(config: Config, name: str, arguments: argparse.Namespace) -> int:
    parts = _acceptance_set(config, name)
    count = len(parts.parts())
    if not count:
        raise OperatorError(f"{name} has no labelled parts yet: kensa model acceptance add ... --label ok|defect IMAGE")
    folder = arguments.release or running_release(config, name)
    model = OnnxModel.load(folder)
    lease = make_site_lease(model, config.inspections[name], name=name)
    done: list[LabelledPartResult] = []

    def on_part(result: LabelledPartResult) -> None:
        done.append(result)
        if count >= _SLOW_PARTS and sys.stderr.isatty():
            print(f"\r{len(done)} of {count}", end="" if len(done) < count else "\n", file=sys.stderr, flush=True)

    results = acceptance_set.evaluate_set(parts, model, lease.rule, roi=config.inspections[name].roi, on_part=on_part)
    wrong = [result for result in results if not result.is_correct]
    right = count - len(wrong)
    identity = model.identity
    if arguments.json:
        summary = {"inspection": name, "release": f"{identity.name}/{identity.version}", "sha256": identity.sha256}
        print(json.dumps({**summary, "parts": count, "wrong": [_as_dict(result) for result in wrong]}))
    else:
        for result in wrong:
            print(f"WRONG  {describe_part(result.part)}  {_result_text(result)}")
        print(f"{identity.name} {identity.version}: {right} of {count} labelled parts of {name} classified right")
    return ReleaseError.exit_code if wrong else 0


def describe_part(part: LabelledPart) -> str:
    """Describe a part by number, label and origin."""
    return f"{part.short_digest}  labelled {part.label} by {part.by}, {part.origin}"


def _result_text(result: LabelledPartResult) -> str:
    judgement = result.judgement
    why = judgement.reason or f"{judgement.class_name or 'no class'} {judgement.score:.3f}"
    return f"classified {judgement.outcome}: {why}"


def _as_dict(result: LabelledPartResult) -> dict[str, Any]:
    judgement = result.judgement
    return {
        **result.part.model_dump(mode="json"),
        "outcome": str(judgement.outcome),
        "class": judgement.class_name,
        "score": judgement.score,
        "reason": judgement.reason,
    }


# --- arguments --------------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="kensa model acceptance", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    helps = {
        "add": "keep labelled pictures, or frames of verdicts",
        "list": "show the set",
        "remove": "remove parts",
        "run": "classify the set and show the parts that are wrong",
    }
    made = {}
    for command, text in helps.items():
        made[command] = commands.add_parser(command, help=text)
        made[command].add_argument("config", type=Path, metavar="CONFIG")
        made[command].add_argument("--inspection", metavar="NAME", help="not needed where there is one only")
    made["add"].add_argument("--label", required=True, help="ok, defect, or a class of the model")
    made["add"].add_argument("--by", help="who labelled them; default: the user's name")
    made["add"].add_argument("images", nargs="+", metavar="IMAGE", help="file, or line/camera/boot_epoch/seq")
    made["remove"].add_argument("numbers", nargs="+", metavar="NUMBER", help="as shown by list")
    made["run"].add_argument("--release", type=Path, metavar="DIR", help="default: the active release")
    for command in ("list", "run"):
        made[command].add_argument("--json", action="store_true", help="one JSON value")
    return parser


def main(argv: list[str]) -> int:
    """Run one of the four subcommands."""
    arguments = _parser().parse_args(argv)
    config = configuration.load(arguments.config)
    name = _inspection(config, arguments.inspection)
    chosen = {"add": _add, "list": _list, "remove": _remove, "run": _run}[arguments.command]
    return chosen(config, name, arguments)
