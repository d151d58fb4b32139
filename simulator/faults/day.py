"""A day of line time in minutes: releases every hour, everything goes wrong now and then, and nothing may break.

A real line (`simulator.faults.day_line`) runs in lock-step on a virtual clock. Every hour a release is wished for: good
ones, equally good ones, and bad ones. Meanwhile fetches fail and hang, examinations end, the disk fills up or turns
read-only under the journal and the store, the process is killed at boundaries and in between, cameras fall silent or
are unplugged, the broker goes away, UTC is set, and the worker is held up. What must hold all the time is checked all
the time; `DayResult.problems` names every breach.

Equal arguments give the same line and the same faults; the product's own retry jitter is its own.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agent.clock import NS_PER_S
from agent.model.store import read_ref
from agent.records import Desired
from simulator.cloud import Fault, Killed
from simulator.faults.day_audit import Audit
from simulator.faults.day_line import CAMERAS, Boot, Site, no_trap
from simulator.faults.day_models import BAD, GOOD, make_release
from simulator.lockstep import LockStep
from simulator.rollouts import Trap, full_disk, read_only_disk

if TYPE_CHECKING:
    from collections.abc import Callable


_HOUR_S: Final = 3_600.0
_TICK_S: Final = 1.0  # between two looks at the outbox and the schedule
_RECEIVE_S: Final = 60.0
_AUDIT_S: Final = 300.0
_DRAIN_S: Final = 1_800.0
_KILLED_AGAIN: Final = 0.4  # soon after a start, or while it starts
_BAD_SHARE: Final = 0.35
_MAX_PROBLEMS: Final = 20


@dataclass(frozen=True, slots=True)
class DayResult:
    """What happened; `problems` must be empty."""

    hours: float
    seed: int
    parts: int  # exposures
    judged: int
    dropped: dict[str, int]  # by reason
    verdicts: dict[str, int]  # by outcome
    fates: dict[str, int]  # what became of the verdicts
    doubles: int  # arrived again; de-duplication takes them out
    happenings: dict[str, int]  # faults, by name
    kills: int  # at boundaries and in between
    wished: dict[str, int]  # releases, by kind
    committed: dict[str, int]  # by kind
    refused: dict[str, int]  # by kind, gate and reason
    automatic_rollbacks: int
    halts: int  # waits for a person, after too many of them
    problems: list[str]
    wall_s: float

    @property
    def is_clean(self) -> bool:
        """Whether all invariants held."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """Return plain values for `json.dumps`."""
        return {**asdict(self), "is_clean": self.is_clean}


@dataclass(slots=True)
class _Happening:
    """A fault that comes every so often."""

    name: str
    mean_s: float
    begin: Callable[[], None]
    next_ns: int = 0


class Day:
    """One day. `run` plays it."""

    def __init__(self, folder: Path, *, seed: int) -> None:
        """Install the factory release in `folder`."""
        self._random = random.Random(f"{seed} faults")
        factory = make_release(folder / "factory", "good", version="0.0.0", counter=0)
        self._site = Site(folder, LockStep(), random.Random(f"{seed} line"), factory)
        self._audit = Audit(self._site)
        self._audit.publish(read_ref(factory), kind="good")
        self._boot = self._new_boot()
        self._releases = 0
        self._wish: Desired | None = None
        self._happened: Counter[str] = Counter()
        self._wished: Counter[str] = Counter()
        self._accounts: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()
        self._undo: list[tuple[int, Callable[[], None]]] = []

    # --- the day ------------------------------------------------------------------------------------------------------

    def run(self, *, hours: float) -> None:
        """Play `hours` of line time."""
        clock = self._site.clock
        end_ns = clock.now_ns + round(hours * _HOUR_S * NS_PER_S)
        schedule = self._schedule()
        for happening in schedule:
            happening.next_ns = self._later(happening.mean_s)
        next_wish = clock.now_ns + 60 * NS_PER_S
        self._start()
        while clock.now_ns < end_ns:
            self._second()
            if clock.now_ns >= next_wish:
                next_wish += round(_HOUR_S * NS_PER_S)
                self._wish_for_a_release()
            for happening in schedule:
                if clock.now_ns >= happening.next_ns:
                    happening.next_ns = self._later(happening.mean_s)
                    self._happened[happening.name] += 1
                    happening.begin()
        self._calm_down()

    def _second(self) -> None:
        """Let a second pass, and look."""
        clock, boot = self._site.clock, self._boot
        before_s = clock.now_ns // NS_PER_S
        until_ns = clock.now_ns + round(_TICK_S * NS_PER_S)
        while clock.step(until_ns):
            if boot.is_dead:
                break
            boot.work()
        if boot.is_dead:
            self._rebuild()
            return
        boot.work()
        boot.keep()
        for due_ns, undo in [item for item in self._undo if clock.now_ns >= item[0]]:
            self._undo.remove((due_ns, undo))
            undo()
        now_s = clock.now_ns // NS_PER_S
        if now_s // _RECEIVE_S > before_s // _RECEIVE_S:
            boot.receive()
            self._audit.check_the_line(boot)
        if now_s // _AUDIT_S > before_s // _AUDIT_S:
            self._audit.check_the_disk()

    def _calm_down(self) -> None:
        """Let everything work again, wait until all is delivered, and stop in order."""
        site, clock = self._site, self._site.clock
        for _, undo in self._undo:
            undo()
        self._undo.clear()
        site.trap = no_trap
        end_ns = clock.now_ns + round(_DRAIN_S * NS_PER_S)
        while clock.now_ns < end_ns and not (self._boot.outbox.is_drained and clock.now_ns > end_ns // 2):
            self._second()
        self._boot.work()
        self._account()
        self._boot.close()
        self._deliver_the_rest()
        site.book.missing()
        self._audit.problems += site.book.problems
        self._audit.check_the_disk()

    def _deliver_the_rest(self) -> None:
        """One more start, without a line: what the last process left is delivered."""
        boot = self._new_boot()
        boot.start()
        for _ in range(round(_DRAIN_S)):
            self._site.clock.now_ns += NS_PER_S
            boot.keep()
            if boot.outbox.is_drained and not boot.outbox.stats().rows:
                break
        boot.receive()
        boot.close()

    # --- processes ----------------------------------------------------------------------------------------------------

    def _new_boot(self) -> Boot:
        return Boot(self._site, self._audit.on_status)

    def _start(self) -> None:
        """Start until a start is not killed."""
        while True:
            try:
                self._boot.start()
            except Killed:
                self._happened["kill while starting"] += 1
                self._boot.kill()
                self._boot = self._new_boot()
                self._site.trap = no_trap
                continue
            if self._wish is not None:  # the desired state is read at start
                self._boot.lifecycle.desire(self._wish)
                self._boot.wake()
            return

    def _rebuild(self) -> None:
        """Kill what is left of the process, look at the disk, start another."""
        self._boot.work()
        self._account()
        self._boot.kill()
        self._happened["kill"] += 1
        trap = self._site.trap
        if not isinstance(trap, Trap) or trap.number is None:  # the disk is not better after a start
            again = self._random.random() < _KILLED_AGAIN
            self._site.trap = Trap(after=self._random.randint(0, 3)) if again else no_trap
        self._audit.check_the_disk()
        self._boot = self._new_boot()
        self._start()

    # --- wishes -------------------------------------------------------------------------------------------------------

    def _wish_for_a_release(self) -> None:
        """Publish the next release and wish for it; a person who is waited for comes first."""
        self._releases += 1
        number = self._releases
        bad = self._random.random() < _BAD_SHARE
        kind = self._random.choice(sorted(BAD if bad else GOOD))
        version = f"{number}.0.0"
        folder = make_release(self._site.folder / "published" / version, kind, version=version, counter=number)
        ref = self._site.cloud.publish(folder)
        self._audit.publish(ref, kind=kind)
        self._wished[kind] += 1
        if self._audit.journal().halted:
            self._person_says_retry()
        self._wish = Desired(ref.release_id, source="shadow")
        self._boot.lifecycle.desire(self._wish)
        self._boot.wake()

    def _person_says_retry(self) -> None:
        self._happened["retry by a person"] += 1
        self._boot.lifecycle.retry(None)
        self._audit.pardon()

    # --- what goes wrong ----------------------------------------------------------------------------------------------

    def _schedule(self) -> list[_Happening]:
        cloud, chance = self._site.cloud, self._random
        fetch = (Fault.ERROR, Fault.ERROR, Fault.NO_SPACE, Fault.KILL, Fault.KILL_LATE)
        exam = (Fault.ERROR, Fault.NO_SPACE, Fault.KILL, Fault.KILL_LATE)
        hour = _HOUR_S
        return [
            _Happening(
                "fetch fails", hour, lambda: cloud.order("fetch", *chance.choices(fetch, k=chance.randint(1, 3)))
            ),
            _Happening("fetch hangs", 3 * hour, self._hang),
            _Happening("examination fails", 2 * hour, lambda: cloud.order("examine", chance.choice(exam))),
            _Happening("disk full or read-only", 2 * hour, self._spoil_the_disk),
            _Happening("kill at a boundary", 2 * hour, self._set_a_trap),
            _Happening("kill anywhere", 2 * hour, self._rebuild),
            _Happening("camera silent", 2 * hour, self._silence),
            _Happening("camera unplugged", 3 * hour, self._unplug),
            _Happening("broker away", 3 * hour, self._cut_the_broker),
            _Happening("UTC is set", 4 * hour, self._set_utc),
            _Happening("worker held up", 6 * hour, self._hold_up),
            _Happening("release taken back", 8 * hour, self._take_back),
        ]

    def _later(self, mean_s: float) -> int:
        return self._site.clock.now_ns + round(self._random.expovariate(1.0 / mean_s) * NS_PER_S)

    def _for(self, seconds: float, undo: Callable[[], None]) -> None:
        self._undo.append((self._site.clock.now_ns + round(seconds * NS_PER_S), undo))

    def _hang(self) -> None:
        self._site.weather.hangs += 1

    def _spoil_the_disk(self) -> None:
        where = self._random.choice(("journal: before", "journal: beside", "journal: between", "store"))
        disk = self._random.choice((full_disk, read_only_disk))
        self._site.trap = disk(where)
        self._for(self._random.uniform(30.0, 900.0), self._mend_the_disk)

    def _mend_the_disk(self) -> None:
        self._site.trap = no_trap

    def _set_a_trap(self) -> None:
        self._site.trap = Trap(after=self._random.randint(0, 40))

    def _silence(self) -> None:
        camera, seconds = self._random.choice(CAMERAS), self._random.uniform(1.0, 300.0)
        self._site.weather.silent_until[camera] = self._site.clock.now_ns + round(seconds * NS_PER_S)

    def _unplug(self) -> None:
        camera, seconds = self._random.choice(CAMERAS), self._random.uniform(1.0, 600.0)
        self._site.weather.unplugged_until[camera] = self._site.clock.now_ns + round(seconds * NS_PER_S)

    def _cut_the_broker(self) -> None:
        self._broker(up=False)
        long = self._random.random() < 0.3  # noqa: PLR2004  long enough to fill the outbox
        self._for(
            self._random.uniform(7_200.0, 14_400.0) if long else self._random.uniform(5.0, 1_800.0),
            self._mend_the_broker,
        )

    def _mend_the_broker(self) -> None:
        self._broker(up=True)

    def _broker(self, *, up: bool) -> None:
        self._site.weather.broker_is_up = up
        self._boot.transport.set_connected(up)

    def _set_utc(self) -> None:
        self._site.clock.utc_offset_ns += round(self._random.uniform(-1.0, 1.0) * _HOUR_S * NS_PER_S)
        self._audit.cool_until_ns = 0  # a start knows its end in UTC only

    def _hold_up(self) -> None:
        self._site.weather.busy_until = self._site.clock.now_ns + round(self._random.uniform(0.5, 20.0) * NS_PER_S)

    def _take_back(self) -> None:
        active = self._audit.journal().active
        if active is not None:
            self._site.cloud.revoke(active.ref)

    def _account(self) -> None:
        """Add up a process's counters before it ends."""
        for counters in self._boot.counters.values():
            seen = counters.snapshot()
            self._accounts["captured"] += seen.captured
            self._accounts["judged"] += seen.judged
            self._dropped.update(seen.dropped)

    # --- the result ---------------------------------------------------------------------------------------------------

    def result(self, *, hours: float, seed: int, wall_s: float) -> DayResult:
        """Return the counts."""
        audit, book, kinds = self._audit, self._site.book, self._audit.kinds
        return DayResult(
            hours=hours,
            seed=seed,
            parts=self._accounts["captured"],
            judged=self._accounts["judged"],
            dropped=dict(self._dropped),
            verdicts=dict(book.verdicts),
            fates=book.fates(),
            doubles=book.doubles,
            happenings=dict(sorted(self._happened.items())),
            kills=self._happened["kill"] + self._happened["kill while starting"],
            wished=dict(sorted(self._wished.items())),
            committed=dict(Counter(kinds[version] for version in sorted(audit.committed))),
            refused=dict(Counter(f"{kinds[v]}: {why}" for v, why in sorted(audit.refused.items()) if v in kinds)),
            automatic_rollbacks=audit.automatic_rollbacks,
            halts=audit.halts,
            problems=audit.problems[:_MAX_PROBLEMS],
            wall_s=round(wall_s, 1),
        )


def run(*, hours: float = 24.0, seed: int = 0, work_dir: Path | None = None) -> DayResult:
    """Play a day (or less) and return what happened. `work_dir` is where its disk is made."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kensa-day-", dir=work_dir) as folder:
        day = Day(Path(folder), seed=seed)
        day.run(hours=hours)
        return day.result(hours=hours, seed=seed, wall_s=time.monotonic() - began)
