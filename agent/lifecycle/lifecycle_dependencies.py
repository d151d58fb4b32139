"""Frozen records of what the lifecycle and its steps are composed of.

`LifecycleDependencies` is what the composition root provides; `StepDependencies` is what `compose_steps` makes of it
for the steps. Neither changes: state lives in the objects named here, and only they write it.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agent.lifecycle.active_release import ActiveRelease
from agent.lifecycle.rollout_state import Alarms, RetryBackoff, RolloutProgress, SiteLimits, StoreSweeper
from agent.lifecycle.state.journal import Journal
from agent.lifecycle.state.model_status import lifecycle_dir
from agent.lifecycle.state.record_store import RecordStore
from agent.lifecycle.trial_runner import TrialRunner
from agent.release.release_store import ReleaseStore
from agent.release.rollout_policy import apply_site_limits

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from agent.config import RolloutLimits
    from agent.durable import Checkpoint
    from agent.lifecycle.active_release import LoadRequest
    from agent.lifecycle.trial_runner import ClosableFrameTap
    from agent.ports import ReleaseFetcher, SelfTester
    from agent.records import Observation
    from agent.release.installed_release import InstalledRelease
    from agent.release.rollout_policy import RolloutPolicy
    from agent.release_records import ModelStatus
    from agent.slot import Lease, ModelSlot
    from agent.supervision import ThreadSupervisor
    from agent.timing.clock import Clock


@dataclass(frozen=True, slots=True, kw_only=True)
class LifecycleDependencies:
    """What one inspection's lifecycle is composed of.

    Args:
        inspection: Name of the inspection, in logs and paths.
        state_dir: Folder of the agent's state; journal and releases are below it.
        slot: The model slot that the inspection's loop reads.
        fetcher: Fetches releases and refreshes the repository metadata.
        self_tester: Tests a candidate in a child process.
        load: Loads a verified release; raises ReleaseError.
        factory: Folder of the factory release.
        limits: What the site allows a rollout.
        clock: Monotonic time and UTC.
        open_shadow_deployment: `(challenger, observe)` -> the tap that the loop offers its frames to.
        on_status: Called on the lifecycle's thread with every changed status; must not block.
        acceptance_dir: Folder of the site's labelled parts, which need not exist.
        healthy_after_s: Uptime after which a start counts as healthy.
        revocation_poll_s: Interval between polls of the repository while no rollout is under way.
        line_fault: Why the line's verdicts prove nothing now, or None; meanwhile no candidate is evaluated by them or
            given a larger share.
        checkpoint: Called at every boundary between persisting and acting; fault tests end the process there.
        supervisor: Supervises the lifecycle's thread; None makes one.
    """

    inspection: str
    state_dir: Path
    slot: ModelSlot
    fetcher: ReleaseFetcher
    self_tester: SelfTester
    load: Callable[[LoadRequest], Lease]
    factory: Path
    limits: RolloutLimits
    clock: Clock
    open_shadow_deployment: Callable[[Lease, Callable[[Observation], None]], ClosableFrameTap]
    on_status: Callable[[ModelStatus], None]
    acceptance_dir: Path | None = None
    healthy_after_s: float = 60.0
    revocation_poll_s: float = 6 * 3_600.0
    line_fault: Callable[[], str | None] = lambda: None
    checkpoint: Checkpoint = lambda _boundary: None
    supervisor: ThreadSupervisor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepDependencies:
    """What the steps of a rollout work with; used by the lifecycle's thread."""

    record_store: RecordStore
    store: ReleaseStore
    active_release: ActiveRelease
    trial_runner: TrialRunner
    fetcher: ReleaseFetcher
    self_tester: SelfTester
    acceptance_dir: Path | None
    limits: SiteLimits
    clock: Clock
    backoff: RetryBackoff
    alarms: Alarms
    progress: RolloutProgress
    sweeper: StoreSweeper
    revocation_poll_s: float
    line_fault: Callable[[], str | None]
    stop: threading.Event = field(default_factory=threading.Event)  # ends a fetch or self-test soon

    def policy(self, candidate: InstalledRelease) -> RolloutPolicy:
        """Return the release's policy within the site's limits. Raises ReleaseError."""
        return apply_site_limits(self.store.manifest(candidate.ref).rollout, self.limits.current)


def compose_steps(
    given: LifecycleDependencies, *, wake: Callable[[], None], on_progress: Callable[[], None]
) -> StepDependencies:
    """Compose what the steps work with; nothing is read from the disk yet.

    `wake` is called from any thread when a live test refuses the candidate, `on_progress` while a fetch is under way.
    """
    folder = lifecycle_dir(given.state_dir, given.inspection)
    store = ReleaseStore(folder, checkpoint=given.checkpoint)
    limits = SiteLimits(given.limits)
    return StepDependencies(
        record_store=RecordStore(given.inspection, Journal(folder, checkpoint=given.checkpoint), given.clock),
        store=store,
        active_release=ActiveRelease(
            slot=given.slot,
            store=store,
            factory=given.factory,
            load=given.load,
            clock=given.clock,
            limits=limits,
            checkpoint=given.checkpoint,
        ),
        trial_runner=TrialRunner(
            slot=given.slot,
            open_shadow_deployment=given.open_shadow_deployment,
            clock=given.clock,
            on_refusal=wake,
        ),
        fetcher=given.fetcher,
        self_tester=given.self_tester,
        acceptance_dir=given.acceptance_dir,
        limits=limits,
        clock=given.clock,
        backoff=RetryBackoff(given.clock),
        alarms=Alarms(),
        progress=RolloutProgress(on_progress),
        sweeper=StoreSweeper(store),
        revocation_poll_s=given.revocation_poll_s,
        line_fault=given.line_fault,
    )
