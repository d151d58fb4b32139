"""Restarts the agent's messaging at real brokers, with network cuts, while defects arrive.

Each start is a new agent with an empty state directory, so that it has to find out anew what the broker carries:
outbox, transport, device shadow and status against mosquitto (with a shadow service), iotcore (rumqttd) and amqtt.
Then one agent lives through the cuts. What arrived is counted by a subscriber in a process of its own that is
connected to the broker directly.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections import Counter
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from simulator.campaigns.connectivity.messaging_stack import MessagingStack
from simulator.doubles.network.mqtt_broker import (
    AmqttBroker,
    IotcoreBroker,
    MosquittoBroker,
    has_iotcore,
    mosquitto_program,
)
from simulator.doubles.network.tcp_proxy import TcpProxy
from simulator.doubles.servers.shadow_service import ShadowService
from simulator.probes.verdict_subscriber import VerdictSubscriber

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.records import Verdict

BrokerKind = Literal["mosquitto", "iotcore", "amqtt"]
BROKER_KINDS: Final[tuple[BrokerKind, ...]] = ("mosquitto", "iotcore", "amqtt")
FIRST_DELIVERY_TARGET_S: Final = 10.0
_OPEN: Final[dict[BrokerKind, Callable[[], MosquittoBroker | IotcoreBroker | AmqttBroker]]] = {
    "mosquitto": MosquittoBroker,
    "iotcore": IotcoreBroker,
    "amqtt": AmqttBroker,
}
_PER_S: Final = 50.0
_DEFECTS_PER_START: Final = 50
_CUT_S: Final = 0.15
_BETWEEN_S: Final = (0.3, 1.0)
_TIMEOUT_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class AgentRestarts:
    """What came of one broker's campaign."""

    broker: BrokerKind
    starts: int
    cuts: int
    sent: int
    arrived: int
    kept: int  # still on the devices' disks at the end: neither arrived nor lost
    first_s_max: float  # longest time from a start to its first acknowledged verdict
    shadow_given_up: int  # starts that found out that the broker carries no shadow

    @property
    def lost(self) -> int:
        """Verdicts that neither arrived nor wait."""
        return self.sent - self.arrived - self.kept

    @property
    def is_clean(self) -> bool:
        """Nothing lost, nothing stuck, and every start delivered in time."""
        return self.lost == 0 and self.kept == 0 and self.first_s_max <= FIRST_DELIVERY_TARGET_S

    def to_json(self) -> dict[str, Any]:
        """Return plain values for `json.dumps`."""
        return asdict(self) | {"lost": self.lost, "is_clean": self.is_clean}


def broker_unavailable_reason(kind: BrokerKind) -> str | None:
    """Why this machine cannot run the campaign of this broker."""
    if kind == "mosquitto" and mosquitto_program() is None:
        return "mosquitto is not installed: apt install mosquitto"
    if kind == "iotcore" and not has_iotcore():
        return "iotcore is not installed: pip install 'kensa[sim]' (x86_64)"
    return None


class _RestartCampaign:
    """Counts over the starts of one broker."""

    def __init__(self, kind: BrokerKind, *, port: int, folder: Path) -> None:
        self._protocol: Literal["3.1.1", "5"] = "5" if kind == "mosquitto" else "3.1.1"
        self._port = port
        self._folder = folder
        self._epoch = 0
        self.sent = self.kept = self.given_up = 0
        self.first_s = 0.0

    def open_stack(self) -> MessagingStack:
        self._epoch += 1
        state_dir = self._folder / str(self._epoch)
        return MessagingStack(port=self._port, state_dir=state_dir, protocol=self._protocol, boot_epoch=self._epoch)

    def start(self) -> None:
        """One start: defects at the line's rate from the first moment on, until the broker has them all."""
        began = time.monotonic()
        with self.open_stack() as parts:
            waits = True
            for number in range(_DEFECTS_PER_START):
                time.sleep(max(0.0, began + number / _PER_S - time.monotonic()))
                parts.append_defect(number)
                if waits and parts.outbox.stats().delivered:
                    waits = False
                    self.first_s = max(self.first_s, time.monotonic() - began)
            deadline = time.monotonic() + _TIMEOUT_S
            while not parts.is_drained and time.monotonic() < deadline:
                if waits and parts.outbox.stats().delivered:
                    waits = False
                    self.first_s = max(self.first_s, time.monotonic() - began)
                time.sleep(0.005)
            if waits and parts.is_drained:
                self.first_s = max(self.first_s, time.monotonic() - began)
            self._end(parts, _DEFECTS_PER_START)

    def cut(self, proxy: TcpProxy, cuts: int, chance: random.Random) -> None:
        """One agent through all cuts."""
        number = 0
        with self.open_stack() as parts:
            for _ in range(cuts):
                until = time.monotonic() + chance.uniform(*_BETWEEN_S)
                while time.monotonic() < until:
                    parts.append_defect(number)
                    number += 1
                    time.sleep(1 / _PER_S)
                chance.choice([proxy.cut, proxy.reset])()
                time.sleep(_CUT_S)
                proxy.restore()
            parts.wait_drained(_TIMEOUT_S)
            self._end(parts, number)

    def _end(self, parts: MessagingStack, sent: int) -> None:
        self.sent += sent
        self.kept += parts.outbox.stats().verdicts
        self.given_up += "shadow" in parts.transport.stats.refused


def run_agent_restarts(kind: BrokerKind, *, starts: int, cuts: int, seed: int = 0) -> AgentRestarts:
    """Run the campaign against one broker. Raises MissingExtraError where it is not installed."""
    found: Counter[tuple[int, int]] = Counter()
    with (
        tempfile.TemporaryDirectory(prefix="kensa-starts-") as folder,
        _OPEN[kind]() as broker,
        TcpProxy(port=broker.port) as proxy,
        VerdictSubscriber(host=broker.host, port=broker.port) as subscriber,
        ShadowService(host=broker.host, port=broker.port) if broker.carries_shadows else nullcontext(),
    ):
        campaign = _RestartCampaign(kind, port=proxy.port, folder=Path(folder))
        for _ in range(starts):
            campaign.start()
            _record_arrivals(found, subscriber.received())
        if cuts:
            campaign.cut(proxy, cuts, random.Random(seed))
        deadline = time.monotonic() + _TIMEOUT_S
        while len(found) < campaign.sent - campaign.kept and time.monotonic() < deadline:
            _record_arrivals(found, subscriber.received())
            time.sleep(0.02)
    return AgentRestarts(
        kind, starts, cuts, campaign.sent, len(found), campaign.kept, round(campaign.first_s, 3), campaign.given_up
    )


def _record_arrivals(found: Counter[tuple[int, int]], verdicts: list[Verdict]) -> None:
    found.update((verdict.origin.boot_epoch, verdict.seq) for verdict in verdicts)
