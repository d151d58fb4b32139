"""Daily Lambda: refreshes the labels table; starts a cycle when enough labels are new.

    cycle/v1/labels/SITE/MODEL.json     number of labels at the last trigger
    lake/labels/                        the table `labels`, from which escapes and false rejects are estimated

Promise: each label counts towards one cycle only, whatever its result, so a cycle without a result is not repeated
every day. Unreadable labels are left out of the table and logged.
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
    """Count labels, trigger a cycle if `KENSA_LABEL_COUNT` or more are new, and rewrite the table."""
    data_uri, site, model, least = (os.environ.get(name, "") for name in _VARIABLES)
    if not (data_uri and site and model and least.isdecimal()):
        raise OperatorError(
            f"{', '.join(_VARIABLES)} must be set: they select the labels and the number that triggers a cycle."
        )
    data = aws_clients.storage(data_uri)
    book = LabelStore(data).load()
    key = f"cycle/v1/labels/{site}/{model}.json"
    count = sum(1 for _ in book.all())
    new = count - _previous_count(data, key)
    is_triggered = new >= int(least)
    if is_triggered:
        _put_trigger_event(json.dumps({"site": site, "model": model, "new": new}))
        data.write(key, to_json_bytes({"labels": count}))
    return {"new": new, "asked": is_triggered, "rows": _refresh_labels_table(book, data, site)}


def _put_trigger_event(detail: str) -> None:
    with aws_clients.translate_aws_errors("events:PutEvents"):
        answer = aws_clients.client("events").put_events(
            Entries=[{"Source": SOURCE, "DetailType": DETAIL_TYPE, "Detail": detail}]
        )
    if answer["FailedEntryCount"]:
        raise aws_clients.AwsError(f"events:PutEvents refused the event: {answer['Entries']}. Try again.")


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
