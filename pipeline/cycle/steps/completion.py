"""The end of a cycle: write the record, notify people, settle the candidate, release the lock.

cycle/v1/executions/NAME/record.json    the result and its reasons
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, Final

from pipeline.cycle.execution import to_json_bytes
from pipeline.cycle.services import locks_of, publish_notification, registry_of
from pipeline.selection.candidate_record import CandidateStatus

if TYPE_CHECKING:
    from pipeline.cycle.execution import Execution

_MAX_CAUSE: Final = 1_000
_SHOWN: Final = 5  # failed trainings

_RESULT_TEXTS: Final = {
    "poisoned": "The labels were refused: they contradict known labels.",
    "nothing_new": "There is nothing new to train on.",
    "training_failed": "No training produced a model.",
    "none_better": "No candidate is better than the running model.",
    "denied": "The candidate was denied.",
    "approval_timed_out": "Nobody answered in time: the candidate counts as denied.",
    "rolled_back": "The release was rolled back.",
    "promoted": "The fleet runs a new model.",
    "broken": "The cycle failed unexpectedly: a person must investigate.",
    "roll_back_failed": "The release could NOT be rolled back: a person must act now.",
}


def notify(execution: Execution) -> dict[str, Any]:
    """Write the record and notify the topic."""
    result = str(execution.step_result("outcome")["result"])
    reasons = result_reasons(execution)
    record = {
        "execution": execution.arn,
        "request": execution.request.model_dump(),
        "result": result,
        "why": reasons,
        "ended_utc_s": time.time(),
        **{
            step: execution.step_result(step)
            for step in ("dataset", "choice", "registered", "approval", "released", "rollout", "monitor", "roll_back")
            if execution.step_result(step)
        },
    }
    execution.data.write(execution.record_key, to_json_bytes(record))
    request = execution.request
    lines = [
        _RESULT_TEXTS[result],
        *reasons,
        f"Model {request.model}, inspection {request.inspection}, site {request.site}; started by {request.trigger}.",
        f"Record: {execution.uri(execution.record_key)}",
    ]
    publish_notification(
        execution.settings, f"Kensa: {request.model} at {request.site}: {result.replace('_', ' ')}", "\n".join(lines)
    )
    return {"result": result, "why": reasons}


def end(execution: Execution) -> dict[str, Any]:
    """Settle the candidate's status, delete the pending approval request, release the lock."""
    candidate = execution.step_result("registered")
    result = str(execution.step_result("outcome").get("result", "broken"))
    if candidate:
        registry = registry_of(execution)
        entry = registry.get(candidate["name"], candidate["version"])
        if entry.status in {CandidateStatus.PENDING, CandidateStatus.APPROVED}:
            registry.set_status(
                candidate["name"],
                candidate["version"],
                CandidateStatus.REJECTED,
                by=execution.arn,
                why=_RESULT_TEXTS[result],
            )
    execution.data.delete(execution.approval_key)
    return {"unlocked": locks_of(execution).unlock(execution)}


def result_reasons(execution: Execution) -> list[str]:
    """The reasons that the steps recorded, as sentences."""
    found = [str(reason) for reason in execution.step_result("choice").get("reasons", [])]
    failed = [one for one in execution.state.get("trained") or [] if not one["ok"]]
    found += [f"{one['job']} failed: {_cause_text(str(one['cause']))}" for one in failed[:_SHOWN]]
    for step in ("approval", "monitor", "roll_back"):
        text = execution.step_result(step).get("why") or execution.step_result(step).get("reason")
        if text:
            found.append(str(text))
    if (error := execution.state.get("error")) is not None:
        found.append(f"{error.get('Error')}: {_cause_text(str(error.get('Cause', '')))}")
    return found


def _cause_text(text: str) -> str:
    """The message inside the cause that Step Functions reports."""
    try:
        tree = json.loads(text)
    except ValueError:
        return text[:_MAX_CAUSE]
    if isinstance(tree, dict):
        return str(tree.get("errorMessage") or tree.get("FailureReason") or text)[:_MAX_CAUSE]
    return text[:_MAX_CAUSE]
