from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import tarfile
from typing import TYPE_CHECKING, Any

import botocore.session
import pytest
from botocore.validate import ParamValidator
from pydantic import ValidationError

from agent.errors import OperatorError
from pipeline.comparison.selection_policy import SelectionPolicy
from pipeline.sagemaker import job_entry
from pipeline.sagemaker.job_layout import JobLayout
from pipeline.sagemaker.job_request import (
    PROGRAM_NAME,
    REPORTED_METRICS,
    JobSettings,
    choice_request,
    metric_definitions,
    training_request,
)
from pipeline.sagemaker.source_bundle import bundle_name, make_bundle
from pipeline.selection.choice_folder import read_choice
from pipeline.selection.training_plan import TrainingPlan
from pipeline.strict_json import PlanError
from tests.kits.cloud.candidates import parts, write_parts, write_spotter

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PLAN = TrainingPlan(name="my_parts", version="1.1.0", parameters={"net": "tiny", "epochs": 2, "seed": 3})
SETTINGS = JobSettings(
    role_arn="arn:aws:iam::123456789012:role/kensa-training",
    image_uri="763104351884.dkr.ecr.eu-central-1.amazonaws.com/pytorch-training:2.6-cpu-py312",
    source_uri="s3://plant/source/kensa-source-1.tar.gz",
    output_uri="s3://plant/trainings",
    region="eu-central-1",
    tags={"line": "7"},
)


def valid(request: Mapping[str, Any]) -> None:
    """Hold a request against the API's own model."""
    model = botocore.session.get_session().get_service_model("sagemaker").operation_model("CreateTrainingJob")
    report = ParamValidator().validate(dict(request), model.input_shape)
    assert not report.has_errors(), report.generate_report()
    for key, value in request["HyperParameters"].items():
        assert len(key) <= 256
        assert len(value) <= 2500
    assert re.fullmatch(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}", request["TrainingJobName"])


# --- requests


def test_a_training_request_is_one_that_the_api_takes() -> None:
    request = training_request(PLAN, SETTINGS, data_uri="s3://plant/data/v1")
    valid(request)
    assert request["InputDataConfig"][0]["DataSource"]["S3DataSource"]["S3Uri"] == "s3://plant/data/v1/"
    assert request["Tags"] == [{"Key": "line", "Value": "7"}]
    assert "CheckpointConfig" not in request
    given = {k: v for k, v in request["HyperParameters"].items() if not k.startswith("sagemaker_") and k != "step"}
    assert TrainingPlan.from_hyperparameters(given) == PLAN


def test_spot_jobs_keep_checkpoints_and_private_ones_their_network_and_key() -> None:
    settings = SETTINGS.model_copy(
        update={"spot": True, "kms_key": "alias/kensa", "subnets": ("subnet-1",), "security_groups": ("sg-1",)}
    )
    request = training_request(PLAN, settings, data_uri="s3://plant/data/v1")
    valid(request)
    assert request["CheckpointConfig"]["S3Uri"] == f"s3://plant/trainings/checkpoints/{request['TrainingJobName']}"
    assert request["StoppingCondition"]["MaxWaitTimeInSeconds"] == 2 * settings.max_runtime_s
    assert request["ResourceConfig"]["VolumeKmsKeyId"] == request["OutputDataConfig"]["KmsKeyId"] == "alias/kensa"


def test_a_choice_request_names_its_channels() -> None:
    request = choice_request(
        SelectionPolicy(),
        SETTINGS,
        data_uri="s3://plant/data/v2/",
        candidates_uri="s3://plant/trainings/cycle-1",
        champion_uri="s3://plant/registry/parts/1.0.0/release",
        anchor_uris=["s3://plant/data/v1"],
    )
    valid(request)
    channels = [channel["ChannelName"] for channel in request["InputDataConfig"]]
    assert channels == ["anchor0", "candidates", "champion", "training"]


def test_equal_wishes_give_equal_job_names_and_other_cycles_other_ones() -> None:
    first, again = (training_request(PLAN, SETTINGS, data_uri="s3://plant/data/v1", cycle="c1") for _ in range(2))
    other = training_request(PLAN, SETTINGS, data_uri="s3://plant/data/v1", cycle="c2")
    assert first == again
    assert first["TrainingJobName"] != other["TrainingJobName"]


def test_a_job_that_waits_less_than_it_runs_is_refused() -> None:
    with pytest.raises(ValidationError, match="max_wait_s 60 is less than max_runtime_s"):
        JobSettings(**{**SETTINGS.model_dump(), "max_wait_s": 60})


def test_metrics_in_the_log_are_found_by_the_requests_expressions(capsys: pytest.CaptureFixture[str]) -> None:
    for name in REPORTED_METRICS:
        job_entry._log_metric(name, 1.25e-7)
    log = capsys.readouterr().out
    for definition in metric_definitions():
        (found,) = re.findall(definition["Regex"], log)
        assert float(found) == 1.25e-7


# --- the bundle


