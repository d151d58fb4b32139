"""Threads in lock-step on a virtual clock.

Hours pass in seconds, and the order of events is exact.

Promise: of the threads that were begun here one runs at a time, until it waits for the clock or ends; time moves only
when all of them wait, to the next moment that one of them waits for. Threads that never wait for this clock are
nobody's business here: who starts them sees to it that they are done before time goes on.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from agent.timing.clock import NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Callable

_STUCK_S: Final = 60.0  # real time after which a thread that neither waits nor ends is a bug


def _acquired_lock() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock


@dataclass(slots=True, eq=False)
class SteppedThread:
    """One thread of the piece."""

    due_ns: int = 0
    event: threading.Event | None = None  # wakes it before it is due
    turn: threading.Lock = field(default_factory=_acquired_lock)  # released by whoever lets it run
    is_released: bool = False


class LockstepClock:
    """An `agent.timing.clock.Clock`. The thread that makes it conducts: it calls everything but `wait` and `leave`."""

    def __init__(self, *, utc_s: float = 1_800_000_000.0) -> None:
        """The clock starts at 1 s, and at `utc_s` in UTC."""
        self.now_ns = NS_PER_S
        self.utc_offset_ns = round(utc_s * NS_PER_S)
        self._controller = threading.get_ident()
        self._threads: list[SteppedThread] = []
        self._starting: SteppedThread | None = None
        self._here = threading.local()
        self._back = _acquired_lock()  # released by the thread that waits or ends

    def monotonic_ns(self) -> int:
        """See `Clock.monotonic_ns`."""
        return self.now_ns

    def utc_ns(self) -> int:
        """See `Clock.utc_ns`."""
        return self.now_ns + self.utc_offset_ns

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        """See `Clock.wait`; a player that was set free does not wait."""
        player = self._current_thread()
        if not player.is_released:
            player.due_ns = self.now_ns + max(0, round(timeout_s * NS_PER_S))
            player.event = event
            self._back.release()
            player.turn.acquire()
        return event.is_set()

    def advance(self, seconds: float) -> None:
        """Let the conductor's own work take so long; other threads' work takes no time."""
        if threading.get_ident() == self._controller:
            self.now_ns += round(seconds * NS_PER_S)

    def start_thread(self, start: Callable[[], None]) -> SteppedThread:
        """Let `start` start one thread, and that thread run until it waits or leaves."""
        player = self._starting = SteppedThread()
        self._threads.append(player)
        start()
        self._wait_back()
        return player

    def end_thread(self) -> None:
        """The calling thread ends."""
        player = self._current_thread()
        if not player.is_released:
            player.is_released = True
            self._threads.remove(player)
            self._back.release()

    def release_thread(self, player: SteppedThread) -> None:
        """Let a thread run by itself from now on, to its end."""
        if not player.is_released:
            player.is_released = True
            self._threads.remove(player)
            player.turn.release()

    def run_next(self, until_ns: int) -> bool:
        """Let the thread that is due first run; False, and the time is `until_ns`, when none is due by then."""
        first = min(self._threads, key=self._due, default=None)
        due_ns = until_ns + 1 if first is None else self._due(first)
        self.now_ns = max(self.now_ns, min(due_ns, until_ns))
        if first is None or due_ns > until_ns:
            return False
        first.turn.release()
        self._wait_back()
        return True

    def _due(self, player: SteppedThread) -> int:
        return 0 if player.event is not None and player.event.is_set() else player.due_ns

    def _current_thread(self) -> SteppedThread:
        player: SteppedThread | None = getattr(self._here, "player", None)
        if player is None:
            player, self._starting = self._starting, None
            if player is None:
                raise RuntimeError("a thread that was not begun here waits for the lock-step clock")
            self._here.player = player
        return player

    def _wait_back(self) -> None:
        if not self._back.acquire(timeout=_STUCK_S):
            raise RuntimeError(f"a thread in lock-step neither waited nor ended within {_STUCK_S:g} s")
