"""SageMaker training jobs: run the entry point in a child process on a container's folders.

    root/input/config/hyperparameters.json   as CreateTrainingJob gave them, every value a text
    root/input/data/CHANNEL/...              the objects of the channel's S3 prefix
    root/model/                              what the job leaves there becomes S3OutputPath/JOB/output/model.tar.gz
    root/output/failure                      what a failed job says there is its FailureReason

Promise: a job ends as Completed, Failed or Stopped, as DescribeTrainingJob then says; a child that is stopped is gone.
"""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
import tarfile
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import boto3

from simulator.aws.api_protocol import ACCOUNT, AwsRequest, AwsResponse
from simulator.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_MAX_REASON: Final = 1_024  # characters, as SageMaker keeps
_ENTRY: Final = "pipeline.sagemaker.job_entry"
_TERMINATE_S: Final = 10.0
_log = logging.getLogger(__name__)


class TrainingError(Exception):
    """A job failed; the text is its FailureReason."""


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """What a job is given. A runner reads `root/input`, writes `root/model`, and ends soon after `stop`."""

    name: str
    hyperparameters: Mapping[str, str]
    root: Path
    stop: threading.Event


def run_entry_point(job: TrainingJob) -> None:
    """Run the project's entry point in a child process. Raises TrainingError."""
    log = job.root / "output" / "log"
    environment = {**os.environ, "SM_ROOT": str(job.root), "PYTHONPATH": str(ROOT)}
    with log.open("wb") as out:
        child = subprocess.Popen(
            [sys.executable, "-m", _ENTRY], stdout=out, stderr=subprocess.STDOUT, env=environment, cwd=job.root
        )
        try:
            while child.poll() is None and not job.stop.wait(0.05):
                pass
        finally:
            if child.poll() is None:
                child.kill()
            child.wait(_TERMINATE_S)
    if job.stop.is_set():
        return
    if child.returncode != 0:
        failure = job.root / "output" / "failure"
        said = (failure if failure.exists() else log).read_text(encoding="utf-8", errors="replace")
        raise TrainingError(said[-_MAX_REASON:] or f"the entry point ended with {child.returncode}")


