"""What happens, in its order: the light fades, drift is noticed, frames are labelled, the cycle brings a model, poison.

Runs on a thread of its own and tells `Chapter`s; everything that it waits for has a limit, and what did not come within
it ends the story with a sentence.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from agent.errors import KensaError, OperatorError
from simulator.cycle_demo import labelling
from simulator.cycle_demo.lapse import DRIFTED
from simulator.cycle_demo.steps import Pace

if TYPE_CHECKING:
    from collections.abc import Callable

    from simulator.cycle_demo.account import Account, Step
    from simulator.cycle_demo.accuracy import Accuracy, Share
    from simulator.cycle_demo.device import Device
    from simulator.cycle_demo.lapse import PlantLake

Kind = Literal["light", "data", "cycle", "good", "bad"]

STEADY_S: Final = 32.0  # of a line that keeps its pace
FADE_S: Final = 30.0
SETTLED_S: Final = 40.0  # with the faded lamp before people begin to label
LABELLED: Final = 300  # frames, at least
HURRIED: Final = "hurried"  # the labelling job that says the opposite
AFTER_S: Final = 30.0  # of the line with the new model
POISONED: Final = 60  # frames of the wrong batch, at least
_POLL_S: Final = 0.5
_LOOK_S: Final = 5.0  # between two questions to the lake
_PATIENCE_S: Final = 150.0
_CYCLE_S: Final = 900.0
_TOLD: Final[dict[str, tuple[str, Kind]]] = {  # states of the machine that make an event
    "BuildDataset": ("a data set is built", "cycle"),
    "Train": ("two trainings begin", "cycle"),
    "Choose": ("compared with the champion", "cycle"),
    "Release": ("approved, signed", "cycle"),
    "DeployCanary": ("deployed to the canary", "cycle"),
    "Promote": ("deployed to the fleet", "cycle"),
    "RollBack": ("taken back", "bad"),
}


@dataclass(frozen=True, slots=True)
class Chapter:
    """Something happened."""

    at_s: float
    text: str
    kind: Kind


@dataclass(slots=True)
class Findings:
    """What came of it; None where the story did not get there."""

    before: Share | None = None
    fading_s: tuple[float, float] | None = None  # when the lamp began to fade, and when it had faded, on every line
    drifted: Share | None = None
    after: Share | None = None
    psi: float | None = None
    drift_noticed_s: float | None = None
    labels: int = 0
    poisoned_labels: int = 0
    cycle: dict[str, Any] = field(default_factory=dict)  # the first execution's record
    poisoned: dict[str, Any] = field(default_factory=dict)  # the second one's
    statuses: list[str] = field(default_factory=list)
    recovery_s: float | None = None  # from the alarm to the last device's commit
    models_untouched: bool = False  # by the poisoned batch


class Story:
    """See the module."""

    def __init__(
        self,
        *,
        account: Account,
        lake: PlantLake,
        devices: list[Device],
        accuracy: Accuracy,
        light: tuple[int, int],
        began_s: float,
    ) -> None:
        """`light`: part at which each lamp begins to fade, and parts that it takes; `began_s`: second 0, monotonic."""
        self.chapters: list[Chapter] = []
        self.findings = Findings()
        self.problem: str | None = None
        self.steps: list[Step] = []  # of the newest execution
        self.pace = Pace()
        self._detail = ""  # of the step under way
        self._account, self._lake, self._devices, self._accuracy = account, lake, devices, accuracy
        self._light = light
        self._began_s = began_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="story", daemon=True)
        self._looked_s = 0.0

    @property
    def elapsed_s(self) -> float:
        """Of the story."""
        return time.monotonic() - self._began_s

    @property
    def note(self) -> str:
        """The step under way, its time, and what it is doing."""
        return self.pace.note(self.elapsed_s) + (f"; {self._detail}" if self._detail else "")

    def _enter(self, name: str) -> None:
        self._detail = ""
        self.pace.begin(name, self.elapsed_s)

    @property
    def over(self) -> bool:
        """Whether it has ended, well or not."""
        return not self._thread.is_alive()

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End early."""
        self._stop.set()
        self._thread.join(_PATIENCE_S)

    # --- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        """Thread `story`."""
        try:
            self._light_fades()
            self._people_label()
            self._model_comes()
            self._poison()
            self.pace.end(self.elapsed_s)
        except _StoppedError:
            self.problem = "ended early"
        except KensaError as error:
            self.problem = str(error)
            self._tell(str(error), "bad")

    def _light_fades(self) -> None:
        after, parts = self._light
        self._enter("good light")
        self._until(lambda: max(self._shown) >= after, "the lines stand still")
        begins_s = self.elapsed_s
        self.findings.before = self._accuracy.between(0.0, begins_s)
        self._tell("the lamp begins to fade", "light")
        self._enter("fading lamp")
        self._until(self._has_drifted, "drift of the scores was not noticed")
        self.findings.drift_noticed_s = self.elapsed_s
        self._tell(f"drift noticed, PSI {self.findings.psi:.2f}", "data")
        self._until(lambda: min(self._shown) >= after + parts, "the lines stand still")
        self.findings.fading_s = (begins_s, self.elapsed_s)

    def _has_drifted(self) -> bool:
        self._deliver()
        psi = self._lake.drift(self.elapsed_s)
        if psi is None or psi < DRIFTED:
            return False
        self.findings.psi = psi
        return True

    def _people_label(self) -> None:
        self._enter("labels")
        data, settled = self._account.data, self.elapsed_s + SETTLED_S
        self._until(
            lambda: self.elapsed_s >= settled and labelling.collected(data) >= LABELLED,
            f"fewer than {LABELLED} frames were collected",
        )
        self.findings.labels = labelling.label(data, self._lines, job="light-changed")
        self._tell(f"{self.findings.labels} frames labelled", "data")

    def _model_comes(self) -> None:
        began_s = self.elapsed_s
        self._enter("cycle")
        self._account.raise_alarm(self.findings.psi or 0.0)
        self._until(lambda: self._has_entered("BuildDataset"), "the alarm did not start the state machine")
        self._account.count_labels()  # asks for a cycle, too: it is ignored, because one runs
        self.findings.cycle = self._follow(0)
        result = self.findings.cycle.get("result")
        if result != "promoted":
            raise OperatorError(f"the cycle ended as {result}: {' '.join(self.findings.cycle.get('why', []))}")
        committed_s = self.elapsed_s
        self.findings.recovery_s = committed_s - began_s
        first_s = min(one.at_s for one in self._accuracy.judged[:] if one.version == self._version)
        self.findings.drifted = self._accuracy.between(self._faded_s, first_s)
        self._tell("every device runs the new model", "good")
        self._enter("new model")
        self._until(lambda: self.elapsed_s >= committed_s + AFTER_S, "")
        self.findings.after = self._accuracy.between(committed_s, self.elapsed_s)

    def _poison(self) -> None:
        self._enter("wrong labels")
        data, version = self._account.data, self._version
        self._until(
            lambda: labelling.collected(data, version=version) >= POISONED, f"fewer than {POISONED} frames came since"
        )
        self.findings.poisoned_labels = labelling.label(data, self._lines, job=HURRIED, version=version, wrong=True)
        self._tell(f"{self.findings.poisoned_labels} labels that say the opposite", "bad")
        self._account.count_labels()
        self.findings.poisoned = self._follow(2)
        self.findings.models_untouched = {device.active for device in self._devices} == {self._release}
        refused = self.findings.poisoned.get("result") == "poisoned"
        self._tell("refused before anything was trained" if refused else "NOT refused", "good" if refused else "bad")

    @property
    def _shown(self) -> list[int]:
        return [device.camera.shown for device in self._devices]

    @property
    def _faded_s(self) -> float:
        return self.elapsed_s if self.findings.fading_s is None else self.findings.fading_s[1]

    @property
    def _release(self) -> str:
        return str(self.findings.cycle.get("released", {}).get("release_id"))

    @property
    def _version(self) -> str:
        return self._release.partition("/")[2]

    @property
    def _lines(self) -> dict[str, Any]:
        return {device.place.camera: device.line for device in self._devices}

    def _has_entered(self, name: str) -> bool:
        """Whether the first execution has."""
        found = self._account.executions()
        return bool(found) and any(step.name == name for step in self._account.steps(found[0]))

    def _follow(self, number: int) -> dict[str, Any]:
        """Wait for execution `number` to begin and end; returns its record."""
        account = self._account
        self._until(lambda: len(account.executions()) > number, "the event did not start the state machine")
        execution = account.executions()[number]
        told = 0

        def ended() -> bool:
            nonlocal told
            status, self.steps = account.status(execution), account.steps(execution)
            for step in self.steps[told:]:
                if step.name in _TOLD:
                    self._tell(*_TOLD[step.name])
                self._detail = f"the state machine is in {step.name}"
            told = len(self.steps)
            return status != "RUNNING"

        self._until(ended, f"the cycle did not end within {_CYCLE_S:.0f} s", patience_s=_CYCLE_S)
        self.findings.statuses.append(account.status(execution))
        return account.record(execution)

    # --- waiting ------------------------------------------------------------------------------------------------------

    def _tell(self, text: str, kind: Kind) -> None:
        self.chapters.append(Chapter(self.elapsed_s, text, kind))

    def _deliver(self) -> None:
        if self.elapsed_s - self._looked_s >= _LOOK_S:
            self._looked_s = self.elapsed_s
            self._lake.deliver()

    def _until(self, condition: Callable[[], bool], sentence: str, *, patience_s: float = _PATIENCE_S) -> None:
        deadline = time.monotonic() + patience_s
        while not condition():
            if time.monotonic() > deadline:
                raise OperatorError(f"{sentence} ({self.pace.note(self.elapsed_s)})")
            if self._stop.wait(_POLL_S):
                raise _StoppedError
            self._deliver()


class _StoppedError(Exception):
    """Somebody wants the story to end."""
