"""The options of `kensa bench`, and the module of each benchmark.

The standard library is enough: `scripts/bench --help` must install nothing.

python -m simulator.bench.bench_options --help
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

from simulator.doubles.network.mqtt_broker import BROKERS
from simulator.paths import DEFAULT_RELEASE

BENCHMARKS: Final = {  # command -> module, which is imported when the benchmark runs
    "demo": "simulator.bench.demo_runs",
    "loop": "simulator.bench.inspection.throughput",
    "swap": "simulator.bench.inspection.model_swap",
    "outbox": "simulator.bench.messaging.outbox_throughput",
    "replay": "simulator.bench.messaging.backlog_replay",
    "collect": "simulator.bench.inspection.collection_overhead",
    "faults": "simulator.bench.fault_campaigns",
    "trials": "simulator.bench.refusal_rates",
    "greengrass": "simulator.bench.greengrass",
    "analytics": "simulator.bench.query_cost",
    "mjpeg": "simulator.bench.inspection.mjpeg_readers",
    "publish": "simulator.bench.messaging.publish_latency",
    "denied-topic": "simulator.bench.messaging.denied_topic",
    "cameras": "simulator.bench.inspection.live_cameras",
}


def make_parser() -> argparse.ArgumentParser:
    """All benchmarks share one parser."""
    parser = argparse.ArgumentParser(
        prog="kensa bench",
        description="Tables for people, JSON for machines (--json); what each measures: docs/benchmarks.md.",
    )
    parser.add_argument("what", choices=tuple(BENCHMARKS))
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default 5)")
    short = "only to see that it works: two swaps in short phases, a tenth of all faults"
    parser.add_argument("--quick", action="store_true", help=short)
    loop = parser.add_argument_group("loop")
    loop.add_argument("--release", type=Path, default=DEFAULT_RELEASE, help="release folder (also for swap)")
    loop.add_argument("--calls", type=int, default=2_000, help="frames for each figure of a round")
    loop.add_argument("--paced-seconds", type=float, default=20.0, help="length of each paced run")
    swap = parser.add_argument_group("swap")
    swap.add_argument("--swaps", type=int, default=50, help="at each rate, 3 s each (default 50)")
    collect = parser.add_argument_group("collect")
    collect.add_argument("--format", choices=("jpg", "png"), default="jpg", help="of the collected frames")
    parts = parser.add_argument_group("faults, greengrass and cameras")
    parts.add_argument(
        "--only", action="append", metavar="NAME", help="this part alone; may be given again. `--only help` lists them"
    )
    parts.add_argument("--seed", type=int, default=0, help="of faults and trials")
    trials = parser.add_argument_group("trials")
    trials.add_argument("--rollouts", type=int, default=3_000, help="of each kind of release (default 3000)")
    trials.add_argument("--processes", type=int, default=2, help="that simulate side by side (default 2)")
    demo = parser.add_argument_group("demo")
    demo.add_argument("--runs", type=int, default=20, help="over each broker; 0: none (default 20)")
    demo.add_argument("--broker", action="append", choices=BROKERS, help="only over this one; may be given again")
    demo.add_argument("--parallel", type=int, default=1, help="runs side by side (default 1)")
    demo.add_argument("--burn", type=int, default=0, metavar="CORES", help="keep so many cores busy meanwhile")
    demo.add_argument("--parts", type=int, default=3_000, help="by which the two releases are compared; 0: not at all")
    greengrass = parser.add_argument_group("greengrass")
    length = "greengrass: rows cuts (default 600) and rate (60); cameras: each kind in frame_age (60); demo: a run (90)"
    greengrass.add_argument("--seconds", type=float, help=length)
    greengrass.add_argument("--updates", type=int, default=3, help="of the component, in the row update (default 3)")
    cameras = parser.add_argument_group("cameras")
    cameras.add_argument("--stops", type=int, default=20, help="runs of the agent in dead, 17 s each (default 20)")
    analytics = parser.add_argument_group("analytics")
    analytics.add_argument("--rows", type=int, default=10_000_000, help="verdicts (default 10,000,000)")
    analytics.add_argument("--data", type=Path, help="a history that is there, instead of writing one")
    analytics.add_argument("--threads", type=int, default=2, help="of DuckDB (default 2)")
    analytics.add_argument("--memory-mb", type=int, default=2_000, help="of DuckDB (default 2000)")
    return parser


if __name__ == "__main__":
    make_parser().parse_args(sys.argv[1:])
