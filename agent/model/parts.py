"""What the steps of a rollout share: the parts they work with, the back-off between tries, and the words of refusal."""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from agent.clock import NS_PER_S
from agent.errors import IntegrityError, RefusedError
from agent.model import policy as policies
from agent.model.ledger import refusal_of
from agent.records import Gate, Refusal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from agent.clock import Clock
    from agent.config import RolloutLimits
    from agent.errors import ReleaseError
    from agent.model.journal import Installed, Record
    from agent.model.ledger import Ledger
    from agent.model.policy import RolloutPolicy
    from agent.model.serving import Serving
    from agent.model.store import Store
    from agent.model.watch import Watch
    from agent.ports import Examiner, ReleaseFetcher
    from agent.records import FailedTry

_RETRY_S: Final = 5.0  # first back-off; doubles up to the longest
_MAX_RETRY_S: Final = 900.0


class BackOff:
    """Jittered and bounded in length, not in number: a line may be offline for a week."""

    def __init__(self, clock: Clock) -> None:
        """Nothing has failed yet."""
        self._clock = clock
        self._random = random.Random()  # noqa: S311 - spreads retries, guards nothing
        self._until_ns = 0
        self.tries = 0

    def failed(self) -> float:
        """Count a failure; return the seconds to wait."""
        self.tries += 1
        longest_s = min(_RETRY_S * 2.0 ** min(self.tries - 1, 16), _MAX_RETRY_S)
        delay_s = longest_s * self._random.uniform(0.5, 1.0)
        self._until_ns = self._clock.monotonic_ns() + round(delay_s * NS_PER_S)
        return delay_s

    def wait_s(self) -> float:
        """How long to wait from now."""
        return max(0.0, (self._until_ns - self._clock.monotonic_ns()) / NS_PER_S)

    def reset(self) -> None:
        """It worked, or someone asked."""
        self._until_ns = self.tries = 0


@dataclass(slots=True)
class Parts:
    """What the steps work with; `stop` ends a fetch or an examination soon, `alarms` are by cause."""

    ledger: Ledger
    store: Store
    serving: Serving
    watch: Watch
    fetcher: ReleaseFetcher
    examiner: Examiner
    acceptance: Path | None
    limits: RolloutLimits
    clock: Clock
    back_off: BackOff
    on_progress: Callable[[], None]
    look_every_s: float  # at the repository, while nothing is under way
    unhealthy: Callable[[], str | None] = lambda: None  # why the line's verdicts prove nothing now
    stop: threading.Event = field(default_factory=threading.Event)
    alarms: dict[str, str] = field(default_factory=dict)
    progress: dict[str, float] = field(default_factory=dict)
    last_try: FailedTry | None = None  # of the fetch or self-test that is under way

    def policy(self, candidate: Installed) -> RolloutPolicy:
        """Return the release's policy within the site's limits. Raises ReleaseError."""
        return policies.within(self.store.manifest(candidate.ref).rollout, self.limits)


def candidate_of(record: Record) -> Installed:
    """Return the candidate of a state that has one."""
    if record.candidate is None:
        raise RuntimeError(f"the state {record.state} without a candidate")
    return record.candidate


def refusal_from(error: ReleaseError) -> Refusal:
    """Say which gate a release failed that could not be read, examined or loaded."""
    if isinstance(error, RefusedError):
        return Refusal(Gate(error.gate), error.reason, str(error), error.figures, error.limits)
    if isinstance(error, IntegrityError):
        return refusal_of(Gate.FETCH, "changed_on_disk", str(error))
    return refusal_of(Gate.CONTRACT, "cannot_be_loaded", str(error))


def revocation(installed: Installed) -> Refusal:
    """Say that a release was taken back."""
    text = f"{installed.ref.release_id} was taken back by its publisher. Publish a new release."
    return refusal_of(Gate.REVOKED, "revoked_by_publisher", text)
