"""The simulated cloud does what the cycle needs of it, as AWS does it."""

from __future__ import annotations

import io
import json
import tarfile
import threading
import time
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.exceptions import ClientError

from pipeline.cloud.storage import FolderStorage
from pipeline.ingest import firehose
from simulator.aws.greengrass_cloud import CloudDeployment, DeploymentFailedError
from simulator.aws.iot_rules import UnknownSqlError, select
from simulator.aws.training_jobs import TrainingError, TrainingJob
from tests.kits.cloud.datasets import Line
from tests.kits.cloud.simulated_account import aws, aws_server

if TYPE_CHECKING:
    from pathlib import Path

    from simulator.aws.local_aws import LocalAws

__all__ = ["aws", "aws_server"]  # fixtures
ROLE = "arn:aws:iam::123456789012:role/kensa"
DEADLINE_S = 120.0


def run_machine(aws: LocalAws, states: dict[str, Any], *, start: str, event: Any = None) -> dict[str, Any]:
    client = aws.client("stepfunctions")
    definition = json.dumps({"StartAt": start, "States": states})
    arn = client.create_state_machine(name="machine", definition=definition, roleArn=ROLE)["stateMachineArn"]
    execution = client.start_execution(stateMachineArn=arn, input=json.dumps(event or {}))["executionArn"]
    return aws.wait_for(execution, timeout_s=DEADLINE_S)


def invoke(function: str, **more: Any) -> dict[str, Any]:
    task = {
        "Type": "Task",
        "Resource": "arn:aws:states:::lambda:invoke",
        "Parameters": {"FunctionName": function, "Payload.$": "$"},
        "ResultSelector": {"answer.$": "$.Payload"},
        "End": True,
    }
    return {**task, **more}


def train(name: str, **more: Any) -> dict[str, Any]:
    parameters = {
        "TrainingJobName": name,
        "AlgorithmSpecification": {"TrainingImage": "image", "TrainingInputMode": "File"},
        "HyperParameters": {"seed": "7"},
        "InputDataConfig": [
            {
                "ChannelName": "dataset",
                "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": "s3://data/set/"}},
            }
        ],
        "OutputDataConfig": {"S3OutputPath": "s3://data/trained"},
        "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 5},
        "StoppingCondition": {"MaxRuntimeInSeconds": 600},
        "RoleArn": ROLE,
    }
    resource = "arn:aws:states:::sagemaker:createTrainingJob.sync"
    return {"Type": "Task", "Resource": resource, "Parameters": parameters, "End": True, **more}


def copy_data(job: TrainingJob) -> None:
    data = (job.root / "input/data/dataset/part.txt").read_bytes()
    (job.root / "model" / "model.bin").write_bytes(data + job.hyperparameters["seed"].encode())


