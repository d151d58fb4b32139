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
from pipeline.selection.training_plan import Strict

Outcomes = Literal["defects", "good", "all"]


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


class SliceVerdict(StrEnum):
    """What a slice's parts say of a candidate."""

    BETTER = "better"  # the interval lies above 0
    NOT_WORSE = "not worse"  # it lies above -margin
    WORSE = "worse"  # it lies below 0
    UNPROVEN = "not shown to be as good"  # it reaches below -margin
    TOO_FEW = "too few to tell"


class SliceResult(Strict):
    """Candidate against champion on the parts of one slice: outcomes, pair by pair."""

    slice: str  # such as "all", "class scratch", "line 2"
    of: Outcomes  # which of its parts: the defective ones (right: found) or the good ones (right: passed)
    parts: int  # groups of pictures that can be told apart; pictures of one part count once
    pictures: int
    candidate: float  # share judged right
    champion: float
    gained: int  # pictures that only the candidate judges right
    lost: int  # pictures that only the champion judges right
    difference: float  # candidate - champion
    low: float  # interval of the difference, see `pipeline.selection.comparison.paired_interval`
    high: float
    margin: float  # how much worse it may be
    p_value: float  # exact McNemar test, two-sided, for the reader: it decides nothing
    verdict: SliceVerdict
    passed: bool


class MetricComparison(Strict):
    """A figure of merit of both models on all parts, with the paired bootstrap interval of the difference."""

    name: str
    candidate: float | None
    champion: float | None
    difference: float | None = None
    low: float | None = None
    high: float | None = None


class ReleaseComparison(Strict):
    """Candidate against champion on one data set's split."""

    data: str  # the data set's name
    dataset_digest: Sha256
    split: str
    champion: str  # name and version
    champion_sha256: Sha256
    candidates: int  # how many were compared: the level of the intervals is corrected for that
    level: float  # one-sided confidence of each interval
    slices: tuple[SliceResult, ...]
    figures: tuple[MetricComparison, ...]


class CandidateAssessment(Strict):
    """One candidate: its figures, comparisons, and whether it may be proposed."""

    release: str  # folder, relative to the search's where it lies there
    name: Name
    version: SemVer
    model_sha256: Sha256
    seed: int
    objective: float  # on the validation split; larger is better
    proposable: bool
    reasons: tuple[str, ...]  # sentences: why not, or why
    comparisons: tuple[ReleaseComparison, ...] = ()
    figures: dict[str, Any] = Field(default_factory=dict)  # as `kensa evaluate --json`; of the one shown
    lineage: Lineage | None = None  # enough to make it again, also where it is refused; None in results of old


class CandidateChoice(Strict):
    """All candidates, and the one that is proposed."""

    schema_version: Literal[1] = 1
    objective: str
    champion: str | None  # name and version
    champion_sha256: Sha256 | None
    champion_objective: float | None
    dataset_digest: Sha256
    chosen: int | None  # index in `assessments`
    reasons: tuple[str, ...]  # sentences on the choice as a whole
    assessments: tuple[CandidateAssessment, ...]
    policy: dict[str, Any]

    @property
    def proposed(self) -> CandidateAssessment | None:
        """The chosen candidate's assessment."""
        return None if self.chosen is None else self.assessments[self.chosen]


class CandidateDecision(Strict):
    """Whether the choice proposed the candidate."""

    outcome: Literal["proposed", "refused"]
    reasons: tuple[str, ...]


class ReleaseArtifact(Strict):
    """One file of the candidate's release folder."""

    sha256: Sha256
    length_bytes: int = Field(ge=0)


class CandidateRecord(Strict):
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


class StatusChange(Strict):
    """One line of a candidate's history."""

    status: CandidateStatus
    by: str = Field(min_length=1, max_length=256)  # who: a person, or the cycle's execution
    why: str = Field(min_length=1, max_length=1024)
    at_utc: str


class RegistryEntry(Strict):
    """A record with its history."""

    record: CandidateRecord
    history: tuple[StatusChange, ...]

    @property
    def status(self) -> CandidateStatus:
        """What it is now."""
        return self.history[-1].status
