"""`SelfTestClient`: a release is loaded for the first time in a process of its own, never in the inspecting one.

Promise: whatever the model does there (crash, hang, fill the memory, flood its output), `examine` ends within the wall
    limit and a moment (time in which the line left it no processor is added, up to three times the limit), the whole
    process group is gone, and the outcome is an Examination, a ReleaseRefusedError with a reason code, or a FetchError
    where the machine was to blame. The child runs niced, with limits on address space, CPU time, file descriptors and
    file size, without core dumps and without this process's environment, and it dies with its parent.

On the way from fetch to slot, the next module is `agent.selftest.self_test`, the child process.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

import agent
from agent.children.selftest_protocol import (
    MAX_ANSWER_BYTES,
    SelfTestInconclusive,
    SelfTestPassed,
    SelfTestRefused,
    SelfTestRequest,
    parse_answer,
)
from agent.errors import FetchError, ReleaseRefusedError
from agent.release_records import Gate, SelfTestResult
from agent.timing.clock import NS_PER_S, SystemClock

if TYPE_CHECKING:
    import threading
    from collections.abc import Mapping

    from agent.children.selftest_protocol import SelfTestStage
    from agent.ports import SelfTestJob
    from agent.records import Box
    from agent.release_records import SelfTestLimits
    from agent.slot import SiteOverrides
    from agent.timing.clock import Clock

_POLL_S: Final = 0.05  # how soon `stop` and the wall limit are seen
_LAST_POLL_S: Final = 0.005  # both pipes are closed: it ends at once, or it plays dead
_FREE_BYTES: Final = 192 * 1024**2  # what a child with a small model needs beside the line
_KEPT_STDERR_BYTES: Final = 8 * 1024
_MAX_WALL_FACTOR: Final = 4  # times the wall limit, at most, for a child that waits for a processor most of the time
_ENVIRONMENT: Final = {  # one thread: the line needs the cores, and every thread's stack counts as address space
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "LC_ALL": "C.UTF-8",
}
_CRASH_SIGNALS: Final = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT, signal.SIGSYS}
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _ChildOutput:
    """What the child has said so far."""

    lines: list[SelfTestStage | SelfTestPassed | SelfTestRefused | SelfTestInconclusive] = field(default_factory=list)
    pending: bytes = b""
    answer_bytes: int = 0
    is_malformed: bool = False
    stderr: bytes = b""

    def stage(self) -> str:
        """Where it is, or was."""
        stages = [line.stage for line in self.lines if line.kind == "stage"]
        return stages[-1] if stages else "start"

    def result(self) -> SelfTestPassed | SelfTestRefused | SelfTestInconclusive | None:
        """The answer, once it is there."""
        last = self.lines[-1] if self.lines else None
        return None if last is None or last.kind == "stage" else last

    def is_well_formed(self) -> bool:
        """Is it still an examiner of ours that speaks?"""
        return not self.is_malformed and self.answer_bytes <= MAX_ANSWER_BYTES

    def feed(self, data: bytes) -> None:
        """Take bytes of its standard output."""
        self.answer_bytes += len(data)
        *lines, self.pending = (self.pending + data).split(b"\n")
        for line in lines:
            try:
                self.lines.append(parse_answer(line))
            except ValueError:
                self.is_malformed = True


class SelfTestClient:
    """`ports.SelfTester` by `python -m agent.selftest`. One instance serves one inspection, in one thread at a time."""

    def __init__(
        self,
        *,
        roi: Box | None = None,
        thresholds: Mapping[str, float] | None = None,
        unsure_band: float | None = None,
        max_batch: int = 8,
        scratch: Path | None = None,
        clock: Clock | None = None,
    ) -> None:
        """`roi`, `thresholds` and `unsure_band` are the inspection's own settings, which lie over a release's.

        `scratch` is the folder for the optimised graph, which the caller moves away; None: a temporary one, which goes
        with this object. What an earlier examination left there is removed.
        """
        self._settings = (roi, dict(thresholds or {}), unsure_band)  # one reference: taken whole
        self._max_batch = max_batch
        self._clock = clock or SystemClock()
        self._scratch = scratch

    def set_site(self, site: SiteOverrides) -> None:
        """Examine under these settings from the next examination on; from any thread."""
        self._settings = (site.roi, dict(site.thresholds), site.unsure_band)

    def run_self_test(self, job: SelfTestJob) -> SelfTestResult:
        """See `ports.SelfTester`."""
        _check_free_memory()
        roi, thresholds, unsure_band = self._settings
        request = SelfTestRequest(
            candidate=job.candidate.resolve(),
            champion=None if job.champion is None else job.champion.resolve(),
            acceptance=None if job.acceptance is None else job.acceptance.resolve(),
            limits=job.limits,
            parent=os.getpid(),
            scratch=self._clean_scratch(),
            roi=roi,
            thresholds=thresholds,
            unsure_band=unsure_band,
            max_batch=self._max_batch,
        )
        began_ns = self._clock.monotonic_ns()
        child = _start()
        heard = _ChildOutput()
        try:
            waited = self._communicate(child, request, heard, job.stop)
        finally:
            _end(child)
        spent_s = (self._clock.monotonic_ns() - began_ns) / NS_PER_S
        return _outcome_of(request.scratch, heard, child.returncode, limits=job.limits, waited=waited, spent_s=spent_s)

    def _clean_scratch(self) -> Path:
        """The scratch folder, empty of graphs. Raises FetchError."""
        try:
            if self._scratch is None:
                self._scratch = Path(tempfile.mkdtemp(prefix="kensa-examine-"))
                weakref.finalize(self, shutil.rmtree, self._scratch, ignore_errors=True)
            folder = self._scratch
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for left in folder.glob("optimised-*"):
                left.unlink()
        except OSError as error:
            raise FetchError(
                "examiner_scratch", f"the scratch folder of the examination cannot be used: {error.strerror}"
            ) from error
        return folder.resolve()

    def _communicate(
        self, child: subprocess.Popen[bytes], request: SelfTestRequest, heard: _ChildOutput, stop: threading.Event
    ) -> float | None:
        """Talk to the child until it ends. Returns None, or at its wall limit the seconds without a processor."""
        assert child.stdin is not None  # noqa: S101 - asked for by _start
        with contextlib.suppress(BrokenPipeError), child.stdin:  # a child that is gone already is seen below
            child.stdin.write(request.to_json())
        deadline_ns = self._clock.monotonic_ns() + int(request.limits.wall_s * NS_PER_S)
        with selectors.DefaultSelector() as selector:
            for stream in (child.stdout, child.stderr):
                assert stream is not None  # noqa: S101 - asked for by _start
                os.set_blocking(stream.fileno(), False)
                selector.register(stream, selectors.EVENT_READ, data=stream)
            waited_s = 0.0
            while heard.is_well_formed() and (selector.get_map() or not _has_ended(child.pid)):
                if stop.is_set():
                    raise FetchError("stopped", "the examination was stopped")
                if self._clock.monotonic_ns() >= deadline_ns:
                    before_s, waited_s = (
                        waited_s,
                        min(_cpu_wait_s(child.pid), (_MAX_WALL_FACTOR - 1) * request.limits.wall_s),
                    )
                    if waited_s - before_s < _POLL_S:
                        return waited_s
                    deadline_ns += int((waited_s - before_s) * NS_PER_S)  # that time was the line's, not the model's
                for key, _ in selector.select(_POLL_S if selector.get_map() else _LAST_POLL_S):
                    if not _read(key.data, heard, is_answer=key.data is child.stdout):
                        selector.unregister(key.data)
        return None


def _start() -> subprocess.Popen[bytes]:
    """Start the child in a process group of its own. Raises FetchError."""
    environment = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    environment |= _ENVIRONMENT
    environment["PYTHONPATH"] = str(Path(agent.__file__).parent.parent)  # this very Kensa, installed or a checkout
    try:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "agent.selftest"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            cwd="/",
            env=environment,
            process_group=0,
        )
    except OSError as error:
        raise FetchError("examiner_start", f"the examining process cannot be started: {error.strerror}") from error


def _has_ended(pid: int) -> bool:
    """Has it ended? It is not collected: until `_end` does that, its number belongs to it."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kill the child's whole group, its own children too, and collect it. One that has ended keeps its exit status."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    for stream in (child.stdout, child.stderr):
        if stream is not None:
            stream.close()


