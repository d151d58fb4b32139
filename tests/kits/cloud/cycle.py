"""A plant in the simulated account: buckets, keys, a fleet, and the state machine.

Jobs that train copy a prepared release (the trainings of `Plant.trains`); the job that chooses really compares.
"""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from agent.errors import KensaError
from agent.release_records import DesiredRelease, Gate, ModelStatus, Refusal, ReleaseRef
from agent.wire import ReportingAgent, encode_report, model_topic
from pipeline.cloud import aws_clients
from pipeline.cycle import handlers, state_machine
from pipeline.cycle.deployment.publisher import Publisher
from pipeline.cycle.execution import CycleRequest, Execution, read_event
from pipeline.cycle.services import is_running, locks_of
from pipeline.cycle.settings import CycleSettings
from pipeline.datasets.label_store import LabelStore
from pipeline.repository.signing_keys import Expiry, KeyRing
from pipeline.repository.tuf_repository import Repository
from pipeline.sagemaker import job_entry
from pipeline.sagemaker.job_layout import JobLayout
from pipeline.selection.registry.registry_location import open_registry
from simulator.aws.training_jobs import TrainingError, TrainingJob, run_entry_point
from tests.kits.cloud.datasets import NOW, Line, label, surface
from tests.kits.releases import CELL, write_release

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

    from agent.records import Pixels
    from pipeline.selection.candidate_record import CandidateStatus
    from simulator.aws.greengrass_cloud import CloudDeployment
    from simulator.aws.local_aws import LocalAws

SITE: Final = "plant-a"
MODEL: Final = "spots"
INSPECTION: Final = "surface"
ROLE: Final = "arn:aws:iam::123456789012:role/kensa"
PATIENCE_S: Final = 90.0
_BUCKETS: Final = ("kensa-data", "kensa-releases", "kensa-publisher")
BLIND: Final = 0.97  # a threshold that no spot reaches
SHARP: Final = 0.5


def spotted(seed: int, *, defect: bool) -> Pixels:
    """A dark rough surface of 32 px, with a bright cell where there is a defect."""
    picture = (surface(seed, 32).astype(np.float32) * 0.4).astype(np.uint8)
    if defect:
        row, column = divmod(seed % 16, 4)
        picture[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL] = 235
    return picture


def spots_release(folder: Path, *, version: str, threshold: float = SHARP, name: str = MODEL) -> Path:
    """A release that finds bright spots above `threshold`."""
    decision = {"thresholds": {"spot": threshold}, "unsure_band": 0.01}
    return write_release(folder, name=name, version=version, decision=decision)


@dataclass(slots=True)
class Device:
    """A thing of the fleet. `does`: commit, refuse, ignore (says nothing), waver (says that it is in its trial)."""

    thing: str
    does: str = "commit"
    active: ReleaseRef | None = None
    wished: list[str] = field(default_factory=list)
    epoch: int = 1


