"""Runs a program where every DNS look-up is answered and recorded.

    python -m simulator.doubles.network.dns_recorder kensa run line.yaml        # prints each name that was asked for,
    and how often

The program runs in a network and mount namespace of its own, which has nothing but a loopback interface and a
`/etc/resolv.conf` that names 127.0.0.1; there a resolver answers "no such name" (RFC 1035, NXDOMAIN) and records the
question. Code in any language is seen, as all of it asks the C library's resolver or reads that file. Needs root, or
a kernel that lets users make namespaces.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from agent.errors import OperatorError
from simulator.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_PORT: Final = 53
_HEADER: Final = struct.Struct("!6H")  # id, flags, and how many questions, answers, authorities, additional records
_NO_SUCH_NAME: Final = 0x8183  # a response, recursion desired and available, RCODE 3
_MAX_DATAGRAM_BYTES: Final = 4_096
_POINTER: Final = 0xC0  # the two high bits of a length: a compressed name, which no question has
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1
_MS_BIND, _MS_REC, _MS_PRIVATE = 4096, 16384, 1 << 18
_UNSHARE: Final = ("unshare", "--net", "--mount", "--map-root-user")


def question_name(query: bytes) -> str | None:
    """Return the name that a DNS query asks for, in lower case; None for what is no query."""
    if len(query) <= _HEADER.size or not _HEADER.unpack_from(query)[2]:
        return None
    labels: list[str] = []
    at = _HEADER.size
    while at < len(query):
        length = query[at]
        if length == 0:
            return ".".join(labels).lower()
        if length & _POINTER or at + 1 + length > len(query):
            return None
        labels.append(query[at + 1 : at + 1 + length].decode("latin-1"))
        at += 1 + length
    return None


class RecordingResolver:
    """Answers every question on `address` with "no such name"; `asked` counts the names."""

    def __init__(self, address: tuple[str, int] = ("127.0.0.1", _PORT)) -> None:
        """Bind at once, so that whoever starts after this is heard. Port 0 takes a free one. Raises OSError."""
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._thread = threading.Thread(target=self._serve, name="resolver", daemon=True)
        self.queries: Counter[str] = Counter()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._socket.getsockname()[1])

    def __enter__(self) -> Self:
        """Answer from now on."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(5.0)

    def _serve(self) -> None:
        while True:
            try:
                query, client = self._socket.recvfrom(_MAX_DATAGRAM_BYTES)
            except OSError:
                return  # closed
            name = question_name(query)
            if name is None:
                continue
            self.queries[name] += 1
            identity, _, questions, *_ = _HEADER.unpack_from(query)
            answer = _HEADER.pack(identity, _NO_SUCH_NAME, questions, 0, 0, 0) + query[_HEADER.size :]
            with suppress(OSError):
                self._socket.sendto(answer, client)


def record_lookups(
    command: Sequence[str], *, timeout_s: float, environment: Mapping[str, str] | None = None, cwd: Path | None = None
) -> tuple[int, Counter[str], str]:
    """Run `command` for at most `timeout_s` seconds (then SIGTERM); return its exit code, the names, its output.

    The output is what it wrote to standard output and standard error. Raises OperatorError where no namespace can be
    made.
    """
    with tempfile.TemporaryDirectory(prefix="kensa-dns-") as name:
        found, output = Path(name) / "names.json", Path(name) / "output"
        inner = [sys.executable, "-m", "simulator.doubles.network.dns_recorder", "--inside", str(found), str(timeout_s)]
        here = str(ROOT)
        variables = dict(os.environ if environment is None else environment)
        variables["PYTHONPATH"] = os.pathsep.join(filter(None, (here, variables.get("PYTHONPATH"))))
        with output.open("wb") as log:
            ended = subprocess.run(
                [*_UNSHARE, *inner, *command],
                env=variables,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                check=False,
            )
        text = output.read_text(encoding="utf-8", errors="replace")
        if not found.is_file():
            raise OperatorError(
                f"`{' '.join(_UNSHARE)}` makes no network namespace here: run it as root ({text.strip()[-300:]})"
            )
        return ended.returncode, Counter(json.loads(found.read_text(encoding="utf-8"))), text


def can_isolate() -> bool:
    """Whether namespaces can be made here."""
    with suppress(OSError):
        return subprocess.run([*_UNSHARE, "true"], capture_output=True, check=False).returncode == 0
    return False


def _set_up_namespace(folder: Path) -> None:
    """Bring the loopback interface up, and point the C library to it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = bytearray(struct.pack("16sh14x", b"lo", 0))
        fcntl.ioctl(any_socket, _SIOCGIFFLAGS, request)
        flags = struct.unpack_from("16sh", request)[1]
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None)
    for target, text in (("/etc/resolv.conf", "nameserver 127.0.0.1\n"), ("/etc/nsswitch.conf", "hosts: files dns\n")):
        own = folder / Path(target).name
        own.write_text(text, encoding="utf-8")
        real = Path(target).resolve()
        if libc.mount(str(own).encode(), str(real).encode(), None, _MS_BIND, None) and real.exists():
            raise OSError(ctypes.get_errno(), f"{target} cannot be replaced in the namespace")


def _run_in_namespace(found: Path, timeout_s: float, command: Sequence[str]) -> int:
    """Run `command` in the namespace that this process is in already."""
    _set_up_namespace(found.parent)
    with RecordingResolver() as resolver:
        process = subprocess.Popen(command)
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.terminate()
            try:
                code = process.wait(30.0)
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait()
        found.write_text(json.dumps(resolver.queries), encoding="utf-8")
    return code


def main(arguments: list[str]) -> int:
    """Run a command to its end and print the names that it asked for."""
    if arguments[:1] == ["--inside"]:
        return _run_in_namespace(Path(arguments[1]), float(arguments[2]), arguments[3:])
    if not arguments or arguments[0].startswith("-"):
        sys.stderr.write("usage: python -m simulator.doubles.network.dns_recorder COMMAND...\n")
        return 64
    code, asked, output = record_lookups(arguments, timeout_s=3_600.0)
    sys.stderr.write(output)
    for name, count in sorted(asked.items()):
        sys.stdout.write(f"{count} {name}\n")
    sys.stdout.write(f"{sum(asked.values())} look-ups\n")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
