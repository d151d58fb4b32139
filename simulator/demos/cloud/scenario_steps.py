"""The steps of the scenario, and how long each takes on two free cores.

Times are those of docs/benchmarks.md (a run of 454 s). Pure bookkeeping; seconds are those of the story.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SLOW_FACTOR: Final = 2.0  # a step that takes so many times its usual time is too slow, and said to be


@dataclass(frozen=True, slots=True)
class ScenarioStep:
    """One step."""

    name: str
    text: str
    usual_s: float


STEPS: Final = (
    ScenarioStep("good light", "the lines run in good light", 35.0),
    ScenarioStep("fading lamp", "the lamp fades, and drift of the scores is noticed", 50.0),
    ScenarioStep("labels", "people label what the lines collected", 40.0),
    ScenarioStep("cycle", "the cycle trains, chooses, signs and deploys a model", 210.0),
    ScenarioStep("new model", "the lines run with the new model", 30.0),
    ScenarioStep("wrong labels", "a batch of wrong labels arrives and is evaluated", 60.0),
)
PREPARED_S: Final = 50.0  # usual, before the first step


def plan_text() -> str:
    """Return what will happen and how long it takes, in one sentence."""
    steps = ", ".join(f"{step.name} {step.usual_s:.0f} s" for step in STEPS)
    minutes = (PREPARED_S + sum(step.usual_s for step in STEPS)) / 60.0
    return f"about {minutes:.0f} minutes on two free cores: preparing {PREPARED_S:.0f} s, {steps}"


class StepTimer:
    """Which step is under way since when, and what each took. One thread writes, any may read."""

    def __init__(self) -> None:
        """Nothing has begun."""
        self._began: dict[str, float] = {}
        self._ended_s: float | None = None

    def begin(self, name: str, at_s: float) -> None:
        """Begin the step of that name, which ends the one before. Raises KeyError for a name that is not in STEPS."""
        self._began[next(step.name for step in STEPS if step.name == name)] = at_s

    def end(self, at_s: float) -> None:
        """End the last step, and the story."""
        self._ended_s = at_s

    @property
    def current(self) -> ScenarioStep | None:
        """The step that began last."""
        return next((step for step in reversed(STEPS) if step.name in self._began), None)

    def progress_text(self, now_s: float) -> str:
        """Return the step under way, with its time and what is usual."""
        step = self.current
        if step is None:
            return ""
        took_s = now_s - self._began[step.name]
        slow = ", slower than usual: the machine is busy" if took_s > SLOW_FACTOR * step.usual_s else ""
        return f"{step.text}: {took_s:.0f} s of about {step.usual_s:.0f} s{slow}"

    def duration_s(self, step: ScenarioStep) -> float | None:
        """Return what a step took; None for one that was not reached or not ended."""
        began = [self._began.get(one.name) for one in STEPS]
        number = STEPS.index(step)
        start, following = began[number], [at for at in began[number + 1 :] if at is not None]
        end = following[0] if following else self._ended_s
        return None if start is None or end is None else end - start

    def summary_lines(self) -> list[str]:
        """Return a line for each step: what it took, what is usual, whether it was too slow or not reached."""
        return [self._line(step) for step in STEPS]

    def _line(self, step: ScenarioStep) -> str:
        usual, took_s = f"about {step.usual_s:.0f} s usual", self.duration_s(step)
        if step.name not in self._began:
            return f"{step.name}: not reached ({usual})"
        if took_s is None:
            return f"{step.name}: not ended ({usual})"
        slow = ", too slow: the machine was busy" if took_s > SLOW_FACTOR * step.usual_s else ""
        return f"{step.name}: {took_s:.0f} s ({usual}{slow})"
