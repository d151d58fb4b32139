"""Composes and runs the model lifecycles of an agent: one for each inspection, one repository.

Without `updates` in the configuration there are none: each inspection runs the release that the configuration names,
and a bad one is refused at the start. With `updates` the configured release is the factory release: the last fallback.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakValueDictionary

from agent.adapters.onnx import WARM_UP_PAUSE_S, OnnxModel, warm_up
from agent.app.factories import SHADOW_DEPLOYMENT_FRAMES, make_lease
from agent.children.fetch_client import FetchClient
from agent.children.selftest_client import SelfTestClient
from agent.errors import ConfigError, FetchError, LifecycleError, MessageError, ReleaseRefusedError
from agent.lifecycle.lifecycle import Lifecycle
from agent.lifecycle.lifecycle_dependencies import LifecycleDependencies
from agent.lifecycle.shadow_deployment import ShadowDeployment
from agent.release import acceptance_set
from agent.release.desired_release import DesiredReleaseTracker
from agent.release_records import Gate
from agent.supervision import ThreadSupervisor
from agent.timing.clock import NS_PER_S
from agent.wire import encode_report

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from agent import config as configuration
    from agent.config import RolloutLimits
    from agent.lifecycle.active_release import LoadRequest
    from agent.outbox import Outbox
    from agent.ports import DesiredState, FetchJob, ReleaseFetcher
    from agent.records import Box, Frame, Observation, Verdict
    from agent.release_records import DesiredRelease, FetchedRelease, ModelStatus, RepositoryStatus
    from agent.slot import Lease, ModelSlot, SiteOverrides
    from agent.timing.clock import Clock
    from agent.wire import ReportingAgent

_LOCK_POLL_S: Final = 0.1
_MAX_LOCK_POLLS: Final = 100  # then the repository counts as busy
_FRESH_S: Final = 60.0
_log = logging.getLogger(__name__)


class _SerialisedFetcher:
    """Serialises the lifecycles' access to one repository and its cached metadata.

    A status that another lifecycle has read within the last minute is returned again.
    """

    def __init__(self, fetcher: ReleaseFetcher, clock: Clock) -> None:
        self._fetcher = fetcher
        self._clock = clock
        self._lock = threading.Lock()
        # status, the trusted time that it was checked against (s, UTC), and when (ns, monotonic)
        self._seen: tuple[RepositoryStatus, float, int] | None = None

    def fetch(self, job: FetchJob) -> FetchedRelease:
        """See `ports.ReleaseFetcher`."""
        with self._lock:
            return self._fetcher.fetch(job)

    def refresh(self, *, trusted_utc_s: float, stop: threading.Event) -> RepositoryStatus:
        """See `ports.ReleaseFetcher`; does not wait for the end of a fetch, which may take long."""
        polls = 0
        while not self._lock.acquire(timeout=_LOCK_POLL_S):
            polls += 1
            if stop.is_set():
                raise FetchError("stopped", "the metadata refresh was stopped")
            if polls >= _MAX_LOCK_POLLS:
                raise FetchError("busy", "a release is being fetched for another inspection")
        try:
            now_ns = self._clock.monotonic_ns()
            if self._seen is not None:
                seen, checked_utc_s, at_ns = self._seen
                if now_ns - at_ns < _FRESH_S * NS_PER_S and trusted_utc_s - checked_utc_s < _FRESH_S:
                    return seen
            seen = self._fetcher.refresh(trusted_utc_s=trusted_utc_s, stop=stop)
            self._seen = (seen, trusted_utc_s, now_ns)
            return seen
        finally:
            self._lock.release()


class LeaseLoader:
    """Loads release folders as leases; inspections that run the same bytes share one session."""

    def __init__(self, *, max_batch: int) -> None:
        self._max_batch = max_batch
        self.is_throttled = False  # set once cameras run; before that the first model may take all cores
        self._lock = threading.Lock()
        self._models: WeakValueDictionary[tuple[Any, ...], OnnxModel] = WeakValueDictionary()

    def load(self, request: LoadRequest, *, inspection: str, site: SiteOverrides) -> Lease:
        """Load and warm up a model and apply the site's settings. Raises ReleaseError."""
        key = (request.folder.resolve(), request.trusted)
        with self._lock:
            model = self._models.get(key)
            if model is None:
                model = OnnxModel.load(
                    request.folder,
                    trusted=request.trusted,
                    optimised=request.optimised,
                    optimised_sha256=request.optimised_sha256,
                )
                warm_up(model, self._max_batch, pause_s=WARM_UP_PAUSE_S if self.is_throttled else 0.0)
                self._models[key] = model
        try:
            return make_lease(model, site, name=inspection)
        except ConfigError as error:  # the model lacks a class that the site has a threshold for
            raise ReleaseRefusedError(Gate.CONTRACT, "site_thresholds", str(error)) from error


