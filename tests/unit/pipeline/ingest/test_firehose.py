"""The transformation function of the Firehose streams."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest

from agent import wire
from agent.errors import OperatorError
from pipeline.ingest import firehose
from tests.kits.cloud import messages as kit
from tests.kits.cloud.messages import firehose_event as event

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LAMBDA_BYTES = 6 * 1024 * 1024


class Stream:
    """Takes records back; refuses the first of each of `refusals` calls."""

    def __init__(self, refusals: int = 0) -> None:
        self.records: list[bytes] = []
        self.calls: list[int] = []
        self._refusals = refusals

    def put_record_batch(self, *, DeliveryStreamName: str, Records: Sequence[Mapping[str, bytes]]) -> Any:  # noqa: N803
        assert DeliveryStreamName == "kensa-verdicts"
        assert len(Records) <= 500
        assert sum(len(record["Data"]) for record in Records) <= 4 * 1024 * 1024
        self.calls.append(len(Records))
        results: list[dict[str, str]] = [{"RecordId": "1"} for _ in Records]
        taken = list(Records)
        if self._refusals:
            self._refusals -= 1
            results[0] = {"ErrorCode": "ServiceUnavailableException"}
            taken = taken[1:]
        self.records += [record["Data"] for record in taken]
        return {"FailedPutCount": len(Records) - len(taken), "RequestResponses": results}


@pytest.fixture(autouse=True)
def site(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KENSA_SITE", kit.SITE)


def rows(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in base64.b64decode(record["data"]).splitlines()]


def test_every_record_comes_back_under_its_id_and_bad_ones_do_not_touch_the_others() -> None:
    payloads = [wire.encode_verdict(kit.defect(1)), b"{", kit.envelope([kit.ok(2), kit.ok(3)]), b"\xff\xfe"]
    answer = firehose.handler(event(payloads), None)["records"]
    assert [record["recordId"] for record in answer] == ["r0", "r1", "r2", "r3"]
    assert [record["result"] for record in answer] == ["Ok", "ProcessingFailed", "Ok", "ProcessingFailed"]
    assert [row["seq"] for row in rows(answer[2])] == [2, 3]
    assert "not the JSON" in answer[1]["metadata"]["reason"]


def test_rows_carry_the_keys_of_their_partition_beside_them() -> None:
    (record,) = firehose.handler(event([wire.encode_verdict(kit.defect(1))]), None)["records"]
    assert record["metadata"]["partitionKeys"] == {"site": "kyoto", "line": "press-1", "day": "2026-03-02"}
    assert not {"site", "line", "day"} & set(rows(record)[0])


@pytest.mark.parametrize(("table", "kept"), [("verdicts", 0), ("gaps", 1), ("heartbeats", 2), ("model_reports", 3)])
def test_a_stream_keeps_its_own_tables_messages_and_drops_the_others(table: str, kept: int) -> None:
    payloads = [wire.encode_verdict(kit.ok(1)), kit.gap(), kit.heartbeat(), kit.report()]
    answer = firehose.handler(event(payloads, table), None)["records"]
    assert [record["result"] for record in answer] == ["Ok" if i == kept else "Dropped" for i in range(4)]


def test_data_that_is_not_base64_fails_alone() -> None:
    told = event([wire.encode_verdict(kit.ok(1))])
    told["records"] += [{"recordId": "bad", "data": "%%%"}, {"recordId": "none"}]
    answer = firehose.handler(told, None)["records"]
    assert [record["result"] for record in answer] == ["Ok", "ProcessingFailed", "ProcessingFailed"]


def test_an_answer_stays_under_lambdas_limit_and_what_does_not_fit_goes_back_to_the_stream() -> None:
    made = [kit.full_envelope(first) for first in range(0, 30_000, 200)]
    stream = Stream(refusals=1)
    answer = firehose.handler(event([payload for payload, _ in made]), None, putter=stream)
    assert len(json.dumps(answer)) < LAMBDA_BYTES
    results = [record["result"] for record in answer["records"]]
    assert set(results) == {"Ok", "Dropped"}
    dropped = [payload for (payload, _), result in zip(made, results, strict=True) if result == "Dropped"]
    assert sorted(stream.records) == sorted(dropped)
    assert len(stream.calls) > 1  # what was refused was tried again


def test_when_the_stream_takes_nothing_back_the_whole_batch_fails_and_firehose_tries_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    made = [kit.full_envelope(first)[0] for first in range(0, 30_000, 200)]
    with pytest.raises(firehose.IngestError, match="did not accept"):
        firehose.handler(event(made), None, putter=Stream(refusals=99))


def test_a_stream_without_a_tables_name_is_a_wrong_deployment() -> None:
    with pytest.raises(OperatorError, match="named after its table"):
        firehose.handler(event([], "everything"), None)


def test_without_a_site_nothing_is_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KENSA_SITE")
    with pytest.raises(OperatorError, match="KENSA_SITE"):
        firehose.handler(event([]), None)


def test_a_batch_of_the_advised_size_fits_into_one_answer() -> None:
    """0.2 MB, the least that Firehose hands over; then nothing goes back."""
    payload, _ = kit.full_envelope()
    stream = Stream()
    firehose.handler(event([payload] * (200_000 // len(payload))), None, putter=stream)
    assert not stream.records
