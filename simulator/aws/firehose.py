"""Data Firehose with its transformation function.

Records wait until `deliver`, as they wait in AWS until a buffer is full.

Promise: what the function says `Ok` to arrives in `Delivery.rows`; what it drops is gone, what it fails is kept apart,
as Firehose keeps it under its error prefix; nothing else happens to a record.
"""

from __future__ import annotations

import base64
import json
import threading
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from simulator.aws.api_protocol import ACCOUNT, REGION, AwsResponse

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from simulator.aws.api_protocol import AwsRequest
    from simulator.aws.lambda_functions import LambdaFunctions

BATCH_BYTES: Final = 200_000  # of one call of the function: the BufferSizeInMBs of template.yaml


@dataclass(frozen=True, slots=True)
class FirehoseDelivery:
    """What one delivery brought. A row that the function gave partition keys has them under `partition_keys`."""

    rows: tuple[dict[str, Any], ...]
    partition_keys: tuple[dict[str, str], ...]  # of each row
    failed: tuple[bytes, ...]  # records as they came


class Firehose:
    """The delivery streams of an account. Any thread."""

    def __init__(self, functions: LambdaFunctions) -> None:
        """`functions` holds the transformations."""
        self._functions = functions
        self._lock = threading.Lock()
        self._pending: dict[str, list[bytes]] = {}

    def put(self, stream: str, record: bytes) -> None:
        """Take a record."""
        with self._lock:
            self._pending.setdefault(stream, []).append(record)

    def pending_count(self, stream: str) -> int:
        """How many records wait."""
        with self._lock:
            return len(self._pending.get(stream, ()))

    def clear(self) -> None:
        """Forget every record."""
        with self._lock:
            self._pending.clear()

    def answer(self, call: AwsRequest) -> AwsResponse | None:
        """Answer `PutRecordBatch`: the function puts back what its answer has no room for; the next delivery has it."""
        if call.operation != "PutRecordBatch":
            return None
        tree = call.json()
        for record in tree["Records"]:
            self.put(tree["DeliveryStreamName"], base64.b64decode(record["Data"]))
        responses = [{"RecordId": str(uuid.uuid4())} for _ in tree["Records"]]
        return AwsResponse.of({"FailedPutCount": 0, "Encrypted": False, "RequestResponses": responses})

    def deliver(self, stream: str, *, function: str) -> FirehoseDelivery:
        """Send what waits through a transformation function, BATCH_BYTES at a time; a longer record goes alone."""
        with self._lock:
            records = self._pending.pop(stream, [])
        rows: list[dict[str, Any]] = []
        keys: list[dict[str, str]] = []
        failed: list[bytes] = []
        for batch in _batches(records):
            self._transform(stream, function, batch, rows, keys, failed)
        return FirehoseDelivery(tuple(rows), tuple(keys), tuple(failed))

    def _transform(
        self,
        stream: str,
        function: str,
        records: list[bytes],
        rows: list[dict[str, Any]],
        keys: list[dict[str, str]],
        failed: list[bytes],
    ) -> None:
        by_id = {str(uuid.uuid4()): record for record in records}
        event = {
            "invocationId": str(uuid.uuid4()),
            "deliveryStreamArn": f"arn:aws:firehose:{REGION}:{ACCOUNT}:deliverystream/{stream}",
            "region": REGION,
            "records": [
                {
                    "recordId": name,
                    "approximateArrivalTimestamp": int(time.time() * 1_000),
                    "data": base64.b64encode(record).decode(),
                }
                for name, record in by_id.items()
            ],
        }
        answer, error = self._functions.call(function, event)
        told = {} if error else {entry["recordId"]: entry for entry in answer["records"]}
        for name, record in by_id.items():
            entry = told.get(name, {"result": "ProcessingFailed"})
            if entry["result"] == "Dropped":
                continue
            if entry["result"] != "Ok":
                failed.append(record)
                continue
            for line in base64.b64decode(entry["data"]).splitlines():
                if line.strip():
                    rows.append(json.loads(line))
                    keys.append(entry.get("metadata", {}).get("partitionKeys", {}))


def _batches(records: Sequence[bytes]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    size = 0
    for record in records:
        if batch and size + len(record) > BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(record)
        size += len(record)
    if batch:
        yield batch
