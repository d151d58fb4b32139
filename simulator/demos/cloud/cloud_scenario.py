"""The scenario: the light fades, drift is noticed, frames are labelled, the cycle delivers a model.

At the end wrong labels arrive, which must be refused.

Runs on a thread of its own and reports `ScenarioEvent`s. Every wait has a limit; when one expires, the scenario ends
with a sentence that names what did not happen.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from agent.errors import KensaError, OperatorError
from simulator.demos.cloud import labelling
from simulator.demos.cloud.scenario_steps import StepTimer
from simulator.demos.cloud.time_compression import DRIFT_PSI

if TYPE_CHECKING:
    from collections.abc import Callable

    from simulator.demos.cloud.accuracy import Accuracy, AccuracyShare
    from simulator.demos.cloud.cloud_account import CloudAccount, ExecutionStep
    from simulator.demos.cloud.device import Device
    from simulator.demos.cloud.time_compression import CompressedLake

EventKind = Literal["light", "data", "cycle", "good", "bad"]

STEADY_S: Final = 32.0  # of a line that keeps its pace
FADE_S: Final = 30.0
SETTLED_S: Final = 40.0  # with the faded lamp before people begin to label
MIN_LABELLED: Final = 300  # frames, at least
INVERTED_LABELS_JOB: Final = "hurried"  # the labelling job that says the opposite
AFTER_S: Final = 30.0  # of the line with the new model
MIN_POISONED: Final = 60  # frames of the wrong batch, at least
_POLL_S: Final = 0.5
_LAKE_POLL_S: Final = 5.0  # between two questions to the lake
_TIMEOUT_S: Final = 150.0
_CYCLE_TIMEOUT_S: Final = 900.0
_EVENT_STATES: Final[dict[str, tuple[str, EventKind]]] = {  # states of the machine that make an event
    "BuildDataset": ("a data set is built", "cycle"),
    "Train": ("two trainings begin", "cycle"),
    "Choose": ("compared with the champion", "cycle"),
    "Release": ("approved, signed", "cycle"),
    "DeployCanary": ("deployed to the canary", "cycle"),
    "Promote": ("deployed to the fleet", "cycle"),
    "RollBack": ("rolled back", "bad"),
}


@dataclass(frozen=True, slots=True)
class ScenarioEvent:
    """Something happened."""

    at_s: float
    text: str
    kind: EventKind


@dataclass(slots=True)
class ScenarioOutcome:
    """What came of it; None where the story did not get there."""

    before: AccuracyShare | None = None
    fading_s: tuple[float, float] | None = None  # when the lamp began to fade, and when it had faded, on every line
    drifted: AccuracyShare | None = None
    after: AccuracyShare | None = None
    psi: float | None = None
    drift_noticed_s: float | None = None
    labels: int = 0
    poisoned_labels: int = 0
    cycle: dict[str, Any] = field(default_factory=dict)  # the first execution's record
    poisoned: dict[str, Any] = field(default_factory=dict)  # the second one's
    statuses: list[str] = field(default_factory=list)
    recovery_s: float | None = None  # from the alarm to the last device's commit
    models_untouched: bool = False  # by the poisoned batch


class CloudScenario:
    """See the module."""

    def __init__(
        self,
        *,
        account: CloudAccount,
        lake: CompressedLake,
        devices: list[Device],
        accuracy: Accuracy,
        light: tuple[int, int],
        began_s: float,
    ) -> None:
        """Nothing has happened yet.

        Args:
            account: The simulated account.
            lake: The plant's data lake.
            devices: Of the plant.
            accuracy: Of the verdicts at the subscriber.
            light: Part at which each lamp begins to fade, and parts that the fading takes.
            began_s: Second 0, monotonic.

        """
        self.events: list[ScenarioEvent] = []
        self.outcome = ScenarioOutcome()
        self.problem: str | None = None
        self.steps: list[ExecutionStep] = []  # of the newest execution
        self.timer = StepTimer()
        self._detail = ""  # of the step under way
        self._account, self._lake, self._devices, self._accuracy = account, lake, devices, accuracy
        self._light = light
        self._began_s = began_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="scenario", daemon=True)
        self._polled_s = 0.0

    @property
    def elapsed_s(self) -> float:
        """Of the story."""
        return time.monotonic() - self._began_s

    @property
    def note(self) -> str:
        """The step under way, its time, and what it is doing."""
        return self.timer.progress_text(self.elapsed_s) + (f"; {self._detail}" if self._detail else "")

    def _begin_step(self, name: str) -> None:
        self._detail = ""
        self.timer.begin(name, self.elapsed_s)

    @property
    def is_over(self) -> bool:
        """Whether it has ended, well or not."""
        return not self._thread.is_alive()

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End early."""
        self._stop.set()
        self._thread.join(_TIMEOUT_S)

    # --- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        """Thread `story`."""
        try:
            self._fade_lamp()
            self._label_frames()
            self._run_cycle()
            self._inject_bad_labels()
            self.timer.end(self.elapsed_s)
        except _StoppedError:
            self.problem = "ended early"
        except KensaError as error:
            self.problem = str(error)
            self._add_event(str(error), "bad")

    def _fade_lamp(self) -> None:
        after, parts = self._light
        self._begin_step("good light")
        self._wait_until(lambda: max(self._shown) >= after, "the lines stand still")
        begins_s = self.elapsed_s
        self.outcome.before = self._accuracy.between(0.0, begins_s)
        self._add_event("the lamp begins to fade", "light")
        self._begin_step("fading lamp")
        self._wait_until(self._has_drifted, "drift of the scores was not noticed")
        self.outcome.drift_noticed_s = self.elapsed_s
        self._add_event(f"drift noticed, PSI {self.outcome.psi:.2f}", "data")
        self._wait_until(lambda: min(self._shown) >= after + parts, "the lines stand still")
        self.outcome.fading_s = (begins_s, self.elapsed_s)

    def _has_drifted(self) -> bool:
        self._deliver()
        psi = self._lake.score_drift(self.elapsed_s)
        if psi is None or psi < DRIFT_PSI:
            return False
        self.outcome.psi = psi
        return True

    def _label_frames(self) -> None:
        self._begin_step("labels")
        data, settled = self._account.data, self.elapsed_s + SETTLED_S
        self._wait_until(
            lambda: self.elapsed_s >= settled and labelling.count_collected(data) >= MIN_LABELLED,
            f"fewer than {MIN_LABELLED} frames were collected",
        )
        self.outcome.labels = labelling.label_frames(data, self._lines, job="light-changed")
        self._add_event(f"{self.outcome.labels} frames labelled", "data")

    def _run_cycle(self) -> None:
        began_s = self.elapsed_s
        self._begin_step("cycle")
        self._account.raise_alarm(self.outcome.psi or 0.0)
        self._wait_until(lambda: self._has_entered("BuildDataset"), "the alarm did not start the state machine")
        self._account.run_label_trigger()  # asks for a cycle, too: it is ignored, because one runs
        self.outcome.cycle = self._await_execution(0)
        result = self.outcome.cycle.get("result")
        if result != "promoted":
            raise OperatorError(f"the cycle ended as {result}: {' '.join(self.outcome.cycle.get('why', []))}")
        committed_s = self.elapsed_s
        self.outcome.recovery_s = committed_s - began_s
        first_s = min(one.at_s for one in self._accuracy.evaluated[:] if one.version == self._version)
        self.outcome.drifted = self._accuracy.between(self._faded_s, first_s)
        self._add_event("every device runs the new model", "good")
        self._begin_step("new model")
        self._wait_until(lambda: self.elapsed_s >= committed_s + AFTER_S, "")
        self.outcome.after = self._accuracy.between(committed_s, self.elapsed_s)

    def _inject_bad_labels(self) -> None:
        self._begin_step("wrong labels")
        data, version = self._account.data, self._version
        self._wait_until(
            lambda: labelling.count_collected(data, version=version) >= MIN_POISONED,
            f"fewer than {MIN_POISONED} frames came since",
        )
        self.outcome.poisoned_labels = labelling.label_frames(
            data, self._lines, job=INVERTED_LABELS_JOB, version=version, wrong=True
        )
        self._add_event(f"{self.outcome.poisoned_labels} labels that say the opposite", "bad")
        self._account.run_label_trigger()
        self.outcome.poisoned = self._await_execution(2)
        self.outcome.models_untouched = {device.active for device in self._devices} == {self._release}
        refused = self.outcome.poisoned.get("result") == "poisoned"
        self._add_event(
            "refused before anything was trained" if refused else "NOT refused", "good" if refused else "bad"
        )

    @property
    def _shown(self) -> list[int]:
        return [device.camera.shown for device in self._devices]

    @property
    def _faded_s(self) -> float:
        return self.elapsed_s if self.outcome.fading_s is None else self.outcome.fading_s[1]

    @property
    def _release(self) -> str:
        return str(self.outcome.cycle.get("released", {}).get("release_id"))

    @property
    def _version(self) -> str:
        return self._release.partition("/")[2]

    @property
    def _lines(self) -> dict[str, Any]:
        return {device.placement.camera: device.line for device in self._devices}

    def _has_entered(self, name: str) -> bool:
        """Whether the first execution has."""
        found = self._account.executions()
        return bool(found) and any(step.name == name for step in self._account.steps(found[0]))

    def _await_execution(self, number: int) -> dict[str, Any]:
        """Wait for execution `number` to begin and end; returns its record."""
        account = self._account
        self._wait_until(lambda: len(account.executions()) > number, "the event did not start the state machine")
        execution = account.executions()[number]
        told = 0

        def ended() -> bool:
            nonlocal told
            status, self.steps = account.status(execution), account.steps(execution)
            for step in self.steps[told:]:
                if step.name in _EVENT_STATES:
                    self._add_event(*_EVENT_STATES[step.name])
                self._detail = f"the state machine is in {step.name}"
            told = len(self.steps)
            return status != "RUNNING"

        self._wait_until(ended, f"the cycle did not end within {_CYCLE_TIMEOUT_S:.0f} s", patience_s=_CYCLE_TIMEOUT_S)
        self.outcome.statuses.append(account.status(execution))
        return account.execution_record(execution)

    # --- waiting ------------------------------------------------------------------------------------------------------

    def _add_event(self, text: str, kind: EventKind) -> None:
        self.events.append(ScenarioEvent(self.elapsed_s, text, kind))

    def _deliver(self) -> None:
        if self.elapsed_s - self._polled_s >= _LAKE_POLL_S:
            self._polled_s = self.elapsed_s
            self._lake.deliver()

    def _wait_until(self, condition: Callable[[], bool], sentence: str, *, patience_s: float = _TIMEOUT_S) -> None:
        deadline = time.monotonic() + patience_s
        while not condition():
            if time.monotonic() > deadline:
                raise OperatorError(f"{sentence} ({self.timer.progress_text(self.elapsed_s)})")
            if self._stop.wait(_POLL_S):
                raise _StoppedError
            self._deliver()


class _StoppedError(Exception):
    """Somebody wants the story to end."""
