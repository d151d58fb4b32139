"""The state machine of one camera: whether it delivers, and when to reconnect; pure logic.

Promise: a camera that delivers nothing for its limit counts as stalled at the next check; a lost camera is retried
after a jittered, doubling delay of at most 30 s, and the delay is reset by the first exposure, not by the opening: a
server that accepts connections and then sends nothing must not be hammered. The states are the rows of one table; an
event that is illegal in a state raises and changes nothing. `status` is one reference, so other threads may read it at
any time; everything else belongs to the capture thread.
"""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from agent.records import CameraState, CameraStatus
from agent.timing.backoff import Backoff
from agent.timing.clock import NS_PER_S

if TYPE_CHECKING:
    from random import Random

_FPS_WEIGHT: Final = 0.1  # of the newest interval


class _Event(StrEnum):
    OPENING = "opening"
    EXPOSURE = "exposure"
    STALL = "stall"
    LOST = "lost"
    END = "end"
    STOP = "stop"
    CHANGE = "change"


_C = CameraState
_E = _Event
_TABLE: Final[dict[tuple[CameraState, _Event], CameraState]] = {
    (_C.CONNECTING, _E.OPENING): _C.CONNECTING,
    (_C.CONNECTING, _E.EXPOSURE): _C.RUNNING,
    (_C.CONNECTING, _E.STALL): _C.STALLED,
    (_C.CONNECTING, _E.LOST): _C.RECONNECTING,
    (_C.RUNNING, _E.EXPOSURE): _C.RUNNING,
    (_C.RUNNING, _E.STALL): _C.STALLED,
    (_C.RUNNING, _E.LOST): _C.RECONNECTING,
    (_C.STALLED, _E.OPENING): _C.RECONNECTING,
    (_C.RECONNECTING, _E.OPENING): _C.RECONNECTING,
    (_C.RECONNECTING, _E.EXPOSURE): _C.RUNNING,
    (_C.RECONNECTING, _E.STALL): _C.STALLED,
    (_C.RECONNECTING, _E.LOST): _C.RECONNECTING,
    (_C.CONNECTING, _E.END): _C.ENDED,
    (_C.RUNNING, _E.END): _C.ENDED,
    (_C.RECONNECTING, _E.END): _C.ENDED,
    **{(state, _E.STOP): _C.STOPPED for state in _C},
    (_C.ENDED, _E.STOP): _C.ENDED,
    **{(state, _E.CHANGE): _C.CONNECTING for state in _C},
}


CAMERA_BACKOFF: Final = Backoff(first_s=0.5, longest_s=30.0)  # between two attempts to open a camera


