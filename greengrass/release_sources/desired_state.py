"""Sources of desired releases in a component: its configuration, and several sources combined.

Promise: a release that a deployment requests is delivered once for each change, however many events announced it; the
agent remembers which request of which source it followed, so that an old one has no effect. None has authority.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from agent.ports import DesiredState
    from agent.release_records import DesiredRelease, ModelStatus


class DeploymentDesiredState:
    """A `ports.DesiredState` of the releases in the component's configuration. It ignores reports."""

    def __init__(self, desired: Mapping[str, DesiredRelease]) -> None:
        """`desired` by inspection, as in the configuration at the start."""
        self._lock = threading.Lock()
        self._desired = dict(desired)
        self._delivered: dict[str, DesiredRelease] = {}
        self._on_desired: Callable[[str, DesiredRelease], None] | None = None

    def start(self, *, on_desired: Callable[[str, DesiredRelease], None]) -> None:
        """See `ports.DesiredState`."""
        self._on_desired = on_desired
        self._deliver()

    def is_desired(self, inspection: str, desired: DesiredRelease) -> bool:
        """Whether the configuration in force requests this already."""
        with self._lock:
            return self._desired.get(inspection) == desired

    def update(self, desired: Mapping[str, DesiredRelease]) -> None:
        """Replace the desired releases by those of the configuration now; any thread."""
        with self._lock:
            self._desired = dict(desired)
        self._deliver()

    def report(self, status: ModelStatus) -> None:
        """See `ports.DesiredState`."""

    def close(self) -> None:
        """See `ports.DesiredState`."""
        self._on_desired = None

    def _deliver(self) -> None:
        with self._lock:
            on_desired = self._on_desired
            if on_desired is None:
                return
            changed = {name: desired for name, desired in self._desired.items() if self._delivered.get(name) != desired}
            self._delivered.update(changed)
        for inspection, desired in changed.items():
            on_desired(inspection, desired)


class CompositeDesiredState:
    """Several sources of desired releases as one `ports.DesiredState`."""

    def __init__(self, sources: Sequence[DesiredState]) -> None:
        """The sources are started in this order."""
        self._sources = tuple(sources)

    def start(self, *, on_desired: Callable[[str, DesiredRelease], None]) -> None:
        """See `ports.DesiredState`."""
        for source in self._sources:
            source.start(on_desired=on_desired)

    def report(self, status: ModelStatus) -> None:
        """See `ports.DesiredState`."""
        for source in self._sources:
            source.report(status)

    def close(self) -> None:
        """See `ports.DesiredState`."""
        for source in self._sources:
            source.close()
