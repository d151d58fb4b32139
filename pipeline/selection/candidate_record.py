"""Records of candidates in a registry, as JSON: content, decision, status and history.

A `CandidateRecord` is written once and never changed. Later events are its history, a list of `StatusChange`s that only
grows; the status of the last one is the candidate's. `STATUS_TRANSITIONS` is the table of allowed changes.
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
    CandidateStatus.REJECTED: frozenset({CandidateStatus.APPROVED}),  # a person may reconsider
    CandidateStatus.RELEASED: frozenset({CandidateStatus.ROLLED_BACK}),
    CandidateStatus.ROLLED_BACK: frozenset({CandidateStatus.APPROVED}),  # and release it again, once the cause is known
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
    """A candidate in a registry, with what made it and how it compared; see the module."""

    schema_version: Literal[1] = 1
    name: Name
    version: SemVer
    model_sha256: Sha256
    dataset_digest: Sha256  # of the training data: the lineage's
    dataset_uri: str | None = None  # where that data set version is stored
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
    trigger: str | None = None  # what started the cycle that trained it

    @property
    def release_id(self) -> str:
        """`name/version`."""
        return f"{self.name}/{self.version}"


class StatusChange(StrictJson):
    """One line of a candidate's history."""

    status: CandidateStatus
    by: str = Field(min_length=1, max_length=256)  # a person, or the execution of the cycle
    why: str = Field(min_length=1, max_length=1024)
    at_utc: str


class RegistryEntry(StrictJson):
    """A record with its history."""

    record: CandidateRecord
    history: tuple[StatusChange, ...]

    @property
    def status(self) -> CandidateStatus:
        """The current status."""
        return self.history[-1].status
