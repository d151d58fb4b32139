"""What the checks of one run know: the configuration, the running agent, and the results so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agent.commands.doctor.check_result import CheckStatus

if TYPE_CHECKING:
    from agent.commands.doctor.check_result import CheckResult
    from agent.config import Config


@dataclass(frozen=True, slots=True)
class CheckContext:
    """Input of a check."""

    config: Config
    agent_pid: int | None = None  # of the running agent, 0 when it cannot be read; None: no agent runs
    results: list[CheckResult] = field(default_factory=list)  # of the checks before, in order

    def has_passed(self, check: str) -> bool:
        """Whether the check named `check` has run and is OK."""
        return any(result.check == check and result.status is CheckStatus.OK for result in self.results)
