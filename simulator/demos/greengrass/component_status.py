"""The component's status from the control socket in its work folder, as `kensa status` shows it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from agent import control, wire
from agent.errors import ControlError, MessageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from agent.wire import CameraHealth

_SETTLED_STATES: Final = frozenset({"idle", "ab"})


@dataclass(frozen=True, slots=True)
class ComponentStatus:
    """One moment of the component: its heartbeat, and where the model of the one inspection stands."""

    heartbeat: wire.Heartbeat
    state: str  # of the model's lifecycle
    active: str | None  # release; None: the factory's
    candidate: str | None
    share: float  # of the parts that the candidate inspects as well
    progress: Mapping[str, float]
    refused: str | None  # the release that was refused last
    refusal: str | None  # why

    @property
    def camera(self) -> CameraHealth:
        """The one camera."""
        return self.heartbeat.cameras[0]

    @property
    def dropped(self) -> int:
        """Frames without a verdict, each counted under a reason."""
        return sum(self.camera.dropped.values())

    @property
    def is_settled(self) -> bool:
        """Whether no release is on its way."""
        return self.state in _SETTLED_STATES and self.candidate is None


def read_component_status(state_dir: Path, inspection: str) -> ComponentStatus | None:
    """Return how the component is, None while it does not answer."""
    try:
        beat = wire.decode(json.dumps(control.request(state_dir, "status")["heartbeat"]).encode())
        shown: dict[str, Any] = control.request(state_dir, "model.show")["inspections"][inspection]
    except (ControlError, MessageError):
        return None
    if not isinstance(beat, wire.Heartbeat):
        return None
    return ComponentStatus(
        heartbeat=beat,
        state=shown["state"],
        active=_release(shown["active"]),
        candidate=_release(shown["candidate"]),
        share=shown["share"] or 0.0,
        progress=shown["progress"],
        refused=_release(shown["refused"]),
        refusal=None if shown["refusal"] is None else shown["refusal"]["text"],
    )


def _release(shown: Mapping[str, Any] | None) -> str | None:
    return None if shown is None else shown["release"]
