"""`python -m simulator.faulty_broker`: runs one behaviour until Ctrl-C and reports what happened."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import threading
from pathlib import Path

from agent.errors import OperatorError
from simulator.faulty_broker import BROKER_BEHAVIOURS, FaultyBroker


def main() -> int:
    """Serve until a signal; then print the counts."""
    parser = argparse.ArgumentParser(prog="python -m simulator.faulty_broker", description=__doc__)
    parser.add_argument(
        "--behaviour", default="honest", choices=list(BROKER_BEHAVIOURS), metavar="NAME", help="see --list"
    )
    parser.add_argument("--list", action="store_true", help="say what each behaviour does, and end")
    parser.add_argument("--port", type=int, default=1883, help="on 127.0.0.1; 0 takes a free one (default 1883)")
    parser.add_argument(
        "--forbid", action="append", default=[], metavar="FILTER",
        help="topic filter that nobody may publish to: PUBACK 0x87 in MQTT 5, hang-up in 3.1.1; may be given again",
    )  # fmt: skip
    parser.add_argument("--receive-maximum", type=int, metavar="N", help="unacknowledged messages allowed in MQTT 5")
    parser.add_argument("--record", type=Path, metavar="FILE", help="write every event as JSON lines at the end")
    arguments = parser.parse_args()
    if arguments.list:
        for name, behaviour in BROKER_BEHAVIOURS.items():
            print(f"{name:28} {behaviour.summary}")
        return 0
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    broker = FaultyBroker(
        arguments.behaviour,
        port=arguments.port,
        forbidden=arguments.forbid,
        receive_maximum=arguments.receive_maximum,
    )
    try:
        with broker:
            print(f"{arguments.behaviour} listens on {broker.host}:{broker.port}; Ctrl-C ends it", flush=True)
            stop.wait()
    except OperatorError as error:
        print(error, file=sys.stderr)
        return 2
    print(", ".join(f"{count} {what}" for what, count in broker.record.count_by_kind().items()) or "nobody came")
    if arguments.record is not None:
        with contextlib.suppress(BrokenPipeError):
            broker.record.write(arguments.record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