@dataclass(slots=True)
class Plant:
    """See the module."""

    aws: LocalAws
    folder: Path
    settings: CycleSettings
    devices: dict[str, Device]
    trains: Callable[[TrainingJob], None]
    chooses_in_a_child: bool = False  # as a real job does; costs 3 s
    machine_arn: str = ""
    topic_queue: str = ""

    @property
    def publisher(self) -> Publisher:
        return Publisher(aws_clients.storage(self.settings.publisher))

    def start(self, *, trigger_id: str | None = None, trigger: str = "manual") -> str:
        """Start an execution; returns its ARN."""
        request = {
            "trigger": trigger,
            "trigger_id": trigger_id or str(uuid.uuid4()),
            "site": SITE,
            "model": MODEL,
            "inspection": INSPECTION,
        }
        started = self.aws.client("stepfunctions").start_execution(
            stateMachineArn=self.machine_arn, name=f"run-{uuid.uuid4().hex[:8]}", input=json.dumps(request)
        )
        return str(started["executionArn"])

    def run(self, **more: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Run an execution to its end; returns its description and the record."""
        arn = self.start(**more)
        ended = self.aws.wait_for(arn, timeout_s=PATIENCE_S)
        return ended, self.record(arn)

    def record(self, arn: str) -> dict[str, Any]:
        """What the execution's record says; empty where there is none."""
        key = f"cycle/v1/executions/{arn.rpartition(':')[2]}/record.json"
        data = aws_clients.storage(self.settings.data)
        found: dict[str, Any] = json.loads(data.read(key)) if data.exists(key) else {}
        return found

    def execution(self, arn: str) -> Execution:
        """An execution as its steps see it."""
        told = self.aws.client("stepfunctions").describe_execution(executionArn=arn)
        return read_event({"execution": arn, "state": json.loads(told["input"])}, self.settings)

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that must come."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def until_asked(self, arn: str) -> dict[str, Any]:
        """Wait until an execution asks for approval; returns the question."""
        execution = self.execution(arn)
        self.until(lambda: execution.data.exists(execution.approval_key) or not is_running(arn))
        question: dict[str, Any] = json.loads(execution.data.read(execution.approval_key))
        return question

    def wished(self) -> set[str]:
        """What the devices were told to run last."""
        return {device.wished[-1] for device in self.devices.values()}

    def status(self, version: str) -> CandidateStatus:
        """Of a candidate."""
        return open_registry("s3://kensa-data/registry", s3=aws_clients.client("s3")).get(MODEL, version).status

    def is_free(self) -> bool:
        """Whether the lock is."""
        request = CycleRequest(trigger="manual", trigger_id="-", site=SITE, model=MODEL, inspection=INSPECTION)
        return locks_of(Execution("arn:::-", request, {}, self.settings)).holder(request) is None

    def messages(self) -> list[str]:
        """Subjects of what the topic was told."""
        found: list[str] = []
        while True:
            answer = self.aws.client("sqs").receive_message(QueueUrl=self.topic_queue, MaxNumberOfMessages=10)
            if not answer.get("Messages"):
                return found
            for message in answer["Messages"]:
                found.append(json.loads(message["Body"])["Subject"])
                self.aws.client("sqs").delete_message(QueueUrl=self.topic_queue, ReceiptHandle=message["ReceiptHandle"])

    def collect(self, first: int, count: int, *, wrong: bool = False) -> None:
        """Keep frames, half of them with a spot, and label them; `wrong` labels say the opposite."""
        storage = aws_clients.storage(self.settings.data)
        line = Line(storage, site=SITE)
        labels = []
        for seq in range(first, first + count):
            defect = seq % 2 == 1
            outcome = handlers_outcome(defect=defect)
            key = line.keep(seq, pixels=spotted(seq, defect=defect), outcome=outcome, score=0.95 if defect else 0.02)
            says = "spot" if defect is not wrong else "ok"
            labels.append(label(key, says, source=f"batch-{first}"))
        LabelStore(storage, now=lambda: NOW).append(labels)

    def take(self, thing: str, deployment: CloudDeployment) -> None:
        """What a device does with a deployment: it follows the wish, and reports."""
        merge = json.loads(deployment.components["com.kensa.Inspector"]["configurationUpdate"]["merge"])
        wish = merge["inspections"][INSPECTION].get("desired") or {}
        device = self.devices[thing]
        if not wish:
            return
        device.wished.append(wish["release"])
        published = self.publisher.published(SITE).get(wish["release"])
        if device.does == "ignore" or published is None:
            return
        name, _, version = published.release_id.partition("/")
        ref = ReleaseRef(name, version, published.counter, published.digest, published.model_sha256)
        status = ModelStatus(
            inspection=INSPECTION,
            state="idle",
            since_utc_s=time.time(),
            active=device.active,
            previous=None,
            candidate=None,
            desired=DesiredRelease(wish["release"], source="deployment"),
        )
        if device.does == "refuse" and published.release_id != f"{MODEL}/1.0.0":
            refusal = Refusal(Gate.SHADOW, "disagreement", "It disagrees with the champion.")
            self.report(thing, replace(status, refusal=refusal, refused=ref))
        elif device.does == "waver" and published.release_id != f"{MODEL}/1.0.0":
            self.report(thing, replace(status, state="trial", candidate=ref))
        else:
            device.active = ref
            self.report(thing, replace(status, active=ref))

    def report(self, thing: str, status: ModelStatus) -> None:
        """Publish a report; the account's rule brings it to the bucket."""
        reporter = ReportingAgent(thing=thing, line="line-1", boot_epoch=self.devices[thing].epoch)
        self.aws.publish(model_topic(thing), encode_report(status, reporter=reporter, utc_ns=time.time_ns()))


def handlers_outcome(*, defect: bool) -> Any:
    """The champion's verdict of a part that it judges right."""
    from agent.records import Outcome  # noqa: PLC0415 - for datasets_kit's keep

    return Outcome.DEFECT if defect else Outcome.OK


def substitutions(aws: LocalAws) -> dict[str, str]:
    """What the stack puts into the definition."""
    return {
        f"{name}Function": aws.functions.add(f"kensa-{name}", handler) for name, handler in handlers.HANDLERS.items()
    }


def make_plant(
    aws: LocalAws, folder: Path, monkeypatch: pytest.MonkeyPatch, *, champion: bool = True, **changes: Any
) -> Plant:
    """Everything there is before the first cycle; `changes` replace settings."""
    for bucket in _BUCKETS:
        aws.client("s3").create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    groups = {"canary": ("canary-1",), "fleet": ("canary-1", "press-1", "press-2")}
    arns = _make_things(aws, groups)
    topic = aws.client("sns").create_topic(Name="kensa")["TopicArn"]
    queue = aws.client("sqs").create_queue(QueueName="told")["QueueUrl"]
    attributes = aws.client("sqs").get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]
    aws.client("sns").subscribe(TopicArn=topic, Protocol="sqs", Endpoint=attributes["QueueArn"])
    values: dict[str, Any] = {
        "data": "s3://kensa-data",
        "publisher": "s3://kensa-publisher",
        "canary_target": arns["canary"],
        "fleet_target": arns["fleet"],
        "topic": topic,
        "approval": "auto",
        "training_role": ROLE,
        "training_image": "pytorch-training:cpu",
        "training_source": "s3://kensa-data/code/source.tar.gz",
        "canary_timeout_s": 20,
        "soak_s": 0,
        "fleet_timeout_s": 20,
        "poll_interval_s": 1,
        **changes,
    }
    settings = CycleSettings.model_validate(values)
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    good = spots_release(folder / "good", version="9.9.9")
    plant = Plant(aws, folder, settings, {thing: Device(thing) for thing in groups["fleet"]}, copies(good))
    plant.topic_queue = queue
    _make_publisher(plant, folder)
    _make_rules(aws)
    aws.training_jobs.runner = lambda job: run_job(plant, job)
    if champion:
        plant.publisher.publish(spots_release(folder / "champion", version="1.0.0", threshold=BLIND), SITE)
    search = "seeds: [0, 1]\nhead: classifier\npolicy: {max_margin: 1.0, slack: 0, candidates: 1, confidence: 0.8}\n"
    aws_clients.storage(settings.data).write(f"config/{SITE}/{MODEL}/search.yaml", search.encode())
    _deploy_agents(plant, wish=f"{MODEL}/1.0.0" if champion else None)
    plant.machine_arn = make_machine(aws, settings)
    return plant


