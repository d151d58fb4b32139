"""One row of the table of requirements: its target and what was measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class GreengrassBenchSettings:
    """How much is measured."""

    seconds: float | None = None  # of the rows that take time; None: as the published table has it
    repeats: int = 3  # component updates


@dataclass(frozen=True, slots=True)
class RequirementRow:
    """One row, measured."""

    name: str
    what: str
    target: str
    figure: str  # for the table
    met: bool
    figures: Mapping[str, Any] = field(default_factory=dict)  # under stable names

    def to_json(self) -> dict[str, Any]:
        """Return plain values for `json.dumps`."""
        return {"what": self.what, "target": self.target, "met": self.met, **self.figures}
