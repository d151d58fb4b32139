"""Monitors one inspection across its workers: unusable images, outcomes, and the alarms that follow.

Promise: an alarm begins with one WARNING in the log, is repeated at most hourly, and ends with one INFO; in between it
is one text for status, heartbeat and metrics, and it pauses a model's rollout. A good image of a camera without faults
costs a dictionary look-up and no lock. All methods may be called from any thread.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from agent.condition_log import ConditionLog
from agent.images import plausibility
from agent.images.plausibility import ImageStatistics
from agent.inspection.outcome_statistics import OutcomeStatistics
from agent.records import ImageFault
from agent.timing.clock import NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from agent.evidence.reject_chart import ModelCounts, RejectRate
    from agent.images.plausibility import ImageLimits
    from agent.records import Judgement, ModelIdentity
    from agent.timing.clock import Clock

_ALARM_AFTER: Final = 3  # unusable images in a row; a frozen source is proven by as many before it is reported
_CLEAR_AFTER: Final = 10  # usable images in a row
_LOG_EVERY_NS: Final = NS_PER_S
_SAMPLES: Final = 8  # first images of a camera under a model, averaged for the comparison with its golden set
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ImageHealth:
    """One camera's images since the agent's start."""

    faults: Mapping[str, int] = field(default_factory=dict)  # ImageFault value -> images
    alarm: str | None = None  # why they are not inspected at the moment
    mismatch: str | None = None  # how they differ from those that the present model was trained on


@dataclass(slots=True)
class _Camera:
    faults: dict[ImageFault, int] = field(default_factory=dict)
    bad: int = 0  # unusable images in a row
    good: int = 0  # usable ones in a row, counted while a fault lasts
    alarm: str | None = None
    lost: int = 0  # images of this alarm
    mismatch: str | None = None
    compared_key: object = None  # which model and region `seen` and `mismatch` belong to
    samples: list[ImageStatistics] = field(default_factory=list)


def _condition_of(camera: str) -> str:
    return f"pictures of camera {camera}"


class InspectionMonitor:
    """Collects image faults and outcomes of one inspection; shared by its workers."""

    def __init__(self, clock: Clock, *, inspection: str, kept: Path | None = None) -> None:
        """Restore the control charts that the last run left in the file `kept`."""
        self._clock = clock
        self._statistics = OutcomeStatistics(kept)
        self._conditions = ConditionLog(_log, clock)
        self._lock = threading.Lock()
        self._verdicts = f"verdicts of {inspection}"
        self._is_alarmed = False  # by the verdicts
        self._next_log_ns = 0  # while it is: limits how often the condition log is asked
        self._cameras: dict[str, _Camera] = {}
        self._cameras_with_faults: set[str] = set()  # cameras whose next good image matters

    # --- images -------------------------------------------------------------------------------------------------------

    def count_unusable(self, camera: str, fault: ImageFault, reason: str) -> None:
        """Count an image that proves nothing."""
        with self._lock:
            state = self._camera(camera)
            state.faults[fault] = state.faults.get(fault, 0) + 1
            state.bad += 1
            state.good = 0
            self._cameras_with_faults.add(camera)
            if state.alarm is not None:
                state.lost += 1
                state.alarm = reason
            elif state.bad < _ALARM_AFTER and fault is not ImageFault.FROZEN:
                return
            else:
                state.alarm, state.lost = reason, state.bad
        self._conditions.report_fault(
            _condition_of(camera), f"they are not inspected, their verdicts are `unknown`: {reason}"
        )

    def count_usable(self, camera: str) -> None:
        """Count an image that can be inspected."""
        if camera not in self._cameras_with_faults:
            return
        with self._lock:
            state = self._camera(camera)
            state.bad = 0
            state.good += 1
            if state.alarm is not None and state.good < _CLEAR_AFTER:
                return
            ended, lost = state.alarm is not None, state.lost
            state.alarm = None
            self._cameras_with_faults.discard(camera)
        if ended:
            self._conditions.clear_fault(_condition_of(camera), f"are inspected again, {lost} were not,")

    def compare_with_golden(
        self, camera: str, key: object, seen: ImageStatistics, limits: ImageLimits, *, squeezed: str | None
    ) -> bool:
        """Compare a camera's first images under a model and a region (`key`) with the model's golden set.

        `squeezed` describes any other difference. False once enough images were compared.
        """
        with self._lock:
            state = self._camera(camera)
            if state.compared_key != key:
                state.compared_key, state.mismatch, state.samples = key, None, []
            if len(state.samples) >= _SAMPLES:
                return False
            state.samples.append(seen)
            if len(state.samples) < _SAMPLES:
                return True
            level = sum(s.level for s in state.samples) / _SAMPLES
            contrast = sum(s.contrast for s in state.samples) / _SAMPLES
            light = plausibility.describe_mismatch(ImageStatistics(level, contrast), limits)
            state.mismatch = "; ".join(text for text in (squeezed, light) if text) or None
            mismatch = state.mismatch
        if mismatch is not None:
            _log.warning("camera %s: its images differ from those that the model was trained on: %s", camera, mismatch)
        return False

    def image_health(self, camera: str) -> ImageHealth:
        """Return what heartbeat, status and metrics report of a camera."""
        with self._lock:
            state = self._camera(camera)
            return ImageHealth(
                {str(fault): count for fault, count in state.faults.items()}, state.alarm, state.mismatch
            )

    def _camera(self, camera: str) -> _Camera:
        return self._cameras.setdefault(camera, _Camera())

    # --- outcomes -----------------------------------------------------------------------------------------------------

    def record_champion(self, key: str, identity: ModelIdentity, inspected: Sequence[tuple[str, Judgement]]) -> None:
        """Count the active model's judgements of a batch; see `OutcomeStatistics.record_champion`."""
        now_ns = self._clock.monotonic_ns()
        with self._lock:
            self._statistics.record_champion(key, identity, inspected, now_ns=now_ns)
            is_alarmed = self._statistics.is_alarmed
            if is_alarmed is self._is_alarmed and (not is_alarmed or now_ns < self._next_log_ns):
                return
            self._is_alarmed, self._next_log_ns = is_alarmed, now_ns + _LOG_EVERY_NS
            alarms = self._statistics.alarms()
        self._log_alarms(alarms)

    def record_challenger(self, identity: ModelIdentity, judgements: Sequence[Judgement]) -> None:
        """Count a challenger's judgements; see `OutcomeStatistics.record_challenger`."""
        with self._lock:
            self._statistics.record_challenger(identity, judgements)

    def reset_baseline(self) -> None:
        """Learn the baseline reject rate anew: a person has checked the line."""
        with self._lock:
            self._statistics.reset_baseline()
            self._is_alarmed = self._statistics.is_alarmed
            alarms = self._statistics.alarms()
        self._log_alarms(alarms)

    def model_counts(self) -> tuple[ModelCounts, ...]:
        """Return the counts of the last models, by outcome and class."""
        with self._lock:
            return self._statistics.model_counts()

    def reject_rate(self) -> RejectRate | None:
        """Return the active model's reject rate; None before its first part."""
        with self._lock:
            return self._statistics.reject_rate()

    def save(self, *, now: bool = False) -> None:
        """Save the learned rates to disk every ten minutes, or `now`; not for a worker's thread."""
        with self._lock:
            data = self._statistics.due_copy(self._clock.monotonic_ns(), now=now)
        if data is not None:
            self._statistics.write(data)

    def _log_alarms(self, alarms: list[str]) -> None:
        if alarms:
            self._conditions.report_fault(self._verdicts, "; ".join(alarms))
        else:
            self._conditions.clear_fault(self._verdicts, "are normal again")

    # --- alarms -------------------------------------------------------------------------------------------------------

    def alarm(self) -> str | None:
        """Return why this inspection is not healthy, one sentence for each cause; None while it is."""
        with self._lock:
            texts = [f"camera {name}: {c.alarm}" for name, c in sorted(self._cameras.items()) if c.alarm is not None]
            texts += self._statistics.alarms()
        return "; ".join(texts) or None
