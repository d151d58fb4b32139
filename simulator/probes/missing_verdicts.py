"""Names the verdicts that a demo's subscriber did not receive.

Compares the device's outbox and history with what arrived.

Numbers that the agent dropped have no verdict and are none; what became of those is in the loss accounting.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from agent.errors import OutboxError
from agent.outbox.storage.verdict_lookup import find_verdict, known_ranges

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from collections.abc import Set as AbstractSet
    from pathlib import Path

    from agent.records import Outcome

ArrivedSeqs = dict[tuple[str, str, int], set[int]]  # numbers by line, camera and boot epoch

_NAMED: Final = 5  # in the report; the rest is a number
_SEARCHED: Final = 2_000  # numbers looked up: each is a query


@dataclass(frozen=True, slots=True)
class MissingVerdict:
    """A verdict that was committed on the device and is not at the subscriber."""

    key: str
    outcome: Outcome
    acknowledged: bool  # by the broker: it has left the outbox


def find_missing(state_dir: Path, arrived: Mapping[tuple[str, str, int], AbstractSet[int]]) -> Iterator[MissingVerdict]:
    """Yield what outbox and history in `state_dir` hold and `arrived` lacks. Raises OutboxError for a damaged file."""
    searched = 0
    for kept in known_ranges(state_dir):
        there = arrived.get((kept.line, kept.camera, kept.boot_epoch), frozenset())
        for seq in range(kept.first_seq, kept.last_seq + 1):
            if seq in there:
                continue
            searched += 1
            if searched > _SEARCHED:
                return
            found = find_verdict(state_dir, f"{kept.line}/{kept.camera}/{kept.boot_epoch}/{seq}")
            if found is not None:
                yield MissingVerdict(found.verdict.key, found.verdict.judgement.outcome, found.delivered)


def describe_missing(
    state_dir: Path, arrived: Mapping[tuple[str, str, int], AbstractSet[int]], *, broker: str
) -> tuple[str, ...]:
    """Return a sentence for each missing verdict, five at most: its key, its outcome, who had it, and what to do."""
    try:
        missing = list(find_missing(state_dir, arrived))
    except OutboxError as error:
        return (f"which verdicts are missing cannot be said: {error}",)
    sentences = [
        f"verdict {one.key} ({one.outcome}) did not arrive: {_describe_cause(one, broker)}" for one in missing[:_NAMED]
    ]
    if len(missing) > _NAMED:
        sentences.append(f"and {len(missing) - _NAMED} more of the kind")
    return tuple(sentences)


def _describe_cause(missing: MissingVerdict, broker: str) -> str:
    if not missing.acknowledged:
        return (
            f"the broker ({broker}) had not acknowledged it when the drain ended, so it waits in the outbox for the "
            "agent's next start. Give the demo a lower --fps when this machine is busy"
        )
    return f"the broker ({broker}) acknowledged it and did not deliver it; the device's history still holds it. " + (
        "Please report this with the log"
        if broker == "mosquitto"
        else "Run it with another broker (apt install mosquitto, then --broker mosquitto), and please report this "
        "with the log"
    )