def _read(stream: IO[bytes], heard: _ChildOutput, *, is_answer: bool) -> bool:
    """Take what is there; False at the end."""
    data = stream.read(MAX_ANSWER_BYTES)
    if is_answer and data:
        heard.feed(data)
    elif data:
        heard.stderr = (heard.stderr + data)[-_KEPT_STDERR_BYTES:]
    return data != b""


def _cpu_wait_s(pid: int) -> float:
    """Seconds in which the process was ready to run and got no processor; 0 where the kernel does not say."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii").split()[1]) / NS_PER_S
    except (OSError, IndexError, ValueError):
        return 0.0


def _check_free_memory() -> None:
    """Raises FetchError when the machine has no room for a child: the line goes first."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        free = next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        return  # the child finds out
    if free < _FREE_BYTES:
        raise FetchError(
            "examiner_memory",
            f"{free / 1e6:.0f} MB of memory are free, examining a release takes {_FREE_BYTES / 1e6:.0f} MB; "
            "it is tried again later",
        )


# --- what the end means -----------------------------------------------------------------------------------------------


def _outcome_of(
    scratch: Path, heard: _ChildOutput, code: int, *, limits: SelfTestLimits, waited: float | None, spent_s: float
) -> SelfTestResult:
    result = heard.result()
    if code == 0 and heard.is_well_formed() and result is not None:
        if result.kind == "refused":
            raise ReleaseRefusedError(
                result.gate, result.reason, result.text, figures=result.figures, limits=result.limits
            )
        if result.kind == "could_not":
            raise FetchError(result.reason, result.text)
        return _result_of(scratch, result, spent_s)
    stage = heard.stage()
    if stage in {"start", "champion"}:  # no byte of the candidate had been read
        if waited is not None:
            raise FetchError("examiner_timeout", f"{limits.wall_s:g} s passed during {stage}, before the examination")
        raise _machine_fault(heard, code, stage)
    if waited is not None:
        _refuse_timeout(stage, waited, limits)
    if not heard.is_well_formed():
        raise ReleaseRefusedError(
            Gate.SELF_TEST,
            "output",
            f"during {stage} the model wrote over its examiner's answer; do not use it",
        )
    _refuse_death(stage, code, limits)
    raise _machine_fault(heard, code, stage)


