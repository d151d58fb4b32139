"""Counts the batches that the model runtime failed on, and logs when it fails and recovers."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from agent.supervision import ThreadSupervisor

_RUNTIME: Final = "model runtime"
_log = logging.getLogger(__name__)


class InferenceFaults:
    """The faults since the agent's start; any worker may report one."""

    def __init__(self, supervisor: ThreadSupervisor) -> None:
        """Report to the conditions of `supervisor`."""
        self.count = 0  # batches
        self.last: str | None = None
        self._conditions = supervisor.condition_log(_log)

    def record(self, text: str) -> None:
        """Count a batch that the runtime failed on; a model may fail on every batch, so the log is limited."""
        self.count += 1
        self._conditions.report_fault(_RUNTIME, text, level=logging.ERROR)
        self.last = text

    def clear(self) -> None:
        """Record that the runtime works again."""
        self._conditions.clear_fault(_RUNTIME, "works again")
