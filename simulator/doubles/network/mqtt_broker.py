"""A real MQTT broker on the loopback: mosquitto where installed, else one that pip installs.

    with open_broker() as broker:
        print(broker.kind, broker.host, broker.port)

Promise: a free port on the loopback only, nothing persisted, nothing left behind after the `with`. A mosquitto can also
be stopped in its tracks (`pause`: a half-open broker), killed (`kill`: a dead one) and started again on the same port.
Each class says what its broker can do: `protocol` is the newest MQTT that it speaks here, `carries_shadows` whether it
takes the device shadow's topics, which begin with `$aws`. Which one is taken and why: docs/decisions/0032.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import importlib.util
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, Literal, Self

from agent.errors import MissingExtraError, OperatorError
from simulator.doubles.network.asyncio_servers import abort_connections, stop_listening

if TYPE_CHECKING:
    from collections.abc import Sequence

BrokerName = Literal["auto", "mosquitto", "iotcore", "amqtt"]
Protocol = Literal["3.1.1", "5"]

BROKERS: Final[tuple[BrokerName, ...]] = ("mosquitto", "iotcore", "amqtt")  # the best first
HOST: Final = "127.0.0.1"
_START_S: Final = 30.0
_GOODBYE_S: Final = 1.0
_ATTEMPTS: Final = 5  # another program may take the free port before the broker does

# Without the two limits of 0 a burst loses messages: mosquitto queues 1,000 and has 20 in flight by default.
_MOSQUITTO: Final = """
listener {port} {host}
allow_anonymous {anonymous}
user {user}
persistence false
max_queued_messages 0
max_inflight_messages 0
set_tcp_nodelay true
sys_interval 0
log_dest stderr
log_type error
log_type warning
"""


# Ends with its standard input. Its log has an "error" for each message, which none is.
_IOTCORE: Final = f"""
import logging, os, sys, threading
def follow():
    sys.stdin.buffer.read()
    os._exit(0)