class LifecycleManager:
    """All lifecycles of one agent: `start` fills the slots, `launch` starts their threads, `close` ends them."""

    def __init__(  # noqa: PLR0913 - the composition root names every collaborator
        self,
        *,
        config: configuration.Config,
        updates: configuration.UpdatesConfig,
        slots: Mapping[str, ModelSlot],
        reporter: ReportingAgent,
        outbox: Outbox,
        desired: Sequence[DesiredState],
        clock: Clock,
        fetcher: ReleaseFetcher | None = None,
        on_disagreement: Callable[[Frame, Verdict, Box], None] | None = None,
        supervisor: ThreadSupervisor | None = None,
        line_fault: Callable[[str], str | None] = lambda _: None,
    ) -> None:
        """Compose; nothing is read yet.

        Args:
            config: The agent's configuration, with `updates`.
            updates: Its section of that name.
            slots: The slot to fill, by inspection.
            reporter: The agent that the reports are from.
            outbox: Keeps reports until the broker has them.
            desired: Where desired releases come from, and where progress is reported to.
            clock: The clock of all lifecycles.
            fetcher: Used instead of the repository of `updates`.
            on_disagreement: Called with frames on which a shadow deployment differs; see `ShadowDeployment`.
            supervisor: Supervises the threads.
            line_fault: Returns why the verdicts of an inspection prove nothing; see `Lifecycle`.
        """
        self._config = config
        self._updates = updates
        self._slots = slots
        self._reporter = reporter
        self._outbox = outbox
        self._desired = desired
        self._clock = clock
        self._on_disagreement = on_disagreement
        self._supervisor = supervisor or ThreadSupervisor(clock=clock)
        self._line_fault = line_fault
        self._conditions = self._supervisor.condition_log(_log)
        self._reported: dict[str, ModelStatus] = {}
        self._followed_desired = DesiredReleaseTracker(config.state_dir)
        self._loader = LeaseLoader(max_batch=config.max_batch)
        self._limits = updates.limits
        self._fetcher = _SerialisedFetcher(fetcher or self._make_fetcher(), clock)
        self._self_testers = {
            name: SelfTestClient(max_batch=config.max_batch, clock=clock) for name in config.inspections
        }
        for name, tester in self._self_testers.items():
            tester.set_site(slots[name].site)
        self.lifecycles = {name: self._make_lifecycle(name) for name in config.inspections}

    def _make_fetcher(self) -> FetchClient:
        updates = self._updates
        return FetchClient(
            repository=updates.repository,
            root=updates.root,
            site=updates.site,
            trust_dir=self._config.state_dir / "trust",
            max_release_bytes=updates.max_release_bytes,
            timeout_s=updates.fetch_timeout_s,
            clock=self._clock,
        )

    def _make_lifecycle(self, name: str) -> Lifecycle:
        state_dir = self._config.state_dir
        return Lifecycle(
            LifecycleDependencies(
                inspection=name,
                state_dir=state_dir,
                slot=self._slots[name],
                fetcher=self._fetcher,
                self_tester=self._self_testers[name],
                load=self._loader_for(name),
                factory=self._config.inspections[name].release.resolve(),
                limits=self._limits,
                clock=self._clock,
                open_shadow_deployment=self._start_shadow_deployment,
                on_status=self._report_status,
                acceptance_dir=acceptance_set.acceptance_dir(state_dir, name),
                revocation_poll_s=self._updates.check_hours * 3_600.0,
                line_fault=partial(self._line_fault, name),
                supervisor=self._supervisor,
            )
        )

    def _loader_for(self, inspection: str) -> Callable[[LoadRequest], Lease]:
        slot = self._slots[inspection]
        return lambda request: self._loader.load(request, inspection=inspection, site=slot.site)

    def _start_shadow_deployment(self, challenger: Lease, observe: Callable[[Observation], None]) -> ShadowDeployment:
        return ShadowDeployment(
            challenger=challenger,
            observe=observe,
            max_fps=self._limits.shadow_max_fps,
            clock=self._clock,
            capacity=SHADOW_DEPLOYMENT_FRAMES - 1,
            differ=self._on_disagreement,
            supervisor=self._supervisor,
        )

    def start(self) -> None:
        """Recover every inspection from its journal and fill its slot."""
        for lifecycle in self.lifecycles.values():
            lifecycle.start()

    def launch(self) -> None:
        """Start the lifecycles' threads and the sources of desired releases."""
        self._loader.is_throttled = True
        for lifecycle in self.lifecycles.values():
            lifecycle.launch()
        for source in self._desired:
            source.start(on_desired=self._on_desired)

    def set_site(self, inspection: str, site: SiteOverrides) -> None:
        """Use the settings of `site` from the next self-test on; the slot is set by itself."""
        self._self_testers[inspection].set_site(site)

    def set_limits(self, limits: RolloutLimits) -> None:
        """Set the site's limits on a rollout; see `Lifecycle.set_limits`."""
        self._limits = limits
        for lifecycle in self.lifecycles.values():
            lifecycle.set_limits(limits)

    def close(self, left_s: Callable[[], float]) -> None:
        """Close the sources of desired releases, then all lifecycles in parallel; `left_s` returns the time left."""
        for source in self._desired:
            source.close()
        for lifecycle in self.lifecycles.values():
            lifecycle.request_close()
        for lifecycle in self.lifecycles.values():
            lifecycle.close(timeout_s=left_s())

    def _on_desired(self, inspection: str, desired: DesiredRelease) -> None:
        """Pass a desired release on; an invalid one is logged and ignored, because it is only a hint."""
        try:
            lifecycle = self.lifecycles[inspection]
            if self._followed_desired.is_newer(desired, lifecycle.status()):
                lifecycle.desire(desired)
        except KeyError:
            self._supervisor.losses.count("desired_ignored")
            self._conditions.report_event("a desired release is ignored", f"{inspection[:64]!r} is no inspection here")
        except LifecycleError as error:
            self._supervisor.losses.count("desired_ignored")
            self._conditions.report_event(f"the desired release for {inspection} is ignored", str(error))

    def _report_status(self, status: ModelStatus) -> None:
        """Report progress to the shadow only; state changes are also queued in the outbox."""
        status = replace(status, last_try=None)  # shown on the device only
        self._followed_desired.mark_applied(status)
        for source in self._desired:
            source.report(status)
        without_progress = replace(status, progress={})
        if self._reported.get(status.inspection) == without_progress:
            return
        self._reported[status.inspection] = without_progress
        try:
            payload = encode_report(status, reporter=self._reporter, utc_ns=self._clock.utc_ns())
        except MessageError:
            self._supervisor.losses.count("model_reports")
            _log.exception("the report on %s cannot be sent", status.inspection)
            return
        self._outbox.append_report(
            thing=self._reporter.thing,
            line=self._reporter.line,
            inspection=status.inspection,
            boot_epoch=self._reporter.boot_epoch,
            payload=payload,
        )
