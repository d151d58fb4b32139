"""Decides which desired release is the newest: a person's, the device shadow's or a deployment's.

The device shadow and a deployment's configuration are read again at every start, and their desired release carries no
time that this device could trust. So for each source the last applied one is remembered on disk: if it has not changed
since, it is older than what another source requested meanwhile, and is not applied again. It is remembered only once
the lifecycle has it in its journal; a kill in between repeats the request, which does nothing.
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
    """The last applied desired release of each source, by inspection; from any thread."""

    def __init__(self, state_dir: Path) -> None:
        """Read `state_dir/followed.json`; a file that cannot be read counts as empty."""
        self._path = state_dir / FILE_NAME
        self._lock = threading.Lock()
        self._applied = _read(self._path)

    def is_newer(self, desired: DesiredRelease, status: ModelStatus) -> bool:
        """Whether `desired` takes precedence over what the inspection with this `status` is converging on."""
        known = status.desired
        if known is None:
            return True
        if replace(known, source=desired.source) == desired:
            self._mark_applied(status.inspection, desired)
            return False
        return known.source == desired.source or self._applied.get((status.inspection, desired.source)) != desired

    def mark_applied(self, status: ModelStatus) -> None:
        """Remember the desired release that the lifecycle has accepted, unless a person requested it."""
        if status.desired is not None and status.desired.source != "control":
            self._mark_applied(status.inspection, status.desired)

    def _mark_applied(self, inspection: str, desired: DesiredRelease) -> None:
        with self._lock:
            if self._applied.get((inspection, desired.source)) == desired:
                return
            self._applied[inspection, desired.source] = desired
            content = [
                {"inspection": name, "release": w.release_id, "mode": w.mode, "share": w.share, "source": w.source}
                for (name, _), w in self._applied.items()
            ]
            try:
                replace_durably(self._path, json.dumps(content).encode())
            except OSError as error:  # then the request is only repeated at the next start
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
