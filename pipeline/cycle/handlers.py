"""The Lambda functions of the cycle: an event in, a step's answer out. The same functions are behind the commands.

Settings come from the environment (`pipeline.cycle.settings`), clients from `pipeline.cloud.account`. An exception is
the function's error, and its class's name is what the state machine catches it by.
"""

from __future__ import annotations

from typing import Any, Final

from pipeline.cloud import account
from pipeline.cycle import approval, material, notifying, rollout
from pipeline.cycle.execution import read_event
from pipeline.cycle.publisher import Publisher
from pipeline.cycle.settings import Settings

Answer = dict[str, Any]


def begin(event: Answer, _context: Any) -> Answer:
    """Take trigger and lock."""
    return notifying.begin(read_event(event))


def build_dataset(event: Answer, _context: Any) -> Answer:
    """Build the next version of the data set."""
    return material.build_dataset(read_event(event))


def plan_training(event: Answer, _context: Any) -> Answer:
    """Write the requests of the training jobs."""
    return material.plan_training(read_event(event))


def choose(event: Answer, _context: Any) -> Answer:
    """Read what the choosing job found."""
    return approval.choose(read_event(event))


def register(event: Answer, _context: Any) -> Answer:
    """Keep the proposed candidate."""
    return approval.register(read_event(event))


def ask_approval(event: Answer, _context: Any) -> Answer:
    """Ask a person; the state machine waits for the token."""
    return approval.ask_approval(read_event(event), str(event["token"]))


def approve(event: Answer, _context: Any) -> Answer:
    """Approve by the policy."""
    return approval.approve(read_event(event))


def release(event: Answer, _context: Any) -> Answer:
    """Sign and publish."""
    return rollout.release(read_event(event))


def deploy_canary(event: Answer, _context: Any) -> Answer:
    """Let the canary wish for the release."""
    return rollout.deploy(read_event(event), "canary")


def watch(event: Answer, _context: Any) -> Answer:
    """Look at the reports, and decide."""
    return rollout.watch(read_event(event))


def promote(event: Answer, _context: Any) -> Answer:
    """Let the fleet wish for the release."""
    return rollout.deploy(read_event(event), "fleet")


def roll_back(event: Answer, _context: Any) -> Answer:
    """Take the release back."""
    return rollout.roll_back(read_event(event))


def notify(event: Answer, _context: Any) -> Answer:
    """Keep the record, and tell the topic."""
    return notifying.notify(read_event(event))


def end(event: Answer, _context: Any) -> Answer:
    """Settle what is open."""
    execution = read_event(event)
    if execution.step("outcome").get("result") == "promoted":
        rollout.close(execution)
    return notifying.end(execution)


def refresh(_event: Answer, _context: Any) -> Answer:
    """Keep the repository's signatures fresh; not part of the cycle, a schedule calls it."""
    Publisher(account.storage(Settings.read().publisher)).refresh()
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
    "Watch": watch,
    "Promote": promote,
    "RollBack": roll_back,
    "Notify": notify,
    "End": end,
}
