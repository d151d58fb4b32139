"""Which wish is the newest, where both a person at the device and the cloud's shadow may say what is wanted.

The shadow is read again at every start and reconnection, and its wish has no time that this device could trust. So it
is remembered on disk which of its wishes was followed before: one that did not change since then is older than what a
person asked for meanwhile at the device, and is not followed again. A wish is noted only once the lifecycle has it in
its journal; a kill in between repeats the wish, which does nothing.
"""

from __future__ import annotations

import json
import logging
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from agent.durable import replace_durably
from agent.records import Desired

if TYPE_CHECKING:
    from pathlib import Path

    from agent.records import ModelStatus

FILE_NAME: Final = "shadow.json"
_MAX_BYTES: Final = 256 * 1024
_log = logging.getLogger(__name__)


class FollowedWishes:
    """The last wish of the shadow that was followed, by inspection; from any thread."""

    def __init__(self, state_dir: Path) -> None:
        """Read `state_dir/shadow.json`; a file that cannot be read counts as empty."""
        self._path = state_dir / FILE_NAME
        self._lock = threading.Lock()
        self._followed = _read(self._path)

    def is_news(self, wish: Desired, status: ModelStatus) -> bool:
        """Whether `wish` of the shadow goes before what the inspection with this `status` is converging on."""
        known = status.desired
        if known is None or known.source == "control":
            if known is not None and replace(known, source=wish.source) == wish:
                self._note(status.inspection, wish)
                return False
            return self._followed.get(status.inspection) != wish or known is None
        return known != wish

    def note(self, status: ModelStatus) -> None:
        """Remember that the lifecycle follows a wish of the shadow."""
        if status.desired is not None and status.desired.source != "control":
            self._note(status.inspection, status.desired)

    def _note(self, inspection: str, wish: Desired) -> None:
        with self._lock:
            if self._followed.get(inspection) == wish:
                return
            self._followed[inspection] = wish
            content = {
                name: {"release": w.release_id, "mode": w.mode, "share": w.share, "source": w.source}
                for name, w in self._followed.items()
            }
            try:
                replace_durably(self._path, json.dumps(content).encode())
            except OSError as error:  # then the wish is only repeated at the next start
                _log.warning("%s cannot be written: %s", self._path, error.strerror)


def _read(path: Path) -> dict[str, Desired]:
    try:
        with path.open("rb") as file:
            content = json.loads(file.read(_MAX_BYTES))
        return {name: _wish(fields) for name, fields in content.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        _log.warning("%s cannot be read (%s); the shadow's wishes count as new", path, error)
        return {}


def _wish(fields: dict[str, Any]) -> Desired:
    return Desired(str(fields["release"]), fields["mode"], float(fields["share"]), str(fields["source"]))
