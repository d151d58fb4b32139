"""The options of `kensa demo`.

The standard library is enough: `scripts/demo --help` must install nothing.

python -m simulator.demos.demo_options --help
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from simulator.doubles.network.mqtt_broker import BROKERS

if TYPE_CHECKING:
    from collections.abc import Callable

MIN_S: Final = 90.0  # what both releases need to reach their ends
_MAX_S: Final = 24 * 3600.0


def _within(low: float, high: float, unit: str) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = float(text)
        if not low <= value <= high:
            msg = f"{text} {unit} is outside {low:g} to {high:g}"
            raise argparse.ArgumentTypeError(msg)
        return value

    return parse


def make_parser() -> argparse.ArgumentParser:
    """Options that are not given are None: the demos have defaults of their own."""
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
    parser.add_argument("--seconds", type=_within(1, _MAX_S, "s"),
                        help=f"how long (120, Greengrass 90); from {MIN_S:g} (60) on all models arrive")  # fmt: skip
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


if __name__ == "__main__":
    make_parser().parse_args(sys.argv[1:])
