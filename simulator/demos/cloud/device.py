"""A device of the plant: the real agent on a line of its own.

It has MQTT, signed releases and collected frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import yaml

from agent import app, config
from agent.adapters.mqtt import MqttTransport
from simulator.demos.cloud.cloud_account import DATA, REPOSITORY
from simulator.demos.cloud.cloud_line import FADED_LIGHT, INSPECTION, SIDE_PX, SITE, BinnedLineCamera, make_line

if TYPE_CHECKING:
    from pathlib import Path

    from agent.release_records import ModelStatus
    from agent.timing.clock import Clock
    from simulator.doubles.network.mqtt_broker import LocalBroker
    from simulator.line import SimulatedLine

# What the site allows. It lets a release pass more than its predecessor because it keeps labelled parts of its own,
# which every release must judge right.
LIMITS: Final[dict[str, Any]] = {
    "allow_pass_more": True,
    "max_disagreement": 0.98,
    "min_shadow_parts": 60,
    "min_trial_parts": 140,
    "max_error_rate": 0.05,
    "shadow_max_fps": 60.0,
    "deadline_ms": 2_000.0,  # a machine that trains beside it
    "acceptance_recall": 0.9,
    "max_extra_memory_bytes": 512 * 1024**2,
    "probation_s": 5.0,
    "cool_down_s": 5.0,
}
COLLECT: Final[dict[str, Any]] = {
    "site": SITE,
    "target": DATA,
    "ok_share": 0.1,
    "max_per_s": 1.8,  # after the drift every part is a defect: the budget bounds what is kept
    "max_bytes_per_day": 200 * 1024**2,
}


@dataclass(frozen=True, slots=True)
class DevicePlacement:
    """Where a device stands."""

    thing: str
    line: str
    camera: str
    seed: int


PLACEMENTS: Final = (
    DevicePlacement("press-1", "line-1", "cam-1", 101),
    DevicePlacement("press-2", "line-2", "cam-2", 102),
)


class Device:
    """Composed; `agent.start()` lets it work."""

    def __init__(
        self,
        place: DevicePlacement,
        folder: Path,
        *,
        factory: Path,
        root: Path,
        broker: LocalBroker,
        light: tuple[int, int],
        fps: float,
        clock: Clock,
    ) -> None:
        """Compose the agent; it is not started yet.

        Args:
            place: Thing, line and camera.
            folder: Of the device's state.
            factory: The release that it starts with.
            root: Trusted root metadata of the release repository.
            broker: To publish to.
            light: Part at which the lamp begins to fade, and parts that the fading takes.
            fps: Parts a second.
            clock: Of camera and agent.

        """
        after, period = light
        self.placement = place
        self.line: SimulatedLine = make_line(
            place.seed, drift_amplitude=FADED_LIGHT, drift_after_parts=after, drift_period_parts=period
        )
        self.camera = BinnedLineCamera(self.line, fps=fps, clock=clock)
        self.state_dir = folder / "state"
        protocol = broker.protocol
        tree = {
            "thing": place.thing,
            "line": place.line,
            "state_dir": "state",
            "inspections": {
                INSPECTION: {
                    "release": str(factory.resolve()),
                    "intake": {"capacity": 256},
                    "cameras": {
                        place.camera: {"kind": "plugin", "source": "simulated", "width": SIDE_PX, "height": SIDE_PX}
                    },
                }
            },
            "transport": {"kind": "mqtt", "host": broker.host, "port": broker.port, "protocol": protocol},
            "updates": {
                "repository": REPOSITORY,
                "root": str(root.resolve()),
                "site": SITE,
                "shadow": broker.carries_shadows,
                "limits": LIMITS,
            },
            "collect": COLLECT,
            "heartbeat_s": 5.0,
            "drain_s": 10.0,
            "workers": 1,
        }
        folder.mkdir(parents=True)
        path = folder / "agent.yaml"
        path.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
        transport = MqttTransport(
            host=broker.host,
            port=broker.port,
            client_id=place.thing,
            thing=place.thing,
            protocol=protocol,
            backoff_s=(0.2, 1.0),
            clock=clock,
        )
        self.agent = app.build(config.load(path), transport=transport, sources={place.camera: self.camera}, clock=clock)

    @property
    def active(self) -> str:
        """The release that inspects."""
        models = self.agent.lifecycle_manager
        found = None if models is None else models.lifecycles[INSPECTION].status().active
        return "" if found is None else found.release_id

    @property
    def status(self) -> ModelStatus | None:
        """Of the lifecycle; None before the start."""
        models = self.agent.lifecycle_manager
        return None if models is None else models.lifecycles[INSPECTION].status()
