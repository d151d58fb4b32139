"""The processes of one component: install, then startup or run.

They are restarted a limited number of times and stopped in two steps.

Promise: a script runs in a session of its own in the component's work folder, its output goes to the component's log,
and after `stop` nothing of that session lives. Three starts within an hour are all there are (then BROKEN), until the
next deployment. On lite a `startup` is a unit of Type=notify: it is up when UpdateState or `$NOTIFY_SOCKET` says so;
what exits with 0 after that stays up. Lite appends `systemd-notify --ready` and `--stopping` to the script, which run
unless the script exits or uses `exec`; systemd before 253 does not know the second, and the unit fails. The script has
no `set -e`, so a failure in its middle goes unnoticed (recipe-runner/src/runner.c, recipe2unit).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
import socket
import sys
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from simulator.nucleus.deployments.recipe import RecipeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from simulator.nucleus.limits import NucleusBehaviour

ComponentState = Literal["NEW", "INSTALLED", "STARTING", "RUNNING", "STOPPING", "ERRORED", "BROKEN", "FINISHED"]
SETTLED_STATES: Final = ("RUNNING", "FINISHED", "BROKEN")
_STARTS: Final = 3  # within _HOUR_S
_HOUR_S: Final = 3_600.0
_POLL_S: Final = 0.05
_DATAGRAM_BYTES: Final = 4_096
_STOPPING_SINCE: Final = 253  # the systemd whose systemd-notify knows --stopping
_STARTUP_SUFFIX: Final = "\nsystemd-notify --ready\nsystemd-notify --stopping\n"
# A stand-in for systemd-notify(1), which test machines do not have: `{known}` are the options that it knows.
_NOTIFY: Final = """\
import os, socket, sys
option = sys.argv[1] if len(sys.argv) == 2 else ""
if option not in {known}:
    sys.exit("systemd-notify: unrecognized option '" + option + "'")
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to_systemd:
    to_systemd.sendto((option[2:].upper() + "=1").encode(), os.environ["NOTIFY_SOCKET"])
