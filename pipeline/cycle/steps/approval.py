"""Approval of a candidate: by the policy if nothing is in doubt, otherwise by a person.

    cycle/v1/approvals/NAME.json     the pending request: candidate, reasons for manual approval, the task's token

A choice is clean if the candidate was compared with a champion, was shown to be no worse on all parts together, and if
no label of the data set contradicts another.

Promise: a decision is written to the registry, with its author and reason, before the state machine continues; a late
or repeated answer is refused and changes nothing.
"""

from __future__ import annotations

import json
import tarfile
import tempfile
import time
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agent.errors import OperatorError
from pipeline.cloud import aws_clients
from pipeline.cloud.storage import ObjectMissingError
from pipeline.comparison.comparison_result import SliceVerdict
from pipeline.cycle.execution import to_json_bytes
from pipeline.cycle.services import publish_notification, registry_of
from pipeline.selection.candidate_record import CandidateStatus
from pipeline.selection.choice_folder import read_choice, register_choice

if TYPE_CHECKING:
    from pipeline.comparison.comparison_result import CandidateChoice
    from pipeline.cycle.execution import Execution

_MAX_ARCHIVE_BYTES: Final = 256 * 1024**2
_MAX_QUESTION_BYTES: Final = 16 * 1024
_MAX_REASONS: Final = 10
_EXPIRED_TOKEN_CODES: Final = frozenset({"TaskDoesNotExist", "TaskTimedOut", "InvalidToken"})


class ApprovalError(OperatorError):
    """A decision is not possible now; the text gives the reason."""


def record_choice(execution: Execution) -> dict[str, Any]:
    """Read and store the result of the choosing job; returns it with the kind of approval it needs."""
    with tempfile.TemporaryDirectory(prefix="kensa-choice-") as temporary:
        choice = _unpack_choice(execution, Path(temporary))
    registry_of(execution).record_choice(choice)
    one = choice.proposed
    doubts = (
        []
        if one is None
        else manual_approval_reasons(choice, doubtful_labels=int(execution.step_result("dataset")["doubts"]))
    )
    if execution.settings.approval == "manual":
        doubts = ["this stack requires a person for every release", *doubts]
    return {
        "proposed": one is not None,
        "reasons": [*choice.reasons, *(() if one is None else one.reasons)][:_MAX_REASONS],
        "candidates": len(choice.assessments),
        "objective": None if one is None else one.objective,
        "champion": choice.champion,
        "champion_objective": choice.champion_objective,
        "refused": [reason for a in choice.assessments if not a.proposable for reason in a.reasons][:_MAX_REASONS],
        "approval": "manual" if doubts else "auto",
        "doubts": doubts,
    }


def manual_approval_reasons(choice: CandidateChoice, *, doubtful_labels: int) -> list[str]:
    """Reasons for manual approval; empty for a clean choice."""
    doubts = []
    if choice.champion is None:
        doubts.append("there is no model yet to compare it with")
    one = choice.proposed
    for comparison in () if one is None else one.comparisons:
        doubts += [
            f"on {comparison.data} it is {result.verdict}"
            for result in comparison.slices
            if result.slice == "all" and result.verdict not in {SliceVerdict.BETTER, SliceVerdict.NOT_WORSE}
        ]
    if doubtful_labels:
        doubts.append(f"{doubtful_labels} labels of the data set contradict others")
    return doubts


def register(execution: Execution) -> dict[str, Any]:
    """Add the proposed candidate to the registry as Pending."""
    request = execution.request
    with tempfile.TemporaryDirectory(prefix="kensa-choice-") as temporary:
        _unpack_choice(execution, Path(temporary))
        entry = register_choice(
            registry_of(execution),
            Path(temporary),
            by=execution.arn,
            why=f"proposed by the cycle that {request.trigger} {request.trigger_id} started",
            dataset_uri=execution.step_result("dataset")["uri"],
            trigger=f"{request.trigger}:{request.trigger_id}",
        )
    if entry is None:
        raise ApprovalError("the choice proposes no candidate: there is nothing to register")
    record = entry.record
    card = f"{execution.uri('registry')}/{record.release_id}/card.html"
    return {"name": record.name, "version": record.version, "release_id": record.release_id, "card": card}


