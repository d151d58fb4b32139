"""What the shadow adapter knows of the document: what it desires, and what was reported to it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.release_records import ModelStatus
    from agent.wire.shadow_documents import ShadowDocument


@dataclass(slots=True)
class KnownDocument:
    """The last document that was read."""

    version: int = -1
    claimed_version: int = -1  # highest version that a delta claimed since the last read was sent
    desired: Mapping[str, Mapping[str, object]] = field(default_factory=dict)

    def update(self, document: ShadowDocument) -> bool:
        """Replace this by `document`; return whether a delta already claimed a newer version."""
        is_behind = document.version < self.claimed_version
        self.version, self.claimed_version, self.desired = document.version, -1, document.desired
        return is_behind

    def clear(self) -> None:
        """The shadow does not exist."""
        self.version, self.claimed_version, self.desired = -1, -1, {}

    def contains(self, inspection: str, members: Mapping[str, object]) -> bool:
        """Whether the document desires `members` of the inspection already."""
        known = self.desired.get(inspection)
        return known is not None and all(known.get(key) == value for key, value in members.items())


@dataclass(slots=True)
class ReportedStates:
    """The newest state of each inspection, and what the shadow was sent of them."""

    newest: dict[str, ModelStatus] = field(default_factory=dict)  # put by any thread
    sent: dict[str, ModelStatus] = field(default_factory=dict)  # empty after a reconnection: it may be lost
    unknown_inspections: frozenset[str] = frozenset()  # in the shadow, and none of this device's
    removing: frozenset[str] = frozenset()  # those of them that the last update removes

    def is_news(self, statuses: Mapping[str, ModelStatus]) -> bool:
        """Whether `statuses` differ from what was sent in more than their progress."""
        sent = self.sent
        return statuses.keys() != sent.keys() or any(
            replace(status, progress={}) != replace(sent[name], progress={}) for name, status in statuses.items()
        )

    def note_sent(self, statuses: dict[str, ModelStatus]) -> None:
        """Note that an update with `statuses`, and without the unknown inspections, was sent."""
        self.sent, self.removing = statuses, self.unknown_inspections

    def note_accepted(self) -> None:
        """Note that the service accepted the last update."""
        self.unknown_inspections -= self.removing
