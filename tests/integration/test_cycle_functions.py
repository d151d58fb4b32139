"""The functions of the cycle against the simulated account."""

from __future__ import annotations

import datetime as dt
import json
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from agent.errors import IntegrityError, OperatorError, UsageError
from greengrass.packaging import deployment_request as packaging
from pipeline.cloud import aws_clients
from pipeline.cloud.cloud_cli import main as kensa_cloud
from pipeline.cloud.storage import FolderStorage
from pipeline.cycle import handlers, operations
from pipeline.cycle.deployment.deployments import (
    DeploymentError,
    deployment_request,
    desired_release,
    with_desired_release,
)
from pipeline.cycle.deployment.publisher import Publisher, PublisherBusyError
from pipeline.cycle.triggers import drift_trigger, labels_trigger
from pipeline.datasets.label_store import LabelStore
from pipeline.repository.signing_keys import Expiry, KeyRing
from pipeline.repository.tuf_repository import Repository
from tests.kits.cloud.cycle import INSPECTION, MODEL, SITE, make_plant, spots_release
from tests.kits.cloud.datasets import NOW, label
from tests.kits.cloud.simulated_account import aws, aws_server
from tests.unit.pipeline.cycle.deployment.test_rollout_decision import settings

if TYPE_CHECKING:
    from pathlib import Path

    from simulator.aws.local_aws import LocalAws

__all__ = ["aws", "aws_server"]  # fixtures
UTC = dt.UTC


# --- the publisher's folder -------------------------------------------------------------------------------------------


def make_publisher(folder: Path, *, now: list[dt.datetime] | None = None) -> Publisher:
    ring = KeyRing.create(folder / "keys", repository=str(folder / "repository"), expiry=Expiry())
    Repository(ring).create([SITE], {})
    clock = now or [dt.datetime.now(UTC)]
    publisher = Publisher(FolderStorage(folder / "publisher"), now=lambda: clock[0])
    (folder / "publisher").mkdir()
    brought = publisher.push(folder / "keys")
    assert "keys.json" in brought
    assert not any(name.startswith("root/") for name in brought)
    return publisher


def test_a_release_is_published_once_however_often_it_is_asked_for(tmp_path: Path) -> None:
    publisher = make_publisher(tmp_path)
    folder = spots_release(tmp_path / "release", version="1.0.0")
    first = publisher.publish(folder, SITE)
    assert publisher.publish(folder, SITE) == first
    assert publisher.published(SITE) == {f"{MODEL}/1.0.0": first}


def test_a_release_published_again_has_a_new_counter_and_the_same_model(tmp_path: Path) -> None:
    publisher = make_publisher(tmp_path)
    first = publisher.publish(spots_release(tmp_path / "one", version="1.0.0"), SITE)
    second = publisher.publish(spots_release(tmp_path / "two", version="1.1.0", threshold=0.6), SITE)
    publisher.revoke(second.release_id, SITE, "it is bad")
    again = publisher.republish(first.release_id, SITE)
    assert again.counter > second.counter
    assert again.model_sha256 == first.model_sha256
    assert again.digest != first.digest
    assert set(publisher.published(SITE)) == {first.release_id}


def test_a_repository_that_somebody_changed_is_not_published_from(tmp_path: Path) -> None:
    publisher = make_publisher(tmp_path)
    first = publisher.publish(spots_release(tmp_path / "one", version="1.0.0"), SITE)
    (tmp_path / "repository" / "files" / first.model_sha256).write_bytes(b"other")
    with pytest.raises(IntegrityError, match="the repository was changed"):
        publisher.republish(first.release_id, SITE)


def test_a_publication_that_was_cut_is_finished_by_the_next_one(tmp_path: Path) -> None:
    now = [dt.datetime.now(UTC)]
    publisher = make_publisher(tmp_path, now=now)
    folder = spots_release(tmp_path / "one", version="1.0.0")
    repository = tmp_path / "repository"
    repository.rename(tmp_path / "away")
    repository.write_text("no folder", encoding="utf-8")  # the first byte that leaves fails
    with pytest.raises(OperatorError):
        publisher.publish(folder, SITE)
    repository.unlink()
    (tmp_path / "away").rename(repository)
    with pytest.raises(PublisherBusyError, match="is not done"):  # it may still be at work
        publisher.publish(folder, SITE)
    now[0] += dt.timedelta(minutes=21)
    assert publisher.publish(folder, SITE).release_id == f"{MODEL}/1.0.0"
    publisher.fetch(f"{MODEL}/1.0.0", SITE, tmp_path / "back")
    assert (tmp_path / "back" / "model.onnx").read_bytes() == (folder / "model.onnx").read_bytes()


