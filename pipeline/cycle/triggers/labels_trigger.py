"""When labels have come: into the lake, and enough of them are the trigger `labels` of the cycle. Once a day.

    cycle/v1/labels/SITE/MODEL.json     how many there were when a cycle was last asked for
    lake/labels/                        the table `labels`, for the estimates of escapes and false rejects

Promise: labels are counted towards one cycle only, whatever came of it, so that a cycle that led to nothing is not
repeated every day. What cannot be read is left out of the table and told in the log.
"""

from __future__ import annotations

import json
import logging
import os
from typing import TYPE_CHECKING, Any, Final

from agent.errors import OperatorError
from pipeline.cloud import aws_clients
from pipeline.cloud.storage import ObjectMissingError, Storage
from pipeline.cycle.execution import to_json_bytes
from pipeline.datasets.collected_frames import scan_frames
from pipeline.datasets.label_store import LabelStore
from pipeline.ingest.labels_table import refresh_labels

if TYPE_CHECKING:
    from pipeline.datasets.label_store import LabelHistory

SOURCE: Final = "kensa"
DETAIL_TYPE: Final = "Labels added"
_MAX_BYTES: Final = 4_096
_VARIABLES: Final = ("KENSA_DATA", "KENSA_SITE", "KENSA_MODEL", "KENSA_LABEL_COUNT")
_log = logging.getLogger(__name__)


def handler(_event: object, _context: object) -> dict[str, Any]:
    """Count, ask for a cycle where `KENSA_LABEL_COUNT` labels or more are new, and write the lake's table anew."""
    data_uri, site, model, least = (os.environ.get(name, "") for name in _VARIABLES)
    if not (data_uri and site and model and least.isdecimal()):
        raise OperatorError(
            f"{', '.join(_VARIABLES)} must be set: they say whose labels are counted, and how many suffice."
        )
    data = aws_clients.storage(data_uri)
    book = LabelStore(data).load()
    key = f"cycle/v1/labels/{site}/{model}.json"
    there = sum(1 for _ in book.all())
    new = there - _previous_count(data, key)
    asked = new >= int(least)
    if asked:
        _put_trigger_event(json.dumps({"site": site, "model": model, "new": new}))
        data.write(key, to_json_bytes({"labels": there}))
    return {"new": new, "asked": asked, "rows": _refresh_labels_table(book, data, site)}


def _put_trigger_event(detail: str) -> None:
    with aws_clients.translate_aws_errors("events:PutEvents"):
        answer = aws_clients.client("events").put_events(
            Entries=[{"Source": SOURCE, "DetailType": DETAIL_TYPE, "Detail": detail}]
        )
    if answer["FailedEntryCount"]:
        raise aws_clients.AwsError(f"events:PutEvents refused the event: {answer['Entries']}. It can be tried again.")


def _refresh_labels_table(book: LabelHistory, data: Storage, site: str) -> int:
    found = scan_frames(data, site=site, keys=(label.key for label in book.all()))
    for problem in found.problems:
        _log.warning("not in the table labels: %s", problem)
    return refresh_labels(book, found.frames, aws_clients.storage(f"{data.uri}/lake"))


def _previous_count(data: Storage, key: str) -> int:
    try:
        return int(json.loads(data.read(key, limit=_MAX_BYTES))["labels"])
    except ObjectMissingError:
        return 0
