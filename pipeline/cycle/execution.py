"""One execution as its steps see it: what started it, what the steps before have found, and where things are kept.

{"execution": ARN, "state": {"trigger", ... "inspection", STEP: {"answer": what it returned} ...}}
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
    """See the module."""

    arn: str
    request: CycleRequest
    state: Mapping[str, Any]
    settings: CycleSettings

    @property
    def name(self) -> str:
        """Of the execution, safe in a key."""
        return safe_key_part(self.arn.rpartition(":")[2])

    @property
    def prefix(self) -> str:
        """Where in `data` it keeps what it found."""
        return f"cycle/v1/executions/{self.name}"

    @property
    def record_key(self) -> str:
        """Where in `data` it says what came of it."""
        return f"{self.prefix}/record.json"

    @property
    def approval_key(self) -> str:
        """Where in `data` its question waits."""
        return f"cycle/v1/approvals/{self.name}.json"

    @property
    def open_rollout_key(self) -> str:
        """Where in `data` its rollout is noted while it is half way."""
        return f"cycle/v1/open/{self.name}.json"

    @property
    def data(self) -> Storage:
        """Where the cycle's objects are."""
        return aws_clients.storage(self.settings.data)

    def uri(self, *parts: str) -> str:
        """The address of something in `data`."""
        return "/".join((self.settings.data.rstrip("/"), *parts))

    def step_result(self, name: str) -> dict[str, Any]:
        """What a step before has returned; empty where it did not run."""
        found: dict[str, Any] = (self.state.get(name) or {}).get("answer") or {}
        return found


def read_event(event: Mapping[str, Any], settings: CycleSettings | None = None) -> Execution:
    """Read what the state machine hands to every function. Raises UsageError, CycleConfigError."""
    state = event["state"]
    try:
        request = CycleRequest.model_validate(state)
    except ValidationError as error:
        lines = [f"  {'.'.join(str(p) for p in e['loc'])}: {e['msg']}" for e in error.errors(include_url=False)]
        raise UsageError("the execution's input is refused:\n" + "\n".join(lines)) from error
    return Execution(str(event["execution"]), request, state, settings or CycleSettings.read())


def safe_key_part(text: str) -> str:
    """`text` as one part of a key."""
    return _UNSAFE.sub("-", text)[:128] or "-"


def to_json_bytes(tree: Any) -> bytes:
    """JSON with sorted keys."""
    return (json.dumps(tree, sort_keys=True, indent=1) + "\n").encode()
