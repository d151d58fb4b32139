"""`ports.SelfTester` by a child process: a release is never first loaded in the inspecting process.

Promise: whatever the model does there (crash, hang, fill the memory, flood its output), `examine` ends within the wall
limit and a moment (time in which the line left it no processor is added, up to three times the limit), the whole
process group is gone, and the outcome is an Examination, a ReleaseRefusedError with a reason code, or a FetchError
where the machine was to blame. The child runs niced, with limits on address space, CPU time, file descriptors and
file size, without core dumps and without this process's environment, and it dies with its parent.

On the way from fetch to slot, the next module is `agent.selftest.self_test`, the child process.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import tempfile
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent.children.child_environment import make_isolated_environment
from agent.children.child_process import ChildProcess, LineBuffer, signal_name
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
_CRASH_SIGNALS: Final = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT, signal.SIGSYS}
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _ChildOutput:
    """The child's output so far."""

    lines: list[SelfTestStage | SelfTestPassed | SelfTestRefused | SelfTestInconclusive] = field(default_factory=list)
    buffer: LineBuffer = field(default_factory=lambda: LineBuffer(MAX_ANSWER_BYTES))
    answer_bytes: int = 0
    is_malformed: bool = False

    def stage(self) -> str:
        """Return the last stage that began."""
        stages = [line.stage for line in self.lines if line.kind == "stage"]
        return stages[-1] if stages else "start"

    def result(self) -> SelfTestPassed | SelfTestRefused | SelfTestInconclusive | None:
        """Return the answer; None before it arrived."""
        last = self.lines[-1] if self.lines else None
        return None if last is None or last.kind == "stage" else last

    def is_well_formed(self) -> bool:
        """Whether the output is still that of our self-test process."""
        return not self.is_malformed and self.answer_bytes <= MAX_ANSWER_BYTES

    def feed(self, data: bytes) -> None:
        """Take bytes of its standard output."""
        self.answer_bytes += len(data)
        try:
            for line in self.buffer.feed(data):
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
        """Start nothing yet.

        Args:
            roi: the inspection's region; overrides the release's.
            thresholds: the inspection's thresholds by class; override the release's.
            unsure_band: the inspection's unsure band; overrides the release's.
            max_batch: largest batch on the line.
            scratch: folder for the optimised graph, which the caller moves away; None: a temporary one, which is
                removed with this object. Files of an earlier self-test are removed there.
            clock: for the wall limit.
        """
        self._settings = (roi, dict(thresholds or {}), unsure_band)  # one reference: taken whole
        self._max_batch = max_batch
        self._clock = clock or SystemClock()
        self._scratch = scratch

    def set_site(self, site: SiteOverrides) -> None:
        """Use these overrides from the next self-test on; from any thread."""
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
        output = _ChildOutput()
        try:
            waited = self._communicate(child, request, output, job.stop)
        finally:
            child.close()
        spent_s = (self._clock.monotonic_ns() - began_ns) / NS_PER_S
        return _outcome_of(request.scratch, output, child, limits=job.limits, waited=waited, spent_s=spent_s)

    def _clean_scratch(self) -> Path:
        """Return the scratch folder without old graphs. Raises FetchError."""
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
                "self_test_scratch", f"the scratch folder of the self-test cannot be used: {error.strerror}"
            ) from error
        return folder.resolve()

    def _communicate(
        self, child: ChildProcess, request: SelfTestRequest, output: _ChildOutput, stop: threading.Event
    ) -> float | None:
        """Exchange lines with the child until it ends. Returns None, or at its wall limit the seconds without a CPU."""
        child.send(request.to_json())
        child.close_input()
        deadline_ns = self._clock.monotonic_ns() + int(request.limits.wall_s * NS_PER_S)
        waited_s = 0.0
        while output.is_well_formed() and not child.has_exited():
            if stop.is_set():
                raise FetchError("stopped", "the self-test was stopped")
            if self._clock.monotonic_ns() >= deadline_ns:
                longest_s = (_MAX_WALL_FACTOR - 1) * request.limits.wall_s
                before_s, waited_s = waited_s, min(_cpu_wait_s(child.pid), longest_s)
                if waited_s - before_s < _POLL_S:
                    return waited_s
                deadline_ns += int((waited_s - before_s) * NS_PER_S)  # the line used that time, not the model
            output.feed(child.poll(_POLL_S if child.has_output else _LAST_POLL_S))
        return None