def test_the_bundle_has_equal_bytes_holds_the_lock_and_runs_by_itself(tmp_path: Path) -> None:
    data = make_bundle()
    assert make_bundle() == data
    assert bundle_name(data) == bundle_name(make_bundle())
    with tarfile.open(fileobj=io.BytesIO(data)) as packed:
        names = packed.getnames()
        packed.extractall(tmp_path / "code", filter="data")
    assert names == sorted(names)
    assert not [name for name in names if name.startswith(("simulator", "tests")) or "__pycache__" in name]
    lock = (tmp_path / "code" / "requirements.txt").read_text(encoding="utf-8")
    assert "onnxruntime==" in lock
    assert "--hash=sha256:" in lock
    JobLayout(tmp_path / "ml").prepare({"step": '"dance"'}, {})
    environment = {**os.environ, "SM_ROOT": str(tmp_path / "ml"), "PYTHONPATH": ""}
    done = subprocess.run(
        [sys.executable, PROGRAM_NAME, "--step", "dance"],
        cwd=tmp_path / "code",
        env=environment,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert (
        JobLayout(tmp_path / "ml").failure_file.read_text()
        == "the hyperparameter step is 'dance'; it must be train or choose."
    )


def test_a_bundle_needs_the_lock(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="Make the bundle from a checkout"):
        make_bundle(tmp_path)


# --- the entry point


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> JobLayout:
    monkeypatch.setenv("SM_ROOT", str(tmp_path / "ml"))
    return JobLayout.from_environment()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_parts(tmp_path / "data", parts(40, 10, 20, dusty=8))


def test_a_failed_training_says_why_where_sagemaker_looks(layout: JobLayout, data: Path) -> None:
    layout.prepare({"step": "train", **PLAN.model_copy(update={"dataset_digest": "0" * 64}).hyperparameters()}, {})
    assert job_entry.main() == 2
    assert "the job needs the channel training" in layout.failure_file.read_text()
    layout.prepare(layout.hyperparameters(), {"training": data})
    assert job_entry.main() == 2
    assert "the plan was made for 000000000000" in layout.failure_file.read_text()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("nonsense", "is not JSON"),
        ("[]", "must be one object whose values are texts"),
        ('{"step": "train", "name": "m", "version": "one"}', "version: String should match"),
        ('{"step": "train", "name": "m", "version": "1.0.0", "epoch": "3"}', "there is no parameter epoch"),
    ],
)
def test_wrong_hyperparameters_are_explained(layout: JobLayout, data: Path, content: str, said: str) -> None:
    layout.prepare({}, {"training": data})
    (layout.root / "input/config/hyperparameters.json").write_text(content)
    assert job_entry.main() == 2
    assert said in layout.failure_file.read_text()


def archive(path: Path, release: Path, *, name: str = "release") -> None:
    path.parent.mkdir(parents=True)
    with tarfile.open(path, "w:gz") as packed:
        packed.add(release, arcname=name)


def test_choosing_reads_releases_and_archives_and_leaves_the_best(
    layout: JobLayout, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    candidates = tmp_path / "candidates"
    archive(candidates / "job-1" / "output" / "model.tar.gz", write_spotter(tmp_path / "good", 0.6, version="1.1.0"))
    write_spotter(candidates / "job-2" / "release", 0.5)
    archive(tmp_path / "champion" / "model.tar.gz", write_spotter(tmp_path / "old", 0.8))
    channels = {"training": data, "candidates": candidates, "champion": tmp_path / "champion", "anchor0": data}
    layout.prepare({"step": "choose", "policy": json.dumps({"objective": "balanced"})}, channels)
    assert job_entry.main() == 0
    choice = read_choice(layout.model_folder)
    assert choice.proposed is not None
    assert choice.proposed.version == "1.1.0"
    assert len(choice.assessments) == 2
    assert len(choice.proposed.comparisons) == 2  # the data and the anchor
    assert json.loads((layout.release_folder / "manifest.json").read_text())["version"] == "1.1.0"
    assert "kensa metric objective=1\n" in capsys.readouterr().out
    assert not layout.failure_file.exists()


def test_choosing_among_none_that_is_better_leaves_no_release(layout: JobLayout, data: Path, tmp_path: Path) -> None:
    write_spotter(tmp_path / "candidates" / "a", 0.5)
    write_spotter(tmp_path / "champion", 0.6)
    channels = {"training": data, "candidates": tmp_path / "candidates", "champion": tmp_path / "champion"}
    layout.prepare({"step": "choose"}, channels)
    assert job_entry.main() == 0
    assert read_choice(layout.model_folder).chosen is None
    assert not layout.release_folder.exists()


def test_two_champions_are_refused(layout: JobLayout, data: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_spotter(tmp_path / "champion" / name, 0.6)
    channels = {"training": data, "candidates": tmp_path / "champion", "champion": tmp_path / "champion"}
    layout.prepare({"step": "choose"}, channels)
    assert job_entry.main() == 2
    assert "holds 2 releases; it must hold one" in layout.failure_file.read_text()


def test_an_archive_that_leads_outside_or_is_damaged_is_refused(layout: JobLayout, data: Path, tmp_path: Path) -> None:
    evil = tmp_path / "candidates" / "job" / "output" / "model.tar.gz"
    archive(evil, write_spotter(tmp_path / "good", 0.6), name="../../outside")
    layout.prepare({"step": "choose"}, {"training": data, "candidates": tmp_path / "candidates"})
    assert job_entry.main() == 2
    assert "cannot be unpacked" in layout.failure_file.read_text()
    assert not list(tmp_path.rglob("outside"))
    evil.write_bytes(evil.read_bytes()[:100])
    assert job_entry.main() == 2
    assert "cannot be unpacked" in layout.failure_file.read_text()


def test_a_plan_with_an_unknown_parameter_is_refused() -> None:
    with pytest.raises(PlanError, match="there is no parameter colour; there are batch, epochs"):
        TrainingPlan.from_hyperparameters({"name": "m", "version": "1.0.0", "colour": "red"})
