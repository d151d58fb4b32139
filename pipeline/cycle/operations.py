"""Starts, shows, finds and stops executions; the commands are thin shells over these."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from agent.errors import OperatorError, UsageError
from pipeline.cloud import aws_clients
from pipeline.cloud.storage import ObjectMissingError
from pipeline.cycle.execution import Execution, read_event
from pipeline.cycle.services import locks_of
from pipeline.cycle.steps import rollout

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.cycle.settings import CycleSettings

_OUTPUTS: Final = {  # of the stack -> KENSA_*
    "Data": "DATA",
    "Publisher": "PUBLISHER",
    "CanaryTarget": "CANARY_TARGET",
    "FleetTarget": "FLEET_TARGET",
    "Topic": "TOPIC",
    "StateMachine": "STATE_MACHINE",
    "TrainingRole": "TRAINING_ROLE",
    "TrainingImage": "TRAINING_IMAGE",
    "TrainingSource": "TRAINING_SOURCE",
}
_MAX_NOTE_BYTES: Final = 64 * 1024
_SHOWN: Final = 20


class CycleError(OperatorError):
    """The requested operation is not possible; the text gives the reason and the remedy."""


@dataclass(frozen=True, slots=True)
class ExecutionSummary:
    """One execution as `status` shows it."""

    name: str
    status: str
    state: str  # the current state, "" if it has ended
    started: str
    waits_for: str  # the release that a person must approve, "" if none
    result: str  # of its record, "" if there is none


def stack_environment(stack: str) -> dict[str, str]:
    """The variables of a stack's functions, from its outputs. Raises AwsError, CycleError."""
    with aws_clients.translate_aws_errors(f"the stack {stack}"):
        described = aws_clients.client("cloudformation").describe_stacks(StackName=stack)["Stacks"][0]
    outputs = {output["OutputKey"]: output["OutputValue"] for output in described.get("Outputs", [])}
    if lacking := sorted(set(_OUTPUTS) - set(outputs)):
        raise CycleError(
            f"the stack {stack} lacks the output {', '.join(lacking)}: it was not created from this template"
        )
    return {f"KENSA_{name}": outputs[key] for key, name in _OUTPUTS.items()}


def start(settings: CycleSettings, request: Mapping[str, str]) -> str:
    """Start an execution manually; returns its name. Raises UsageError for invalid names."""
    trigger_id = uuid.uuid4().hex
    tree = {"trigger": "manual", "trigger_id": trigger_id, **request}
    read_event({"execution": "-", "state": tree}, settings)
    name = f"manual-{trigger_id[:16]}"
    with aws_clients.translate_aws_errors(f"an execution of {settings.state_machine}"):
        aws_clients.client("stepfunctions").start_execution(
            stateMachineArn=_state_machine_arn(settings), name=name, input=json.dumps(tree)
        )
    return name


def find_execution(settings: CycleSettings, name: str) -> Execution:
    """An execution by its name or ARN. Raises AwsError if there is none."""
    arn = (
        name
        if name.startswith("arn:")
        else f"{_state_machine_arn(settings).replace(':stateMachine:', ':execution:')}:{name}"
    )
    with aws_clients.translate_aws_errors(f"the execution {name}"):
        described = aws_clients.client("stepfunctions").describe_execution(executionArn=arn)
    return read_event({"execution": arn, "state": json.loads(described["input"])}, settings)


def status(settings: CycleSettings, *, limit: int = _SHOWN) -> list[ExecutionSummary]:
    """The newest executions, newest first."""
    states, lines = aws_clients.client("stepfunctions"), []
    with aws_clients.translate_aws_errors(f"the executions of {settings.state_machine}"):
        found = states.list_executions(stateMachineArn=_state_machine_arn(settings), maxResults=limit)["executions"]
    for entry in sorted(found, key=lambda entry: entry["startDate"], reverse=True):
        execution = find_execution(settings, entry["executionArn"])
        running = entry["status"] == "RUNNING"
        pending = _read_json(execution, execution.approval_key) if running else {}
        record = {} if running else _read_json(execution, execution.record_key)
        lines.append(
            ExecutionSummary(
                name=execution.name,
                status=str(entry["status"]),
                state=_current_state(states, execution.arn) if running else "",
                started=entry["startDate"].isoformat(timespec="seconds"),
                waits_for=str(pending.get("candidate", {}).get("release_id", "")),
                result=str(record.get("result", "")),
            )
        )
    return lines


def stop(execution: Execution, *, by: str, why: str) -> dict[str, Any]:
    """Stop an execution, roll back a rollout in progress, and release the lock."""
    if not by.strip() or not why.strip():
        raise UsageError("name who stops it and why: --by NAME --why SENTENCE.")
    with aws_clients.translate_aws_errors(f"to stop {execution.name}"):
        aws_clients.client("stepfunctions").stop_execution(
            executionArn=execution.arn, error="Stopped", cause=f"{by}: {why}"
        )
    note = _read_json(execution, execution.open_rollout_key)
    back: dict[str, Any] = {}
    if note:
        state = {
            **execution.state,
            "released": {"answer": note["released"]},
            "rollout": {"answer": {"scope": note["scope"]}},
            "monitor": {"answer": {"reason": f"stopped by {by}: {why}", "revoke": False}},
        }
        back = rollout.roll_back(Execution(execution.arn, execution.request, state, execution.settings))
    execution.data.delete(execution.approval_key)
    return {"stopped": execution.name, "rolled_back": back, "unlocked": locks_of(execution).unlock(execution)}


def _state_machine_arn(settings: CycleSettings) -> str:
    if settings.state_machine is None:
        raise CycleError("KENSA_STATE_MACHINE is not set: name the stack with --stack")
    return settings.state_machine


def _read_json(execution: Execution, key: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(execution.data.read(key, limit=_MAX_NOTE_BYTES))
    except ObjectMissingError:
        return {}
    return found


def _current_state(states: Any, arn: str) -> str:
    """The state that an execution entered most recently."""
    with aws_clients.translate_aws_errors(f"the history of {arn}"):
        page = states.get_execution_history(executionArn=arn, reverseOrder=True, maxResults=100)["events"]
    entered = [event for event in page if event["type"].endswith("StateEntered")]
    newest = max(entered, key=lambda event: int(event["id"]), default=None)
    return "" if newest is None else str(newest["stateEnteredEventDetails"]["name"])
