"""What the simulator adds to the `kensa` command."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from simulator.demo.plant import Options
from simulator.demo.releases import LEAST_S
from simulator.demo.report import closing, to_json
from simulator.demo.run import run

if TYPE_CHECKING:
    from collections.abc import Callable

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
    parser = argparse.ArgumentParser(
        prog="kensa demo",
        description="Watch a simulated line being inspected: two cameras, the bundled model, verdicts over MQTT to an "
        "independent subscriber, all of it compared with the known truth; a better model arrives while the line runs, "
        "and then one that fails on it and is rolled back. Ctrl-C ends it early, with the report.",
    )
    defaults = Options()
    parser.add_argument(
        "--seconds",
        type=_within(1, _LONGEST_S, "s"),
        default=defaults.seconds,
        help=f"how long (120); from {LEAST_S:g} on new models arrive",
    )
    parser.add_argument(
        "--fps", type=_within(0.5, 240, "frames/s"), default=defaults.fps,
        help="parts a second under the colour camera (120); the 5 megapixel mono camera sees a third",
    )  # fmt: skip
    parser.add_argument("--cameras", type=int, choices=(1, 2), default=defaults.cameras,
                        help="1: the colour camera only, which starts sooner and needs half the memory")  # fmt: skip
    parser.add_argument("--outage", type=_within(0, 3600, "s"), default=0.0, metavar="SECONDS",
                        help="unplug the network for so long in the middle")  # fmt: skip
    parser.add_argument("--broker", choices=("auto", "mosquitto", "amqtt"), default=defaults.broker,
                        help="auto: mosquitto when it is installed, else amqtt in this process")  # fmt: skip
    parser.add_argument(
        "--release", type=Path, metavar="DIR", help="the model to inspect with, at first (default: a bundled one)"
    )
    parser.add_argument("--no-updates", action="store_true", help="no new models while the line runs")
    parser.add_argument("--seed", type=int, default=defaults.seed, help="another seed is another line")
    parser.add_argument(
        "--out", type=Path, default=defaults.out, metavar="DIR", help="where the report goes (out/demo)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    arguments = parser.parse_args(argv)
    options = Options(
        seconds=arguments.seconds,
        fps=arguments.fps,
        cameras=arguments.cameras,
        seed=arguments.seed,
        broker=arguments.broker,
        release=arguments.release,
        out=arguments.out,
        outage_s=arguments.outage,
        updates=not arguments.no_updates,
    )
    console = Console(stderr=True)
    result = run(options, console=console)
    if arguments.json:
        print(json.dumps(to_json(result)))
        console.print(closing(result))
    else:
        Console().print(closing(result))
    return 1 if result.problems else 0