class CameraStateMachine:
    """One camera's state. `stall_s` None means that silence is normal (triggered cameras, files)."""

    def __init__(
        self,
        *,
        camera: str,
        stall_s: float | None,
        first_exposure_s: float,
        backoff: Backoff,
        random: Random,
        now_ns: int,
    ) -> None:
        self._stall_s = stall_s
        self._first_exposure_s = (
            first_exposure_s  # from opening; connecting and warming up take longer than a frame period
        )
        self._backoff = backoff
        self._random = random
        self._failures = 0
        self._waiting_since_ns = now_ns
        self._last_exposure_ns: int | None = None
        self._interval_ns = 0.0
        self._status = CameraStatus(camera=camera, state=CameraState.CONNECTING, since_ns=now_ns)

    @property
    def status(self) -> CameraStatus:
        """What the heartbeat reports; safe to read from any thread."""
        return self._status

    def on_opening(self, now_ns: int) -> None:
        """Record that the source is about to be opened."""
        self._status = self._transition(_Event.OPENING, now_ns)
        self._waiting_since_ns = now_ns
        self._last_exposure_ns = None

    def on_reconfigured(self, now_ns: int, *, stall_s: float | None) -> None:
        """Reset the failure count and the statistics for the new source or settings."""
        self._stall_s = stall_s
        self._failures = 0
        self._interval_ns = 0.0
        self._status = replace(self._transition(_Event.CHANGE, now_ns), since_ns=now_ns, fps=0.0, last_error=None)

    def on_exposure(self, now_ns: int, *, error: str | None = None, skipped: int = 0) -> None:
        """Record an exposure that arrived after `skipped` ones; `error` is why it could not be used."""
        count = 1 + skipped
        if self._last_exposure_ns is not None:
            interval = (now_ns - self._last_exposure_ns) / count
            self._interval_ns += (interval - self._interval_ns) * (_FPS_WEIGHT if self._interval_ns else 1.0)
        self._last_exposure_ns = self._waiting_since_ns = now_ns
        self._failures = 0
        moved = self._transition(_Event.EXPOSURE, now_ns)
        fps = NS_PER_S / self._interval_ns if self._interval_ns else 0.0
        self._status = replace(moved, frames=moved.frames + count, fps=fps, last_error=error or moved.last_error)

    def on_waiting(self, now_ns: int) -> None:
        """Restart the stall timer: time spent waiting for a full intake is not the camera's fault."""
        self._waiting_since_ns = now_ns

    def read_timeout_s(self, now_ns: int, longest_s: float) -> float:
        """Return how long to wait for the next exposure, so that a stall is detected when its limit passes."""
        if self._stall_s is None:
            return longest_s
        left_s = self._stall_limit_s(self._stall_s) - (now_ns - self._waiting_since_ns) / NS_PER_S
        return min(longest_s, max(left_s, 0.001))

    def check_stall(self, now_ns: int) -> str | None:
        """Return the error once silence is a stall; the caller closes, waits the delay of `on_lost` and reopens."""
        if self._stall_s is None:
            return None
        limit_s = self._stall_limit_s(self._stall_s)
        silent_s = (now_ns - self._waiting_since_ns) / NS_PER_S
        if silent_s < limit_s:
            return None
        what = "since it was opened" if self._last_exposure_ns is None else "although it is connected"
        error = f"no frame for {silent_s:.1f} s {what} (limit {limit_s:g} s)"
        moved = self._transition(_Event.STALL, now_ns)
        self._status = replace(moved, fps=0.0, stalls=moved.stalls + 1, last_error=error)
        return error

    def on_lost(self, now_ns: int, error: str) -> float:
        """Record a failure or a stall; return how many seconds to wait before the next opening."""
        self._failures += 1
        if self._status.state is not CameraState.STALLED:  # this state stays visible until the next opening
            self._status = replace(self._transition(_Event.LOST, now_ns), fps=0.0, last_error=error)
        self._status = replace(self._status, reopenings=self._status.reopenings + 1)
        return self._backoff.delay_s(self._failures, self._random)

    def record_error(self, error: str) -> None:
        """Record an error that does not change the state, such as a failure to close."""
        before = self._status.last_error
        if before is None or error not in before:
            self._status = replace(self._status, last_error=error if before is None else f"{before}; {error}"[:400])

    def set_skipped_files(self, text: str | None) -> bool:
        """Set which files the opened source skips; return whether that has changed."""
        is_news = text is not None and text != self._status.skipped_files
        self._status = replace(self._status, skipped_files=text)
        return is_news

    def on_ended(self, now_ns: int) -> None:
        """Record the end of a finite source."""
        self._status = replace(self._transition(_Event.END, now_ns), fps=0.0)

    def on_stopped(self, now_ns: int) -> None:
        """Record the end of the capture thread."""
        self._status = replace(self._transition(_Event.STOP, now_ns), fps=0.0)

    def _stall_limit_s(self, stall_s: float) -> float:
        return max(stall_s, self._first_exposure_s) if self._last_exposure_ns is None else stall_s

    def _transition(self, event: _Event, now_ns: int) -> CameraStatus:
        status = self._status
        state = _TABLE.get((status.state, event))
        if state is None:
            raise RuntimeError(f"camera {status.camera}: event {event} in state {status.state}")
        return status if state is status.state else replace(status, state=state, since_ns=now_ns)
