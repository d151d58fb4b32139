"""The frozen records of model releases: desired, fetched, tested, refused and active ones."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 - the journal reads some of these records back with pydantic
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pathlib import Path


class Gate(StrEnum):
    """What a release must pass, in this order; a refusal names exactly one."""

    TRUST = "trust"  # signatures, expiry, rollback and the other attacks on the repository
    FETCH = "fetch"  # bytes, time and space of the download
    CONTRACT = "contract"  # manifest, static graph policy, interface of the model
    SELF_TEST = "self_test"  # it crashed, hung or took too much in the limited child process
    GOLDEN = "golden"  # its own golden set: reference scores and labelled parts
    ACCEPTANCE = "acceptance"  # the site's own labelled parts
    LATENCY = "latency"  # against the running model
    MEMORY = "memory"  # likewise
    SHADOW = "shadow"  # agreement with the running model on live frames
    ERRORS = "errors"  # failures on live frames
    DEADLINES = "deadlines"  # verdicts that came too late
    VERDICTS = "verdicts"  # paired test on parts where exactly one model sees a defect
    DRIFT = "drift"  # distribution of the scores against the running model's
    TIME = "time"  # a shadow or a trial that did not end
    OPERATOR = "operator"  # a person said no
    REVOKED = "revoked"  # its publisher took it back


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a release may not stay: everything that a person needs to decide what to do."""

    gate: Gate
    reason: str  # code in snake_case, stable: "golden_scores_differ"
    text: str  # whole sentences: what was seen, what is allowed, what to do
    figures: Mapping[str, float] = field(default_factory=dict)  # what was measured
    limits: Mapping[str, float] = field(default_factory=dict)  # what it was compared with, by the same names


@dataclass(frozen=True, slots=True)
class ReleaseRef:
    """Which release. `digest` is the sha256 of manifest.json as it was signed: it names every byte of the release."""

    name: str
    version: str
    counter: int
    digest: str
    model_sha256: str

    @property
    def release_id(self) -> str:
        """`name/version`, as people and the desired state write it."""
        return f"{self.name}/{self.version}"


def distinct_name(ref: ReleaseRef | None, *others: ReleaseRef | None) -> str | None:
    """Return `name/version`; with the digest where one of `others` has the same name and version and other bytes."""
    if ref is None:
        return None
    alike = any(o is not None and o.release_id == ref.release_id and o.digest != ref.digest for o in others)
    return f"{ref.release_id} (manifest {ref.digest[:8]})" if alike else ref.release_id


@dataclass(frozen=True, slots=True)
class DesiredRelease:
    """What someone wants an inspection to run: a hint without authority; the trust chain decides."""

    release_id: str  # `name/version`
    mode: Literal["release", "ab"] = "release"
    share: float = 0.5  # of the parts that go to the challenger; `ab` only
    source: str = "control"  # who said so: `control`, `shadow`; on Greengrass also `deployment`, `component`


@dataclass(frozen=True, slots=True)
class FetchedRelease:
    """A release that lies on this disk, every byte checked against signed metadata."""

    ref: ReleaseRef
    folder: Path
    signed_utc_s: float  # newest signing time in the accepted metadata; trusted time never goes behind it
    revoked: frozenset[str] = frozenset()  # digests (`ReleaseRef.digest`) that the publisher took back


@dataclass(frozen=True, slots=True)
class RepositoryStatus:
    """What the repository says today, checked like a release: who looks learns what was taken back."""

    signed_utc_s: float  # as in `FetchedRelease`
    revoked: frozenset[str] = frozenset()
    root_expires_utc_s: float | None = None  # of the newest root; None where nothing is signed


@dataclass(frozen=True, slots=True)
class SelfTestLimits:
    """What the examination of a release may take and what it must show; from the policy within the site's limits."""

    wall_s: float = 60.0
    cpu_s: float = 60.0
    memory_bytes: int = 1024**3  # address space of the child
    golden_difference: float = 0.05  # of any score from its reference
    golden_agreement: float = 0.99  # share of golden parts on the reference's side of the threshold
    golden_recall: float = 0.5  # floor, of its labelled defects and good parts; the champion's golden set tests sharper
    acceptance_recall: float = 1.0  # of the site's labelled defects, and of its good parts
    latency_ratio: float = 1.5  # of a single inference to the running model's, both measured side by side
    extra_memory_bytes: int = 256 * 1024**2  # resident, for the second model


@dataclass(frozen=True, slots=True)
class SelfTestResult:
    """What the self-test measured of a release that passed it."""

    figures: Mapping[str, float]
    optimised: Path | None = None  # the graph as this machine's runtime optimised it; made by us, keyed by its maker
    optimised_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """Why the last fetch or self-test came to nothing, though the release is not to blame: it is tried again."""

    reason: str  # code in snake_case, stable
    text: str


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """Where one inspection's lifecycle stands: what reports, shadow, status and `kensa model show` say."""

    inspection: str
    state: str  # of `agent.lifecycle.state.transitions.State`
    since_utc_s: float
    active: ReleaseRef | None  # None: the factory release, or none at all in NO_MODEL
    previous: ReleaseRef | None
    candidate: ReleaseRef | None
    desired: DesiredRelease | None
    share: float = 0.0  # of the parts that the candidate inspects too
    progress: Mapping[str, float] = field(default_factory=dict)  # of the present state: counts and statistics
    refusal: Refusal | None = None  # the last one, and of which release
    refused: ReleaseRef | None = None
    alarm: str | None = None  # a person must look: NO_MODEL, drift of light or camera, too many rollbacks
    counter_floor: int = 0
    last_try: FailedAttempt | None = None  # of what is under way; shown on the device, not reported
