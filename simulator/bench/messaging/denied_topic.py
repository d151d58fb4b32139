"""`kensa bench denied-topic`: the delay on allowed topics while one topic of six is denied.

Outbox and transport of the agent publish a defect of each of six cameras ten times a second to the faulty broker, on
MQTT 5 (the broker answers with 0x87) and 3.1.1 (it hangs up). Each camera is the forbidden one in turn. The age of a
verdict runs from `append` to the broker's own record of its acknowledgement; what a quiet broker would add is in it.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from agent.adapters.mqtt import MqttTransport
from agent.outbox import Outbox
from agent.records import Judgement, ModelIdentity, Origin, Outcome, Verdict
from agent.timing.clock import NS_PER_S, SystemClock
from agent.wire import DecodedVerdicts, decode, verdict_topic
from simulator.bench.bench_report import BenchReport, ResultTable, silenced
from simulator.faulty_broker import FaultyBroker

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

Protocol = Literal["3.1.1", "5"]

PROTOCOLS: Final[tuple[Protocol, ...]] = ("5", "3.1.1")
CAMERAS: Final = tuple(f"cam-{number}" for number in range(6))
TARGET_S: Final = 2.0
_THING: Final = "bench"
_PERIOD_S: Final = 0.1
_DRAIN_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class DeniedTopicResult:
    """One run."""

    protocol: str
    forbidden: str
    allowed: int  # verdicts on allowed topics
    lost: int  # of them, not acknowledged at the end
    longest_s: float  # from `append` to the broker's acknowledgement, of the slowest
    late: int  # of them older than a second
    connections: int
    held_back: tuple[str, ...]  # topics, at the end
    waiting: int  # rows in the outbox at the end: the forbidden camera's
    appended: int  # of the forbidden camera

    def to_json(self) -> dict[str, Any]:
        """Return plain values for `json.dumps`."""
        return asdict(self)


def run_denied_topic(
    *, seconds: float, cameras: Sequence[str] = CAMERAS, report: Callable[[str], None]
) -> tuple[DeniedTopicResult, ...]:
    """Run each protocol with each of `cameras` forbidden, for `seconds` each."""
    results = []
    for protocol in PROTOCOLS:
        for forbidden in cameras:
            result = run_protocol(protocol, forbidden, seconds=seconds)
            text = f"{result.longest_s:.2f} s at most, {result.lost} lost, {result.connections} connections"
            report(f"MQTT {protocol}, {forbidden} forbidden: {text}")
            results.append(result)
    return tuple(results)


def run_protocol(protocol: Protocol, forbidden: str, *, seconds: float) -> DeniedTopicResult:
    """Publish for `seconds`, then wait until everything that is allowed has gone, a minute at most."""
    clock = SystemClock()
    topic = verdict_topic(_THING, forbidden)
    model = ModelIdentity("default", "1.0.0", "0123456789abcdef" * 4)
    origins = {c: Origin(_THING, "line", "top", c, 1, "0" * 16, "1" * 16, model, ("ok", "scratch")) for c in CAMERAS}
    judgement = Judgement(Outcome.DEFECT, "scratch", 0.97, (0.03, 0.97))
    appended: dict[str, float] = {}  # key -> broker's time
    with tempfile.TemporaryDirectory(prefix="kensa-bench-") as folder, FaultyBroker(forbidden=[topic]) as broker:
        transport = MqttTransport(host=broker.host, port=broker.port, client_id=_THING, protocol=protocol, clock=clock)
        outbox = Outbox(state_dir=Path(folder), transport=transport, clock=clock)
        outbox.start()
        try:
            began, seq = time.monotonic(), 0
            while (now := time.monotonic()) < began + seconds:
                made = [
                    Verdict(origin, seq, clock.utc_ns(), judgement, 1_000, decided_ns=clock.monotonic_ns())
                    for origin in origins.values()
                ]
                appended.update((verdict.key, broker.record.now_s()) for verdict in made)
                outbox.append(made)
                seq += 1
                time.sleep(max(0.0, began + seq * _PERIOD_S - now))
            deadline = time.monotonic() + _DRAIN_S
            while outbox.stats().rows > seq and time.monotonic() < deadline:
                time.sleep(0.05)
            stats = outbox.stats()
        finally:
            outbox.close(clock.monotonic_ns() + NS_PER_S)
        arrived = _first_acknowledgements(broker)
        connections = sum(event.what == "connect" for event in broker.record.events)
    allowed = {key: at_s for key, at_s in appended.items() if key.split("/")[1] != forbidden}
    ages = [arrived[key] - at_s for key, at_s in allowed.items() if key in arrived]
    return DeniedTopicResult(
        protocol=protocol,
        forbidden=forbidden,
        allowed=len(allowed),
        lost=len(allowed) - len(ages),
        longest_s=round(max(ages, default=0.0), 3),
        late=sum(age > 1.0 for age in ages),
        connections=connections,
        held_back=tuple(held.topic for held in stats.held_back),
        waiting=stats.rows,
        appended=seq,
    )


def _first_acknowledgements(broker: FaultyBroker) -> dict[str, float]:
    """Key -> when the broker acknowledged it first."""
    found: dict[str, float] = {}
    for event in broker.record.events:
        if event.what == "acknowledge" and event.payload:
            message = decode(event.payload)
            for verdict in message.verdicts if isinstance(message, DecodedVerdicts) else ():
                found.setdefault(verdict.key, event.at_s)
    return found


def run_command(arguments: argparse.Namespace, *, report: Callable[[str], None]) -> BenchReport:
    """`kensa bench denied-topic`."""
    cameras = CAMERAS[:1] if arguments.quick else CAMERAS
    with silenced("agent"):
        results = run_denied_topic(seconds=5.0 if arguments.quick else 20.0, cameras=cameras, report=report)
    table = ResultTable(
        "kensa bench denied-topic · one topic of six", "the slowest", what="age of verdicts on the five allowed topics"
    )
    for result in results:
        name = f"MQTT {result.protocol}, {result.forbidden} denied: {result.lost} of {result.allowed} lost"
        met = result.longest_s <= TARGET_S and not result.lost
        table.add_result(name, f"<= {TARGET_S:g} s, 0 lost", f"{result.longest_s:.2f} s", met=met)
    return BenchReport(table, {"runs": [result.to_json() for result in results]})