def _result_of(scratch: Path, passed: SelfTestPassed, spent_s: float) -> SelfTestResult:
    optimised = None if passed.optimised is None else scratch / passed.optimised
    return SelfTestResult({**passed.figures, "examination_s": round(spent_s, 3)}, optimised, passed.optimised_sha256)


def _refuse_timeout(stage: str, waited: float, limits: SelfTestLimits) -> None:
    if waited >= (_MAX_WALL_FACTOR - 1) * limits.wall_s:
        raise FetchError(
            "examiner_starved",
            f"during {stage} {_MAX_WALL_FACTOR * limits.wall_s:g} s passed, {waited:.0f} s of them waiting "
            f"for a processor: "
            "the machine is too busy to examine a release now",
        )
    raise ReleaseRefusedError(
        Gate.SELF_TEST,
        "timeout",
        f"during {stage} the model did not come to an end within {limits.wall_s:g} s",
        figures={"wall_s": round(limits.wall_s + waited, 3), "waited_s": round(waited, 3)},
        limits={"wall_s": limits.wall_s},
    )


def _refuse_death(stage: str, code: int, limits: SelfTestLimits) -> None:
    """Raises ReleaseRefusedError when the way it died is the model's own doing."""
    if code >= 0:
        return
    if -code == signal.SIGXCPU:
        raise ReleaseRefusedError(
            Gate.SELF_TEST,
            "cpu_time",
            f"during {stage} the model used up {limits.cpu_s:g} s of processor time",
            figures={"cpu_s": limits.cpu_s},
            limits={"cpu_s": limits.cpu_s},
        )
    if -code in _CRASH_SIGNALS:
        name = signal.Signals(-code).name
        raise ReleaseRefusedError(
            Gate.SELF_TEST,
            "crash",
            f"during {stage} the model crashed the process that examined it ({name}); on the line it would have "
            "stopped the inspection",
            figures={"signal": -code},
        )


def _machine_fault(heard: _ChildOutput, code: int, stage: str) -> FetchError:
    """The child died of something that the candidate did not do."""
    said = heard.stderr.decode("utf-8", "replace").strip().splitlines()
    why = said[-1][:300] if said else "it said nothing"
    if code < 0:
        name = signal.Signals(-code).name if -code in signal.valid_signals() else str(-code)
        text = f"the examining process was ended by {name} during {stage}"
        return FetchError("examiner_champion" if stage == "champion" else "examiner_killed", text)
    _log.warning("the examining process failed with exit code %d during %s: %s", code, stage, why)
    return FetchError("examiner_failed", f"the examining process failed during {stage}: {why}")
