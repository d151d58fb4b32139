"""What is known of a candidate, as JSON: how it did against the champion, whether it is proposed, and its status.

A `Choice` is the result of a comparison, with every candidate's assessment. A `Record` is one candidate in a registry:
written once, never changed. What happens to it later is its history, a list of `Change`s that only grows; its status is
the last one's. `ALLOWED` is the table of changes.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final, Literal

from pydantic import Field

from agent.release.manifest import Lineage, Name, SemVer, Sha256  # noqa: TC001 - pydantic reads the annotations
from pipeline.comparison.comparison_result import ReleaseComparison, SliceResult  # noqa: TC001 - pydantic reads the annotations
from pipeline.strict_json import StrictJson


class CandidateStatus(StrEnum):
    """Of a candidate in a registry."""

    PENDING = "Pending"
    APPROVED = "Approved"
    REJECTED = "Rejected"
    RELEASED = "Released"
    ROLLED_BACK = "RolledBack"


STATUS_TRANSITIONS: Final[dict[CandidateStatus, frozenset[CandidateStatus]]] = {
    CandidateStatus.PENDING: frozenset({CandidateStatus.APPROVED, CandidateStatus.REJECTED}),
    CandidateStatus.APPROVED: frozenset({CandidateStatus.RELEASED, CandidateStatus.REJECTED}),
    CandidateStatus.REJECTED: frozenset({CandidateStatus.APPROVED}),  # a person may think again
    CandidateStatus.RELEASED: frozenset({CandidateStatus.ROLLED_BACK}),
    CandidateStatus.ROLLED_BACK: frozenset({CandidateStatus.APPROVED}),  # and try it again, once the cause is known
}


class CandidateDecision(StrictJson):
    """Whether the choice proposed the candidate."""

    outcome: Literal["proposed", "refused"]
    reasons: tuple[str, ...]


class ReleaseArtifact(StrictJson):
    """One file of the candidate's release folder."""

    sha256: Sha256
    length_bytes: int = Field(ge=0)


class CandidateRecord(StrictJson):
    """A candidate in a registry; see the module."""

    schema_version: Literal[1] = 1
    name: Name
    version: SemVer
    model_sha256: Sha256
    dataset_digest: Sha256  # of what it was trained on: the lineage's
    dataset_uri: str | None = None  # where that data set version lies
    parameters: dict[str, Any]
    seed: int
    metrics: dict[str, Any]  # the manifest's
    slices: tuple[SliceResult, ...]
    comparison: tuple[ReleaseComparison, ...]
    decision: CandidateDecision
    lineage: Lineage
    artifacts: dict[str, ReleaseArtifact]  # the release folder's files
    artifacts_uri: str = ""  # of the folder that holds them; the registry sets it
    created_utc: str
    trigger: str | None = None  # what started the cycle that made it

    @property
    def release_id(self) -> str:
        """`name/version`."""
        return f"{self.name}/{self.version}"


class StatusChange(StrictJson):
    """One line of a candidate's history."""

    status: CandidateStatus
    by: str = Field(min_length=1, max_length=256)  # who: a person, or the cycle's execution
    why: str = Field(min_length=1, max_length=1024)
    at_utc: str


class RegistryEntry(StrictJson):
    """A record with its history."""

    record: CandidateRecord
    history: tuple[StatusChange, ...]

    @property
    def status(self) -> CandidateStatus:
        """What it is now."""
        return self.history[-1].status
