"""The subcommands that the simulator adds to `kensa`."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from rich.console import Console

from agent.errors import MissingExtraError, UsageError
from simulator.demos.demo_options import make_parser
from simulator.demos.line.line_environment import LineOptions
from simulator.demos.line.line_report import closing_report, to_json
from simulator.demos.line.line_run import run

if TYPE_CHECKING:
    from rich.console import RenderableType

    from simulator.nucleus.limits import Mode


def demo(argv: list[str]) -> int:
    """Run `kensa demo`; 0 when every frame is accounted for and every verdict arrived exactly once, else 1."""
    given = {key: value for key, value in vars(make_parser().parse_args(argv)).items() if value is not None}
    as_json, mode, cloud = given.pop("json"), given.pop("greengrass", None), given.pop("cloud")
    console = Console(stderr=True)
    if cloud:
        ended = _with_cloud({**given, **({"greengrass": mode} if mode else {})}, console)
    else:
        ended = _on_greengrass(mode, given, console) if mode else _in_one_process(given, console)
    if as_json:
        print(json.dumps(ended.values))
        console.print(ended.report)
    else:
        Console().print(ended.report)
    return 0 if ended.complete else 1


@dataclass(frozen=True, slots=True)
class _DemoOutcome:
    """A demo's report, the same as JSON, and whether nothing is missing."""

    report: RenderableType
    values: dict[str, Any]
    complete: bool


def _in_one_process(given: dict[str, Any], console: Console) -> _DemoOutcome:
    result = run(LineOptions(**given), console=console)
    return _DemoOutcome(closing_report(result), to_json(result), not result.problems)


def _on_greengrass(mode: Mode, given: dict[str, Any], console: Console) -> _DemoOutcome:
    """Raises UsageError for an option of the other demo."""
    # Not at the top: the demo without Greengrass must start without what these need.
    from simulator.demos.greengrass import greengrass_report  # noqa: PLC0415
    from simulator.demos.greengrass.greengrass_environment import GreengrassOptions  # noqa: PLC0415
    from simulator.demos.greengrass.greengrass_run import run as run_on_greengrass  # noqa: PLC0415

    _refuse_foreign_options(given, GreengrassOptions, "--greengrass")
    result = run_on_greengrass(GreengrassOptions(mode=mode, **given), console=console)
    return _DemoOutcome(
        greengrass_report.closing_report(result), greengrass_report.to_json(result), not result.problems
    )


def _with_cloud(given: dict[str, Any], console: Console) -> _DemoOutcome:
    """Raises UsageError for an option of another demo, MissingExtraError."""
    try:
        from simulator.demos.cloud import cloud_report  # noqa: PLC0415 - needs extras that the other demos do without
        from simulator.demos.cloud.cloud_environment import CloudOptions  # noqa: PLC0415
        from simulator.demos.cloud.cloud_run import run as run_with_cloud  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"{error.name} is missing: run scripts/demo --cloud, or pip install 'kensa[sim,train,cloud,cloud-sim]'"
        ) from error
    _refuse_foreign_options(given, CloudOptions, "--cloud")
    result = run_with_cloud(CloudOptions(**given), console=console)
    return _DemoOutcome(
        cloud_report.closing_report(result), cloud_report.to_json(result), not cloud_report.verify(result)
    )


def _refuse_foreign_options(given: dict[str, Any], options: type[Any], demo_option: str) -> None:
    """Raise UsageError for what the demo of `options` does not have."""
    if unfit := sorted(given.keys() - {field.name for field in fields(options)}):
        names = {"outage_s": "--outage", "updates": "--no-updates"}
        which = ", ".join(names.get(name, f"--{name}") for name in unfit)
        raise UsageError(f"{which} cannot be combined with {demo_option}")
