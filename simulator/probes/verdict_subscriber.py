"""An independent consumer of verdicts, in its own process with its own MQTT client.

It shares nothing with the agent but the wire format.

    python -m simulator.probes.verdict_subscriber --port 1883

prints `{"kind":"ready"}` once it listens, then each message it understood as a line of JSON: every verdict once, as a
single verdict message even if it came in an envelope, gaps and heartbeats as they came; and, as it changes, a line
`{"kind":"counts",...}` with unique verdicts, duplicates and missing numbers by camera. It ends when its input ends.

Promise: a verdict is reported once, by its key, however often it arrives; what cannot be decoded is counted and
skipped. It asks the broker to keep its session while its connection is broken. Whether that loses nothing is up to the
broker: mosquitto and iotcore lost 0 of 4,000 acknowledged messages so, amqtt 1,034 of 2,000 (docs/decisions/0032).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import queue
import select
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from agent import wire
from agent.errors import MessageError, OperatorError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agent.records import Verdict
    from simulator.probes.missing_verdicts import ArrivedSeqs

TOPIC: Final = "kensa/#"
_START_S: Final = 15.0
_STOP_S: Final = 5.0
_REPORT_PERIOD_S: Final = 0.2  # how often the counts are printed while it changes


@dataclass(frozen=True, slots=True)
class CameraCount:
    """What arrived from one camera, over all boot epochs."""

    unique: int
    duplicates: int
    missing: int  # numbers below the highest that did not arrive: drops of the agent, or losses


@dataclass(slots=True)
class _Stream:
    """One camera in one boot epoch. About 60 bytes a verdict: enough for days of a line, not for years."""

    seen: set[int] = field(default_factory=set)
    duplicates: int = 0


class VerdictDeduplicator:
    """De-duplicates by the verdict's key and counts; not thread-safe."""

    def __init__(self) -> None:
        """Start empty."""
        self.refused = 0  # messages that could not be decoded
        self.gaps = 0  # gap messages: losses that the agent itself reported
        self.replayed = 0  # verdicts that waited in the device's backlog
        self._streams: dict[tuple[str, str, int], _Stream] = {}

    def add(self, verdicts: Iterable[Verdict], *, replay: bool = False) -> list[Verdict]:
        """Return those that are new; `replay` is the mark of the message that they came in."""
        fresh: list[Verdict] = []
        for verdict in verdicts:
            origin = verdict.origin
            stream = self._streams.setdefault((origin.line, origin.camera, origin.boot_epoch), _Stream())
            if verdict.seq in stream.seen:
                stream.duplicates += 1
            else:
                stream.seen.add(verdict.seq)
                fresh.append(verdict)
        self.replayed += len(fresh) if replay else 0
        return fresh

    def cameras(self) -> dict[str, CameraCount]:
        """Counts by camera."""
        counts: dict[str, CameraCount] = {}
        for (_, camera, _), stream in self._streams.items():
            before = counts.get(camera, CameraCount(0, 0, 0))
            counts[camera] = CameraCount(
                before.unique + len(stream.seen),
                before.duplicates + stream.duplicates,
                before.missing + max(stream.seen, default=-1) + 1 - len(stream.seen),
            )
        return counts

    def to_json_line(self) -> str:
        """Return the counts as the line of JSON that is printed."""
        cameras = {
            name: {"unique": c.unique, "duplicates": c.duplicates, "missing": c.missing}
            for name, c in self.cameras().items()
        }
        news = {"kind": "counts", "refused": self.refused, "gaps": self.gaps, "replayed": self.replayed}
        return json.dumps({**news, "cameras": cameras})


# --- the consumer's own process ---------------------------------------------------------------------------------------


