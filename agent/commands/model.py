"""`kensa model ...` shows active and candidate releases, explains refusals, and takes commands.

show, history · desire, rollback, retry, continue · ab start|stop|promote|report · verify · acceptance ...

All but `verify` and `acceptance` ask the running agent; without one `show` reads the journals. Exit code 0: done. 3: a
release is refused (verify), or parts are classified wrong. 5: no agent runs, or it cannot do that now.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agent import config as configuration
from agent import control
from agent.adapters import contact_sheet
from agent.commands import acceptance, model_text
from agent.commands.release_verification import verify_release
from agent.errors import ControlError, FrameError, KensaError, ReleaseError, UsageError
from agent.images.decode import MAX_IMAGE_BYTES, ImageDecoder
from agent.lifecycle import control_handlers
from agent.lifecycle.state.model_status import last_status
from agent.timing.clock import NS_PER_S, SystemClock
from agent.wire import is_release_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.records import Pixels

_WHY_BYTES: Final = 200
_PICTURES: Final = 24  # newest disagreements on a contact sheet


def _request(arguments: argparse.Namespace, command: str, **more: object) -> dict[str, Any]:
    """Ask the running agent. Raises ControlError."""
    config = configuration.load(arguments.config)
    return control.request(config.state_dir, command, inspection=arguments.inspection, **more)


def _release(text: str) -> str:
    if not is_release_id(text):
        raise UsageError(f"{text[:80]!r} names no release: write name/version, such as surface/1.2.0")
    return text


# --- showing ----------------------------------------------------------------------------------------------------------


def _show(arguments: argparse.Namespace) -> int:
    is_running = True
    try:
        inspections = _request(arguments, "model.show")["inspections"]
    except ControlError as error:
        inspections, is_running = _status_from_journals(arguments, error), False
    if arguments.json:
        print(json.dumps({"running": is_running, "inspections": inspections}))
        return 0
    if not is_running:
        print("No agent runs here. This is the state that the last one recorded; the next start continues from it.\n")
    now_utc_s = SystemClock().utc_ns() / NS_PER_S
    print(
        "\n\n".join("\n".join(model_text.format_status(values, now_utc_s=now_utc_s)) for values in inspections.values())
    )
    return 0


def _status_from_journals(arguments: argparse.Namespace, error: ControlError) -> dict[str, Any]:
    """Return the state in the journals, where no agent runs. Raises `error` where one does, or without journals."""
    config = configuration.load(arguments.config)
    if config.updates is None or control.running_agent(config.state_dir) is not None:
        raise error
    names = sorted(config.inspections) if arguments.inspection is None else [arguments.inspection]
    shown = {}
    for name in _check_inspections(config, names):
        status, record = last_status(config.state_dir, name)
        shown[name] = control_handlers.summary_values(status, [asdict(bad) for bad in record.deny_list])
    return shown


def _check_inspections(config: configuration.Config, names: list[str]) -> list[str]:
    """Return `names`. Raises UsageError for one that the configuration lacks."""
    if unknown := [name for name in names if name not in config.inspections]:
        known = ", ".join(sorted(config.inspections))
        raise UsageError(f"there is no inspection {unknown[0]!r}; the configuration has {known}")
    return names


def _history(arguments: argparse.Namespace) -> int:
    answer = _request(arguments, "model.history")
    if arguments.json:
        print(json.dumps({"inspection": answer["inspection"], "history": answer["history"]}))
    else:
        print("\n".join(model_text.format_history(answer["history"])))
    return 0


# --- commands ---------------------------------------------------------------------------------------------------------


def _desire(arguments: argparse.Namespace) -> int:
    answer = _request(arguments, "model.desire", release=_release(arguments.release))
    print(f"{answer['inspection']}: {answer['desired']} is requested. `kensa model show` shows its progress")
    return 0


def _rollback(arguments: argparse.Namespace) -> int:
    answer = _request(arguments, "model.rollback", why=arguments.why[:_WHY_BYTES] or None)
    print(f"{answer['inspection']}: going back to the previous model. `kensa model show` shows the active one")
    return 0


def _retry(arguments: argparse.Namespace) -> int:
    answer = _request(arguments, "model.retry", which=arguments.which)
    what = answer["which"] or "the desired release"
    print(f"{answer['inspection']}: {what} may be tried again. Request it with `kensa model desire` if nobody does")
    return 0


def _continue(arguments: argparse.Namespace) -> int:
    answer = _request(arguments, "model.continue")
    print(
        f"{answer['inspection']}: the release continues, its tests start again. `kensa model show` shows its progress"
    )
    return 0


def _ab_start(arguments: argparse.Namespace) -> int:
    share = arguments.share / 100.0
    answer = _request(arguments, "model.desire", release=_release(arguments.release), mode="ab", share=share)
    print(
        f"{answer['inspection']}: {answer['desired']} is to inspect {share:.0%} of the parts beside the active "
        "release, once it has passed the gates. `kensa model ab report` compares them"
    )
    return 0


def _ab_stop(arguments: argparse.Namespace) -> int:
    answer = _request(arguments, "model.stop_ab")
    print(f"{answer['inspection']}: the A/B test ends; the active release inspects alone")
    return 0


def _ab_promote(arguments: argparse.Namespace) -> int:
    answer = _request(arguments, "model.promote")
    print(f"{answer['inspection']}: the challenger becomes the active release")
    return 0


def _ab_report(arguments: argparse.Namespace) -> int:
    answer = _request(arguments, "model.ab_report")
    report = answer["report"]
    drawn = 0
    if report is not None and arguments.pictures is not None:
        drawn = _draw(configuration.load(arguments.config).state_dir, report, arguments.pictures)
    if arguments.json:
        pictures = str(arguments.pictures) if drawn else None
        print(json.dumps({"inspection": answer["inspection"], "report": report, "pictures": pictures}))
    elif report is None:
        print(f"{answer['inspection']}: no A/B test has run since the agent started. `kensa model ab start` starts one")
    else:
        print("\n".join(model_text.format_comparison(report)))
        if drawn:
            print(f"\n{drawn} pictures in {arguments.pictures}")
        elif arguments.pictures is not None:
            print(f"\nno picture, {arguments.pictures} is not written: {_why_no_comparison(report)}")
    return 0


def _why_no_comparison(report: dict[str, Any]) -> str:
    if not report["disagreements"]:
        return "the two have not disagreed yet"
    return "no frame of a disagreement is kept. See `keep` in the configuration, or wait for more"


def _draw(state_dir: Path, report: dict[str, Any], out: Path) -> int:
    """Draw the newest disagreements whose frames are kept; return how many those are (0: nothing is drawn).

    Raises KensaError.
    """
    tiles: list[contact_sheet.SheetCell] = []
    for entry in reversed(report["disagreements"]):
        frame = None if entry["image"] is None else _frame(state_dir, entry["image"])
        if frame is not None and len(tiles) < _PICTURES:
            verdicts = f"champion {entry['champion']}, challenger {entry['challenger']}"
            tiles.append(contact_sheet.SheetCell(frame, (entry["key"], verdicts)))
    if not tiles:
        return 0
    try:
        out.write_bytes(contact_sheet.draw_contact_sheet(tiles))
    except OSError as error:
        raise KensaError(f"{out} cannot be written: {error.strerror}. Choose another --pictures") from error
    return len(tiles)


def _frame(state_dir: Path, reference: str) -> Pixels | None:
    """Return a kept frame; None when newer ones have displaced it, or it lies outside the state directory."""
    path = (state_dir / reference).resolve()
    if not path.is_relative_to(state_dir.resolve()):
        return None
    decoder = ImageDecoder()
    try:
        with path.open("rb") as file:
            return decoder.decode(file.read(MAX_IMAGE_BYTES + 1), None)
    except (OSError, FrameError):
        return None
    finally:
        decoder.close()


# --- without an agent -------------------------------------------------------------------------------------------------


def _verify(arguments: argparse.Namespace) -> int:
    if (arguments.config is None) == (arguments.release is None):
        raise UsageError("give CONFIG, or --release DIR")
    if arguments.release is not None:
        folders = {arguments.release.name: arguments.release}
    else:
        config = configuration.load(arguments.config)
        names = sorted(config.inspections) if arguments.inspection is None else [arguments.inspection]
        folders = {name: acceptance.running_release(config, name) for name in _check_inspections(config, names)}
    results = {name: _verified(folder) for name, folder in folders.items()}
    if arguments.json:
        print(json.dumps(results))
    else:
        for name, result in results.items():
            print(f"{'ok      ' if result['ok'] else 'REFUSED '}{name} ({result['folder']}): {result['text']}")
    return 0 if all(result["ok"] for result in results.values()) else ReleaseError.exit_code


def _verified(folder: Path) -> dict[str, Any]:
    try:
        return {"ok": True, "folder": str(folder), "text": verify_release(folder)}
    except ReleaseError as error:
        return {"ok": False, "folder": str(folder), "text": str(error)}


# --- arguments --------------------------------------------------------------------------------------------------------


def _share(text: str) -> float:
    share = float(text)
    if not 0.0 < share <= 100.0:  # noqa: PLR2004 - percent
        raise argparse.ArgumentTypeError("expected percent of the parts, above 0, at most 100")
    return share


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kensa model", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    show = _add(commands, "show", _show, "show the active and the candidate release, and the last refusal")
    history = _add(commands, "history", _history, "show the transitions, oldest first")
    desire = _add(
        commands, "desire", _desire, "request a release: it is fetched, tested, tried and, if it passes, kept"
    )
    desire.add_argument("release", metavar="RELEASE_ID", help="name/version, such as surface/1.2.0")
    rollback = _add(commands, "rollback", _rollback, "end the current trial, or go back to the previous model")
    rollback.add_argument("--why", default="", metavar="TEXT", help="recorded in the history and reported to the cloud")
    retry = _add(commands, "retry", _retry, "allow a refused release again, and resume after too many rollbacks")
    retry.add_argument("which", nargs="?", metavar="DIGEST|RELEASE_ID", help="default: only resume")
    _add(commands, "continue", _continue, "let a held release continue, after somebody has checked the parts")
    verify = commands.add_parser(
        "verify", help="verify bytes, contract and golden set of the active release, or of DIR"
    )
    verify.set_defaults(run=_verify)
    verify.add_argument("config", type=Path, nargs="?", metavar="CONFIG")
    verify.add_argument("--inspection", metavar="NAME", help="default: all of them")
    verify.add_argument("--release", type=Path, metavar="DIR", help="a release folder, without any configuration")
    ab = commands.add_parser("ab", help="compare two releases on live parts for as long as you like")
    tests = ab.add_subparsers(metavar="COMMAND", required=True)
    start = _add(tests, "start", _ab_start, "let a release inspect a share of the parts beside the active one")
    start.add_argument("release", metavar="RELEASE_ID", help="name/version, such as surface/1.2.0")
    start.add_argument("--share", type=_share, default=50.0, metavar="PERCENT", help="default: 50")
    _add(tests, "stop", _ab_stop, "end the test; the challenger is not refused")
    _add(tests, "promote", _ab_promote, "make the challenger the active release")
    report = _add(tests, "report", _ab_report, "show the paired comparison so far")
    report.add_argument("--pictures", type=Path, metavar="FILE.png", help="draw the parts that they disagree on")
    for command in (show, history, verify, report):
        command.add_argument("--json", action="store_true", help="one JSON value")
    commands.add_parser("acceptance", help="the site's own labelled parts: add, list, remove, run", add_help=False)
    return parser


def _add(commands: Any, name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(run=run)
    parser.add_argument("config", type=Path, metavar="CONFIG", help="the configuration that the agent runs with")
    parser.add_argument("--inspection", metavar="NAME", help="not needed where there is one only")
    return parser


def main(argv: list[str]) -> int:
    """Run one subcommand."""
    if argv[:1] == ["acceptance"]:
        return acceptance.main(argv[1:])
    arguments = _parser().parse_args(argv)
    run: Callable[[argparse.Namespace], int] = arguments.run
    return run(arguments)
