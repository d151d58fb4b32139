"""The Lambda functions of the cycle, one for each task of the state machine.

Each takes an event and returns the result of its step; the commands call the same steps. Settings come from the
environment (`pipeline.cycle.settings`), clients from `pipeline.cloud.aws_clients`. An exception is the function's
error; the state machine catches it by the name of its class.
"""

from __future__ import annotations

from typing import Any, Final

from pipeline.cloud import aws_clients
from pipeline.cycle.deployment.publisher import Publisher
from pipeline.cycle.execution import read_event
from pipeline.cycle.services import locks_of
from pipeline.cycle.settings import CycleSettings
from pipeline.cycle.steps import approval, completion, rollout, training_inputs

StepResult = dict[str, Any]


def begin(event: StepResult, _context: Any) -> StepResult:
    """Take the trigger and the lock."""
    execution = read_event(event)
    return locks_of(execution).begin(execution)


def build_dataset(event: StepResult, _context: Any) -> StepResult:
    """Build the next version of the data set."""
    return training_inputs.build_dataset(read_event(event))


def plan_training(event: StepResult, _context: Any) -> StepResult:
    """Write the requests of the training jobs."""
    return training_inputs.plan_training(read_event(event))


def choose(event: StepResult, _context: Any) -> StepResult:
    """Read the result of the choosing job."""
    return approval.record_choice(read_event(event))


def register(event: StepResult, _context: Any) -> StepResult:
    """Register the proposed candidate."""
    return approval.register(read_event(event))


def ask_approval(event: StepResult, _context: Any) -> StepResult:
    """Request approval from a person; the state machine waits for the token."""
    return approval.ask_approval(read_event(event), str(event["token"]))


def approve(event: StepResult, _context: Any) -> StepResult:
    """Approve by the policy."""
    return approval.approve(read_event(event))


def release(event: StepResult, _context: Any) -> StepResult:
    """Sign and publish."""
    return rollout.publish(read_event(event))


def deploy_canary(event: StepResult, _context: Any) -> StepResult:
    """Deploy the release to the canary."""
    return rollout.deploy(read_event(event), "canary")


def monitor(event: StepResult, _context: Any) -> StepResult:
    """Evaluate the reports of the devices and decide."""
    return rollout.monitor(read_event(event))


def promote(event: StepResult, _context: Any) -> StepResult:
    """Deploy the release to the fleet."""
    return rollout.deploy(read_event(event), "fleet")


def roll_back(event: StepResult, _context: Any) -> StepResult:
    """Roll the release back."""
    return rollout.roll_back(read_event(event))


def notify(event: StepResult, _context: Any) -> StepResult:
    """Write the record and notify the topic."""
    return completion.notify(read_event(event))


def end(event: StepResult, _context: Any) -> StepResult:
    """Settle the candidate, the approval request and the lock."""
    execution = read_event(event)
    if execution.step_result("outcome").get("result") == "promoted":
        rollout.clear_open_rollout(execution)
    return completion.end(execution)


def refresh(_event: StepResult, _context: Any) -> StepResult:
    """Renew the repository's signatures; called by a schedule, not by the cycle."""
    Publisher(aws_clients.storage(CycleSettings.read().publisher)).refresh()
    return {}


HANDLERS: Final = {  # by the name of the function in the state machine
    "Begin": begin,
    "BuildDataset": build_dataset,
    "PlanTraining": plan_training,
    "Choose": choose,
    "Register": register,
    "AskApproval": ask_approval,
    "Approve": approve,
    "Release": release,
    "DeployCanary": deploy_canary,
    "Monitor": monitor,
    "Promote": promote,
    "RollBack": roll_back,
    "Notify": notify,
    "End": end,
}
