"""When enough labels have come: the trigger `labels` of the cycle. A schedule calls this once a day.

    cycle/v1/labels/SITE/MODEL.json     how many there were when a cycle was last asked for

Promise: labels are counted towards one cycle only, whatever came of it, so that a cycle that led to nothing is not
repeated every day.
"""

from __future__ import annotations

import json
import os
from typing import Any, Final

from agent.errors import OperatorError
from pipeline.cloud import account
from pipeline.cloud.storage import ObjectMissingError, Storage
from pipeline.cycle.execution import to_bytes
from pipeline.datasets.labels import LabelStore

SOURCE: Final = "kensa"
DETAIL_TYPE: Final = "Labels added"
_MAX_BYTES: Final = 4_096
_NAMES: Final = ("KENSA_DATA", "KENSA_SITE", "KENSA_MODEL", "KENSA_LABEL_COUNT")


def handler(_event: object, _context: object) -> dict[str, Any]:
    """Count, and ask for a cycle where `KENSA_LABEL_COUNT` labels or more are new."""
    data_uri, site, model, least = (os.environ.get(name, "") for name in _NAMES)
    if not (data_uri and site and model and least.isdecimal()):
        raise OperatorError(
            f"{', '.join(_NAMES)} must be set: they say whose labels are counted, and how many suffice."
        )
    data = account.storage(data_uri)
    key = f"cycle/v1/labels/{site}/{model}.json"
    there, before = sum(1 for _ in LabelStore(data).book().all()), _before(data, key)
    new = there - before
    if new < int(least):
        return {"new": new, "asked": False}
    detail = json.dumps({"site": site, "model": model, "new": new})
    with account.asked("events:PutEvents"):
        answer = account.client("events").put_events(
            Entries=[{"Source": SOURCE, "DetailType": DETAIL_TYPE, "Detail": detail}]
        )
    if answer["FailedEntryCount"]:
        raise account.AccountError(f"events:PutEvents refused the event: {answer['Entries']}. It can be tried again.")
    data.write(key, to_bytes({"labels": there}))
    return {"new": new, "asked": True}


def _before(data: Storage, key: str) -> int:
    try:
        return int(json.loads(data.read(key, limit=_MAX_BYTES))["labels"])
    except ObjectMissingError:
        return 0