class TrainingJobs:
    """Runs the jobs that moto only writes down. Any thread."""

    def __init__(self, *, endpoint_url: str, runner: Callable[[TrainingJob], None] = run_entry_point) -> None:
        """`runner` does the work of a container."""
        self.runner = runner
        self._endpoint_url = endpoint_url
        self._lock = threading.Lock()
        self._running: dict[str, tuple[threading.Event, threading.Thread]] = {}
        self._session = boto3.session.Session(
            aws_access_key_id="local",
            aws_secret_access_key="local",  # noqa: S106 - means nothing
            region_name="us-east-1",
        )

    def answer(self, call: AwsRequest, forward: Callable[[], AwsResponse]) -> AwsResponse | None:
        """Answer CreateTrainingJob and StopTrainingJob; `forward` asks moto."""
        if call.operation == "CreateTrainingJob":
            return self._create(call, forward)
        if call.operation == "StopTrainingJob":
            name = call.json()["TrainingJobName"]
            with self._lock:
                running = self._running.get(name)
            if running is None:
                return AwsResponse.error("ValidationException", f"The job {name} does not run.")
            running[0].set()
            return AwsResponse.of({})
        return None

    def close(self) -> None:
        """Stop every job, and wait until all are gone."""
        with self._lock:
            running = list(self._running.values())
        for stop, _ in running:
            stop.set()
        for _, thread in running:
            thread.join(_TERMINATE_S)

    def _create(self, call: AwsRequest, forward: Callable[[], AwsResponse]) -> AwsResponse:
        request = call.json()
        name = request["TrainingJobName"]
        if name in _moto_jobs(call.region):
            return AwsResponse.error("ResourceInUse", f"Training job names must be unique; {name} exists.")
        answer = forward()
        if answer.status != 200:  # noqa: PLR2004 - HTTP's OK
            return answer
        record = _moto_jobs(call.region)[name]
        _set_status(record, "InProgress")
        stop = threading.Event()
        thread = threading.Thread(
            target=self._run, args=(request, record, stop), name=f"training-{name}"[:40], daemon=True
        )
        with self._lock:
            self._running[name] = (stop, thread)
        thread.start()
        return answer

    def _run(self, request: dict[str, Any], record: Any, stop: threading.Event) -> None:
        name, reason = request["TrainingJobName"], ""
        try:
            with tempfile.TemporaryDirectory(prefix="kensa-training-") as folder:
                self._work(request, Path(folder), stop)
            status = "Stopped" if stop.is_set() else "Completed"
        except TrainingError as error:
            status, reason = "Failed", f"AlgorithmError: {error}"
        except Exception as error:  # noqa: BLE001 - a thread's top: the job fails
            _log.exception("the job %s", name)
            status, reason = "Failed", f"InternalServerError: {error}"
        with self._lock:
            self._running.pop(name, None)
        _set_status(record, status, reason)

    def _work(self, request: dict[str, Any], root: Path, stop: threading.Event) -> None:
        s3 = self._session.client("s3", endpoint_url=self._endpoint_url)
        for folder in ("input/config", "input/data", "model", "output"):
            (root / folder).mkdir(parents=True)
        hyperparameters = request.get("HyperParameters", {})
        (root / "input/config/hyperparameters.json").write_text(json.dumps(hyperparameters), encoding="utf-8")
        channels = request.get("InputDataConfig", [])
        told = {channel["ChannelName"]: {"TrainingInputMode": "File"} for channel in channels}
        (root / "input/config/inputdataconfig.json").write_text(json.dumps(told), encoding="utf-8")
        for channel in channels:
            uri = channel["DataSource"]["S3DataSource"]["S3Uri"]
            _download(uri, root / "input/data" / channel["ChannelName"])
        self.runner(TrainingJob(request["TrainingJobName"], hyperparameters, root, stop))
        if not stop.is_set():
            _upload_model(s3, request, root / "model")


def _moto_jobs(region: str) -> dict[str, Any]:
    """Return moto's training jobs by name."""
    from moto.sagemaker.models import sagemaker_backends  # noqa: PLC0415 - slow to import

    jobs: dict[str, Any] = sagemaker_backends[ACCOUNT][region].training_jobs
    return jobs


def _set_status(record: Any, status: str, reason: str = "") -> None:
    """Let DescribeTrainingJob say so."""
    told = {"training_job_status": status, "secondary_status": "Training" if status == "InProgress" else status}
    vars(record).update({**told, "failure_reason": reason[:_MAX_REASON]} if reason else told)


def _parse_s3_uri(uri: str) -> tuple[str, str]:
    parts = urlsplit(uri)
    return parts.netloc, parts.path.lstrip("/")


def _download(uri: str, into: Path) -> None:
    """Write the objects below `uri` to a folder: from moto's memory, for a thousand requests take long."""
    from moto.s3.models import s3_backends  # noqa: PLC0415 - slow to import

    bucket, prefix = _parse_s3_uri(uri)
    into.mkdir(parents=True, exist_ok=True)
    backend = s3_backends[ACCOUNT]["aws"]
    found = [key for key in list(backend.get_bucket(bucket).keys) if key.startswith(prefix)]
    for key in found:
        target = into / (key.removeprefix(prefix).lstrip("/") or Path(key).name)
        target.parent.mkdir(parents=True, exist_ok=True)
        held: Any = backend.get_object(bucket, key)
        target.write_bytes(held.value)
    if not found:
        raise TrainingError(f"No S3 objects found under S3 URL {uri}.")


def _upload_model(s3: Any, request: dict[str, Any], model: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for path in sorted(model.rglob("*")):
            archive.add(path, arcname=path.relative_to(model).as_posix(), recursive=False)
    bucket, prefix = _parse_s3_uri(request["OutputDataConfig"]["S3OutputPath"])
    key = "/".join((*filter(None, [prefix.rstrip("/")]), request["TrainingJobName"], "output", "model.tar.gz"))
    s3.put_object(Bucket=bucket, Key=key, Body=buffer.getvalue())
