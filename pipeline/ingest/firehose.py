"""The transformation function of the Firehose streams: messages to rows, one stream for each table.

Promise: every record is returned under its own id, whatever the others are. A record that is not a message of Kensa is
`ProcessingFailed` with the reason in its metadata and the log, and Firehose keeps the original under its error prefix.
A record of another table is `Dropped`, so one rule may feed all streams. A response stays under the 6 MB that Lambda
may return: an envelope grows about twenty-fold, so records that do not fit are requeued into the stream (`Dropped`
here, transformed with a later batch). With Firehose batches of 0.2 MB that remains the exception.

The stream is named `...-{table}`, or `...-live-verdicts` for the live view, which receives one document for each record
(pipeline/ingest/live_documents.py). KENSA_SITE names the plant.
"""

from __future__ import annotations

import base64
import binascii
import logging
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from agent.errors import KensaError, MessageError, OperatorError
from pipeline.analytics.lake_schema import TABLES
from pipeline.ingest.live_documents import live_document
from pipeline.ingest.message_rows import message_to_rows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LIVE_STREAM: Final = "live-verdicts"
MAX_ANSWER_BYTES: Final = 5_500_000  # Lambda returns 6 MB at most
_RECORD_BYTES: Final = 300  # of a returned record without its data
_PUT_RECORDS: Final = 500  # limits of PutRecordBatch
_PUT_BYTES: Final = 3_500_000
_PUT_TRIES: Final = 4

_log = logging.getLogger(__name__)


class FirehoseClient(Protocol):
    """boto3's Firehose client, or the simulator's."""

    def put_record_batch(self, *, DeliveryStreamName: str, Records: Sequence[Mapping[str, bytes]]) -> Any:  # noqa: N803
        """Put up to 500 records into a stream."""
        ...


class IngestError(KensaError):
    """Firehose did not accept requeued records; Firehose retries the whole batch."""

    exit_code = 4


@dataclass(frozen=True, slots=True)
class TransformedRecord:
    """The result of one record."""

    record_id: str
    result: str  # Ok, Dropped or ProcessingFailed
    data: bytes = b""
    partition_keys: Mapping[str, str] | None = None
    reason: str = ""

    def to_firehose(self) -> dict[str, Any]:
        """Return the record in the form that Firehose reads."""
        found: dict[str, Any] = {"recordId": self.record_id, "result": self.result}
        if self.result == "Ok":
            found["data"] = base64.b64encode(self.data).decode()
            if self.partition_keys is not None:
                found["metadata"] = {"partitionKeys": dict(self.partition_keys)}
        elif self.result == "ProcessingFailed":
            found["metadata"] = {"reason": self.reason}
        return found


def transform(record_id: str, data: bytes, *, table: str, site: str) -> TransformedRecord:
    """Convert one record to the rows of `table`, one JSON document a line; for the live view to one document."""
    try:
        if table == LIVE_STREAM:
            shown = live_document(data, site=site)
            return TransformedRecord(record_id, "Dropped" if shown is None else "Ok", shown or b"")
        rows = message_to_rows(data, site=site)
    except MessageError as error:
        return TransformedRecord(record_id, "ProcessingFailed", reason=str(error)[:500])
    if not rows or rows[0].partition.table != table:
        return TransformedRecord(record_id, "Dropped")
    text = "".join(row.to_json_line() + "\n" for row in rows)
    return TransformedRecord(record_id, "Ok", data=text.encode(), partition_keys=rows[0].partition.partition_keys)


def handler(event: Mapping[str, Any], _context: object, *, putter: FirehoseClient | None = None) -> dict[str, Any]:
    """Transform a batch. Raises OperatorError for a wrong deployment, IngestError if requeueing fails."""
    stream = str(event.get("deliveryStreamArn", "")).rpartition("/")[2]
    table = LIVE_STREAM if stream.endswith(f"-{LIVE_STREAM}") else stream.rpartition("-")[2]
    if table not in (*TABLES, LIVE_STREAM):
        raise OperatorError(f"The stream {stream!r} must be named after its table: ...-{', ...-'.join(TABLES)}.")
    site = os.environ.get("KENSA_SITE", "")
    if not site:
        raise OperatorError("KENSA_SITE is not set: it names the plant of the messages.")
    answers, again, size, failed = [], [], 0, 0
    for record in event["records"]:
        found = _transform_record(record, table=table, site=site)
        grown = size + _RECORD_BYTES + len(found.data) * 4 // 3 + len(found.reason)
        if grown > MAX_ANSWER_BYTES and found.result == "Ok":
            again.append(base64.b64decode(record["data"]))
            found = TransformedRecord(found.record_id, "Dropped")
            grown = size + _RECORD_BYTES
        size = grown
        if found.result == "ProcessingFailed":
            failed += 1
            _log.warning("a record of %s was refused: %s", stream, found.reason)
        answers.append(found.to_firehose())
    if again:
        _requeue(stream, again, putter or _client())
    _log.info("%s: %d records, %d refused, %d requeued", stream, len(answers), failed, len(again))
    return {"records": answers}


def _transform_record(record: Mapping[str, Any], *, table: str, site: str) -> TransformedRecord:
    record_id = str(record["recordId"])
    try:
        data = base64.b64decode(record["data"], validate=True)
    except (binascii.Error, KeyError, TypeError, ValueError) as error:
        return TransformedRecord(record_id, "ProcessingFailed", reason=f"The record's data is not base64: {error}.")
    return transform(record_id, data, table=table, site=site)


def _requeue(stream: str, records: Sequence[bytes], putter: FirehoseClient) -> None:
    """Put `records` into `stream` again, in batches within its limits. Raises IngestError."""
    waiting = list(records)
    for attempt in range(_PUT_TRIES):
        refused: list[bytes] = []
        for batch in _batches(waiting):
            answer = putter.put_record_batch(DeliveryStreamName=stream, Records=[{"Data": data} for data in batch])
            results = answer["RequestResponses"]
            refused += [data for data, result in zip(batch, results, strict=True) if "ErrorCode" in result]
        if not refused:
            return
        waiting = refused
        time.sleep(0.1 * 2**attempt)
    raise IngestError(f"{stream} did not accept {len(waiting)} requeued records after {_PUT_TRIES} tries.")


def _batches(records: Sequence[bytes]) -> list[list[bytes]]:
    batches: list[list[bytes]] = [[]]
    size = 0
    for data in records:
        if batches[-1] and (len(batches[-1]) >= _PUT_RECORDS or size + len(data) > _PUT_BYTES):
            batches.append([])
            size = 0
        batches[-1].append(data)
        size += len(data)
    return batches


def _client() -> FirehoseClient:
    from pipeline.cloud.aws_clients import client  # noqa: PLC0415 - only where something goes back

    putter: FirehoseClient = client("firehose")
    return putter