def test_of_two_publishers_at_once_one_is_told_to_come_back(tmp_path: Path) -> None:
    publisher = make_publisher(tmp_path)
    one, two = (spots_release(tmp_path / v, version=f"1.{v}.0") for v in ("1", "2"))
    slow = Publisher(FolderStorage(tmp_path / "publisher"))
    with slow._open_repository() as repository:
        repository.add(one, SITE)
        publisher.publish(two, SITE)
        with pytest.raises(PublisherBusyError):
            repository.publish()
    assert set(publisher.published(SITE)) == {f"{MODEL}/1.2.0"}


def test_signatures_are_renewed_and_old_numbers_leave(tmp_path: Path) -> None:
    publisher = make_publisher(tmp_path)
    for _ in range(25):
        publisher.refresh()
    names = sorted(path.name for path in (tmp_path / "publisher").iterdir())
    assert len(names) == 2 * 20
    assert "00000026.done" in names


def test_nothing_can_be_published_before_the_folder_is_brought(tmp_path: Path) -> None:
    (tmp_path / "publisher").mkdir()
    with pytest.raises(OperatorError, match="publisher --push"):
        Publisher(FolderStorage(tmp_path / "publisher")).published(SITE)


def test_the_online_roles_sign_with_a_key_of_kms(aws: LocalAws, tmp_path: Path) -> None:
    kms = aws.client("kms")
    key = kms.create_key(KeyUsage="SIGN_VERIFY", KeySpec="ECC_NIST_P256")["KeyMetadata"]["KeyId"]
    kms.create_alias(AliasName="alias/kensa-signing", TargetKeyId=key)
    signer = ["awskms:alias/kensa-signing"]
    ring = KeyRing.create(tmp_path / "keys", repository=str(tmp_path / "repository"), expiry=Expiry())
    Repository(ring).create([SITE], dict.fromkeys(("targets", "snapshot", "timestamp", SITE), signer))
    (tmp_path / "publisher").mkdir()
    publisher = Publisher(FolderStorage(tmp_path / "publisher"))
    publisher.push(tmp_path / "keys")
    assert publisher.publish(spots_release(tmp_path / "one", version="1.0.0"), SITE).counter == 1


# --- deployments ------------------------------------------------------------------------------------------------------

WISHED = json.dumps({"line": "l", "inspections": {"a": {"desired": {"release": "m/1.0.0"}}}})
COMPONENTS = {
    "aws.greengrass.Nucleus": {"componentVersion": "2.13.0"},
    "com.kensa.Inspector": {"componentVersion": "0.1.0", "configurationUpdate": {"merge": WISHED}},
}


def test_a_deployment_asks_for_what_scripts_deploy_asks_for() -> None:
    made = deployment_request(
        name="n", target="arn:aws:iot:r:1:thinggroup/g", components=COMPONENTS, settings=settings()
    )
    theirs = packaging.create_deployment_request(
        name="n",
        target_arn="arn:aws:iot:r:1:thinggroup/g",
        components={},
        changes={},
        current=COMPONENTS,
        rollout=packaging.RolloutConfig(),
    )
    assert made == theirs


def test_a_wish_leaves_everything_else_as_it_is() -> None:
    made = with_desired_release(COMPONENTS, "b", "m/1.1.0")
    assert made["aws.greengrass.Nucleus"] == COMPONENTS["aws.greengrass.Nucleus"]
    assert (desired_release(made, "a"), desired_release(made, "b"), desired_release(made, "c")) == (
        "m/1.0.0",
        "m/1.1.0",
        None,
    )
    assert desired_release(with_desired_release(made, "b", None), "b") is None
    assert desired_release(COMPONENTS, "b") is None  # nothing was changed in place


def test_without_an_agent_there_is_nothing_to_wish_with() -> None:
    with pytest.raises(DeploymentError, match="deploy the agent first"):
        with_desired_release({}, "a", "m/1.0.0")


