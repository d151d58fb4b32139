"""Applies another configuration to a running agent: whole or not at all, the line running.

Order: compare, check everything that can be checked without touching the line, save the new configuration to disk, then
change one component after the other; where a change fails, those before it are undone. Thresholds, unsure band, ROI and
the digest that verdicts carry come last, in one store for each inspection: a batch is inspected with all of the old or
all of the new ones.
"""

from __future__ import annotations

import logging
import threading
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent import config as configuration
from agent import preprocess
from agent.app.composition.camera_composition import capture_settings
from agent.app.config_differences import differences, is_live
from agent.app.factories import address_problem, check_classes, make_source, site_overrides
from agent.app.last_good_config import save_last_good
from agent.errors import ConfigError, ControlError, FrameError, OperatorError, RestartNeededError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from agent.app.composition.camera_composition import ComposedCamera
    from agent.app.composition.components import AgentComponents
    from agent.health.heartbeat_publisher import HeartbeatPublisher
    from agent.inspection.capture import CaptureSettings
    from agent.slot import Lease

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AppliedConfig:
    """What a change did, or would do. Keys are paths such as `inspections.top.thresholds.scratch`."""

    changed: tuple[str, ...]  # keys; empty when the agent runs with this configuration already
    reopened: tuple[str, ...]  # cameras that are closed and opened again with their new settings
    digest: str  # of the configuration, as verdicts carry it


