"""The updates of the model while the line runs: begun in their order, and followed to their ends.

An update has ended when the deployment has (where there is one) and the agent serves the release, or refuses it.
`UpdateSchedule.advance` is called from one thread and waits for nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from simulator.demos.greengrass.component_status import ComponentStatus
    from simulator.demos.greengrass.release_catalogue import OfferedRelease
    from simulator.nucleus.deployments.deployment import DeploymentResult

TIMEOUT_S: Final = 240.0  # of one update
_FIRST_AT: Final = 0.05  # of the planned time
_LAST_AT: Final = 0.80
_PAUSE_S: Final = 1.0  # between two


@dataclass(slots=True)
class ModelUpdate:
    """One of them, as far as it is."""

    offer: OfferedRelease
    release_id: str
    began_s: float  # since the line started
    deployment: Future[DeploymentResult] | None  # None: no deployment belongs to it
    ended_s: float | None = None
    outcome: str | None = None  # "serving", "refused", or what else became of it
    reason: str = ""  # of a refusal

    @property
    def seconds(self) -> float | None:
        """From the wish to the end."""
        return None if self.ended_s is None else self.ended_s - self.began_s

    @property
    def is_as_expected(self) -> bool:
        """Whether it ended as it had to."""
        return self.outcome == self.offer.expected


class UpdateSchedule:
    """All of a run."""

    def __init__(
        self,
        *,
        offers: tuple[OfferedRelease, ...],
        id_of: Callable[[OfferedRelease], str],
        begin: Callable[[OfferedRelease], Future[DeploymentResult] | None],
        seconds: float,
    ) -> None:
        """`begin` starts an update and returns its deployment, if there is one; `seconds` is the planned time."""
        self._offers = offers
        self._id_of = id_of
        self._begin = begin
        self._seconds = seconds
        self._is_cancelled = False
        self.started: list[ModelUpdate] = []

    @property
    def current(self) -> ModelUpdate | None:
        """What is under way."""
        last = self.started[-1] if self.started else None
        return last if last is not None and last.ended_s is None else None

    @property
    def waiting(self) -> tuple[tuple[OfferedRelease, float], ...]:
        """What is still to come, each with the second in which it is due at the earliest."""
        begun = len(self.started)
        return tuple((offer, self._planned_s(begun + i)) for i, offer in enumerate(self._offers[begun:]))

    @property
    def is_finished(self) -> bool:
        """Whether nothing is under way, and nothing will be."""
        return self.current is None and (self._is_cancelled or not self.waiting)

    def cancel(self) -> None:
        """Begin no more."""
        self._is_cancelled = True

    def advance(self, elapsed_s: float, reading: ComponentStatus | None) -> None:
        """Follow the update that is under way, or begin the next one when it is due."""
        current = self.current
        if current is not None:
            _update_outcome(current, elapsed_s, reading)
        elif self.waiting and not self._is_cancelled and elapsed_s >= self._due_s():
            offer, _ = self.waiting[0]
            self.started.append(ModelUpdate(offer, self._id_of(offer), elapsed_s, self._begin(offer)))

    def _planned_s(self, number: int) -> float:
        spread = (_LAST_AT - _FIRST_AT) / max(1, len(self._offers) - 1)
        return self._seconds * (_FIRST_AT + number * spread)

    def _due_s(self) -> float:
        due_s = self._planned_s(len(self.started))
        before = self.started[-1].ended_s if self.started else None
        return due_s if before is None else max(due_s, before + _PAUSE_S)


def _update_outcome(update: ModelUpdate, elapsed_s: float, reading: ComponentStatus | None) -> None:
    """Write down the end where it is one."""
    if elapsed_s - update.began_s > TIMEOUT_S:
        update.outcome, update.ended_s = f"not done within {TIMEOUT_S:g} s", elapsed_s
        return
    if update.deployment is not None and not update.deployment.done():
        return
    outcome = None if update.deployment is None else update.deployment.result()
    if reading is not None and reading.refused == update.release_id:
        update.outcome, update.reason = "refused", reading.refusal or ""
    elif outcome is not None and not outcome.succeeded:
        refused = outcome.status == "FAILED_NO_STATE_CHANGE"
        update.outcome, update.reason = ("refused" if refused else outcome.status), outcome.reason
    elif reading is not None and reading.active == update.release_id and reading.is_settled:
        update.outcome = "serving"
    if update.outcome is not None:
        update.ended_s = elapsed_s
