"""Small objects that own the state which the steps of a rollout share.

Nobody else writes their attributes. The lifecycle's thread changes them; `Alarms.texts`, `RolloutProgress` and
`SiteLimits` may be read from any thread.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

from agent.release_records import FailedAttempt
from agent.timing.backoff import Backoff, FailureCounter
from agent.timing.clock import NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from agent.config import RolloutLimits
    from agent.lifecycle.state.journal import LifecycleRecord
    from agent.release.release_store import ReleaseStore
    from agent.timing.clock import Clock

_BACKOFF: Final = Backoff(first_s=5.0, longest_s=900.0)


class RetryBackoff:
    """The delay before a rollout step is tried again; unlimited in number: a line may be offline for a week."""

    def __init__(self, clock: Clock) -> None:
        """Start without a failure."""
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


class Alarms:
    """What a person must attend to: at most one text per cause."""

    def __init__(self) -> None:
        """Start without an alarm."""
        self._texts: dict[str, str] = {}

    def raise_alarm(self, cause: str, text: str) -> None:
        """Set the text of `cause`, replacing an earlier one."""
        self._texts[cause] = text

    def clear(self, *causes: str) -> bool:
        """End these alarms; return whether any of them was raised."""
        raised = [cause for cause in causes if self._texts.pop(cause, None) is not None]
        return bool(raised)

    def text(self, cause: str) -> str | None:
        """Return the text of an alarm that is raised, or None."""
        return self._texts.get(cause)

    def texts(self) -> list[str]:
        """Return all texts, ordered by cause; from any thread."""
        return [text for _, text in sorted(self._texts.copy().items())]


class RolloutProgress:
    """Figures of the present state, and the last failed attempt of the fetch or self-test that is under way."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        """Start empty; `on_change` is called while a fetch reports its bytes."""
        self._on_change = on_change
        self._figures: Mapping[str, float] = {}
        self._last_failed_attempt: FailedAttempt | None = None

    @property
    def figures(self) -> dict[str, float]:
        """A copy of the figures; from any thread."""
        return dict(self._figures)

    @property
    def last_failed_attempt(self) -> FailedAttempt | None:
        """None once an attempt has succeeded, or the rollout has ended; from any thread."""
        return self._last_failed_attempt

    def set_figures(self, figures: Mapping[str, float]) -> None:
        """Replace the figures."""
        self._figures = dict(figures)

    def set_bytes(self, done: int, total: int) -> None:
        """Report the bytes of a fetch at once."""
        self._figures = {"bytes": float(done), "bytes_total": float(total)}
        self._on_change()

    def add_failure(self, reason: str, text: str, *, tries: int) -> None:
        """Remember why the attempt failed, and add the number of tries to the figures."""
        self._last_failed_attempt = FailedAttempt(reason, text)
        self._figures = {**self._figures, "tries": float(tries)}

    def clear_failure(self) -> None:
        """The attempt succeeded."""
        self._last_failed_attempt = None

    def clear(self) -> None:
        """Nothing is under way any more."""
        self._figures = {}
        self._last_failed_attempt = None


class SiteLimits:
    """The limits of the site's configuration, which may be replaced while the agent runs."""

    def __init__(self, limits: RolloutLimits) -> None:
        """Start with `limits`."""
        self._limits = limits

    @property
    def current(self) -> RolloutLimits:
        """The limits now; from any thread."""
        return self._limits

    def replace(self, limits: RolloutLimits) -> None:
        """Set other limits, from any thread: one reference store."""
        self._limits = limits


class StoreSweeper:
    """Removes releases and staged files that no record names, once after every rollout."""

    def __init__(self, store: ReleaseStore) -> None:
        """The first sweep is due after the start."""
        self._store = store
        self._is_due = True

    @property
    def is_due(self) -> bool:
        """Whether a rollout ended since the last sweep."""
        return self._is_due

    def request(self) -> None:
        """Make a sweep due."""
        self._is_due = True

    def sweep(self, record: LifecycleRecord) -> None:
        """Keep active, previous and candidate, and the staged files of the desired release; remove the rest."""
        keep = {i.ref.digest for i in (record.active, record.previous, record.candidate) if i is not None}
        staging = record.desired.release_id if record.wanted and record.desired is not None else None
        self._store.sweep(keep=keep, staging=staging)
        self._is_due = False