class Reconfigurator:
    """Changes the configuration of a running agent, one change at a time; from any thread."""

    def __init__(self, components: AgentComponents, *, heartbeat: HeartbeatPublisher) -> None:
        """Refuse every change until `open`."""
        self._components = components
        self._heartbeat = heartbeat
        self._lock = threading.Lock()
        self._is_open = False

    def open(self) -> None:
        """Accept changes: everything runs."""
        with self._lock:
            self._is_open = True

    def close(self) -> bool:
        """Refuse changes from now on, once the present one is done; False where they were refused already."""
        with self._lock:
            was_open, self._is_open = self._is_open, False
            return was_open

    def apply(self, config: configuration.Config, *, dry_run: bool) -> AppliedConfig:
        """See `Agent.apply`."""
        active = self._components.config
        with self._lock:
            if not self._is_open:
                raise ControlError("the agent does not run, so its configuration cannot be changed")
            if dry_run:
                return self._apply(config, dry_run=True)
            try:
                applied = self._apply(config, dry_run=False)
            except RestartNeededError as error:
                active.note(needs_restart=error.paths)
                raise
            except ConfigError as error:
                active.note(refused=str(error))
                raise
            active.note()
            return applied

    def _apply(self, config: configuration.Config, *, dry_run: bool) -> AppliedConfig:
        components, old = self._components, self._components.config.current
        paths = list(differences(old, config))
        if restart := [".".join(path) for path in paths if not is_live(path, components.external_cameras)]:
            raise RestartNeededError(restart)
        problems = list(_check_models(components, old, config))
        settings = _make_sources(components, old, config, problems)
        if problems:
            raise ConfigError("nothing was changed:\n" + "\n".join(f"  {problem}" for problem in problems))
        applied = AppliedConfig(tuple(".".join(path) for path in paths), tuple(settings), config.digest())
        if paths and not dry_run:
            _run_or_undo(list(_steps(components, self._heartbeat, old, config, settings)))
            _log.info("the configuration was changed: %s", ", ".join(applied.changed))
        return applied

    def handlers(self) -> dict[str, Callable[[Mapping[str, Any]], Mapping[str, Any]]]:
        """Return the handler for `agent.control.ControlServer`: `config.apply` with `config`, a tree of absolute paths.

        It answers with `applied`, or with `restart` (keys) or `wrong` (text) when the change is refused.
        """
        return {"config.apply": self._answer}

    def _answer(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        if type(dry_run := request.get("dry_run", False)) is not bool:
            raise ControlError("dry_run must be true or false")
        try:
            config = configuration.parse(request.get("config"), source="the configuration", base=Path("/"))
        except ConfigError as error:
            if not dry_run:
                self._components.config.note(refused=str(error))
            return {"wrong": str(error)}
        try:
            return {"applied": asdict(self.apply(config, dry_run=dry_run))}
        except RestartNeededError as error:
            return {"restart": error.paths}
        except ConfigError as error:
            return {"wrong": str(error)}


# --- checking ---------------------------------------------------------------------------------------------------------


def _check_models(components: AgentComponents, old: configuration.Config, new: configuration.Config) -> Iterator[str]:
    """Yield what the loaded models do not support: unknown classes, a ROI that does not lie within the images."""
    for name, inspection in new.inspections.items():
        before = old.inspections[name]
        for lease in _active_leases(components, name):
            if inspection.thresholds != before.thresholds:
                try:
                    check_classes(lease.model, inspection.thresholds, name=name)
                except ConfigError as error:
                    yield str(error)
            if (inspection.roi, inspection.cameras) == (before.roi, before.cameras):
                continue
            for camera, settings in inspection.cameras.items():
                same = settings == before.cameras[camera]
                size = _size_px(settings, components.cameras[camera] if same else None)
                if size is None:
                    continue
                try:
                    preprocess.plan_inputs(lease.model.geometry, height=size[0], width=size[1], roi=inspection.roi)
                except FrameError as error:
                    yield f"inspections.{name}.roi: camera {camera}: {error.detail}"


def _active_leases(components: AgentComponents, name: str) -> list[Lease]:
    """Return the active lease and that of a challenger on trial."""
    lease = components.slots[name].lease()
    challenger = (
        None if components.lifecycle_manager is None else components.lifecycle_manager.lifecycles[name].challenger()
    )
    return [found for found in (lease, challenger) if found is not None]


def _size_px(settings: configuration.CameraConfig, camera: ComposedCamera | None) -> tuple[int, int] | None:
    """Return (height, width) of a camera's images as declared, else as captured; None before the first one."""
    if settings.width is not None and settings.height is not None:
        return (settings.height, settings.width)
    shape = None if camera is None else camera.capture.shape
    return None if shape is None else (shape[0], shape[1])


def _make_sources(
    components: AgentComponents, old: configuration.Config, new: configuration.Config, problems: list[str]
) -> dict[str, CaptureSettings]:
    """Make the sources of the cameras whose settings changed, without opening one; adds to `problems`."""
    found = {}
    for name, inspection in new.inspections.items():
        for camera, settings in inspection.cameras.items():
            if settings == old.inspections[name].cameras[camera]:
                continue
            path = f"inspections.{name}.cameras.{camera}"
            if problem := _permanent_problem(settings):
                problems.append(f"{path}.{problem}")
                continue
            try:
                found[camera] = capture_settings(settings, make_source(settings, components.clock))
            except OperatorError as error:
                problems.append(f"{path}: {error}")
    return found


def _permanent_problem(settings: configuration.CameraConfig) -> str | None:
    """Return the setting that no retry would fix; a missing camera is no such problem, it may be plugged in."""
    match settings:
        case configuration.FolderCameraConfig() | configuration.VideoCameraConfig() if not settings.path.exists():
            return f"path: {settings.path} does not exist"
        case _:
            return address_problem(settings)


# --- changing ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _ReversibleStep:
    """One step of a change and its reversal; `undo` also repairs what a failed `do` left incomplete."""

    do: Callable[[], None]
    undo: Callable[[], None]


def _run_or_undo(steps: list[_ReversibleStep]) -> None:
    """Do all steps, or none: where one fails, it and those before it are undone, the last first."""
    with ExitStack() as undo:
        for step in steps:
            undo.callback(step.undo)
            step.do()
        undo.pop_all()


def _steps(
    components: AgentComponents,
    heartbeat: HeartbeatPublisher,
    old: configuration.Config,
    new: configuration.Config,
    settings: Mapping[str, CaptureSettings],
) -> Iterator[_ReversibleStep]:
    def step(change: Callable[..., None], after: Any, before: Any) -> _ReversibleStep:
        return _ReversibleStep(partial(change, after), partial(change, before))

    yield step(save_last_good, new, old)
    if components.lifecycle_manager is not None and old.updates is not None and new.updates is not None:
        yield step(components.lifecycle_manager.set_limits, new.updates.limits, old.updates.limits)
    if new.keep != old.keep:
        after, before = new.keep.model_dump(), old.keep.model_dump()
        for recorder in components.recorders.values():
            yield _ReversibleStep(partial(recorder.set_limits, **after), partial(recorder.set_limits, **before))
    if components.collector is not None and old.collect is not None and new.collect is not None:
        yield step(components.collector.set_settings, new.collect, old.collect)
    if new.heartbeat_s != old.heartbeat_s:
        yield _ReversibleStep(
            partial(heartbeat.set_period, period_s=new.heartbeat_s),
            partial(heartbeat.set_period, period_s=old.heartbeat_s),
        )
    if new.at_once_inspections() != old.at_once_inspections():
        set_at_once = components.outbox.set_at_once_inspections
        yield step(set_at_once, new.at_once_inspections(), old.at_once_inspections())
    for name, new_settings in settings.items():
        camera = components.cameras[name]
        yield step(camera.reconfigure, new_settings, camera.settings)
    yield step(components.config.replace, new, old)
    yield step(partial(_set_sites, components), new, old)


def _set_sites(components: AgentComponents, config: configuration.Config) -> None:
    digest = config.digest()
    for name, inspection in config.inspections.items():
        site = site_overrides(inspection, digest=digest)
        if components.lifecycle_manager is not None:
            components.lifecycle_manager.set_site(name, site)
        components.slots[name].set_site(site)
