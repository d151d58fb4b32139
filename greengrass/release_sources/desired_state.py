"""Where wishes come from in a component: its configuration, model components on this device, the named shadow.

Promise: a wish of a deployment is delivered once for each change, however many events told of it; the agent remembers
which wish of which source it followed, so that an old one is no news. None has authority.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from agent.ports import DesiredState
    from agent.release_records import DesiredRelease, ModelStatus


class DeploymentDesiredState:
    """A `ports.DesiredState`: what the component's configuration desires. It is told nothing; others are."""

    def __init__(self, wishes: Mapping[str, DesiredRelease]) -> None:
        """`wishes` as the configuration has them at start."""
        self._lock = threading.Lock()
        self._desired = dict(wishes)
        self._delivered: dict[str, DesiredRelease] = {}
        self._on_desired: Callable[[str, DesiredRelease], None] | None = None

    def start(self, *, on_desired: Callable[[str, DesiredRelease], None]) -> None:
        """See `ports.DesiredState`."""
        self._on_desired = on_desired
        self._deliver()

    def is_desired(self, inspection: str, wish: DesiredRelease) -> bool:
        """Whether the configuration in force desires this already."""
        with self._lock:
            return self._desired.get(inspection) == wish

    def update(self, wishes: Mapping[str, DesiredRelease]) -> None:
        """Take in what the configuration desires now; any thread."""
        with self._lock:
            self._desired = dict(wishes)
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
            news = {name: wish for name, wish in self._desired.items() if self._delivered.get(name) != wish}
            self._delivered.update(news)
        for inspection, wish in news.items():
            on_desired(inspection, wish)


class CompositeDesiredState:
    """Several sources of wishes as one `ports.DesiredState`."""

    def __init__(self, sources: Sequence[DesiredState]) -> None:
        """They are started in this order."""
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
