"""One execution as its steps see it: the request, the results of earlier steps, and the object keys.

{"execution": ARN, "state": {"trigger", ... "inspection", STEP: {"answer": the result of that step} ...}}
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from agent.errors import UsageError
from agent.release.manifest import Name
from pipeline.cloud import aws_clients
from pipeline.cycle.settings import CycleSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.cloud.storage import Storage

TRIGGERS: Final = ("schedule", "drift", "labels", "manual")
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_-]+")


class CycleRequest(BaseModel):
    """An execution's input."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    trigger: Literal["schedule", "drift", "labels", "manual"]
    trigger_id: Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[\x21-\x7e]+$")]
    site: Name
    model: Name
    inspection: Name


@dataclass(frozen=True, slots=True)
class Execution:
    """An execution, its state and its settings; see the module."""

    arn: str
    request: CycleRequest
    state: Mapping[str, Any]
    settings: CycleSettings

    @property
    def name(self) -> str:
        """The name of the execution, safe in a key."""
        return safe_key_part(self.arn.rpartition(":")[2])

    @property
    def prefix(self) -> str:
        """Prefix in `data` of what this execution stores."""
        return f"cycle/v1/executions/{self.name}"

    @property
    def record_key(self) -> str:
        """Key in `data` of the record of its result."""
        return f"{self.prefix}/record.json"

    @property
    def approval_key(self) -> str:
        """Key in `data` of the pending approval request."""
        return f"cycle/v1/approvals/{self.name}.json"

    @property
    def open_rollout_key(self) -> str:
        """Key in `data` of the note on a rollout in progress."""
        return f"cycle/v1/open/{self.name}.json"

    @property
    def data(self) -> Storage:
        """The storage of the cycle's objects."""
        return aws_clients.storage(self.settings.data)

    def uri(self, *parts: str) -> str:
        """URI of an object or prefix in `data`."""
        return "/".join((self.settings.data.rstrip("/"), *parts))

    def step_result(self, name: str) -> dict[str, Any]:
        """The result of an earlier step; empty if it did not run."""
        found: dict[str, Any] = (self.state.get(name) or {}).get("answer") or {}
        return found


def read_event(event: Mapping[str, Any], settings: CycleSettings | None = None) -> Execution:
    """Read the event that the state machine passes to every function. Raises UsageError, CycleConfigError."""
    state = event["state"]
    try:
        request = CycleRequest.model_validate(state)
    except ValidationError as error:
        lines = [f"  {'.'.join(str(p) for p in e['loc'])}: {e['msg']}" for e in error.errors(include_url=False)]
        raise UsageError("the execution's input is refused:\n" + "\n".join(lines)) from error
    return Execution(str(event["execution"]), request, state, settings or CycleSettings.read())


def safe_key_part(text: str) -> str:
    """`text` with all characters replaced that are unsafe in one segment of a key."""
    return _UNSAFE.sub("-", text)[:128] or "-"


def to_json_bytes(tree: Any) -> bytes:
    """JSON with sorted keys."""
    return (json.dumps(tree, sort_keys=True, indent=1) + "\n").encode()