def _start() -> ChildProcess:
    """Start the child in a process group of its own. Raises FetchError."""
    try:
        return ChildProcess(
            "agent.selftest", environment=make_isolated_environment(), stderr_tail_bytes=_KEPT_STDERR_BYTES
        )
    except OSError as error:
        raise FetchError("self_test_start", f"the self-test process cannot be started: {error.strerror}") from error


def _cpu_wait_s(pid: int) -> float:
    """Return the seconds in which the process waited for a processor; 0 where the kernel does not report it."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii").split()[1]) / NS_PER_S
    except (OSError, IndexError, ValueError):
        return 0.0


def _check_free_memory() -> None:
    """Raise FetchError when the machine has no memory for a child: the line comes first."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        free = next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        return  # the child fails then
    if free < _FREE_BYTES:
        raise FetchError(
            "self_test_memory",
            f"{free / 1e6:.0f} MB of memory are free, a self-test needs {_FREE_BYTES / 1e6:.0f} MB; "
            "it is tried again later",
        )


# --- the outcome of the child's end -----------------------------------------------------------------------------------


def _outcome_of(
    scratch: Path,
    output: _ChildOutput,
    child: ChildProcess,
    *,
    limits: SelfTestLimits,
    waited: float | None,
    spent_s: float,
) -> SelfTestResult:
    result, code = output.result(), child.returncode
    if code == 0 and output.is_well_formed() and result is not None:
        if result.kind == "refused":
            raise ReleaseRefusedError(
                result.gate, result.reason, result.text, figures=result.figures, limits=result.limits
            )
        if result.kind == "inconclusive":
            raise FetchError(result.reason, result.text)
        return _result_of(scratch, result, spent_s)
    stage = output.stage()
    if stage in {"start", "champion"}:  # no byte of the candidate had been read
        if waited is not None:
            raise FetchError("self_test_timeout", f"{limits.wall_s:g} s passed during {stage}, before the self-test")
        raise _machine_fault(child, stage)
    if waited is not None:
        _refuse_timeout(stage, waited, limits)
    if not output.is_well_formed():
        raise ReleaseRefusedError(
            Gate.SELF_TEST,
            "output",
            f"during {stage} the model overwrote the self-test's answer; do not use it",
        )
    _refuse_death(stage, code, limits)
    raise _machine_fault(child, stage)


def _result_of(scratch: Path, passed: SelfTestPassed, spent_s: float) -> SelfTestResult:
    optimised = None if passed.optimised is None else scratch / passed.optimised
    return SelfTestResult({**passed.figures, "examination_s": round(spent_s, 3)}, optimised, passed.optimised_sha256)


def _refuse_timeout(stage: str, waited: float, limits: SelfTestLimits) -> None:
    if waited >= (_MAX_WALL_FACTOR - 1) * limits.wall_s:
        raise FetchError(
            "self_test_no_cpu_time",
            f"during {stage} {_MAX_WALL_FACTOR * limits.wall_s:g} s passed, {waited:.0f} s of them waiting "
            f"for a processor: "
            "the machine is too busy for a self-test now",
        )
    raise ReleaseRefusedError(
        Gate.SELF_TEST,
        "timeout",
        f"during {stage} the model did not come to an end within {limits.wall_s:g} s",
        figures={"wall_s": round(limits.wall_s + waited, 3), "waited_s": round(waited, 3)},
        limits={"wall_s": limits.wall_s},
    )


def _refuse_death(stage: str, code: int, limits: SelfTestLimits) -> None:
    """Raise ReleaseRefusedError when the model caused the process's death."""
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
        raise ReleaseRefusedError(
            Gate.SELF_TEST,
            "crash",
            f"during {stage} the model crashed the self-test process ({signal_name(code)}); on the line it would have "
            "stopped the inspection",
            figures={"signal": -code},
        )


def _machine_fault(child: ChildProcess, stage: str) -> FetchError:
    """Return the error for a death that the candidate did not cause."""
    code = child.returncode
    lines = child.stderr_tail.decode("utf-8", "replace").strip().splitlines()
    why = lines[-1][:300] if lines else "it wrote nothing"
    if code < 0:
        text = f"the self-test process was ended by {signal_name(code)} during {stage}"
        return FetchError("self_test_champion" if stage == "champion" else "self_test_killed", text)
    _log.warning("the self-test process failed with exit code %d during %s: %s", code, stage, why)
    return FetchError("self_test_failed", f"the self-test process failed during {stage}: {why}")