"""


@dataclass(frozen=True, slots=True)
class PreparedScript:
    """A script that is ready to run."""

    text: str
    environment: Mapping[str, str]
    timeout_s: float


class ComponentProcess:
    """What runs of one component. Belongs to the event loop."""

    def __init__(
        self,
        *,
        name: str,
        work: Path,
        log: Path,
        private: Path,
        lite: bool,
        behaviour: NucleusBehaviour,
        note: Callable[[str, str], None],
    ) -> None:
        """Nothing runs yet.

        Args:
            name: Of the component.
            work: Its work folder.
            log: File for the output of its scripts.
            private: Folder for scripts and sockets.
            lite: Whether the nucleus is lite, not classic.
            behaviour: Of the nucleus.
            note: Called with the component's name and each event.

        """
        self.name, self.work, self._log, self._private = name, work, log, private
        self._lite, self._behaviour = lite, behaviour
        self._note = note
        self._task: asyncio.Task[None] | None = None
        self._child: asyncio.subprocess.Process | None = None
        self._session = 0  # of the child: it leads a session of its own
        self._ready = asyncio.Event()
        self._changed = asyncio.Event()
        self._recent: deque[float] = deque(maxlen=_STARTS)
        self.state: ComponentState = "NEW"
        self.starts = 0  # of startup or run, ever
        self.exit_codes: list[int] = []  # of startup and run

    @property
    def pid(self) -> int | None:
        """Process id of the script's shell, or of what it became by `exec`; None while nothing runs."""
        child = self._child
        return None if child is None or child.returncode is not None else child.pid

    def owns(self, pid: int) -> bool:
        """Whether process `pid` is one of this component's."""
        with contextlib.suppress(ProcessLookupError):
            return self.pid is not None and os.getsid(pid) == self._session
        return False

    def reset_start_limit(self) -> None:
        """Forget earlier starts: a deployment gives every component its three starts again."""
        self._recent.clear()

    def mark_running(self) -> None:
        """The component says that it is up."""
        self._ready.set()

    async def install(self, script: PreparedScript) -> bool:
        """Run an install script to its end, again where it fails; return whether it did it."""
        for _ in range(_STARTS):
            self._note(self.name, "install")
            child = await self._spawn("install", script, {})
            try:
                async with asyncio.timeout(script.timeout_s):
                    await child.wait()
                if child.returncode == 0:
                    return True
            except TimeoutError:
                await self._end(child.pid, at_once=True)
            await asyncio.sleep(self._behaviour.restart_s)
        return False

    def mark_installed(self) -> None:
        """Note that there is something to start now."""
        self._set_state("INSTALLED")

    def start(self, phase: Literal["startup", "run"] | None, prepare: Callable[[], PreparedScript]) -> None:
        """Begin to run; `prepare` fills in the script for each start; without a phase there is nothing to run."""
        if phase is None:
            self._set_state("FINISHED")
            return
        self._set_state("STARTING")
        self._task = asyncio.get_running_loop().create_task(self._supervise(phase, prepare), name=f"gg-{self.name}")

    async def wait_settled(self) -> ComponentState:
        """Wait until it runs, has finished, or is broken."""
        while self.state not in SETTLED_STATES:
            self._changed.clear()
            await self._changed.wait()
        return self.state

    async def stop(self, shutdown: PreparedScript | None = None) -> None:
        """Run the shutdown script (classic), send SIGTERM to all of it, SIGKILL to what is left; safe to call twice."""
        if self._task is None:
            return
        self._set_state("STOPPING")
        if shutdown is not None and self.pid is not None:
            child = await self._spawn("shutdown", shutdown, {})
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(shutdown.timeout_s):
                    await child.wait()
            await self._end(child.pid, at_once=True)
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._task = None
        await self._end_session()
        if self._child is not None:
            await self._child.wait()
        self._set_state("INSTALLED")
        self._note(self.name, "stopped")

    # --- one start after the other ------------------------------------------------------------------------------------

    async def _supervise(self, phase: Literal["startup", "run"], prepare: Callable[[], PreparedScript]) -> None:
        while True:
            now = time.monotonic()
            if len(self._recent) == _STARTS and now - self._recent[0] < _HOUR_S:
                self._set_state("BROKEN")
                return
            self._recent.append(now)
            self.starts += 1
            try:
                fine = await (self._startup_once(prepare()) if phase == "startup" else self._run_once(prepare()))
            except (OSError, RecipeError) as error:
                self._write(f"{error}\n")
                fine = False
            if fine and phase == "startup":
                if not _is_alive(self._session):
                    self._session = 0
                self._set_state("RUNNING")
                return
            await self._end_session()
            if fine:
                self._set_state("FINISHED")
                return
            self._set_state("ERRORED")
            await asyncio.sleep(self._behaviour.restart_s)

    async def _run_once(self, script: PreparedScript) -> bool:
        self._child = child = await self._spawn("run", script, {})
        self._session = child.pid
        self._set_state("RUNNING")
        return self._record_exit(await child.wait()) == 0

    async def _startup_once(self, script: PreparedScript) -> bool:
        self._set_state("STARTING")
        self._ready.clear()
        extra: dict[str, str] = {}
        text = script.text
        heard: socket.socket | None = None
        with contextlib.ExitStack() as stack:
            if self._lite:
                heard = stack.enter_context(self._notify_socket())
                extra["NOTIFY_SOCKET"] = str(heard.getsockname())
                extra["PATH"] = f"{self._notify_program()}:{script.environment.get('PATH', os.defpath)}"
                text += _STARTUP_SUFFIX
            prepared = PreparedScript(text, script.environment, script.timeout_s)
            self._child = child = await self._spawn("startup", prepared, extra)
            self._session = child.pid
            ended = asyncio.ensure_future(child.wait())
            ready = asyncio.ensure_future(self._ready.wait())
            try:
                await asyncio.wait((ended, ready), timeout=script.timeout_s, return_when=asyncio.FIRST_COMPLETED)
                if not ended.done() and not ready.done():
                    self._write(f"startup did not come up within {script.timeout_s:g} s\n")
                    return False
                if ready.done():
                    self._set_state("RUNNING")
                code = self._record_exit(await ended)
                if heard is not None:
                    self._read_notifications(heard)  # what it said last may still wait in the socket
            finally:
                ended.cancel()
                ready.cancel()
        return code == 0 and (not self._lite or self._ready.is_set())

    def _record_exit(self, code: int) -> int:
        self.exit_codes.append(code)
        self._note(self.name, f"exit {code}")
        return code

    @contextlib.contextmanager
    def _notify_socket(self) -> Iterator[socket.socket]:
        """Listen as systemd does: a datagram READY=1 says that the component is up."""
        loop = asyncio.get_running_loop()
        path = self._private / f"{self.name}.notify"
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as heard:
            heard.bind(str(path))
            loop.add_reader(heard, self._read_notifications, heard)
            try:
                yield heard
            finally:
                loop.remove_reader(heard)

    def _read_notifications(self, heard: socket.socket) -> None:
        """Take every datagram that waits."""
        with contextlib.suppress(BlockingIOError):
            while True:
                if b"READY=1" in heard.recv(_DATAGRAM_BYTES).split(b"\n"):
                    self._ready.set()

    def _notify_program(self) -> Path:
        """Write `systemd-notify` as this device's systemd has it; return the folder that holds it."""
        folder = self._private / "bin"
        folder.mkdir(exist_ok=True)
        known = ("--ready", "--stopping") if self._behaviour.systemd >= _STOPPING_SINCE else ("--ready",)
        code = folder / "notify.py"
        code.write_text(_NOTIFY.replace("{known}", repr(known)), encoding="utf-8")
        program = folder / "systemd-notify"
        program.write_text(
            f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -IS {shlex.quote(str(code))} "$@"\n', encoding="utf-8"
        )
        program.chmod(0o755)
        return folder

    async def _spawn(self, phase: str, script: PreparedScript, extra: Mapping[str, str]) -> asyncio.subprocess.Process:
        if self._lite:  # lite writes the script to a file, classic hands it over as it is
            path = self._private / f"{self.name}.{phase}.sh"
            path.write_text(f"#!/bin/sh\n{script.text}", encoding="utf-8")
            command = ["/bin/sh", str(path)]
        else:
            command = ["/bin/sh", "-c", script.text]
        self.work.mkdir(parents=True, exist_ok=True)
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            child = await asyncio.create_subprocess_exec(
                *command,
                cwd=self.work,
                env={**script.environment, **extra},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._note(self.name, f"{phase} {child.pid}")
        return child

    async def _end_session(self) -> None:
        """End what is left of the latest start."""
        if self._session and _is_alive(self._session):
            self._note(self.name, "SIGTERM")
            await self._end(self._session, at_once=False)
        self._session = 0  # the number may soon be another program's

    async def _end(self, session: int, *, at_once: bool) -> None:
        """End every process of `session`."""
        deadline = time.monotonic() + (0.0 if at_once else self._behaviour.kill_after_s)
        _signal(session, signal.SIGTERM)
        while _is_alive(session):
            if time.monotonic() >= deadline:
                _signal(session, signal.SIGKILL)
            await asyncio.sleep(_POLL_S)

    def _set_state(self, state: ComponentState) -> None:
        if state != self.state:
            self.state = state
            self._note(self.name, state)
        self._changed.set()

    def _write(self, text: str) -> None:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("a", encoding="utf-8") as log:
            log.write(text)


def _signal(session: int, number: signal.Signals) -> None:
    for pid in _members(session):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _is_alive(session: int) -> bool:
    return bool(_members(session))


def _members(session: int) -> list[int]:
    """Return the processes of `session` that are no zombies."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):  # it is gone
            fields = (entry / "stat").read_text(encoding="latin-1").rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] not in "ZX":
                found.append(int(entry.name))
    return found
