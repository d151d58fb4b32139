"""Composes the components of an agent in the order of their dependencies.

It starts no thread and opens no camera. It does load the models of a configuration without `updates`, reads the control
charts of the last run and opens the outbox. The state directory must be locked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.adapters.onnx import OnnxModel
from agent.app.composition.camera_composition import compose_cameras
from agent.app.composition.components import AgentComponents
from agent.app.composition.verdict_sinks import FirstVerdictLogger, ObservedSink
from agent.app.factories import SHADOW_DEPLOYMENT_FRAMES, make_lease, site_overrides
from agent.health.inference_faults import InferenceFaults
from agent.health.process_usage import ProcessMeter
from agent.inspection.frame_pool import FramePool
from agent.inspection.frame_recorder import FrameRecorder
from agent.inspection.intake import IntakeHub
from agent.inspection.monitor import InspectionMonitor
from agent.inspection.worker import CameraContext, InspectionContext, Worker
from agent.outbox import Outbox, OutboxLimits
from agent.slot import ModelSlot
from agent.wire import ReportingAgent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from agent.app.active_config import ActiveConfig
    from agent.app.composition.agent_dependencies import AgentDependencies
    from agent.app.composition.camera_composition import ComposedCamera
    from agent.app.lifecycle_manager import LifecycleManager
    from agent.collection import Collector
    from agent.condition_log import LogCounter
    from agent.config import InspectionConfig, UpdatesConfig
    from agent.health.snapshot import AgentIdentity
    from agent.ports import DesiredState


class Composer:
    """Makes the components of one start of an agent; each method makes one kind of them."""

    def __init__(self, config: ActiveConfig, dependencies: AgentDependencies, *, identity: AgentIdentity) -> None:
        """Compose for the boot epoch of `identity`."""
        self._active_config = config
        self._config = config.current
        self._dependencies = dependencies
        self._clock, self._supervisor = dependencies.clock, dependencies.supervisor
        self._identity = identity

    def compose(self, *, log_counter: LogCounter) -> AgentComponents:
        """Compose everything. Raises a ReleaseError, a ConfigError or an OutboxError."""
        config, dependencies = self._config, self._dependencies
        slots = self._slots()
        outbox = self._outbox()
        monitors = {name: self._monitor(name) for name in config.inspections}
        collector = self._collector()
        manager = self._lifecycle_manager(slots, outbox, monitors, collector)
        recorders = {name: self._recorder(name) for name in config.inspections}
        hub = IntakeHub(workers=config.worker_count(), max_batch=config.max_batch)
        pools = {name: FramePool(buffers=self._pool_size(found)) for name, found in config.inspections.items()}
        cameras = {
            name: compose_cameras(
                inspection, name=name, index=index, hub=hub, pool=pools[name], dependencies=dependencies
            )
            for index, (name, inspection) in enumerate(config.inspections.items())
        }
        collect = None if collector is None else collector.offer
        contexts = [
            InspectionContext(
                slots[name], recorders[name], self._camera_contexts(own, pools[name]), collect, monitors[name]
            )
            for name, own in cameras.items()
        ]
        faults = InferenceFaults(self._supervisor)
        return AgentComponents(
            identity=self._identity,
            config=self._active_config,
            clock=self._clock,
            supervisor=self._supervisor,
            transport=dependencies.transport,
            outbox=outbox,
            collector=collector,
            lifecycle_manager=manager,
            slots=slots,
            monitors=monitors,
            recorders=recorders,
            pools=pools,
            cameras={camera: composed for own in cameras.values() for camera, composed in own.items()},
            external_cameras=dependencies.external_cameras,
            intake=hub,
            workers=self._workers(hub, contexts, outbox, faults),
            inference_faults=faults,
            process_meter=ProcessMeter(),
            log_counter=log_counter,
        )

    # --- models -------------------------------------------------------------------------------------------------------

    def _slots(self) -> dict[str, ModelSlot]:
        """Make the slots and fill them, or with `updates` leave that to the lifecycle manager."""
        digest, inspections = self._config.digest(), self._config.inspections
        sites = {name: site_overrides(inspection, digest=digest) for name, inspection in inspections.items()}
        if self._config.updates is not None:
            return {name: ModelSlot(site=site) for name, site in sites.items()}
        loaded: dict[Path, OnnxModel] = {}
        slots = {}
        for name, inspection in inspections.items():
            path = inspection.release.resolve()
            if path not in loaded:
                loaded[path] = OnnxModel.load(path)  # an unsigned local path: verdicts and heartbeat say `untrusted`
            slots[name] = ModelSlot(make_lease(loaded[path], sites[name], name=name))
        return slots

    def _lifecycle_manager(
        self,
        slots: Mapping[str, ModelSlot],
        outbox: Outbox,
        monitors: Mapping[str, InspectionMonitor],
        collector: Collector | None,
    ) -> LifecycleManager | None:
        """Compose it before the transport starts, because the device shadow subscribes."""
        config, updates, identity = self._config, self._config.updates, self._identity
        if updates is None:
            return None
        from agent.app.lifecycle_manager import LifecycleManager  # noqa: PLC0415 - only with updates

        return LifecycleManager(
            config=config,
            updates=updates,
            slots=slots,
            reporter=ReportingAgent(identity.thing, identity.line, identity.boot_epoch),
            outbox=outbox,
            desired=self._desired_states(outbox, updates),
            clock=self._clock,
            fetcher=self._dependencies.fetcher,
            on_disagreement=None if collector is None else collector.offer_disagreement,
            supervisor=self._supervisor,
            line_fault=lambda name: monitors[name].alarm(),
        )

    def _desired_states(self, outbox: Outbox, updates: UpdatesConfig) -> list[DesiredState]:
        """Return where desired releases come from: the caller's source, else the device shadow where it is enabled."""
        if self._dependencies.desired_state is not None:
            return [self._dependencies.desired_state]
        if not updates.shadow or self._dependencies.transport is None:
            return []
        from agent.adapters.device_shadow import ShadowDesiredState  # noqa: PLC0415 - only what the line uses is loaded

        return [
            ShadowDesiredState(
                thing=self._config.thing,
                inspections=self._config.inspections,
                transport=self._dependencies.transport,
                publish_now=outbox.publish_now,
                add_connection_listener=outbox.add_connection_listener,
                clock=self._clock,
                supervisor=self._supervisor,
            )
        ]

    # --- storage ------------------------------------------------------------------------------------------------------

    def _outbox(self) -> Outbox:
        config = self._config
        outbox = Outbox(
            state_dir=config.state_dir,
            transport=self._dependencies.transport,
            clock=self._clock,
            on_commit=self._dependencies.on_commit,
            supervisor=self._supervisor,
            limits=OutboxLimits(
                max_bytes=config.outbox.max_bytes,
                commit_s=config.outbox.commit_ms / 1_000,
                history_s=config.outbox.history_days * 86_400.0,
                history_bytes=config.outbox.history_bytes,
            ),
        )
        outbox.set_at_once_inspections(config.at_once_inspections())
        return outbox

    def _collector(self) -> Collector | None:
        if self._config.collect is None:
            return None
        from agent.collection import Collector  # noqa: PLC0415 - only where frames are collected

        return Collector(
            state_dir=self._config.state_dir,
            settings=self._config.collect,
            boot_epoch=self._identity.boot_epoch,
            clock=self._clock,
            supervisor=self._supervisor,
        )

    def _recorder(self, inspection: str) -> FrameRecorder:
        keep = self._config.keep
        return FrameRecorder(
            state_dir=self._config.state_dir,
            inspection=inspection,
            frames=keep.frames,
            max_bytes=keep.max_bytes,
            max_per_s=keep.max_per_s,
            jpeg_quality=keep.jpeg_quality,
            clock=self._clock,
            supervisor=self._supervisor,
        )

    # --- inspection ---------------------------------------------------------------------------------------------------

    def _monitor(self, inspection: str) -> InspectionMonitor:
        kept = self._config.state_dir / "charts" / f"{inspection}.json"
        return InspectionMonitor(self._clock, inspection=inspection, kept=kept)

    def _pool_size(self, inspection: InspectionConfig) -> int:
        """Frames that wait, frames in the workers' hands, and one that each camera is filling."""
        per_camera = inspection.intake.capacity + 2
        shadow = SHADOW_DEPLOYMENT_FRAMES if self._config.updates else 0
        return per_camera * len(inspection.cameras) + self._config.worker_count() * self._config.max_batch + shadow

    def _camera_contexts(self, cameras: Mapping[str, ComposedCamera], pool: FramePool) -> dict[str, CameraContext]:
        identity = self._identity
        return {
            name: CameraContext(
                identity.thing, identity.line, camera.inspection, name, identity.boot_epoch, camera.counters, pool
            )
            for name, camera in cameras.items()
        }

    def _workers(
        self, hub: IntakeHub, contexts: Sequence[InspectionContext], outbox: Outbox, faults: InferenceFaults
    ) -> list[Worker]:
        observe = self._dependencies.observe
        sink = FirstVerdictLogger(outbox if observe is None else ObservedSink(outbox, observe))
        return [
            Worker(
                hub=hub,
                contexts=contexts,
                sink=sink,
                clock=self._clock,
                max_batch=self._config.max_batch,
                on_fault=faults.record,
                on_well=faults.clear,
            )
            for _ in range(self._config.worker_count())
        ]
