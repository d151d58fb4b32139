"""`kensa bench replay`: how fast a backlog is sent to a mosquitto with few messages in flight.

5,000 rows of one defect each wait on disk, as after a night without a network. For each bound (`max_inflight_messages`
of mosquitto, which MQTT 5 clients are told as the Receive Maximum) the agent's outbox and transport send them, and a
plain paho client with the same bound in flight sends the same payloads, in turns. Counted too: what the agent logged at
WARNING and above, which must be nothing.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from agent.adapters.mqtt import MqttTransport
from agent.outbox import Outbox, OutboxLimits
from agent.records import Judgement, Origin, Outcome, Verdict
from agent.timing.clock import SystemClock
from agent.wire import encode_verdict, mark_replay, verdict_topic
from simulator.bench.bench_report import BenchReport, ResultTable
from simulator.doubles.network.mqtt_broker import MosquittoBroker

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

ROWS: Final = 5_000
BOUNDS: Final = (20, 10)
TARGET: Final = 0.8
_THING: Final = "bench"
_ORIGIN: Final = Origin(_THING, "line", "surface", "cam", 1, "c" * 64, "p" * 64, None, ("ok", "scratch"))
_TIMEOUT_S: Final = 300.0
_POLL_S: Final = 0.01
_SWITCH_S: Final = 0.0005  # as agent.app sets it in the agent's process


@dataclass(frozen=True, slots=True)
class BoundResult:
    """All rounds with one bound."""

    max_inflight: int
    agent_per_s: tuple[float, ...]  # rows a second, from the connection to the last acknowledgement
    paho_per_s: tuple[float, ...]
    warnings: int

    @property
    def ratio(self) -> float:
        """Median of the agent against the median of paho."""
        return statistics.median(self.agent_per_s) / statistics.median(self.paho_per_s)


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """One run."""

    rows: int
    bounds: tuple[BoundResult, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain values for `json.dumps`."""
        return {"rows": self.rows, "bounds": [{**asdict(b), "ratio": round(b.ratio, 3)} for b in self.bounds]}


class _Warnings(logging.Handler):
    """Counts."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += 1


@contextlib.contextmanager
def _counting_warnings() -> Iterator[_Warnings]:
    handler, log = _Warnings(), logging.getLogger("agent")
    log.addHandler(handler)
    try:
        yield handler
    finally:
        log.removeHandler(handler)


def _verdict(seq: int) -> Verdict:
    return Verdict(_ORIGIN, seq, time.time_ns(), Judgement(Outcome.DEFECT, "scratch", 0.9, (0.1, 0.9)), 2_500)


def _write_backlog(state_dir: Path, rows: int) -> None:
    """Let `rows` defects wait on disk."""
    clock = SystemClock()
    outbox = Outbox(state_dir=state_dir, transport=None, clock=clock, limits=OutboxLimits(commit_s=0.01))
    outbox.start()
    for first in range(0, rows, 50):
        outbox.append([_verdict(seq) for seq in range(first, min(first + 50, rows))])
    outbox.close(clock.monotonic_ns() + int(_TIMEOUT_S * 1e9))


def _agent(port: int, filled: Path, rows: int) -> float:
    """Rows a second."""
    clock = SystemClock()
    with tempfile.TemporaryDirectory(prefix="kensa-bench-") as folder:
        state_dir = Path(folder) / "state"
        shutil.copytree(filled, state_dir)
        outbox = Outbox(
            state_dir=state_dir,
            transport=MqttTransport(host="127.0.0.1", port=port, client_id="agent", protocol="5", clock=clock),
            clock=clock,
        )
        before = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH_S)
        outbox.start()
        try:
            _wait(lambda: outbox.stats().connected)
            began = time.perf_counter()
            _wait(lambda: outbox.stats().rows == 0)
            return rows / (time.perf_counter() - began)
        finally:
            outbox.close(clock.monotonic_ns())
            sys.setswitchinterval(before)


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"the backlog did not leave within {_TIMEOUT_S:.0f} s")
        time.sleep(_POLL_S)


def _paho(port: int, bound: int, rows: int) -> float:
    """Rows a second of the plain loop: publish whenever fewer than `bound` messages are unacknowledged."""
    topic = verdict_topic(_THING, "cam")
    payloads = [mark_replay(encode_verdict(_verdict(seq))) for seq in range(rows)]
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id="plain", protocol=MQTTProtocolVersion.MQTTv5)
    connected, room = threading.Event(), threading.Semaphore(bound)
    client.on_connect = lambda *_: connected.set()
    client.on_publish = lambda *_: room.release()
    client.connect("127.0.0.1", port)
    client.loop_start()
    try:
        if not connected.wait(_TIMEOUT_S):
            raise TimeoutError("mosquitto does not answer")
        began = time.perf_counter()
        for payload in payloads:
            _acquire(room)
            client.publish(topic, payload, qos=1)
        for _ in range(bound):
            _acquire(room)
        return rows / (time.perf_counter() - began)
    finally:
        client.disconnect()
        client.loop_stop()


def _acquire(room: threading.Semaphore) -> None:
    if not room.acquire(timeout=_TIMEOUT_S):
        raise TimeoutError("mosquitto does not acknowledge")


def run_replay(*, rounds: int, rows: int = ROWS, report: Callable[[str], None]) -> ReplayResult:
    """Measure `rounds` rounds with each bound, agent and paho in turns. Raises MissingExtraError without mosquitto."""
    results = []
    with tempfile.TemporaryDirectory(prefix="kensa-bench-") as folder:
        filled = Path(folder) / "filled"
        _write_backlog(filled, rows)
        for bound in BOUNDS:
            ours: list[float] = []
            plain: list[float] = []
            with (
                MosquittoBroker(settings=[f"max_inflight_messages {bound}"]) as broker,
                _counting_warnings() as warnings,
            ):
                for number in range(rounds):
                    ours.append(_agent(broker.port, filled, rows))
                    plain.append(_paho(broker.port, bound, rows))
                    report(f"bound {bound}, round {number + 1}: agent {ours[-1]:,.0f}/s, paho {plain[-1]:,.0f}/s")
            results.append(BoundResult(bound, tuple(ours), tuple(plain), warnings.count))
    return ReplayResult(rows, tuple(results))


def run_command(arguments: argparse.Namespace, *, report: Callable[[str], None]) -> BenchReport:
    """`kensa bench replay`."""
    rows = ROWS // 10 if arguments.quick else ROWS
    result = run_replay(rounds=arguments.rounds, rows=rows, report=report)
    table = ResultTable(f"kensa bench replay · {rows:,} rows to mosquitto")
    for bound in result.bounds:
        ours, plain = statistics.median(bound.agent_per_s), statistics.median(bound.paho_per_s)
        name = f"max_inflight_messages {bound.max_inflight}: {ours:,.0f} rows/s against {plain:,.0f} of a paho loop"
        table.add_result(name, f">= {TARGET:.0%}", f"{bound.ratio:.0%}", met=bound.ratio >= TARGET)
        table.add_result("... lines at WARNING and above", "0", str(bound.warnings), met=not bound.warnings)
    return BenchReport(table, result.to_json())
