"""The messaging parts of an agent, composed as `agent.app` does, without cameras and models."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from agent.adapters.device_shadow import ShadowDesiredState
from agent.adapters.mqtt import MqttTransport
from agent.app.presence import announce_presence
from agent.outbox import Outbox, OutboxLimits
from agent.records import Judgement, Origin, Outcome, Verdict
from agent.timing.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from agent.release_records import ModelStatus

THING: Final = "thing-1"
LINE: Final = "line-1"
INSPECTION: Final = "surface"


class MessagingStack:
    """Outbox, MQTT transport, device shadow and status of one agent, with defects that a caller hands over."""

    def __init__(
        self,
        *,
        port: int,
        state_dir: Path,
        protocol: Literal["3.1.1", "5"],
        boot_epoch: int = 1,
        status: ModelStatus | None = None,
        limits: OutboxLimits | None = None,
        **transport: Any,
    ) -> None:
        """Compose the parts; nothing is connected yet.

        Args:
            port: Of the broker on the loopback.
            state_dir: Of the outbox.
            protocol: Version of MQTT.
            boot_epoch: Of the verdicts; also the seed of the back-off's jitter.
            status: Reported to the shadow; None: nothing is reported.
            limits: Of the outbox; None: the default.
            **transport: Further arguments of MqttTransport.

        """
        self.clock = SystemClock()
        self.transport = MqttTransport(
            host="127.0.0.1",
            port=port,
            protocol=protocol,
            thing=THING,
            client_id=THING,
            state_dir=state_dir,
            rng=random.Random(boot_epoch),
            **transport,
        )
        self.outbox = Outbox(state_dir=state_dir, transport=self.transport, clock=self.clock, limits=limits)
        announce_presence(self.transport, thing=THING, line=LINE, boot_epoch=boot_epoch, clock=self.clock)
        self.shadow = ShadowDesiredState(
            thing=THING,
            inspections=[INSPECTION],
            transport=self.transport,
            publish_now=self.outbox.publish_now,
            add_connection_listener=self.outbox.add_connection_listener,
            clock=self.clock,
        )
        if status is not None:
            self.shadow.report(status)
        self._boot_epoch = boot_epoch

    def __enter__(self) -> Self:
        """Start everything."""
        self.outbox.start()
        self.shadow.start(on_desired=lambda *_: None)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop without waiting for the broker."""
        self.shadow.close()
        self.outbox.close(self.clock.monotonic_ns())

    def append_defect(self, seq: int, *, camera: str = "cam-1") -> None:
        """Hand over one defect, which is a message of its own."""
        origin = Origin(THING, LINE, INSPECTION, camera, self._boot_epoch, "c" * 64, "p" * 64, None, ("ok", "scratch"))
        judgement = Judgement(Outcome.DEFECT, "scratch", 0.9, (0.1, 0.9))
        self.outbox.append([Verdict(origin, seq, time.time_ns(), judgement, 2_500)])

    def append_defects(self, numbers: Sequence[int], *, per_s: float) -> None:
        """Hand over defects at a line's rate; returns after the last one's turn."""
        began = time.monotonic()
        for index, number in enumerate(numbers):
            time.sleep(max(0.0, began + index / per_s - time.monotonic()))
            self.append_defect(number)

    @property
    def is_drained(self) -> bool:
        """Whether the broker has acknowledged everything."""
        return self.outbox.stats().rows == 0 and self.outbox.is_drained

    def wait_drained(self, timeout_s: float) -> bool:
        """Wait until the broker has acknowledged everything; whether it has."""
        deadline = time.monotonic() + timeout_s
        while not self.is_drained and time.monotonic() < deadline:
            time.sleep(0.005)
        return self.is_drained