threading.Thread(target=follow, daemon=True).start()
from iotcore import IotCoreBroker
logging.getLogger("rumqttd").setLevel(logging.CRITICAL)
IotCoreBroker(listen="{HOST}", port=int(sys.argv[1])).run_forever()
"""


def has_iotcore() -> bool:
    """Whether the package iotcore is installed, which has wheels for x86_64 only."""
    return importlib.util.find_spec("iotcore") is not None


def mosquitto_program() -> str | None:
    """Path of the mosquitto on this machine (Debian keeps it in /usr/sbin, which is not on everybody's PATH)."""
    return shutil.which("mosquitto", path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/usr/local/sbin")


def free_port() -> int:
    """Return a TCP port of the loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1.0):
        return True
    return False


class MosquittoBroker:
    """A mosquitto process."""

    kind: Final = "mosquitto"
    protocol: Final[Protocol] = "5"
    carries_shadows: Final = True
    host: Final = HOST

    def __init__(self, *, settings: Sequence[str] = (), anonymous: bool = True) -> None:
        """Prepare; `settings` are further lines of mosquitto.conf(5), which belong to the one listener."""
        program = mosquitto_program()
        if program is None:
            msg = "mosquitto is not installed: apt install mosquitto"
            raise MissingExtraError(msg)
        self._program = program
        self._settings = tuple(settings)
        self._anonymous = anonymous
        self._folder = tempfile.TemporaryDirectory(prefix="kensa-mosquitto-")
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    def __enter__(self) -> Self:
        """Start on a free port. Raises OperatorError with what mosquitto said when it does not come up."""
        for _ in range(_ATTEMPTS):
            self.port = free_port()
            with contextlib.suppress(OperatorError):
                self.start()
                return self
        self.close()
        msg = f"mosquitto does not start: {self.log().strip()[-500:] or 'it said nothing'}"
        raise OperatorError(msg)

    def __exit__(self, *_: object) -> None:
        """See `close`."""
        self.close()

    def start(self) -> None:
        """Start, or start again on the same port after `kill`; returns when it accepts connections."""
        config = Path(self._folder.name) / "mosquitto.conf"
        lines = _MOSQUITTO.format(
            host=HOST, port=self.port, anonymous=str(self._anonymous).lower(), user=getpass.getuser()
        )
        config.write_text(lines + "\n".join(self._settings) + "\n", encoding="utf-8")
        with self._log_path.open("ab") as log:
            process = subprocess.Popen(
                [self._program, "-c", str(config)],
                stdin=subprocess.DEVNULL,
                stderr=log,
                process_group=0,  # Ctrl-C is for the program that uses the broker, which may still need it
            )
        self._process = process
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline and process.poll() is None:
            if _listens(self.port):
                return
            time.sleep(0.01)
        self.kill()
        msg = f"mosquitto did not come up on port {self.port}"
        raise OperatorError(msg)

    def pause(self) -> None:
        """Stop it in its tracks: the kernel still accepts connections and bytes, nobody answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after `pause`."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it without a goodbye; everything that it held is lost."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(_START_S)
            self._process = None

    def close(self) -> None:
        """End it and remove its files; safe to call twice."""
        self.kill()
        with contextlib.suppress(FileNotFoundError):
            self._folder.cleanup()

    def log(self) -> str:
        """Return its errors and warnings so far; empty after `close`."""
        with contextlib.suppress(FileNotFoundError):
            return self._log_path.read_text(encoding="utf-8", errors="replace")
        return ""

    @property
    def _log_path(self) -> Path:
        return Path(self._folder.name) / "mosquitto.log"

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None:
            msg = "mosquitto is not running"
            raise OperatorError(msg)
        self._process.send_signal(number)


class IotcoreBroker:
    """The package iotcore, which is rumqttd in a wheel, as a process; it delivers what it has acknowledged."""

    kind: Final = "iotcore"
    protocol: Final[Protocol] = "3.1.1"
    carries_shadows: Final = False  # it ends the connection of a client that subscribes to a topic with `$`
    host: Final = HOST

    def __init__(self) -> None:
        """Prepare; nothing is started yet. Raises MissingExtraError where the package is not installed."""
        if not has_iotcore():
            msg = "iotcore is not installed (x86_64 only): pip install 'kensa[sim]', or apt install mosquitto"
            raise MissingExtraError(msg)
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start on a free port. Raises OperatorError with what it said when it does not come up."""
        said = ""
        for _ in range(_ATTEMPTS):
            self.port = free_port()
            with tempfile.TemporaryFile() as log:
                if self._start(log):
                    return self
                log.seek(0)
                said = log.read().decode(errors="replace").strip()[-500:]
        msg = f"iotcore does not start: {said or 'it said nothing'}. Try --broker amqtt, or apt install mosquitto"
        raise OperatorError(msg)

    def __exit__(self, *_: object) -> None:
        """See `close`."""
        self.close()

    def close(self) -> None:
        """End it; safe to call twice."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()  # it has nothing to save
            process.wait(_START_S)
            if process.stdin is not None:
                process.stdin.close()

    def _start(self, log: IO[bytes]) -> bool:
        """Whether it came up. Another program may have taken the port."""
        process = self._process = subprocess.Popen(
            [sys.executable, "-c", _IOTCORE, str(self.port)],
            stdin=subprocess.PIPE,  # it ends when this closes, also when this process is killed
            stdout=log,
            stderr=log,
            process_group=0,  # Ctrl-C is for the program that uses the broker, which may still need it
        )
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline and process.poll() is None:
            if _listens(self.port) and process.poll() is None:
                return True
            time.sleep(0.02)
        self.close()
        return False


class AmqttBroker:
    """amqtt on an event loop of its own in a thread of this process.

    It acknowledges what it has read, not what it has taken over: a publisher that sends to a topic with `$` loses what
    it sends behind that, and a subscriber that is away loses messages although its session is kept.
    """

    kind: Final = "amqtt"
    protocol: Final[Protocol] = "3.1.1"
    carries_shadows: Final = False
    host: Final = HOST

    def __init__(self) -> None:
        """Prepare; nothing is imported or started yet."""
        self.port = 0
        self._started = threading.Event()
        self._stop: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._failure: Exception | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        """Start on a free port. Raises MissingExtraError without amqtt, OperatorError when it does not come up."""
        try:
            import amqtt.broker  # noqa: F401, PLC0415 - 0.3 s that only this class needs
        except ImportError as error:
            msg = (
                "no MQTT broker: install mosquitto (apt install mosquitto) or the extra sim (pip install 'kensa[sim]')"
            )
            raise MissingExtraError(msg) from error
        self._thread = threading.Thread(target=self._run, name="amqtt", daemon=True)
        self._thread.start()
        if self._started.wait(_START_S) and self._failure is None:
            return self
        self.close()
        msg = f"amqtt does not start: {self._failure or 'no answer'}"
        raise OperatorError(msg)

    def __exit__(self, *_: object) -> None:
        """See `close`."""
        self.close()

    def close(self) -> None:
        """Shut it down and end its thread; safe to call twice."""
        if self._loop is not None and self._stop is not None and not self._loop.is_closed():
            with contextlib.suppress(RuntimeError):  # it ended between the question and the call
                self._loop.call_soon_threadsafe(self._stop.set)
        if self._thread is not None:
            self._thread.join(_START_S)

    def _run(self) -> None:
        """Thread `amqtt`."""
        try:
            asyncio.run(self._serve())
        except Exception as error:  # noqa: BLE001 - the thread's top; __enter__ reports it
            self._failure = error
        self._started.set()

    async def _serve(self) -> None:
        from amqtt.adapters import StreamReaderAdapter, StreamWriterAdapter  # noqa: PLC0415 - see __enter__
        from amqtt.broker import Broker  # noqa: PLC0415

        for noisy in ("amqtt", "transitions"):
            logging.getLogger(noisy).setLevel(logging.CRITICAL)
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        broker = Broker(
            {
                "listeners": {"default": {"type": "external"}},  # amqtt's own leaves connections open at its end
                "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
            }
        )
        clients: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

        def ended(task: asyncio.Task[None]) -> None:
            clients.pop(task).close()  # amqtt forgets those that left before they had a session
            if not task.cancelled():
                task.exception()  # seen: a client that vanishes is no news

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            work = broker.external_connected(StreamReaderAdapter(reader), StreamWriterAdapter(writer), "default")
            task = asyncio.create_task(work)
            clients[task] = writer
            task.add_done_callback(ended)

        await broker.start()
        server = await asyncio.start_server(accept, HOST, 0)
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        await self._stop.wait()
        await stop_listening(server)
        await abort_connections(clients.values())
        if clients:  # each task ends by itself now that its connection is gone
            await asyncio.wait(clients, timeout=_GOODBYE_S)
        with contextlib.suppress(TimeoutError):  # amqtt may wait for ever for a client that left while it connected
            async with asyncio.timeout(_GOODBYE_S):
                await broker.shutdown()


LocalBroker = MosquittoBroker | IotcoreBroker | AmqttBroker


def best_installed_broker() -> BrokerName:
    """Return the first of `BROKERS` that this machine has; amqtt is what remains."""
    if mosquitto_program() is not None:
        return "mosquitto"
    return "iotcore" if has_iotcore() else "amqtt"


def open_broker(kind: BrokerName = "auto") -> LocalBroker:
    """Return a broker to be used in a `with`; `auto` takes the best that is installed."""
    if kind == "auto":
        kind = best_installed_broker()
    if kind == "mosquitto":
        return MosquittoBroker()
    return IotcoreBroker() if kind == "iotcore" else AmqttBroker()
