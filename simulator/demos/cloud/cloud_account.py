"""The plant's account in the simulated cloud: what the stack of pipeline/infra creates.

Buckets, a signed repository whose keys are KMS's, things in two groups, the state machine from cycle.asl.json, rules of
IoT Core and EventBridge as template.yaml has them. Devices get deployments through a hook that does what the nucleus
would: it tells the agent what is wished for.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self
from unittest import mock

import yaml

from agent.errors import OperatorError
from pipeline.cloud import aws_clients
from pipeline.cloud.folder_copy import upload_folder
from pipeline.cycle import handlers
from pipeline.cycle.deployment.publisher import Publisher
from pipeline.cycle.settings import CycleSettings
from pipeline.cycle.triggers import labels_trigger
from pipeline.ingest import firehose
from pipeline.repository.signing_keys import Expiry, KeyRing
from pipeline.repository.tuf_repository import Repository
from simulator.aws.local_aws import LocalAws
from simulator.aws.training_jobs import TrainingJob, run_entry_point
from simulator.demos.cloud.cloud_line import GEOMETRY, INSPECTION, MODEL, NET, SITE
from simulator.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from pipeline.cloud.storage import Storage
    from simulator.aws.greengrass_cloud import CloudDeployment

DATA: Final = "s3://kensa-data"
REPOSITORY: Final = "s3://kensa-releases/releases"
STREAMS: Final = ("verdicts", "heartbeats", "model_reports")
TRANSFORM: Final = "kensa-Transform"
MIN_NEW_LABELS: Final = 40  # new labels that start a cycle
SEARCH: Final = {
    "base": {"net": NET, "epochs": 32, "threads": 1},
    "seeds": [0, 1],
    "geometry": GEOMETRY,
    "head": "evidence",
}
# The champion is known to be bad, and rejects good parts: to disagree with it on half of the parts is no fault, on all
# of them is. `alpha` is small because half lies nearer to what is bad than these rates are commonly used for.
AFTER_DRIFT: Final[dict[str, Any]] = {
    "may_pass_more": True,
    "disagreement": {"good": 0.3, "bad": 0.98, "alpha": 1e-6},
    "shadow_parts": 60,
    "trial": [{"share": 0.25, "parts": 20}, {"share": 1.0, "parts": 120}],
    "errors": {"good": 0.01, "bad": 0.05},
    "deadlines": {"good": 0.01, "bad": 0.05},
}
_ROLE: Final = "arn:aws:iam::123456789012:role/kensa"
_ALARM: Final = "arn:aws:cloudwatch:eu-central-1:123456789012:alarm:kensa-score-drift"
_NICE: Final = 5  # of trainings: the lines go first
_FIRST_S: Final = 60.0
_ASL: Final = ROOT / "pipeline" / "infra" / "cycle.asl.json"
_FAST: Final[dict[str, Any]] = {
    "canary_timeout_s": 240,
    "soak_s": 3,
    "fleet_timeout_s": 240,
    "poll_interval_s": 1,
    "per_minute": 100,
}


@dataclass(frozen=True, slots=True)
class ExecutionStep:
    """A state that an execution has entered."""

    name: str
    utc_s: float


def _run_niced(job: TrainingJob) -> None:
    """Run a training job; the niceness of this thread is what its child process gets."""
    os.setpriority(os.PRIO_PROCESS, 0, _NICE)
    run_entry_point(job)


class CloudAccount:
    """Use as a context manager. Methods raise OperatorError, AwsError, StorageError."""

    def __init__(self, folder: Path, *, things: Sequence[str], wish: Callable[[str, str], None]) -> None:
        """`wish(thing, release id)` tells a device; the first of `things` is the canary."""
        self.aws = LocalAws(runner=_run_niced)
        self._folder = folder
        self._things = tuple(things)
        self._set_desired = wish
        self._stack = ExitStack()
        self._machine = ""
        self._desired: dict[str, str] = {}
        self.settings: CycleSettings

    def __enter__(self) -> Self:
        """Make everything that the stack makes."""
        with ExitStack() as stack:
            stack.enter_context(self.aws)
            stack.enter_context(mock.patch.dict(os.environ, self.aws.environment()))
            self._make_buckets()
            self.settings = CycleSettings.model_validate({**self._targets(), **_FAST})
            more = {
                "KENSA_SITE": SITE,
                "KENSA_MODEL": MODEL,
                "KENSA_LABEL_COUNT": str(MIN_NEW_LABELS),
                **self.settings.environment(),
            }
            stack.enter_context(mock.patch.dict(os.environ, more))
            self._make_repository()
            self._make_rules()
            self._make_machine()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """End everything that runs."""
        self._stack.close()

    @property
    def data(self) -> Storage:
        """The bucket with what was collected, labelled, trained and found."""
        return aws_clients.storage(DATA)

    @property
    def root(self) -> Path:
        """1.root.json, which goes to the devices by hand."""
        return self._folder / "keys" / "metadata" / "1.root.json"

    def bootstrap(self, base: Path, champion: Path) -> None:
        """Publish the first model, keep what it learned from, and deploy the agents."""
        upload_folder(base, aws_clients.storage(f"{DATA}/datasets/{SITE}/{MODEL}/base"))
        for name, tree in {"search": SEARCH, "rollout": {"drift": AFTER_DRIFT}}.items():
            self.data.write(f"config/{SITE}/{MODEL}/{name}.yaml", yaml.safe_dump(tree).encode())
        self.publisher.publish(champion, SITE)
        self._deploy_agents()

    @property
    def publisher(self) -> Publisher:
        """The private folder of the repository."""
        return Publisher(aws_clients.storage(self.settings.publisher))

    # --- what starts a cycle, and what becomes of it ------------------------------------------------------------------

    def raise_alarm(self, psi: float) -> None:
        """Put the metric as the stack's function does, and let its alarm change its state (moto's alarms see none)."""
        metric = {"MetricName": "ScoreDrift", "Dimensions": [{"Name": "Site", "Value": SITE}], "Value": psi}
        self.aws.client("cloudwatch").put_metric_data(Namespace="Kensa", MetricData=[metric])
        entry = {
            "Source": "aws.cloudwatch",
            "DetailType": "CloudWatch Alarm State Change",
            "Resources": [_ALARM],
            "Detail": json.dumps({"state": {"value": "ALARM"}}),
        }
        self.aws.client("events").put_events(Entries=[entry])

    def run_label_trigger(self) -> bool:
        """Let the time of the function that counts labels come; whether it asked for a cycle."""
        return bool(labels_trigger.handler({}, None)["asked"])

    def executions(self) -> list[str]:
        """ARNs, oldest first."""
        listed = self.aws.client("stepfunctions").list_executions(stateMachineArn=self._machine)["executions"]
        return [entry["executionArn"] for entry in sorted(listed, key=lambda entry: entry["startDate"])]

    def status(self, execution: str) -> str:
        """RUNNING, SUCCEEDED, FAILED ..."""
        return str(self.aws.client("stepfunctions").describe_execution(executionArn=execution)["status"])

    def steps(self, execution: str) -> list[ExecutionStep]:
        """The states that it has entered, but for those within the map."""
        events = self.aws.client("stepfunctions").get_execution_history(executionArn=execution)["events"]
        entered = [event for event in events if "stateEnteredEventDetails" in event]
        return [ExecutionStep(e["stateEnteredEventDetails"]["name"], e["timestamp"].timestamp()) for e in entered]

    def execution_record(self, execution: str) -> dict[str, Any]:
        """What it found, once it has ended; else empty."""
        key = f"cycle/v1/executions/{execution.rpartition(':')[2]}/record.json"
        found: dict[str, Any] = json.loads(self.data.read(key)) if self.data.exists(key) else {}
        return found

    # --- inside -------------------------------------------------------------------------------------------------------

    def _make_buckets(self) -> None:
        for name in ("kensa-data", "kensa-releases", "kensa-publisher"):
            where = {"LocationConstraint": os.environ["AWS_DEFAULT_REGION"]}
            self.aws.client("s3").create_bucket(Bucket=name, CreateBucketConfiguration=where)

    def _targets(self) -> dict[str, Any]:
        iot = self.aws.client("iot")
        for thing in self._things:
            iot.create_thing(thingName=thing)
        arns = {}
        for group, things in {"canary": self._things[:1], "fleet": self._things}.items():
            arns[f"{group}_target"] = iot.create_thing_group(thingGroupName=group)["thingGroupArn"]
            for thing in things:
                iot.add_thing_to_thing_group(thingGroupName=group, thingName=thing)
        return {
            **arns,
            "data": DATA,
            "publisher": "s3://kensa-publisher",
            "topic": self.aws.client("sns").create_topic(Name="kensa")["TopicArn"],
            "approval": "auto",
            "training_role": _ROLE,
            "training_image": "pytorch-training:cpu",
            "training_source": f"{DATA}/code/source.tar.gz",
        }

    def _make_repository(self) -> None:
        kms = self.aws.client("kms")
        made = {
            role: kms.create_key(KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY")["KeyMetadata"]["KeyId"]
            for role in ("targets", "snapshot", "timestamp", SITE)
        }
        ring = KeyRing.create(self._folder / "keys", repository=REPOSITORY, expiry=Expiry())
        Repository(ring).create([SITE], {role: [f"awskms:{key}"] for role, key in made.items()})
        self.publisher.push(self._folder / "keys")

    def _make_rules(self) -> None:
        """As template.yaml has them."""
        self.aws.functions.add(TRANSFORM, firehose.handler)
        key = "fleet/v1/${topic(2)}/${inspection}/${boot_epoch}-${utc_us}.json"
        to = {table: {"firehose": {"roleArn": _ROLE, "deliveryStreamName": f"kensa-{table}"}} for table in STREAMS}
        rules = {
            "verdicts": ("SELECT * FROM 'kensa/+/verdicts/+' WHERE thing = topic(2)", [to["verdicts"]]),
            "heartbeats": ("SELECT * FROM 'kensa/+/heartbeat' WHERE thing = topic(2)", [to["heartbeats"]]),
            "reports": (
                "SELECT * FROM 'kensa/+/model' WHERE kind = 'model' AND thing = topic(2)",
                [to["model_reports"], {"s3": {"roleArn": _ROLE, "bucketName": "kensa-data", "key": key}}],
            ),
        }
        for name, (sql, actions) in rules.items():
            self.aws.client("iot").create_topic_rule(
                ruleName=f"kensa_{name}", topicRulePayload={"sql": sql, "actions": actions}
            )

    def _make_machine(self) -> None:
        text = _ASL.read_text(encoding="utf-8")
        names = {
            f"{name}Function": self.aws.functions.add(f"kensa-{name}", handler)
            for name, handler in handlers.HANDLERS.items()
        }
        for name, value in {**names, "TrainingRole": _ROLE}.items():
            text = text.replace(f"${{{name}}}", value)
        made = self.aws.client("stepfunctions").create_state_machine(name="kensa-cycle", definition=text, roleArn=_ROLE)
        self._machine = str(made["stateMachineArn"])
        patterns: dict[str, dict[str, Any]] = {
            "drift": {
                "source": ["aws.cloudwatch"],
                "detail-type": ["CloudWatch Alarm State Change"],
                "resources": [_ALARM],
                "detail": {"state": {"value": ["ALARM"]}},
            },
            "labels": {
                "source": [labels_trigger.SOURCE],
                "detail-type": [labels_trigger.DETAIL_TYPE],
                "detail": {"site": [SITE], "model": [MODEL]},
            },
        }
        for trigger, pattern in patterns.items():
            self._start_on(trigger, pattern)

    def _start_on(self, trigger: str, pattern: dict[str, Any]) -> None:
        request = {"trigger": trigger, "trigger_id": "<id>", "site": SITE, "model": MODEL, "inspection": INSPECTION}
        transformer = {"InputPathsMap": {"id": "$.id"}, "InputTemplate": json.dumps(request)}
        events = self.aws.client("events")
        events.put_rule(Name=f"kensa-{trigger}", EventPattern=json.dumps(pattern))
        target = {"Id": "cycle", "Arn": self._machine, "RoleArn": _ROLE, "InputTransformer": transformer}
        events.put_targets(Rule=f"kensa-{trigger}", Targets=[target])

    def _deploy_agents(self) -> None:
        """The fleet's first deployment, as scripts/deploy makes it; nothing is wished for."""
        self.aws.greengrass.on_deployment = self._apply_deployment
        client = self.aws.client("greengrassv2")
        merge = json.dumps({"inspections": {INSPECTION: {}}})
        made = client.create_deployment(
            targetArn=self.settings.fleet_target,
            components={"com.kensa.Inspector": {"componentVersion": "0.1.0", "configurationUpdate": {"merge": merge}}},
        )
        deadline = time.monotonic() + _FIRST_S
        while client.get_deployment(deploymentId=made["deploymentId"])["deploymentStatus"] == "ACTIVE":
            if time.monotonic() > deadline:
                raise OperatorError("the first deployment did not end")
            time.sleep(0.05)

    def _apply_deployment(self, thing: str, deployment: CloudDeployment) -> None:
        """What a device does with a deployment: its agent is told what the configuration wishes for."""
        merge = json.loads(deployment.components["com.kensa.Inspector"]["configurationUpdate"]["merge"])
        wish = (merge["inspections"][INSPECTION].get("desired") or {}).get("release")
        if wish and self._desired.get(thing) != wish:
            self._desired[thing] = wish
            self._set_desired(thing, wish)
