"""`kensa resend CAMERA FROM-TO` sends verdicts of the local history again, marked as a replay.

FROM-TO are sequence numbers of the camera's newest start; EPOCH/FROM-TO those of an earlier one; a verdict's key with
-TO appended (line-1/cam/695784715526231/100-250) works, too. The running agent sends them, or this command where none
runs. Nothing in outbox or history changes, and a consumer drops verdicts that it has already by their keys.

Exit code 0: sent. 1: nothing of the range is kept. 2: a file cannot be read. 4: the broker did not accept the messages
in time. 64: no range.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, Self

from agent import config as configuration
from agent import control
from agent.app.factories import make_transport
from agent.errors import ControlError, KensaError, OutboxError, TransportError
from agent.outbox.handoff import WriterSenderQueues
from agent.outbox.outbox_records import OutboxLimits
from agent.outbox.replay import ReplayCursor, ReplayRange, parse_range, ranges_of, read_page
from agent.outbox.sender import OutboxSender
from agent.supervision import ThreadSupervisor
from agent.timing.clock import SystemClock

if TYPE_CHECKING:
    from types import TracebackType

    from agent.config import Config

_STALLED_S: Final = 60.0  # without one acknowledgement
_PROGRESS_S: Final = 2.0
_POLL_S: Final = 0.05
_SHOWN: Final = 5  # ranges
_MAX_WAITING: Final = 128  # messages, before more are read
_FIRST: Final = ReplayCursor()


class _ReplayChannel(Protocol):
    """Way of the messages to the broker."""

    def page(self, requested: ReplayRange, place: ReplayCursor) -> tuple[ReplayCursor | None, set[int], int] | None:
        """Send a page; return the next cursor, the sequence numbers, the count of messages; None while it is full."""

    def waiting(self) -> int:
        """Return how many messages the broker has not acknowledged."""


class _AgentChannel:
    """Sends through the agent that runs on the state directory."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir

    def page(self, requested: ReplayRange, place: ReplayCursor) -> tuple[ReplayCursor | None, set[int], int] | None:
        answer = control.request(
            self._state_dir,
            "outbox.resend",
            camera=requested.camera,
            boot_epoch=requested.boot_epoch,
            first=requested.first,
            last=requested.last,
            place=[place.file, place.row],
        )
        if answer.get("busy"):
            return None
        numbers = {n for first, last in answer["numbers"] for n in range(first, last + 1)}
        following = answer["place"]
        return (None if following is None else ReplayCursor(*following)), numbers, int(answer["messages"])

    def waiting(self) -> int:
        return int(control.request(self._state_dir, "outbox.resends")["waiting"])


class _StandaloneChannel:
    """Sends over its own connection, while no agent runs; a context manager, with the state directory locked."""

    def __init__(self, config: Config) -> None:
        clock = SystemClock()
        transport = make_transport(config, clock)
        if transport is None:
            raise OutboxError("transport is none: there is no broker to send to.")
        self._state_dir = config.state_dir
        self._queues = WriterSenderQueues(live_rows=1)
        spread = random.Random()  # noqa: S311 - spreads tries, guards nothing
        self._sender = OutboxSender(
            transport=transport, queues=self._queues, clock=clock, limits=OutboxLimits(), random=spread
        )
        self._stop = threading.Event()
        self._thread = ThreadSupervisor(clock=clock).thread(self._run, kind="resend", stop=self._stop)

    def __enter__(self) -> Self:
        self._sender.start()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._queues.wake_sender.set()
        self._thread.join()
        self._sender.close(timeout_s=2.0)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._queues.wake_sender.clear()
            self._queues.wake_sender.wait(self._sender.step())

    def page(self, requested: ReplayRange, place: ReplayCursor) -> tuple[ReplayCursor | None, set[int], int] | None:
        page = read_page(self._state_dir, requested, place)
        for topic, payload in page.messages:
            self._sender.resend(topic, payload)
        return page.next, set(page.numbers), len(page.messages)

    def waiting(self) -> int:
        return self._sender.resends_waiting


def _send(channel: _ReplayChannel, requested: ReplayRange) -> tuple[set[int], int]:
    """Send the whole range and wait for the broker; return the sequence numbers found, and the count of messages."""
    numbers: set[int] = set()
    place: ReplayCursor | None = _FIRST
    messages = waiting = 0
    began = printed = moved = time.monotonic()
    while place is not None or waiting:
        page = None if place is None or waiting > _MAX_WAITING else channel.page(requested, place)
        if page is not None:
            place, found, count = page
            numbers |= found
            messages += count
        before, waiting = waiting, channel.waiting()
        now = time.monotonic()
        if page is not None or waiting < before:
            moved = now
        if now - moved > _STALLED_S:
            raise TransportError(
                f"the broker acknowledged none of the last {waiting} messages within {_STALLED_S:.0f} s; "
                "see `kensa status`, or `kensa doctor` where no agent runs"
            )
        if now - printed >= _PROGRESS_S:
            printed = now
            text = f"{messages - waiting} messages sent, {len(numbers)} of {requested.verdicts} verdicts found"
            print(f"resend: {text}, {now - began:.0f} s", file=sys.stderr, flush=True)
        if page is None:
            time.sleep(_POLL_S)
    return numbers, messages


def _resend_range(config: Config, requested: ReplayRange) -> tuple[set[int], int]:
    try:
        control.request(config.state_dir, "outbox.resends")
    except ControlError:
        with control.StateDir(config.state_dir), _StandaloneChannel(config) as alone:
            return _send(alone, requested)
    return _send(_AgentChannel(config.state_dir), requested)


def main(argv: list[str]) -> int:
    """Send the range and print a summary."""
    parser = argparse.ArgumentParser(
        prog="kensa resend", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("camera", metavar="CAMERA", help="its name in the configuration")
    parser.add_argument("range", metavar="FROM-TO", help="sequence numbers, both included; EPOCH/FROM-TO; or KEY-TO")
    parser.add_argument("--config", type=Path, required=True, help="the configuration that the agent runs with")
    parser.add_argument("--json", action="store_true", help="one JSON object: sent, messages, not_kept, ...")
    arguments = parser.parse_args(argv)
    config = configuration.load(arguments.config)
    requested = parse_range(config.state_dir, arguments.camera, arguments.range)
    numbers, messages = _resend_range(config, requested)
    missing = ranges_of(set(range(requested.first, requested.last + 1)) - numbers)
    not_kept = requested.verdicts - len(numbers)
    if arguments.json:
        counts = {"sent": len(numbers), "messages": messages, "not_kept": not_kept, "missing": missing}
        print(json.dumps({**asdict(requested), **counts}))
    else:
        print(f"{len(numbers)} of {requested.verdicts} verdicts sent again, in {messages} messages")
        if missing:
            shown = ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in missing[:_SHOWN])
            more = f" and {len(missing) - _SHOWN} more ranges" if len(missing) > _SHOWN else ""
            print(f"{not_kept} are not kept: {shown}{more}. They left the history, or were dropped and never inspected")
    if not numbers:
        raise KensaError(
            f"nothing of {requested.camera} {requested.boot_epoch}/{requested.first}-{requested.last} is kept"
        )
    return 0
