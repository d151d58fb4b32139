"""A release in the store of this device, as the journal refers to it."""

from __future__ import annotations

from dataclasses import dataclass

from agent.release_records import ReleaseRef  # noqa: TC001 - pydantic reads the journal by these annotations


@dataclass(frozen=True, slots=True)
class InstalledRelease:
    """A release in the store, with the graph file that this machine made of it, if there is one."""

    ref: ReleaseRef
    optimised: str | None = None  # file name in the store
    optimised_sha256: str | None = None
