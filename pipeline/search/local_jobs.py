"""Runs trainings as child processes on this machine, a bounded number at a time.

Each is laid out like a SageMaker job.

Promise: a finished training is found by the digest of its plan and not run again, unless the code has changed since; a
failure is reported and does not stop the others; no child outlives the call. The output of a child is in
TRAININGS/LABEL/output/log.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from agent.errors import ReleaseError
from pipeline.release_writer import code_version
from pipeline.repository.staging import check_release
from pipeline.sagemaker.job_layout import ROOT_VARIABLE, TRAINING_CHANNEL, JobLayout
from pipeline.sagemaker.source_bundle import checkout_root

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from agent.release.manifest import Manifest
    from pipeline.selection.training_plan import TrainingPlan

_ENTRY: Final = "pipeline.sagemaker.job_entry"
_POLL_S: Final = 0.1  # between two checks of a child
_TERMINATE_TIMEOUT_S: Final = 10.0  # for a child to end when asked to
_TAIL_CHARS: Final = 600  # of a log, in a failure's text


@dataclass(frozen=True, slots=True)
class JobResult:
    """The result of a training: a release, or the reason why there is none."""

    plan: TrainingPlan
    folder: Path | None
    manifest: Manifest | None
    failure: str = ""
    duration_s: float = 0.0
    is_reused: bool = False  # of an earlier search


class LocalTrainingJobs:
    """Runs the trainings of a search in one folder."""

    def __init__(self, folder: Path, data: Path, *, workers: int, timeout_s: float) -> None:
        """`workers` run at once; one that takes longer than `timeout_s` is terminated and counts as failed."""
        self._folder = folder
        self._data = data
        self._workers = workers
        self._timeout_s = timeout_s

    def run(self, plans: Sequence[TrainingPlan]) -> Iterator[JobResult]:
        """Yield each training as it finishes, in any order."""
        stop = threading.Event()
        with ThreadPoolExecutor(self._workers, thread_name_prefix="training") as pool:
            try:
                for done in as_completed([pool.submit(self._run_job, plan, stop) for plan in plans]):
                    yield done.result()
            finally:  # also when the caller stops early: by Ctrl-C, or an error
                stop.set()
                pool.shutdown(cancel_futures=True)

    def _run_job(self, plan: TrainingPlan, stop: threading.Event) -> JobResult:
        layout = JobLayout(self._folder / plan.label)
        found = _finished_release(layout)
        if found is not None and found.lineage.code_version == code_version():
            return JobResult(plan, layout.release_folder, found, is_reused=True)
        shutil.rmtree(layout.model_folder, ignore_errors=True)  # of another code, or damaged
        started = time.monotonic()
        layout.prepare({"step": "train", **plan.hyperparameters()}, {TRAINING_CHANNEL: self._data})
        failure = self._run_child(layout, plan.training_parameters().threads, stop)
        duration_s = time.monotonic() - started
        made = None if failure else _finished_release(layout)
        if made is None:
            return JobResult(plan, None, None, failure or "no release was written", duration_s)
        return JobResult(plan, layout.release_folder, made, "", duration_s)

    def _run_child(self, layout: JobLayout, threads: int, stop: threading.Event) -> str:
        """Run the entry point to its end; returns why it failed, "" when it did not."""
        environment = {
            **os.environ,
            ROOT_VARIABLE: str(layout.root),
            "PYTHONPATH": str(checkout_root()),
            "OMP_NUM_THREADS": str(threads),
            "OMP_WAIT_POLICY": "passive",
        }
        log = layout.failure_file.with_name("log")
        ends = time.monotonic() + self._timeout_s
        with log.open("wb") as out:
            child = subprocess.Popen(
                [sys.executable, "-m", _ENTRY], stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment
            )
            try:
                while child.poll() is None and time.monotonic() < ends and not stop.wait(_POLL_S):
                    pass
            finally:
                ended = child.poll() is not None
                _terminate(child)
        if not ended:
            return "stopped" if stop.is_set() else f"it took longer than {self._timeout_s:g} s"
        return "" if child.returncode == 0 else _failure_text(layout, log, child.returncode)


def _terminate(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(_TERMINATE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _finished_release(layout: JobLayout) -> Manifest | None:
    try:
        return check_release(layout.release_folder)
    except ReleaseError:
        return None


def _failure_text(layout: JobLayout, log: Path, code: int) -> str:
    for path in (layout.failure_file, log):
        text = path.read_text(encoding="utf-8", errors="replace").strip() if path.is_file() else ""
        if text:
            return text[-_TAIL_CHARS:]
    return f"it exited with code {code} and printed nothing"
