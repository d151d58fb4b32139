"""The sinks that verdicts pass on their way from the workers to the outbox."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from agent.health.process_usage import process_age_s

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agent.ports import VerdictSink
    from agent.records import Verdict

_log = logging.getLogger(__name__)


class FirstVerdictLogger:
    """Passes verdicts on, and logs once how long after the start of the process the first one was made."""

    def __init__(self, sink: VerdictSink) -> None:
        self.append = (
            self._first
        )  # an instance attribute: replaced after the first verdict, so that later ones cost nothing
        self._sink = sink
        self._lock = threading.Lock()

    def _first(self, verdicts: Sequence[Verdict]) -> None:
        self._sink.append(verdicts)
        with self._lock:
            if self.append != self._sink.append:
                self.append = self._sink.append
                _log.info("first verdict %.2f s after the process began", process_age_s())


class ObservedSink:
    """Passes verdicts to the outbox and then to an observer."""

    def __init__(self, sink: VerdictSink, observe: Callable[[Sequence[Verdict]], None]) -> None:
        self._sink = sink
        self._observe = observe

    def append(self, verdicts: Sequence[Verdict]) -> None:
        """See `ports.VerdictSink`."""
        self._sink.append(verdicts)
        self._observe(verdicts)