def ask_approval(execution: Execution, token: str) -> dict[str, Any]:
    """Store the task's token for `decide`, and notify the people who decide."""
    candidate, choice = execution.step_result("registered"), execution.step_result("choice")
    pending = {
        "execution": execution.arn,
        "token": token,
        "candidate": candidate,
        "request": execution.request.model_dump(),
        "doubts": choice["doubts"],
        "reasons": choice["reasons"],
        "asked_utc_s": time.time(),
    }
    execution.data.write(execution.approval_key, to_json_bytes(pending))
    lines = [
        f"{candidate['release_id']} for {execution.request.inspection} at {execution.request.site} waits for approval.",
        *choice["reasons"],
        "A person must decide because " + "; ".join(choice["doubts"]) + ".",
        f"Its card: {candidate['card']}",
        f"kensa cloud cycle approve {execution.name} --why SENTENCE    (or: deny)",
    ]
    publish_notification(execution.settings, f"Kensa: approve {candidate['release_id']}?", "\n".join(lines))
    return {"asked": candidate["release_id"]}


def approve(execution: Execution) -> dict[str, Any]:
    """Approve by the policy, for a clean choice on a stack that allows it."""
    candidate = execution.step_result("registered")
    why = "the choice is clean and the policy of this stack approves it"
    registry_of(execution).set_status(
        candidate["name"], candidate["version"], CandidateStatus.APPROVED, by=f"policy of {execution.arn}", why=why
    )
    return {"approved": True, "by": "policy", "why": why}


def decide(execution: Execution, *, approved: bool, by: str, why: str) -> dict[str, Any]:
    """Record a person's decision and resume the state machine. Raises ApprovalError if nothing is pending."""
    key = execution.approval_key
    try:
        pending = json.loads(execution.data.read(key, limit=_MAX_QUESTION_BYTES))
    except ObjectMissingError as error:
        raise ApprovalError(f"{execution.name} does not wait for a decision; see `kensa cloud cycle status`") from error
    candidate = pending["candidate"]
    status = CandidateStatus.APPROVED if approved else CandidateStatus.REJECTED
    registry_of(execution).set_status(candidate["name"], candidate["version"], status, by=by, why=why)
    answer = {"approved": approved, "by": by, "why": why}
    states = aws_clients.client("stepfunctions")
    try:
        with aws_clients.translate_aws_errors(f"the answer to {execution.name}"):
            states.send_task_success(taskToken=pending["token"], output=json.dumps(answer))
    except aws_clients.AwsError as error:
        if error.code in _EXPIRED_TOKEN_CODES:
            raise ApprovalError(f"{execution.name} no longer waits: the answer came too late") from error
        raise
    execution.data.delete(key)
    return {"release_id": candidate["release_id"], **answer}


def _unpack_choice(execution: Execution, into: Path) -> CandidateChoice:
    """Unpack the result of the choosing job. Raises OperatorError for an invalid archive."""
    uri = str(execution.step_result("chosen")["artifacts"])
    place, _, name = uri.rpartition("/")
    try:
        with tarfile.open(fileobj=BytesIO(aws_clients.storage(place).read(name, limit=_MAX_ARCHIVE_BYTES))) as archive:
            if sum(member.size for member in archive.getmembers()) > 2 * _MAX_ARCHIVE_BYTES:
                raise OperatorError(f"{uri} unpacks to more than {2 * _MAX_ARCHIVE_BYTES:,} bytes")
            archive.extractall(into, filter="data")
    except tarfile.TarError as error:
        raise OperatorError(f"{uri} cannot be unpacked: {error}") from error
    return read_choice(into)
