"""Runs the agent's messaging against every behaviour of the faulty broker, in MQTT 3.1.1 and 5.

For each case defects come at a line's rate on an allowed and on another topic. At the end every verdict is either
still on the device's disk or has its own acknowledgement in the broker's record; anything else was deleted without
one. With a forbidden topic the other topic's verdicts are timed, from `append` to their first arrival at the broker.
"""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from agent.outbox import OutboxLimits
from simulator.campaigns.connectivity.messaging_stack import THING, MessagingStack
from simulator.faulty_broker import BROKER_BEHAVIOURS, FaultyBroker

if TYPE_CHECKING:
    from collections.abc import Iterable

PROTOCOLS: Final[tuple[Literal["3.1.1", "5"], ...]] = ("3.1.1", "5")
LATE_TARGET_S: Final = 2.0
_PER_S: Final = 50.0
_CASE_S: Final = 60.0
_DENIED: Final = f"kensa/{THING}/verdicts/cam-2"


@dataclass(frozen=True, slots=True)
class FaultyBrokerResult:
    """All cases together."""

    cases: int
    sent: int
    deleted_unacknowledged: int  # neither on the disk nor acknowledged by their own PUBACK
    stuck: tuple[str, ...]  # cases that were not done within a minute: `behaviour protocol`
    forbidden_late_s: float  # longest wait of a verdict on an allowed topic while another is forbidden

    @property
    def is_clean(self) -> bool:
        """Nothing deleted unacknowledged, nothing stuck, allowed topics in time."""
        return not (self.deleted_unacknowledged or self.stuck) and self.forbidden_late_s <= LATE_TARGET_S

    def to_json(self) -> dict[str, Any]:
        """Return plain values for `json.dumps`."""
        return asdict(self) | {"is_clean": self.is_clean}


def _open_stack(broker: FaultyBroker, state_dir: Path, protocol: Literal["3.1.1", "5"]) -> MessagingStack:
    return MessagingStack(
        port=broker.port,
        state_dir=state_dir,
        protocol=protocol,
        limits=OutboxLimits(commit_s=0.05),
        timeout_s=2.0,
        backoff_s=(0.1, 1.0),
    )


def _seqs(messages: Iterable[tuple[str, bytes]], camera: str) -> set[int]:
    return {json.loads(payload)["seq"] for topic, payload in messages if topic.endswith(f"/verdicts/{camera}")}


def _case(behaviour: str, protocol: Literal["3.1.1", "5"], verdicts: int) -> tuple[int, bool]:
    """How many were deleted without their own acknowledgement, and whether the case came to its end."""
    with tempfile.TemporaryDirectory(prefix="kensa-faulty-broker-") as folder, FaultyBroker(behaviour) as broker:
        with _open_stack(broker, Path(folder), protocol) as parts:
            parts.append_defects(range(verdicts), per_s=_PER_S)
            done = parts.wait_drained(_CASE_S)
        kept = parts.outbox.stats().verdicts
        missing = set(range(verdicts)) - _seqs(broker.record.delivered(), "cam-1")
        return max(0, len(missing) - kept), done


def _denied_topic(protocol: Literal["3.1.1", "5"], verdicts: int) -> float:
    """Longest wait of an allowed verdict, in seconds; infinite when one did not arrive."""
    appended: dict[int, float] = {}
    with (
        tempfile.TemporaryDirectory(prefix="kensa-faulty-broker-") as folder,
        FaultyBroker(forbidden=[_DENIED]) as broker,
        _open_stack(broker, Path(folder), protocol) as parts,
    ):
        began = time.monotonic()
        for number in range(verdicts):
            time.sleep(max(0.0, began + number / _PER_S - time.monotonic()))
            appended[number] = broker.record.now_s()
            parts.append_defect(number)
            parts.append_defect(number, camera="cam-2")
        deadline = time.monotonic() + _CASE_S
        while len(_seqs(broker.record.acknowledged(), "cam-1")) < verdicts and time.monotonic() < deadline:
            time.sleep(0.05)
        arrived: dict[int, float] = {}
        for event in broker.record.events:
            if event.what == "acknowledge" and event.topic.endswith("/cam-1"):
                arrived.setdefault(json.loads(event.payload)["seq"], event.at_s)
        return max(arrived.get(number, float("inf")) - at_s for number, at_s in appended.items())


def run_faulty_broker(*, verdicts: int) -> FaultyBrokerResult:
    """Run every case with so many verdicts each."""
    deleted, stuck = 0, []
    for behaviour in BROKER_BEHAVIOURS:
        for protocol in PROTOCOLS:
            found, done = _case(behaviour, protocol, verdicts)
            deleted += found
            if not done:
                stuck.append(f"{behaviour} {protocol}")
    late_s = max(_denied_topic(protocol, verdicts) for protocol in PROTOCOLS)
    cases = len(BROKER_BEHAVIOURS) * len(PROTOCOLS)
    return FaultyBrokerResult(cases, cases * verdicts, deleted, tuple(stuck), round(late_s, 3))
