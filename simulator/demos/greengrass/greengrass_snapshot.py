"""The state of the demo at one moment, for view, plain lines and report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from simulator.demos.common.verdict_metrics import VerdictMetrics
    from simulator.demos.greengrass.component_status import ComponentStatus
    from simulator.demos.greengrass.release_catalogue import OfferedRelease
    from simulator.demos.greengrass.update_schedule import ModelUpdate
    from simulator.nucleus.deployments.deployer import ComponentEvent
    from simulator.nucleus.limits import Mode
    from simulator.nucleus.nucleus import ComponentView
    from simulator.probes.verdict_subscriber import SubscriberCounts


@dataclass(frozen=True, slots=True, kw_only=True)
class GreengrassSnapshot:
    """Everything that is shown."""

    elapsed_s: float  # since the component inspected its first part
    seconds: float  # planned
    mode: Mode
    note: str  # what is going on, in a few words
    note_style: str
    broker: str  # mosquitto or amqtt
    online: bool  # whether the nucleus reaches it
    component: ComponentView
    first_pid: int | None  # of the component, when it was deployed
    status: ComponentStatus | None  # None while the component does not answer
    sent: int  # images of the camera
    published: int  # messages of QoS 1 that the broker took from the nucleus
    frames_per_s: float
    publishes_per_s: float
    metrics: VerdictMetrics
    counts: SubscriberCounts
    updates: Sequence[ModelUpdate]
    waiting: Sequence[tuple[OfferedRelease, float]]  # and when each is due at the earliest, seconds
    events: Sequence[ComponentEvent]  # of the nucleus, oldest first
    began_s: float  # the clock of the events at the first part

    @property
    def pid_changed(self) -> bool:
        """Whether the component is another process than at first, or none."""
        return self.component.pid != self.first_pid or self.component.starts != 1
