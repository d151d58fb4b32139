"""The local Firehose passes as much to its function as AWS does, and takes back the rest."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from pipeline.ingest import firehose
from simulator.aws.firehose import BATCH_BYTES
from tests.kits.cloud.messages import SITE, full_envelope
from tests.kits.cloud.simulated_account import aws, aws_server

if TYPE_CHECKING:
    from simulator.aws.local_aws import LocalAws

__all__ = ["aws", "aws_server"]  # fixtures

STREAM = "kensa-verdicts"
FUNCTION = "kensa-Transform"


@pytest.fixture
def stream(aws: LocalAws, monkeypatch: pytest.MonkeyPatch) -> LocalAws:
    monkeypatch.setenv("KENSA_SITE", SITE)
    aws.functions.add(FUNCTION, firehose.handler)
    return aws


def put_envelopes(aws: LocalAws, number: int) -> int:
    """Put full envelopes; returns how many verdicts they hold."""
    verdicts = 0
    for _ in range(number):
        data, count = full_envelope(verdicts)
        aws.firehose.put(STREAM, data)
        verdicts += count
    return verdicts


def test_full_envelopes_reach_the_table_without_being_put_back(stream: LocalAws) -> None:
    verdicts = put_envelopes(stream, 60)  # in one call their rows were more than Lambda may return
    delivery = stream.firehose.deliver(STREAM, function=FUNCTION)
    assert sorted(row["seq"] for row in delivery.rows) == list(range(verdicts))
    assert delivery.failed == ()
    assert stream.firehose.pending_count(STREAM) == 0
    calls = [call for call in stream.functions.invocations if call.function == FUNCTION]
    assert len(calls) > 1
    for call in calls:
        assert sum(len(record["data"]) for record in call.event["records"]) * 3 // 4 <= BATCH_BYTES
        assert len(json.dumps(call.answer)) <= 6 * 1024**2


def test_what_an_answer_has_no_room_for_waits_for_the_next_delivery(
    stream: LocalAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(firehose, "MAX_ANSWER_BYTES", 500_000)
    verdicts = put_envelopes(stream, 10)
    found: list[list[int]] = []
    while stream.firehose.pending_count(STREAM):
        found.append([row["seq"] for row in stream.firehose.deliver(STREAM, function=FUNCTION).rows])
    assert len(found) > 1
    assert sorted(seq for seqs in found for seq in seqs) == list(range(verdicts))
