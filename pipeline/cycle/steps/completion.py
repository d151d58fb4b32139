"""How a cycle ends: everybody is told, the record is kept, the lock is free, no candidate is left half way.

cycle/v1/executions/NAME/record.json    what came of it
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
    "poisoned": "The labels were refused: they contradict what is known.",
    "nothing_new": "There is nothing new to train on.",
    "training_failed": "No training gave a model.",
    "none_better": "No candidate is better than the running model.",
    "denied": "The candidate was denied.",
    "approval_timed_out": "Nobody answered in time: the candidate counts as denied.",
    "rolled_back": "The release was taken back.",
    "promoted": "The fleet runs a new model.",
    "broken": "The cycle broke: a person must look.",
    "roll_back_failed": "The release could NOT be taken back: a person must act now.",
}


def notify(execution: Execution) -> dict[str, Any]:
    """Keep the record, and tell the topic."""
    result = str(execution.step_result("outcome")["result"])
    told = result_reasons(execution)
    record = {
        "execution": execution.arn,
        "request": execution.request.model_dump(),
        "result": result,
        "why": told,
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
        *told,
        f"Model {request.model}, inspection {request.inspection}, site {request.site}; started by {request.trigger}.",
        f"Record: {execution.uri(execution.record_key)}",
    ]
    publish_notification(
        execution.settings, f"Kensa: {request.model} at {request.site}: {result.replace('_', ' ')}", "\n".join(lines)
    )
    return {"result": result, "why": told}


def end(execution: Execution) -> dict[str, Any]:
    """Settle what is open: the candidate's status, the question, the lock."""
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
    """What the steps found, as sentences."""
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
    """The sentence in what Step Functions calls the cause."""
    try:
        tree = json.loads(text)
    except ValueError:
        return text[:_MAX_CAUSE]
    if isinstance(tree, dict):
        return str(tree.get("errorMessage") or tree.get("FailureReason") or text)[:_MAX_CAUSE]
    return text[:_MAX_CAUSE]