class _Consumer:
    """Messages are taken on paho's thread, the counts are printed by the main thread."""

    def __init__(self, *, host: str, port: int, client_id: str) -> None:
        self._deduplicator = VerdictDeduplicator()
        self._lock = threading.Lock()  # of the counts and of standard output
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id=client_id, clean_session=False)
        self._client.reconnect_delay_set(1, 2)
        self._client.on_connect = lambda client, *_: client.subscribe(TOPIC, qos=1)
        self._client.on_subscribe = lambda *_: self._print('{"kind":"ready"}')
        self._client.on_message = self._received
        self._client.connect(host, port)

    def run(self) -> None:
        """Consume until standard input ends."""
        self._client.loop_start()
        printed, ended = "", False
        while not ended:
            # its owner never writes, it only closes
            ended = bool(select.select([sys.stdin], [], [], _REPORT_PERIOD_S)[0])
            if ended:
                self._client.disconnect()
                self._client.loop_stop()
            with self._lock:
                news = self._deduplicator.to_json_line()
            if news != printed:
                self._print(news)
                printed = news

    def _print(self, text: str) -> None:
        with self._lock, contextlib.suppress(BrokenPipeError):  # whoever read this is gone, and standard input ends too
            sys.stdout.write(text + "\n")
            sys.stdout.flush()

    def _received(self, _client: object, _userdata: object, message: paho.MQTTMessage) -> None:
        try:
            content = wire.decode(bytes(message.payload))
        except MessageError:
            with self._lock:
                self._deduplicator.refused += 1
            return
        if isinstance(content, wire.DecodedVerdicts):
            with self._lock:
                fresh = self._deduplicator.add(content.verdicts, replay=content.replay)
            if fresh:
                self._print("\n".join(wire.encode_verdict(verdict).decode() for verdict in fresh))
            return
        with self._lock:
            self._deduplicator.gaps += isinstance(content, wire.Gap)
        self._print(message.payload.decode())


# --- its owner's side -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SubscriberCounts:
    """The subscriber's counts as its owner sees them."""

    cameras: dict[str, CameraCount] = field(default_factory=dict)
    refused: int = 0
    gaps: int = 0
    replayed: int = 0

    @property
    def unique(self) -> int:
        """All verdicts that arrived, each counted once."""
        return sum(count.unique for count in self.cameras.values())

    @property
    def duplicates(self) -> int:
        """Arrivals beyond the first."""
        return sum(count.duplicates for count in self.cameras.values())


class VerdictSubscriber:
    """Runs the consumer in a process of its own and hands out what it reports; use as a context manager."""

    def __init__(self, *, host: str, port: int) -> None:
        """Prepare to listen on the broker at `host`:`port`."""
        self.counts = SubscriberCounts()
        self.arrived: ArrivedSeqs = {}  # complete once `close` has returned
        self._host, self._port = host, port
        self._verdicts: queue.SimpleQueue[Verdict] = queue.SimpleQueue()
        self._ready = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        """Start and wait until it listens. Raises OperatorError when it does not."""
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "simulator.probes.verdict_subscriber",
                "--host",
                self._host,
                "--port",
                str(self._port),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            process_group=0,  # Ctrl-C is for the demo, which still needs a subscriber while it drains
        )
        self._thread = threading.Thread(target=self._read, args=(self._process,), name="subscriber", daemon=True)
        self._thread.start()
        if not self._ready.wait(_START_S):
            self.close()
            msg = f"the subscriber did not reach the broker at {self._host}:{self._port} within {_START_S:g} s"
            raise OperatorError(msg)
        return self

    def __exit__(self, *_: object) -> None:
        """See `close`."""
        self.close()

    def close(self) -> None:
        """End the process; its last counts are read. Safe to call twice."""
        process, thread = self._process, self._thread
        if process is None or thread is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(_STOP_S)
        thread.join(_STOP_S)
        if process.stdout is not None:
            process.stdout.close()
        self._process = None

    def received(self) -> list[Verdict]:
        """Return the verdicts that arrived since the last call, each once, without waiting."""
        return [self._verdicts.get_nowait() for _ in range(self._verdicts.qsize())]

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        """Thread `subscriber`."""
        for line in process.stdout or ():
            if line.startswith(b'{"kind"'):
                self._update_counts(json.loads(line))
            else:
                content = wire.decode(line)
                if isinstance(content, wire.DecodedVerdicts):
                    for verdict in content.verdicts:
                        origin = verdict.origin
                        numbers = self.arrived.setdefault((origin.line, origin.camera, origin.boot_epoch), set())
                        numbers.add(verdict.seq)
                        self._verdicts.put(verdict)

    def _update_counts(self, news: dict[str, Any]) -> None:
        if news["kind"] == "ready":
            self._ready.set()
        else:
            cameras = {name: CameraCount(**counts) for name, counts in news["cameras"].items()}
            self.counts = SubscriberCounts(cameras, news["refused"], news["gaps"], news["replayed"])


def main() -> None:
    """Run the consumer."""
    parser = argparse.ArgumentParser(
        prog="python -m simulator.probes.verdict_subscriber", description="Print the verdicts of a broker."
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--client-id", default="kensa-subscriber")
    arguments = parser.parse_args()
    _Consumer(host=arguments.host, port=arguments.port, client_id=arguments.client_id).run()


if __name__ == "__main__":
    main()
