"""Sequential tests for events that come in runs: a glare or a smeared part is one event. Pure.

Wald's test assumes independent trials. Parts of a line are not: what makes one part differ (a reflection, a
drop of oil) often makes its neighbours differ too, and eleven parts in a row are then no more evidence than one. Two
things change that here.

Blocks. The parts of each unit (a camera; or the whole line, where an event strikes all cameras at once) are cut into
blocks of `BLOCK_PARTS` in the order in which they come. A block is one trial, and its event is "at least one part of
it". With independent parts of rate p a block has the rate 1 - (1 - p)^BLOCK_PARTS, so the same two rates can be tested
with the same error rates, a little more slowly.

Runs. Blocks with an event that follow each other on one unit are one run. (The runs method of declustering: R. L. Smith
and I. Weissman, Estimating the Extremal Index, J. R. Statist. Soc. B 56 (1994), with the block as the separation.) A
test refuses only on `MIN_RUNS` separate runs, however long each is: with independent parts that costs nearly nothing,
for their events lie apart; with parts in runs it is what keeps one bad minute from deciding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from agent.sequential_tests import Sprt, SprtPlan

BLOCK_PARTS: Final = 5  # longer blocks refuse independent events too late, shorter ones cut a run into many
MIN_RUNS: Final = 4  # separate runs, for a refusal
PERSISTENT_PARTS: Final = 40  # of one run: a run of this length is not a glimpse
LASTING_PARTS: Final = 1_000  # of the line, half a minute at 30/s: a run of this length is not a passing glare


@dataclass(frozen=True, slots=True)
class RunStep:
    """What one part adds to the test of blocks, and to the runs."""

    block: bool | None  # True: the first event of its block; False: it ends a block without one; None: nothing new
    begins_run: bool
    run_parts: int  # since the unit's run began, this part included; 0 outside of a run


@dataclass(slots=True)
class _Unit:
    size: int = 0  # of the open block, parts
    has_event: bool = False
    run_parts: int = 0  # 0: the last block had no event, and this one has none yet


class RunCounter:
    """Cuts the parts of each unit into blocks, and joins blocks with events into runs."""

    def __init__(self) -> None:
        """Start before the first part."""
        self._units: dict[str, _Unit] = {}

    @property
    def is_running(self) -> bool:
        """Whether some unit is in a run."""
        return any(unit.run_parts for unit in self._units.values())

    def add(self, *, event: bool, unit: str) -> RunStep:
        """Add the next part of `unit`."""
        found = self._units.get(unit)
        if found is None:
            found = self._units[unit] = _Unit()
        begins = event and found.run_parts == 0
        if begins or found.run_parts:
            found.run_parts += 1
        block = True if event and not found.has_event else None
        found.has_event = found.has_event or event
        found.size += 1
        run_parts = found.run_parts
        if found.size == BLOCK_PARTS:
            if not found.has_event:
                block, found.run_parts = False, 0
            found.size, found.has_event = 0, False
        return RunStep(block, begins, run_parts)


def expected_run_events(rate: float) -> float:
    """Return how many events a run has on average where parts are independent and have the event at `rate` in [0, 1).

    A block with an event has BLOCK_PARTS p / q of them, with q = 1 - (1 - p)^BLOCK_PARTS, and a run 1 / (1 - q) blocks.
    Clearly more events a run are the mark of a common cause. Raises ValueError for another rate.
    """
    if not 0.0 <= rate < 1.0:
        raise ValueError(f"a rate of independent parts is in [0, 1), got {rate}")
    if rate == 0.0:
        return 1.0
    clean = (1.0 - rate) ** BLOCK_PARTS
    return BLOCK_PARTS * rate / (1.0 - clean) / clean


def block_plan(plan: SprtPlan) -> SprtPlan:
    """Return the test of blocks for the test of parts `plan`: rates 1 - (1 - p)^BLOCK_PARTS, the same error rates."""
    good, bad = (1.0 - (1.0 - rate) ** BLOCK_PARTS for rate in (plan.good, plan.bad))
    return SprtPlan(good, bad, plan.alpha, plan.beta)


class RunSprt:
    """A test of a `SprtPlan` that a run of events alone does not decide.

    It refuses, finally, when the test of parts refuses (the CUSUM of `Sprt`), and

    - the test of blocks refuses too, on at least `MIN_RUNS` separate runs since it last accepted; or
    - every single part since `begin` had the event, and no run was under way then: there is nothing that a run could
      stand out from; or
    - the test of blocks refuses too, on a run of at least `PERSISTENT_PARTS`. With `tolerates_long_runs`, and where the
      rate was accepted before, the run must also span `LASTING_PARTS` of the line: of a unit of which a share s of the
      parts comes here, s times as many.

    Otherwise it is `is_in_doubt`, from the refusal of the test of parts until that test accepts anew. It accepts by the
    test of parts alone: never earlier than a test that knows no runs. It refuses never earlier than that one either.
    """

    def __init__(self, plan: SprtPlan, *, tolerates_long_runs: bool) -> None:
        """Start without evidence. `tolerates_long_runs`: a long run may be the images' fault, as glare is."""
        self._plan = plan
        self.parts = Sprt(plan)
        self._blocks = Sprt(block_plan(plan))
        self._tolerates_long_runs = tolerates_long_runs
        self._runs = RunCounter()
        self._blocks_refuse = False
        self._was_accepted = False
        self._others_in_phase = 0  # parts without the event
        self._lasting_parts = LASTING_PARTS
        self.runs = 0  # separate ones, since the test of blocks last accepted
        self.is_in_doubt = False
        self.is_refused = False

    def begin_phase(self, *, share: float = 1.0) -> None:
        """Begin a phase in which `share` of the line's parts, in (0, 1], comes here; all evidence stays."""
        self._lasting_parts = max(PERSISTENT_PARTS, round(LASTING_PARTS * share))
        self._others_in_phase = int(self._runs.is_running)

    def reset(self) -> None:
        """Begin anew without evidence, as after an acceptance; a run that is under way stays one and proves nothing."""
        self.parts, self._blocks = Sprt(self._plan), Sprt(block_plan(self._plan))
        self._blocks_refuse = self.is_in_doubt = self.is_refused = False
        self._was_accepted = True
        self._others_in_phase = 1
        self.runs = 0

    @property
    def is_accepted(self) -> bool:
        """Whether the rate is accepted as good, and nothing has cast doubt on that since."""
        return self.parts.accepted

    def add(self, *, event: bool, unit: str = "") -> None:
        """Add one part of `unit`. After a refusal only the counts change."""
        self.parts.add(event=event)
        self._others_in_phase += not event
        step = self._runs.add(event=event, unit=unit)
        self.runs += step.begins_run
        if step.block is not None:
            self._add_block(event=step.block)
        if self.parts.refused:
            self.is_in_doubt = True
            self.parts.resume_after_refusal()
        elif self.parts.accepted:
            self.is_in_doubt = False
            self._was_accepted = True
        if self.is_in_doubt and self._is_proven(step.run_parts):
            self.is_refused = True

    def _add_block(self, *, event: bool) -> None:
        self._blocks.add(event=event)
        if self._blocks.refused:
            self._blocks_refuse = True
            self._blocks.resume_after_refusal()
        elif self._blocks.stretch_trials == 0:  # it accepts: the earlier runs are over
            self._blocks_refuse = False
            self.runs = 0

    def _is_proven(self, run_parts: int) -> bool:
        if self._others_in_phase == 0:
            return True
        if not self._blocks_refuse:
            return False
        tolerant = self._tolerates_long_runs and self._was_accepted
        lasts = run_parts >= (self._lasting_parts if tolerant else PERSISTENT_PARTS)
        return lasts or self.runs >= MIN_RUNS
