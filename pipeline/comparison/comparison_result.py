"""Results of comparisons as JSON records: slices, releases, candidates, and the final choice.

A `CandidateChoice` holds every candidate's assessment, those of the refused candidates too.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

from pydantic import Field

from agent.release.manifest import Lineage, Name, SemVer, Sha256  # noqa: TC001 - pydantic reads the annotations
from pipeline.strict_json import StrictJson

Outcomes = Literal["defects", "good", "all"]


class SliceVerdict(StrEnum):
    """The result of the test of a candidate on a slice."""

    BETTER = "better"  # the interval lies above 0
    NOT_WORSE = "not worse"  # it lies above -margin
    WORSE = "worse"  # it lies below 0
    UNPROVEN = "not shown to be as good"  # it reaches below -margin
    TOO_FEW = "too few to tell"


class SliceResult(StrictJson):
    """Candidate against champion on the parts of one slice: outcomes, pair by pair."""

    slice: str  # such as "all", "class scratch", "line 2"
    of: Outcomes  # which of its parts: the defective ones (right: found) or the good ones (right: passed)
    parts: int  # effective number of parts: images of one group count less than independent ones
    pictures: int
    candidate: float  # share classified correctly
    champion: float
    gained: int  # images that only the candidate classifies correctly
    lost: int  # images that only the champion classifies correctly
    difference: float  # candidate - champion
    low: float  # interval of the difference, see `pipeline.comparison.paired_interval`
    high: float
    margin: float  # how much worse it may be
    p_value: float  # exact McNemar test, two-sided, for information only: it decides nothing
    verdict: SliceVerdict
    passed: bool


class MetricComparison(StrictJson):
    """A metric of both models on all parts, with the paired bootstrap interval of the difference."""

    name: str
    candidate: float | None
    champion: float | None
    difference: float | None = None
    low: float | None = None
    high: float | None = None


class ReleaseComparison(StrictJson):
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


class CandidateAssessment(StrictJson):
    """One candidate: its metrics, comparisons, and whether it may be proposed."""

    release: str  # folder, relative to the search's where it is below it
    name: Name
    version: SemVer
    model_sha256: Sha256
    seed: int
    objective: float  # on the validation split; larger is better
    proposable: bool
    reasons: tuple[str, ...]  # sentences: why not, or why
    comparisons: tuple[ReleaseComparison, ...] = ()
    figures: dict[str, Any] = Field(default_factory=dict)  # as `kensa evaluate --json`; of the one on the card
    lineage: Lineage | None = None  # enough to reproduce it, even when it is refused; None in older results


class CandidateChoice(StrictJson):
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
