"""What the simulator adds to the `kensa` command."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from agent.errors import MissingExtraError, UsageError
from simulator.broker import BROKERS
from simulator.demo.plant import Options
from simulator.demo.releases import LEAST_S
from simulator.demo.report import closing, to_json
from simulator.demo.run import run

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import RenderableType

    from simulator.nucleus.limits import Mode

_LONGEST_S = 24 * 3600.0


def _within(low: float, high: float, unit: str) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = float(text)
        if not low <= value <= high:
            msg = f"{text} {unit} is outside {low:g} to {high:g}"
            raise argparse.ArgumentTypeError(msg)
        return value

    return parse


def demo(argv: list[str]) -> int:
    """Run `kensa demo`; 0 when every frame is accounted for and every verdict arrived exactly once, else 1."""
    given = {key: value for key, value in vars(_demo_parser().parse_args(argv)).items() if value is not None}
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


def _demo_parser() -> argparse.ArgumentParser:
    """Options that are not given are None: the two demos have defaults of their own."""
    parser = argparse.ArgumentParser(
        prog="kensa demo",
        description="Watch a simulated line being inspected: two cameras, the bundled model, verdicts over MQTT to an "
        "independent subscriber, all of it compared with the known truth; a better model arrives while the line runs, "
        "and then one that fails on it and is rolled back. With --greengrass the agent runs as a component, and models "
        "arrive by deployment, by the named shadow and as a component. With --cloud the lamp of two lines fades, and "
        "the improvement cycle brings a model that is right again. Ctrl-C ends it early, with the report.",
    )
    parser.add_argument(
        "--greengrass", choices=("lite", "classic"),
        help="deploy the agent to a simulated nucleus: one camera, the project's recipe, the real IPC",
    )  # fmt: skip
    parser.add_argument("--cloud", action="store_true",
                        help="the improvement cycle on a simulated account, from drift to the fleet")  # fmt: skip
    parser.add_argument("--seconds", type=_within(1, _LONGEST_S, "s"),
                        help=f"how long (120, Greengrass 90); from {LEAST_S:g} (60) on all models arrive")  # fmt: skip
    parser.add_argument(
        "--fps", type=_within(0.5, 240, "frames/s"),
        help="parts a second under the colour camera (120, Greengrass 30, cloud 10); the mono camera sees a third",
    )  # fmt: skip
    parser.add_argument("--cameras", type=int, choices=(1, 2),
                        help="1: the colour camera only, which starts sooner and needs half the memory")  # fmt: skip
    parser.add_argument("--outage", type=_within(0, 3600, "s"), dest="outage_s", metavar="SECONDS",
                        help="unplug the network for so long in the middle")  # fmt: skip
    parser.add_argument("--broker", choices=("auto", *BROKERS),
                        help="auto: mosquitto when it is installed, else iotcore (x86_64), else amqtt")  # fmt: skip
    parser.add_argument(
        "--release", type=Path, metavar="DIR", help="the model to inspect with, at first (default: a bundled one)"
    )
    parser.add_argument("--no-updates", action="store_false", dest="updates", default=None,
                        help="no new models while the line runs")  # fmt: skip
    parser.add_argument("--seed", type=int, help="another seed is another line")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where the report goes (out/demo, out/demo-greengrass, out/demo-cloud)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    return parser


@dataclass(frozen=True, slots=True)
class _Ended:
    """A demo's report, the same as JSON, and whether nothing is missing."""

    report: RenderableType
    values: dict[str, Any]
    complete: bool


def _in_one_process(given: dict[str, Any], console: Console) -> _Ended:
    result = run(Options(**given), console=console)
    return _Ended(closing(result), to_json(result), not result.problems)


def _on_greengrass(mode: Mode, given: dict[str, Any], console: Console) -> _Ended:
    """Raises UsageError for an option of the other demo."""
    # Not at the top: the demo without Greengrass must start without what these need.
    from simulator.demo_greengrass import report  # noqa: PLC0415
    from simulator.demo_greengrass.run import run as run_on_greengrass  # noqa: PLC0415
    from simulator.demo_greengrass.site import Options as GreengrassOptions  # noqa: PLC0415

    _refuse_unfit(given, GreengrassOptions, "--greengrass")
    result = run_on_greengrass(GreengrassOptions(mode=mode, **given), console=console)
    return _Ended(report.closing(result), report.to_json(result), not result.problems)


def _with_cloud(given: dict[str, Any], console: Console) -> _Ended:
    """Raises UsageError for an option of another demo, MissingExtraError."""
    try:
        from simulator.cycle_demo import report  # noqa: PLC0415 - needs extras that the other demos do without
        from simulator.cycle_demo.plant import Options as CloudOptions  # noqa: PLC0415
        from simulator.cycle_demo.run import run as run_with_cloud  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"{error.name} is missing: run scripts/demo --cloud, or pip install 'kensa[sim,train,cloud,cloud-sim]'"
        ) from error
    _refuse_unfit(given, CloudOptions, "--cloud")
    result = run_with_cloud(CloudOptions(**given), console=console)
    return _Ended(report.closing(result), report.to_json(result), not report.verify(result))


def _refuse_unfit(given: dict[str, Any], options: type[Any], demo_option: str) -> None:
    """Raise UsageError for what the demo of `options` does not have."""
    if unfit := sorted(given.keys() - {field.name for field in fields(options)}):
        names = {"outage_s": "--outage", "updates": "--no-updates"}
        which = ", ".join(names.get(name, f"--{name}") for name in unfit)
        raise UsageError(f"{which} cannot be combined with {demo_option}")
