"""Release hints and statuses survive the round trip; anything else is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.errors import MessageError
from agent.release_records import DesiredRelease, Gate, Refusal, ReleaseRef
from greengrass.release_sources import release_hints
from greengrass.release_sources.release_hints import ReleaseHint, ReleaseStatus
from tests.kits import model_status

REF = ReleaseRef("parts", "1.1.0", 2, "d" * 64, "m" * 64)


def test_a_hint_survives_the_round_trip() -> None:
    hint = ReleaseHint("parts/1.1.0", Path("/artifacts/repository"))
    assert release_hints.parse_hint(hint.encode()) == hint


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b"{}",
        b'{"release":"parts/1.1.0"}',
        b'{"release":"parts","folder":"/x"}',
        b'{"release":"parts/1.1.0","folder":"x"}',
        b'{"release":"parts/1.1.0","folder":1}',
        b'{"release":"parts/1.1.0","folder":"/x","then":"load it"}',
        b'{"release":"parts/1.1.0","folder":"/x\\u0000"}',
        b'{"release":"parts/1.1.0","folder":"/' + b"x" * 5_000 + b'"}',
    ],
)
def test_an_invalid_hint_is_refused(payload: bytes) -> None:
    with pytest.raises(MessageError):
        release_hints.parse_hint(payload)


def test_a_status_survives_the_round_trip() -> None:
    refusal = Refusal(Gate.GOLDEN, "scores_differ", "too far " * 500)
    status = ReleaseStatus.from_model_status(
        model_status.status(active=REF, refusal=refusal, refused=REF, desired=DesiredRelease("parts/1.1.0"))
    )
    assert release_hints.parse_status(status.encode()) == status
    assert len(status.encode()) < 4_096


@pytest.mark.parametrize("payload", [b"{}", b'{"state":1}', b'{"state":"idle","active":["x"]}', b"x"])
def test_an_invalid_status_is_refused(payload: bytes) -> None:
    with pytest.raises(MessageError):
        release_hints.parse_status(payload)
