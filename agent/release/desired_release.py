"""Which wish is the newest, where several may say what is wanted: a person at the device, the shadow, a deployment.

The shadow and a deployment's configuration are read again at every start, and what they say has no time that this
device could trust. So it is remembered on disk, for each of them, which wish was followed before: one that did not
change since then is older than what someone else asked for meanwhile, and is not followed again. A wish is noted only
once the lifecycle has it in its journal; a kill in between repeats the wish, which does nothing.
"""

from __future__ import annotations

import json
import logging
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from agent.durable import replace_durably
from agent.release_records import DesiredRelease

if TYPE_CHECKING:
    from pathlib import Path

    from agent.release_records import ModelStatus

FILE_NAME: Final = "followed.json"
_MAX_BYTES: Final = 256 * 1024
_log = logging.getLogger(__name__)


class DesiredReleaseTracker:
    """The last wish of each source that was followed, by inspection; from any thread."""

    def __init__(self, state_dir: Path) -> None:
        """Read `state_dir/followed.json`; a file that cannot be read counts as empty."""
        self._path = state_dir / FILE_NAME
        self._lock = threading.Lock()
        self._applied = _read(self._path)

    def is_newer(self, wish: DesiredRelease, status: ModelStatus) -> bool:
        """Whether `wish` goes before what the inspection with this `status` is converging on."""
        known = status.desired
        if known is None:
            return True
        if replace(known, source=wish.source) == wish:
            self._mark_applied(status.inspection, wish)
            return False
        return known.source == wish.source or self._applied.get((status.inspection, wish.source)) != wish

    def mark_applied(self, status: ModelStatus) -> None:
        """Remember that the lifecycle follows a wish that is read again and again."""
        if status.desired is not None and status.desired.source != "control":
            self._mark_applied(status.inspection, status.desired)

    def _mark_applied(self, inspection: str, wish: DesiredRelease) -> None:
        with self._lock:
            if self._applied.get((inspection, wish.source)) == wish:
                return
            self._applied[inspection, wish.source] = wish
            content = [
                {"inspection": name, "release": w.release_id, "mode": w.mode, "share": w.share, "source": w.source}
                for (name, _), w in self._applied.items()
            ]
            try:
                replace_durably(self._path, json.dumps(content).encode())
            except OSError as error:  # then the wish is only repeated at the next start
                _log.warning("%s cannot be written: %s", self._path, error.strerror)


def _read(path: Path) -> dict[tuple[str, str], DesiredRelease]:
    try:
        with path.open("rb") as file:
            content = json.loads(file.read(_MAX_BYTES))
        return {(str(fields["inspection"]), str(fields["source"])): _parse_desired(fields) for fields in content}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        _log.warning("%s cannot be read (%s); what was desired counts as new", path, error)
        return {}


def _parse_desired(fields: dict[str, Any]) -> DesiredRelease:
    return DesiredRelease(str(fields["release"]), fields["mode"], float(fields["share"]), str(fields["source"]))
