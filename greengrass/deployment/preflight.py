"""Fetches and self-tests a release before a deployment is accepted.

The preflight does not touch the lifecycle: it has a folder and a self-test of its own, and shares only the fetcher,
which serves one fetch at a time. The files are kept until the next preflight of that inspection, so that a deployment
that ran out of time need not start again.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from agent.children.selftest_client import SelfTestClient
from agent.errors import FetchError, ReleaseRefusedError
from agent.ports import FetchJob, SelfTestJob
from agent.release import acceptance_set, manifest
from agent.release import rollout_policy as policies
from agent.release.release_store import ReleaseStore

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from agent.config import Config
    from agent.lifecycle.lifecycle import Lifecycle
    from agent.ports import ReleaseFetcher
    from agent.release_records import DesiredRelease, FetchedRelease, ModelStatus
    from agent.timing.clock import Clock

FOLDER: Final = "preflight"  # in the state directory


@dataclass(frozen=True, slots=True)
class Preflight:
    """Checks whether a release could be deployed, without deploying it."""

    config: Callable[[], Config]  # in force
    lifecycles: Mapping[str, Lifecycle]
    fetcher: ReleaseFetcher
    clock: Clock

    def check(self, inspection: str, desired: DesiredRelease, stop: threading.Event) -> None:
        """Return when `desired` is active, in progress, or has passed. Raises ReleaseRefusedError, FetchError.

        `stop` ends it soon, with FetchError.
        """
        lifecycle = self.lifecycles.get(inspection)
        if lifecycle is None:
            return  # an inspection that exists after a restart only: its lifecycle will check the release
        status = lifecycle.status()
        if _is_known(status, desired):
            return
        _check_deny_list(lifecycle.deny_list(), desired.release_id)
        fetched = self._fetch(inspection, desired.release_id, lifecycle.trusted_utc_s(), stop)
        refusal = lifecycle.check_release(fetched, release_id=desired.release_id)
        if refusal is not None:
            raise ReleaseRefusedError(refusal.gate, refusal.reason, refusal.text)
        self._self_test(inspection, status, fetched, stop)

    def _fetch(self, inspection: str, release_id: str, trusted_utc_s: float, stop: threading.Event) -> FetchedRelease:
        folder = self.config().state_dir / FOLDER / inspection
        into = folder / release_id.replace("/", "--")
        try:
            into.mkdir(parents=True, exist_ok=True)
            for other in folder.iterdir():
                if other != into:
                    shutil.rmtree(other, ignore_errors=True)
        except OSError as error:
            raise FetchError("no_room", f"{into} cannot be written: {error.strerror}") from error
        return self.fetcher.fetch(FetchJob(release_id=release_id, into=into, trusted_utc_s=trusted_utc_s, stop=stop))

    def _self_test(self, inspection: str, status: ModelStatus, fetched: FetchedRelease, stop: threading.Event) -> None:
        config = self.config()
        settings, updates = config.inspections[inspection], config.updates
        if updates is None:
            return
        champion = self._champion(inspection, status)
        parts = acceptance_set.acceptance_dir(config.state_dir, inspection)
        examiner = SelfTestClient(
            roi=settings.roi,
            thresholds=settings.thresholds,
            unsure_band=settings.unsure_band,
            max_batch=config.max_batch,
            clock=self.clock,
        )
        examiner.run_self_test(
            SelfTestJob(
                candidate=fetched.folder,
                champion=champion,
                acceptance=parts if parts.is_dir() else None,
                limits=policies.self_test_limits(manifest.read_manifest(fetched.folder).rollout, updates.limits),
                stop=stop,
            )
        )

    def _champion(self, inspection: str, status: ModelStatus) -> Path | None:
        config = self.config()
        if status.active is None:
            return config.inspections[inspection].release
        store = ReleaseStore(config.state_dir / "models" / inspection, checkpoint=lambda _boundary: None)
        folder = store.release_dir(status.active)
        return folder if folder.is_dir() else None


def _is_known(status: ModelStatus, desired: DesiredRelease) -> bool:
    """Whether the release is active, or the lifecycle processes it already."""
    known = [ref.release_id for ref in (status.active, status.candidate) if ref is not None]
    return desired.release_id in known


def _check_deny_list(deny_list: list[dict[str, Any]], release_id: str) -> None:
    for entry in reversed(deny_list):
        if entry["release_id"] == release_id:
            refusal = entry["refusal"]
            raise ReleaseRefusedError(
                refusal["gate"], refusal["reason"], f"It was refused here before: {refusal['text']}"
            )
