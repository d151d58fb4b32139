"""Messages between the agent and the self-test child, in JSON; both sides parse them here.

The answer comes from a process that has loaded hostile bytes: `parse_answer` trusts nothing beyond its shape.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, StringConstraints, TypeAdapter

from agent.release_records import Gate, SelfTestLimits
from agent.strict import Strict

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.records import Box

MAX_ANSWER_BYTES = 64 * 1024

_Code = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]{1,64}$")]
_Figures = Annotated[
    dict[_Code, Annotated[float, Field(allow_inf_nan=False)]],
    Field(max_length=64),
]
_Text = Annotated[str, StringConstraints(max_length=4_000)]


@dataclass(frozen=True, slots=True)
class SelfTestRequest:
    """One self-test; the site's settings override the release's, as on the line."""

    candidate: Path
    champion: Path | None
    acceptance: Path | None
    limits: SelfTestLimits
    parent: int  # process id: the child ends with it
    scratch: Path  # the one folder that it writes to
    roi: Box | None = None
    thresholds: Mapping[str, float] = field(default_factory=dict)
    unsure_band: float | None = None
    max_batch: int = 8

    def to_json(self) -> bytes:
        """Return one JSON object."""
        tree = asdict(self)
        for key in ("candidate", "champion", "acceptance", "scratch"):
            tree[key] = None if tree[key] is None else str(tree[key])
        return json.dumps(tree).encode()

    @classmethod
    def from_json(cls, data: bytes) -> SelfTestRequest:
        """Parse it, in the child; the bytes come from the agent itself."""
        tree: dict[str, Any] = json.loads(data)
        for key in ("candidate", "champion", "acceptance", "scratch"):
            tree[key] = None if tree[key] is None else Path(tree[key])
        tree["limits"] = SelfTestLimits(**tree["limits"])
        tree["roi"] = None if tree["roi"] is None else tuple(tree["roi"])
        return cls(**tree)


class SelfTestStage(Strict):
    """A stage begins; the last one shows where the child died."""

    kind: Literal["stage"] = "stage"
    stage: Literal["start", "champion", "load", "golden", "acceptance", "latency", "optimise"]


class SelfTestPassed(Strict):
    """Every gate was passed."""

    kind: Literal["passed"] = "passed"
    figures: _Figures
    optimised: Annotated[str, StringConstraints(pattern=r"^optimised-[0-9a-f]{32}\.onnx$")] | None = None
    optimised_sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None


class SelfTestRefused(Strict):
    """A gate refuses the release: `errors.ReleaseRefusedError`."""

    kind: Literal["refused"] = "refused"
    gate: Gate
    reason: _Code
    text: _Text
    figures: _Figures
    limits: _Figures


class SelfTestInconclusive(Strict):
    """This machine or its other files prevented the self-test, not the release: `errors.FetchError`."""

    kind: Literal["inconclusive"] = "inconclusive"
    reason: _Code
    text: _Text


SelfTestAnswer = Annotated[
    SelfTestStage | SelfTestPassed | SelfTestRefused | SelfTestInconclusive, Field(discriminator="kind")
]
_adapter: TypeAdapter[SelfTestStage | SelfTestPassed | SelfTestRefused | SelfTestInconclusive] = TypeAdapter(
    SelfTestAnswer
)


def parse_answer(line: bytes) -> SelfTestStage | SelfTestPassed | SelfTestRefused | SelfTestInconclusive:
    """Parse one line of the child's output. Raises ValueError."""
    return _adapter.validate_json(line)