def test_a_rollout_that_is_asked_for_again_is_the_one_that_is_there(
    aws: LocalAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant = make_plant(aws, tmp_path, monkeypatch)
    published = plant.publisher.publish(spots_release(tmp_path / "new", version="1.1.0"), SITE)
    request = {"trigger": "manual", "trigger_id": "t", "site": SITE, "model": MODEL, "inspection": INSPECTION}
    state = {**request, "released": {"answer": published.to_json()}}
    event = {"execution": "arn:aws:states:eu-central-1:1:execution:kensa:run", "state": state}
    first, second = handlers.deploy_canary(event, None), handlers.deploy_canary(event, None)
    assert first["deployment_id"] == second["deployment_id"]
    assert len(aws.greengrass.deployments("thinggroup/canary")) == 1


# --- commands ---------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(180)
def test_a_person_starts_looks_and_stops(
    aws: LocalAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plant = make_plant(aws, tmp_path, monkeypatch, soak_s=1000, canary_timeout_s=1000)
    monkeypatch.setenv("KENSA_STATE_MACHINE", plant.machine_arn)
    plant.collect(0, 48)
    assert kensa_cloud(["cycle", "status"]) == 0
    assert capsys.readouterr().out == "no cycle has been started yet\n"
    request = ["--site", SITE, "--model", MODEL, "--inspection", INSPECTION]
    assert kensa_cloud(["cycle", "--json", "start", *request]) == 0
    name = json.loads(capsys.readouterr().out)["started"]
    canary = plant.devices["canary-1"]
    plant.until(lambda: canary.wished[-1] == f"{MODEL}/1.1.0")
    assert kensa_cloud(["cycle", "status"]) == 0
    assert "RUNNING" in capsys.readouterr().out
    assert kensa_cloud(["cycle", "approve", name, "--why", "why not"]) == 2
    assert "does not wait for a decision" in capsys.readouterr().err
    assert kensa_cloud(["cycle", "--json", "stop", name, "--why", "the line moves", "--by", "ann"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["unlocked"]
    assert told["rolled_back"]["to"] == f"{MODEL}/1.0.0"
    plant.until(lambda: canary.wished[-1] == f"{MODEL}/1.0.0")
    assert kensa_cloud(["cycle", "status"]) == 0
    assert "ABORTED" in capsys.readouterr().out


def test_a_wrong_name_is_told_before_anything_starts() -> None:
    one = settings(state_machine="arn:aws:states:r:1:stateMachine:m")
    with pytest.raises(UsageError, match="site"):
        operations.start(one, {"site": "a b", "model": "m", "inspection": "i"})


def test_settings_come_from_the_outputs_of_the_stack(aws: LocalAws) -> None:
    keys = ("Data", "Publisher", "CanaryTarget", "FleetTarget", "Topic", "StateMachine")
    outputs = {key: {"Value": f"value of {key}"} for key in (*keys, "TrainingRole", "TrainingImage", "TrainingSource")}
    template = {"Resources": {"Q": {"Type": "AWS::SQS::Queue"}}, "Outputs": outputs}
    aws.client("cloudformation").create_stack(StackName="kensa-plant-a", TemplateBody=json.dumps(template))
    found = operations.stack_environment("kensa-plant-a")
    assert found["KENSA_STATE_MACHINE"] == "value of StateMachine"
    assert len(found) == 9
    with pytest.raises(aws_clients.AwsError):
        operations.stack_environment("other")


def test_the_bundle_says_its_name_and_is_brought(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert kensa_cloud(["cycle", "--json", "bundle"]) == 0
    name = json.loads(capsys.readouterr().out)["bundle"]
    assert kensa_cloud(["cycle", "bundle", "--to", str(tmp_path)]) == 0
    assert (tmp_path / "code" / name).is_file()


# --- what runs every day ----------------------------------------------------------------------------------------------


def test_labels_count_towards_one_cycle_only(aws: LocalAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KENSA_DATA", str(tmp_path))
    for name, value in (("SITE", SITE), ("MODEL", MODEL), ("LABEL_COUNT", "3")):
        monkeypatch.setenv(f"KENSA_{name}", value)
    bus = aws.client("events")
    queue = aws.client("sqs").create_queue(QueueName="seen")["QueueUrl"]
    arn = aws.client("sqs").get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    pattern = {"source": ["kensa"], "detail-type": ["Labels added"], "detail": {"site": [SITE], "model": [MODEL]}}
    bus.put_rule(Name="labels", EventPattern=json.dumps(pattern))
    bus.put_targets(Rule="labels", Targets=[{"Id": "1", "Arn": arn}])
    store = LabelStore(FolderStorage(tmp_path), now=lambda: NOW)
    seen: list[dict[str, Any]] = []
    for first, count in ((0, 2), (2, 2), (4, 1)):
        store.append(label(f"line/cam/1/{seq}", "ok") for seq in range(first, first + count))
        seen.append(labels_trigger.handler({}, None))
    assert [(one["new"], one["asked"]) for one in seen] == [(2, False), (4, True), (1, False)]
    messages = aws.client("sqs").receive_message(QueueUrl=queue, MaxNumberOfMessages=10)["Messages"]
    assert [json.loads(m["Body"])["detail"]["new"] for m in messages] == [4]


def test_the_drift_of_a_plant_is_the_largest_of_its_lines_newest_days() -> None:
    records = [
        {"line": "a", "date": dt.date(2026, 1, 1), "psi": 0.9},  # over
        {"line": "a", "date": dt.date(2026, 1, 2), "psi": 0.05},
        {"line": "b", "date": dt.date(2026, 1, 1), "psi": 0.2},
        {"line": "b", "date": dt.date(2026, 1, 1), "psi": 0.3},  # another model
    ]
    assert drift_trigger.largest_psi(records) == 0.3
    assert drift_trigger.largest_psi([]) is None


def test_the_drift_is_asked_and_becomes_a_metric(aws: LocalAws, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("SITE", SITE), ("DATABASE", "kensa_plant-a"), ("WORKGROUP", "primary")):
        monkeypatch.setenv(f"KENSA_{name}", value)
    answer = {
        "site": ("varchar", SITE),
        "line": ("varchar", "press3"),
        "model_version": ("varchar", "1.0.0"),
        "date": ("date", "2026-01-09"),
        "parts": ("bigint", "900"),
        "reference_parts": ("bigint", "2700"),
        "mean_score": ("double", "0.1"),
        "psi": ("double", "0.31"),
        "finding": ("varchar", "changed"),
    }
    columns = [{"Name": name, "Type": kind} for name, (kind, _) in answer.items()]
    texts = ([*answer], [text for _, text in answer.values()])
    rows = [{"Data": [{"VarCharValue": text} for text in line]} for line in texts]
    canned = {"region": "eu-central-1", "results": [{"rows": rows, "column_info": columns}]}
    address = f"{aws.url}/moto-api/static/athena/query-results"
    asked = urllib.request.Request(address, json.dumps(canned).encode(), {"Content-Type": "application/json"})  # noqa: S310
    urllib.request.urlopen(asked).close()  # noqa: S310 - moto's own door, on the loopback
    assert drift_trigger.handler({}, None) == {"site": SITE, "psi": 0.31}
    metrics = aws.client("cloudwatch").list_metrics(Namespace="Kensa")["Metrics"]
    assert [metric["Dimensions"] for metric in metrics] == [[{"Name": "Site", "Value": SITE}]]


def test_a_daily_function_that_lacks_its_settings_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KENSA_SITE", "KENSA_DATABASE", "KENSA_DATA"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(OperatorError, match="KENSA_DATABASE"):
        drift_trigger.handler({}, None)
    with pytest.raises(OperatorError, match="KENSA_LABEL_COUNT"):
        labels_trigger.handler({}, None)


def test_the_refresh_function_renews_what_the_stack_publishes(
    aws: LocalAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant = make_plant(aws, tmp_path, monkeypatch)
    listed = aws.client("s3").list_objects_v2(Bucket="kensa-releases", Prefix="releases/metadata/")["Contents"]
    handlers.refresh({}, None)
    later = aws.client("s3").list_objects_v2(Bucket="kensa-releases", Prefix="releases/metadata/")["Contents"]
    assert len(later) == len(listed) + 1  # a snapshot; timestamp.json is replaced
    assert set(plant.publisher.published(SITE)) == {f"{MODEL}/1.0.0"}