def put_data(aws: LocalAws) -> None:
    s3 = aws.client("s3")
    s3.create_bucket(Bucket="data", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    s3.put_object(Bucket="data", Key="set/part.txt", Body=b"content")


# --- functions and state machines -------------------------------------------------------------------------------------


def test_a_state_machine_calls_a_registered_handler(aws: LocalAws) -> None:
    name = aws.functions.add("double", lambda event, _: {"value": event["value"] * 2})
    ended = run_machine(aws, {"A": invoke(name)}, start="A", event={"value": 21})
    assert json.loads(ended["output"]) == {"answer": {"value": 42}}


def test_an_error_of_a_handler_is_caught_by_the_name_of_its_class(aws: LocalAws) -> None:
    class PoisonedError(Exception):
        pass

    def poisoned(_event: Any, _context: Any) -> None:
        raise PoisonedError("bad labels")

    name = aws.functions.add("poisoned", poisoned)
    catch = [{"ErrorEquals": ["PoisonedError"], "Next": "B", "ResultPath": "$.error"}]
    ended = run_machine(aws, {"A": invoke(name, Catch=catch), "B": {"Type": "Succeed"}}, start="A")
    assert ended["status"] == "SUCCEEDED"
    cause = json.loads(json.loads(ended["output"])["error"]["Cause"])
    assert (cause["errorType"], cause["errorMessage"]) == ("PoisonedError", "bad labels")


def test_a_throttled_function_is_called_again(aws: LocalAws) -> None:
    name = aws.functions.add("slow", lambda _event, _context: "done")
    aws.faults.throttle("lambda", "Invoke")
    retry = [{"ErrorEquals": ["Lambda.TooManyRequestsException"], "IntervalSeconds": 1, "MaxAttempts": 2}]
    assert run_machine(aws, {"A": invoke(name, Retry=retry)}, start="A")["status"] == "SUCCEEDED"
    assert aws.faults.injected == [("lambda", "Invoke")]


def test_a_function_that_nobody_registered_is_not_found(aws: LocalAws) -> None:
    assert run_machine(aws, {"A": invoke("nobody")}, start="A")["status"] == "FAILED"


def test_a_reset_leaves_nothing_behind(aws: LocalAws) -> None:
    put_data(aws)
    aws.faults.throttle("s3", "PutObject")
    begun = time.monotonic()
    aws.reset()
    assert time.monotonic() - begun < DEADLINE_S
    assert aws.client("s3").list_buckets()["Buckets"] == []


def test_the_environment_is_enough_for_boto3(aws: LocalAws) -> None:
    put_data(aws)
    assert (
        boto3.session.Session().client("s3").get_object(Bucket="data", Key="set/part.txt")["Body"].read() == b"content"
    )


# --- training ---------------------------------------------------------------------------------------------------------


def test_a_training_job_runs_on_its_channels_and_its_model_is_uploaded(aws: LocalAws) -> None:
    put_data(aws)
    aws.training_jobs.runner = copy_data
    ended = run_machine(aws, {"A": train("job-1")}, start="A")
    uri = json.loads(ended["output"])["ModelArtifacts"]["S3ModelArtifacts"]
    assert uri == "s3://data/trained/job-1/output/model.tar.gz"
    data = aws.client("s3").get_object(Bucket="data", Key=uri.removeprefix("s3://data/"))["Body"].read()
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        member = archive.extractfile("model.bin")
        assert member is not None
        assert member.read() == b"content7"


def test_a_failed_training_job_is_a_failed_task_with_its_reason(aws: LocalAws) -> None:
    def fails(_job: TrainingJob) -> None:
        raise TrainingError("the loss is not finite")

    put_data(aws)
    aws.training_jobs.runner = fails
    catch = [{"ErrorEquals": ["States.TaskFailed"], "Next": "B"}]
    ended = run_machine(aws, {"A": train("job-2", Catch=catch), "B": {"Type": "Succeed"}}, start="A")
    reason = json.loads(json.loads(ended["output"])["Cause"])["FailureReason"]
    assert reason == "AlgorithmError: the loss is not finite"


def test_a_throttled_training_job_is_asked_for_again(aws: LocalAws) -> None:
    put_data(aws)
    aws.training_jobs.runner = copy_data
    aws.faults.throttle("sagemaker", "CreateTrainingJob")
    retry = [{"ErrorEquals": ["SageMaker.AmazonSageMakerException"], "IntervalSeconds": 1}]
    assert run_machine(aws, {"A": train("job-3", Retry=retry)}, start="A")["status"] == "SUCCEEDED"


def test_a_training_job_can_be_stopped(aws: LocalAws) -> None:
    put_data(aws)
    begun = threading.Event()

    def waits(job: TrainingJob) -> None:
        begun.set()
        assert job.stop.wait(DEADLINE_S)

    aws.training_jobs.runner = waits
    sagemaker = aws.client("sagemaker")
    sagemaker.create_training_job(**train("job-4")["Parameters"])
    assert begun.wait(DEADLINE_S)
    with pytest.raises(ClientError, match="unique"):
        sagemaker.create_training_job(**train("job-4")["Parameters"])
    sagemaker.stop_training_job(TrainingJobName="job-4")
    aws.training_jobs.close()
    assert sagemaker.describe_training_job(TrainingJobName="job-4")["TrainingJobStatus"] == "Stopped"


# --- Greengrass -------------------------------------------------------------------------------------------------------


def make_group(aws: LocalAws, group: str, *things: str) -> str:
    iot = aws.client("iot")
    arn: str = iot.create_thing_group(thingGroupName=group)["thingGroupArn"]
    for thing in things:
        iot.create_thing(thingName=thing)
        iot.add_thing_to_thing_group(thingGroupName=group, thingName=thing)
    return arn


def until_ended(aws: LocalAws, deployment_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + DEADLINE_S
    while True:
        told: dict[str, Any] = aws.client("greengrassv2").get_deployment(deploymentId=deployment_id)
        if told["deploymentStatus"] != "ACTIVE":
            return told
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_deployment_reaches_every_device_of_a_group_and_replaces_the_one_before(aws: LocalAws) -> None:
    taken: list[tuple[str, str]] = []
    aws.greengrass.on_deployment = lambda thing, deployment: taken.append((thing, deployment.name))
    arn = make_group(aws, "line-3", "a", "b")
    client = aws.client("greengrassv2")
    components = {"com.kensa.Inspector": {"componentVersion": "0.1.0"}}
    for name in ("first", "second"):
        created = client.create_deployment(targetArn=arn, deploymentName=name, components=components)
        assert until_ended(aws, created["deploymentId"])["deploymentStatus"] == "COMPLETED"
    assert taken == [("a", "first"), ("b", "first"), ("a", "second"), ("b", "second")]
    latest = client.list_deployments(targetArn=arn, historyFilter="LATEST_ONLY")["deployments"]
    assert [entry["deploymentName"] for entry in latest] == ["second"]
    effective = client.list_effective_deployments(coreDeviceThingName="a")["effectiveDeployments"]
    assert [(entry["deploymentName"], entry["coreDeviceExecutionStatus"]) for entry in effective] == [
        ("second", "SUCCEEDED")
    ]


def test_a_device_that_is_away_gets_its_deployment_when_it_is_back(aws: LocalAws) -> None:
    arn = make_group(aws, "line-3", "a", "b")
    aws.greengrass.set_offline("a")
    created = aws.client("greengrassv2").create_deployment(targetArn=arn)
    deadline = time.monotonic() + DEADLINE_S
    while aws.greengrass.deployments()[0].executions["b"][0] != "SUCCEEDED":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert aws.greengrass.deployments()[0].executions["a"] == ("QUEUED", "")
    aws.greengrass.set_online("a")
    assert until_ended(aws, created["deploymentId"])["deploymentStatus"] == "COMPLETED"


def test_enough_failures_stop_a_rollout(aws: LocalAws) -> None:
    def fails(_thing: str, _deployment: CloudDeployment) -> None:
        raise DeploymentFailedError("refused")

    aws.greengrass.on_deployment = fails
    arn = make_group(aws, "line-3", "a", "b", "c")
    criteria = {
        "failureType": "ALL",
        "action": "CANCEL",
        "thresholdPercentage": 50.0,
        "minNumberOfExecutedThings": 2,
    }
    created = aws.client("greengrassv2").create_deployment(
        targetArn=arn, iotJobConfiguration={"abortConfig": {"criteriaList": [criteria]}}
    )
    assert until_ended(aws, created["deploymentId"])["deploymentStatus"] == "CANCELED"
    executions = aws.greengrass.deployments()[0].executions
    assert executions == {"a": ("FAILED", "refused"), "b": ("FAILED", "refused"), "c": ("CANCELED", "")}


def test_a_component_version_is_made_once(aws: LocalAws) -> None:
    client = aws.client("greengrassv2")
    recipe = json.dumps({"ComponentName": "com.kensa.Model", "ComponentVersion": "1.0.0"}).encode()
    arn = client.create_component_version(inlineRecipe=recipe)["arn"]
    assert client.describe_component(arn=arn)["status"]["componentState"] == "DEPLOYABLE"
    with pytest.raises(client.exceptions.ConflictException):
        client.create_component_version(inlineRecipe=recipe)


# --- rules and events -------------------------------------------------------------------------------------------------


def test_a_rule_writes_a_message_under_a_key_made_of_its_topic_and_members(aws: LocalAws) -> None:
    put_data(aws)
    payload = {
        "sql": "SELECT *, topic(2) AS sender FROM 'kensa/+/model' WHERE kind = 'model'",
        "actions": [{"s3": {"roleArn": ROLE, "bucketName": "data", "key": "fleet/${topic(2)}/${utc_us}.json"}}],
    }
    aws.client("iot").create_topic_rule(ruleName="reports", topicRulePayload=payload)
    assert aws.publish("kensa/press3/model", b'{"kind": "model", "utc_us": 12}') == 1
    assert aws.publish("kensa/press3/model", b'{"kind": "other"}') == 0
    assert aws.publish("kensa/press3/heartbeat", b'{"kind": "model"}') == 0
    assert aws.publish("kensa/press3/model", b"\xff") == 0
    written = aws.client("s3").get_object(Bucket="data", Key="fleet/press3/12.json")["Body"].read()
    assert json.loads(written) == {"kind": "model", "utc_us": 12, "sender": "press3"}


def test_records_wait_in_firehose_and_pass_its_function(aws: LocalAws) -> None:
    def transform(event: Any, _context: Any) -> Any:
        results = ["Ok", "Dropped", "ProcessingFailed"]
        return {
            "records": [
                {"recordId": record["recordId"], "result": result, "data": record["data"]}
                for record, result in zip(event["records"], results, strict=True)
            ]
        }

    aws.functions.add("explode", transform)
    action = {"firehose": {"roleArn": ROLE, "deliveryStreamName": "verdicts"}}
    rule = {"sql": "SELECT * FROM 'kensa/+/verdicts/+'", "actions": [action]}
    aws.client("iot").create_topic_rule(ruleName="verdicts", topicRulePayload=rule)
    for number in range(3):
        aws.publish("kensa/press3/verdicts/cam1", json.dumps({"n": number}).encode())
    delivery = aws.firehose.deliver("verdicts", function="explode")
    assert delivery.rows == ({"n": 0},)
    assert [json.loads(record) for record in delivery.failed] == [{"n": 2}]
    assert aws.firehose.pending_count("verdicts") == 0


def test_an_action_that_fails_is_counted_and_stops_no_other(aws: LocalAws) -> None:
    put_data(aws)
    for name, bucket in (("bad", "no-such-bucket"), ("good", "data")):
        action = {"s3": {"roleArn": ROLE, "bucketName": bucket, "key": "x.json"}}
        rule = {"sql": "SELECT * FROM 'kensa/#'", "actions": [action]}
        aws.client("iot").create_topic_rule(ruleName=name, topicRulePayload=rule)
    aws.publish("kensa/a/heartbeat", b"{}")
    assert dict(aws.rules.failures) == {"bad": 1}
    assert aws.client("s3").get_object(Bucket="data", Key="x.json")["Body"].read() == b"{}"


@pytest.mark.parametrize("sql", ["SELECT x+1 AS y FROM 'a'", "SELECT * FROM 'a' WHERE n > 1", "DELETE"])
def test_sql_that_is_not_simulated_is_refused(sql: str) -> None:
    with pytest.raises(UnknownSqlError):
        select(sql, "a", {"n": 2})


def test_an_event_starts_a_state_machine_with_its_transformed_input(aws: LocalAws) -> None:
    client, bus = aws.client("stepfunctions"), aws.client("events")
    definition = json.dumps({"StartAt": "A", "States": {"A": {"Type": "Pass", "End": True}}})
    arn = client.create_state_machine(name="m", definition=definition, roleArn=ROLE)["stateMachineArn"]
    transformer = {"InputPathsMap": {"id": "$.id"}, "InputTemplate": '{"trigger": "labels", "trigger_id": "<id>"}'}
    target = {"Id": "1", "Arn": arn, "RoleArn": ROLE, "InputTransformer": transformer}
    pattern = {"source": ["kensa"], "detail": {"count": [{"numeric": [">=", 10]}]}}
    bus.put_rule(Name="labels", EventPattern=json.dumps(pattern))
    bus.put_targets(Rule="labels", Targets=[target])
    bus.put_rule(Name="daily", ScheduleExpression="rate(1 day)")
    bus.put_targets(
        Rule="daily",
        Targets=[
            {
                **target,
                "InputTransformer": {**transformer, "InputTemplate": '{"trigger": "schedule", "trigger_id": "<id>"}'},
            }
        ],
    )
    for count in (5, 12):
        detail = json.dumps({"count": count})
        bus.put_events(Entries=[{"Source": "kensa", "DetailType": "Labels added", "Detail": detail}])
    aws.fire_schedule("daily")
    executions = client.list_executions(stateMachineArn=arn)["executions"]
    inputs = [json.loads(aws.wait_for(entry["executionArn"])["input"]) for entry in executions]
    assert sorted(entry["trigger"] for entry in inputs) == ["labels", "schedule"]
    assert all(len(entry["trigger_id"]) == 36 for entry in inputs)


def test_a_digest_is_signed_by_a_key_of_kms(aws: LocalAws) -> None:
    from securesystemslib.signer import AWSSigner, Signer  # noqa: PLC0415

    kms = aws.client("kms")
    key = kms.create_key(KeyUsage="SIGN_VERIFY", KeySpec="ECC_NIST_P256")["KeyMetadata"]["KeyId"]
    kms.create_alias(AliasName="alias/kensa-targets", TargetKeyId=key)
    uri, public = AWSSigner.import_("alias/kensa-targets")
    signature = Signer.from_priv_key_uri(uri, public).sign(b"data")
    public.verify_signature(signature, b"data")


def test_verdicts_pass_the_real_transformation_on_their_way_to_the_tables(
    aws: LocalAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KENSA_SITE", "plant-a")
    aws.functions.add("kensa-Transform", firehose.handler)
    action = {"firehose": {"roleArn": ROLE, "deliveryStreamName": "kensa-plant-a-verdicts"}}
    rule = {"sql": "SELECT * FROM 'kensa/+/verdicts/+'", "actions": [action]}
    aws.client("iot").create_topic_rule(ruleName="verdicts", topicRulePayload=rule)
    kept = FolderStorage(tmp_path)
    key = Line(kept).keep(7)
    (sidecar,) = [stored.key for stored in kept.list() if stored.key.endswith(".json")]
    aws.publish("kensa/thing-1/verdicts/cam", json.dumps(json.loads(kept.read(sidecar))["verdict"]).encode())
    aws.publish("kensa/thing-1/verdicts/cam", b'{"kind": "nonsense"}')
    delivery = aws.firehose.deliver("kensa-plant-a-verdicts", function="kensa-Transform")
    assert [row["key"] for row in delivery.rows] == [key]
    assert delivery.partition_keys == ({"site": "plant-a", "line": "line-1", "day": "2026-01-01"},)
    assert delivery.failed == (b'{"kind": "nonsense"}',)
