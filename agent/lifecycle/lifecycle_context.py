"""What the steps of a rollout share: the parts they work with, the back-off between tries, and the words of refusal."""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from agent.errors import IntegrityError, ReleaseRefusedError
from agent.lifecycle.state.record_store import make_refusal
from agent.release import rollout_policy as policies
from agent.release_records import Gate, Refusal
from agent.timing.backoff import Backoff, FailureCounter
from agent.timing.clock import NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from agent.config import RolloutLimits
    from agent.errors import ReleaseError
    from agent.lifecycle.active_release import ActiveRelease
    from agent.lifecycle.state.journal import LifecycleRecord
    from agent.lifecycle.state.record_store import RecordStore
    from agent.lifecycle.trial_runner import TrialRunner
    from agent.ports import ReleaseFetcher, SelfTester
    from agent.release.installed_release import InstalledRelease
    from agent.release.release_store import ReleaseStore
    from agent.release.rollout_policy import RolloutPolicy
    from agent.release_records import FailedAttempt
    from agent.timing.clock import Clock

_BACKOFF: Final = Backoff(first_s=5.0, longest_s=900.0)


class RetryBackoff:
    """The delay before a rollout step is tried again; unlimited in number: a line may be offline for a week."""

    def __init__(self, clock: Clock) -> None:
        """Nothing has failed yet."""
        self._clock = clock
        self._counter = FailureCounter(_BACKOFF, random.Random())  # noqa: S311 - spreads retries, guards nothing
        self._until_ns = 0

    @property
    def tries(self) -> int:
        """Failures in a row."""
        return self._counter.failures

    def failed(self) -> float:
        """Count a failure; return the seconds to wait."""
        delay_s = self._counter.next_delay_s()
        self._until_ns = self._clock.monotonic_ns() + round(delay_s * NS_PER_S)
        return delay_s

    def wait_s(self) -> float:
        """Return the seconds to wait from now."""
        return max(0.0, (self._until_ns - self._clock.monotonic_ns()) / NS_PER_S)

    def reset(self) -> None:
        """The step succeeded, or somebody asked for an attempt now."""
        self._until_ns = 0
        self._counter.reset()


@dataclass(slots=True)
class LifecycleContext:
    """What the steps work with; `stop` ends a fetch or an examination soon, `alarms` are by cause."""

    record_store: RecordStore
    store: ReleaseStore
    active_release: ActiveRelease
    trial_runner: TrialRunner
    fetcher: ReleaseFetcher
    self_tester: SelfTester
    acceptance_dir: Path | None
    limits: RolloutLimits
    clock: Clock
    backoff: RetryBackoff
    on_progress: Callable[[], None]
    revocation_poll_s: float  # at the repository, while nothing is under way
    line_fault: Callable[[], str | None] = lambda: None  # why the line's verdicts prove nothing now
    stop: threading.Event = field(default_factory=threading.Event)
    alarms: dict[str, str] = field(default_factory=dict)
    progress: dict[str, float] = field(default_factory=dict)
    last_failed_attempt: FailedAttempt | None = None  # of the fetch or self-test that is under way

    def policy(self, candidate: InstalledRelease) -> RolloutPolicy:
        """Return the release's policy within the site's limits. Raises ReleaseError."""
        return policies.apply_site_limits(self.store.manifest(candidate.ref).rollout, self.limits)


def candidate_of(record: LifecycleRecord) -> InstalledRelease:
    """Return the candidate of a state that has one."""
    if record.candidate is None:
        raise RuntimeError(f"the state {record.state} without a candidate")
    return record.candidate


def refusal_from(error: ReleaseError) -> Refusal:
    """Say which gate a release failed that could not be read, examined or loaded."""
    if isinstance(error, ReleaseRefusedError):
        return Refusal(Gate(error.gate), error.reason, str(error), error.figures, error.limits)
    if isinstance(error, IntegrityError):
        return make_refusal(Gate.FETCH, "changed_on_disk", str(error))
    return make_refusal(Gate.CONTRACT, "cannot_be_loaded", str(error))


def revocation_refusal(installed: InstalledRelease) -> Refusal:
    """Say that a release was taken back."""
    text = f"{installed.ref.release_id} was taken back by its publisher. Publish a new release."
    return make_refusal(Gate.REVOKED, "revoked_by_publisher", text)