def make_machine(aws: LocalAws, settings: CycleSettings) -> str:
    """The state machine as the stack makes it."""
    text = state_machine.to_text()
    for name, value in {**substitutions(aws), "TrainingRole": settings.training_role}.items():
        text = text.replace(f"${{{name}}}", value)
    made = aws.client("stepfunctions").create_state_machine(name="kensa-cycle", definition=text, roleArn=ROLE)
    return str(made["stateMachineArn"])


def copies(release: Path) -> Callable[[TrainingJob], None]:
    """A training that gives the bytes of `release`, under the name and version that it was asked for."""

    def train(job: TrainingJob) -> None:
        into = job.root / "model" / "release"
        into.mkdir(parents=True)
        for path in release.iterdir():
            (into / path.name).write_bytes(path.read_bytes())
        manifest = json.loads((into / "manifest.json").read_text(encoding="utf-8"))
        manifest |= {key: json.loads(job.hyperparameters[key]) for key in ("name", "version")}
        manifest["lineage"] |= {"dataset_sha256": json.loads(job.hyperparameters["dataset_digest"])}
        (into / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")

    return train


def fails(_job: TrainingJob) -> None:
    """A training that fails."""
    raise TrainingError("the loss is not finite")


def run_job(plant: Plant, job: TrainingJob) -> None:
    """What the simulated SageMaker does with a job."""
    if job.hyperparameters.get("step") == "train":
        plant.trains(job)
    elif plant.chooses_in_a_child:
        run_entry_point(job)
    else:
        try:
            job_entry._choose(JobLayout(job.root), job.hyperparameters)
        except KensaError as error:
            raise TrainingError(str(error)) from error


def _make_things(aws: LocalAws, groups: dict[str, tuple[str, ...]]) -> dict[str, str]:
    iot = aws.client("iot")
    for thing in sorted({thing for things in groups.values() for thing in things}):
        iot.create_thing(thingName=thing)
    arns = {}
    for group, things in groups.items():
        arns[group] = iot.create_thing_group(thingGroupName=group)["thingGroupArn"]
        for thing in things:
            iot.add_thing_to_thing_group(thingGroupName=group, thingName=thing)
    return arns


def _make_publisher(plant: Plant, folder: Path) -> None:
    ring = KeyRing.create(folder / "keys", repository="s3://kensa-releases/releases", expiry=Expiry())
    Repository(ring).create([SITE], {})
    plant.publisher.push(folder / "keys")


def _make_rules(aws: LocalAws) -> None:
    key = "fleet/v1/${topic(2)}/${inspection}/${boot_epoch}-${utc_us}.json"
    action = {"s3": {"roleArn": ROLE, "bucketName": "kensa-data", "key": key}}
    rule = {"sql": "SELECT * FROM 'kensa/+/model' WHERE kind = 'model'", "actions": [action]}
    aws.client("iot").create_topic_rule(ruleName="kensa_reports", topicRulePayload=rule)


def _deploy_agents(plant: Plant, *, wish: str | None) -> None:
    """The fleet's first deployment, as scripts/deploy makes it."""
    plant.aws.greengrass.on_deployment = plant.take
    desired = {} if wish is None else {"desired": {"release": wish, "mode": "release"}}
    merge = json.dumps({"line": "line-1", "inspections": {INSPECTION: desired}})
    client = plant.aws.client("greengrassv2")
    made = client.create_deployment(
        targetArn=plant.settings.fleet_target,
        components={"com.kensa.Inspector": {"componentVersion": "0.1.0", "configurationUpdate": {"merge": merge}}},
    )
    deadline = time.monotonic() + PATIENCE_S
    while client.get_deployment(deploymentId=made["deploymentId"])["deploymentStatus"] == "ACTIVE":
        assert time.monotonic() < deadline
        time.sleep(0.01)
