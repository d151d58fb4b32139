"""The frozen record of what an agent needs beside its configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from agent.ports import DesiredState, FrameSource, ReleaseFetcher, Transport
    from agent.records import DroppedFrames, Verdict
    from agent.supervision import ThreadSupervisor
    from agent.timing.clock import Clock


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentDependencies:
    """Made by `build`, which documents the callbacks."""

    transport: Transport | None
    sources: Mapping[str, FrameSource]  # by camera
    external_cameras: frozenset[str]  # cameras whose sources the caller supplied
    clock: Clock
    supervisor: ThreadSupervisor
    on_commit: Callable[[Sequence[Verdict], int], None] | None = None
    observe: Callable[[Sequence[Verdict]], None] | None = None
    on_drop: Callable[[DroppedFrames], None] | None = None
    desired_state: DesiredState | None = None
    fetcher: ReleaseFetcher | None = None
    component_version: str | None = None  # None outside Greengrass
