"""Another configuration for a running agent: whole or not at all, and nothing of the line stands still for it.

Order: compare, check everything that can be checked without touching the line, keep the new configuration on disk, then
change part by part; what fails in the middle goes back. Thresholds, unsure band, ROI and the digest that verdicts carry
come last, in one store for each inspection: a batch is judged with all of the old or all of the new ones.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from agent import config as configuration
from agent import preprocess
from agent.app.camera_composition import capture_settings
from agent.app.factories import address_problem, check_classes, make_source, site_overrides
from agent.app.last_good_config import save_last_good
from agent.errors import ConfigError, ControlError, FrameError, OperatorError, RestartNeededError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from agent.app.agent import Agent
    from agent.app.camera_composition import ComposedCamera
    from agent.inspection.capture import CaptureSettings
    from agent.slot import Lease

KeyPath = tuple[str, ...]
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AppliedConfig:
    """What a change did, or would do. Keys are paths such as `inspections.top.thresholds.scratch`."""

    changed: tuple[str, ...]  # keys; empty when the agent runs with this configuration already
    reopened: tuple[str, ...]  # cameras that are closed and opened again with their new settings
    digest: str  # of the configuration, as verdicts carry it


# --- comparing --------------------------------------------------------------------------------------------------------


def differences(old: object, new: object, at: KeyPath = ()) -> Iterator[KeyPath]:
    """Yield the keys in which two parts of a configuration differ."""
    if old == new:
        return
    if isinstance(old, BaseModel) and isinstance(new, BaseModel):
        if type(old) is not type(new):
            yield (*at, "kind")
            return
        for name in type(old).model_fields:
            yield from differences(getattr(old, name), getattr(new, name), (*at, name))
    elif isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            yield from differences(old.get(key), new.get(key), (*at, key))
    else:
        yield at


def _is_live(path: KeyPath, lent: frozenset[str]) -> bool:
    """Can a running agent change this key?"""
    match path:
        case ("inspections", _, "cameras", camera, _, *_):  # of a camera that both configurations have
            return camera not in lent
        case ("inspections", _, "roi" | "thresholds" | "unsure_band" | "check_pictures" | "publish", *_):
            return True
        case ("updates", "limits", _) | ("keep", _) | ("collect", _, *_) | ("heartbeat_s",) | ("drain_s",):
            return True
        case _:
            return False


# --- checking ---------------------------------------------------------------------------------------------------------


def _check_models(agent: Agent, old: configuration.Config, new: configuration.Config) -> Iterator[str]:
    """Yield what loaded models cannot do: classes that they lack, a ROI that does not lie in the pictures."""
    for name, inspection in new.inspections.items():
        before = old.inspections[name]
        for lease in _active_leases(agent, name):
            if inspection.thresholds != before.thresholds:
                try:
                    check_classes(lease.model, inspection.thresholds, name=name)
                except ConfigError as error:
                    yield str(error)
            if (inspection.roi, inspection.cameras) == (before.roi, before.cameras):
                continue
            for camera, settings in inspection.cameras.items():
                same = settings == before.cameras[camera]
                size = _size_px(settings, agent.cameras[camera] if same else None)
                if size is None:
                    continue
                try:
                    preprocess.plan_inputs(lease.model.geometry, height=size[0], width=size[1], roi=inspection.roi)
                except FrameError as error:
                    yield f"inspections.{name}.roi: camera {camera}: {error.detail}"


def _active_leases(agent: Agent, name: str) -> list[Lease]:
    """What judges, and what is on trial."""
    lease = agent.slots[name].lease()
    challenger = None if agent.lifecycle_manager is None else agent.lifecycle_manager.lifecycles[name].challenger()
    return [found for found in (lease, challenger) if found is not None]


def _size_px(settings: configuration.CameraConfig, view: ComposedCamera | None) -> tuple[int, int] | None:
    """(height, width) of a camera's pictures as declared, else as they come; None where nobody knows yet."""
    if settings.width is not None and settings.height is not None:
        return (settings.height, settings.width)
    shape = None if view is None else view.capture.shape
    return None if shape is None else (shape[0], shape[1])


def _make_sources(
    agent: Agent, old: configuration.Config, new: configuration.Config, problems: list[str]
) -> dict[str, CaptureSettings]:
    """Make the sources of the cameras whose settings changed, without opening one; adds to `problems`."""
    setups = {}
    for name, inspection in new.inspections.items():
        for camera, settings in inspection.cameras.items():
            if settings == old.inspections[name].cameras[camera]:
                continue
            path = f"inspections.{name}.cameras.{camera}"
            if problem := _permanent_problem(settings):
                problems.append(f"{path}.{problem}")
                continue
            try:
                setups[camera] = capture_settings(settings, make_source(settings, agent.clock))
            except OperatorError as error:
                problems.append(f"{path}: {error}")
    return setups


def _permanent_problem(settings: configuration.CameraConfig) -> str | None:
    """Name the setting that no trying again would mend; a camera that is not there may be plugged in."""
    match settings:
        case configuration.FolderCameraConfig() | configuration.VideoCameraConfig() if not settings.path.exists():
            return f"path: {settings.path} does not exist"
        case _:
            return address_problem(settings)


# --- changing ---------------------------------------------------------------------------------------------------------


def apply(agent: Agent, config: configuration.Config, *, dry_run: bool) -> AppliedConfig:
    """See `Agent.apply`, which calls this for one change at a time."""
    old = agent.config
    paths = list(differences(old, config))
    if restart := [".".join(path) for path in paths if not _is_live(path, agent.external_cameras)]:
        raise RestartNeededError(restart)
    problems = list(_check_models(agent, old, config))
    setups = _make_sources(agent, old, config, problems)
    if problems:
        raise ConfigError("nothing was changed:\n" + "\n".join(f"  {problem}" for problem in problems))
    applied = AppliedConfig(tuple(".".join(path) for path in paths), tuple(setups), config.digest())
    if paths and not dry_run:
        _run_or_undo(list(_steps(agent, old, config, setups)))
        _log.info("the configuration was changed: %s", ", ".join(applied.changed))
    return applied


@dataclass(frozen=True, slots=True)
class _ReversibleStep:
    """A part of a change, and its way back; `undo` also mends what `do` left half done."""

    do: Callable[[], None]
    undo: Callable[[], None]


def _run_or_undo(steps: list[_ReversibleStep]) -> None:
    """Do all steps, or none: where one fails, it and those before it are undone, the last first."""
    with ExitStack() as back:
        for step in steps:
            back.callback(step.undo)
            step.do()
        back.pop_all()


def _steps(
    agent: Agent, old: configuration.Config, new: configuration.Config, setups: Mapping[str, CaptureSettings]
) -> Iterator[_ReversibleStep]:
    yield _ReversibleStep(partial(save_last_good, new), partial(save_last_good, old))
    if agent.lifecycle_manager is not None and old.updates is not None and new.updates is not None:
        limit = agent.lifecycle_manager.set_limits
        yield _ReversibleStep(partial(limit, new.updates.limits), partial(limit, old.updates.limits))
    if new.keep != old.keep:
        kept, before = new.keep.model_dump(), old.keep.model_dump()
        for keeper in agent.recorders.values():
            yield _ReversibleStep(partial(keeper.set_limits, **kept), partial(keeper.set_limits, **before))
    if agent.collector is not None and old.collect is not None and new.collect is not None:
        collect = agent.collector.set_settings
        yield _ReversibleStep(partial(collect, new.collect), partial(collect, old.collect))
    if new.heartbeat_s != old.heartbeat_s:
        change = agent.heartbeat.set_period
        yield _ReversibleStep(partial(change, period_s=new.heartbeat_s), partial(change, period_s=old.heartbeat_s))
    if new.at_once_inspections() != old.at_once_inspections():
        publish = agent.outbox.set_at_once_inspections
        yield _ReversibleStep(partial(publish, new.at_once_inspections()), partial(publish, old.at_once_inspections()))
    for camera, setup in setups.items():
        view = agent.cameras[camera]
        yield _ReversibleStep(
            partial(_reconfigure_camera, view, setup), partial(_reconfigure_camera, view, view.settings)
        )
    yield _ReversibleStep(partial(setattr, agent, "config", new), partial(setattr, agent, "config", old))
    yield _ReversibleStep(partial(_set_sites, agent, new), partial(_set_sites, agent, old))


def _reconfigure_camera(view: ComposedCamera, setup: CaptureSettings) -> None:
    view.settings = setup
    view.capture.reconfigure(setup)


def _set_sites(agent: Agent, config: configuration.Config) -> None:
    digest = config.digest()
    for name, inspection in config.inspections.items():
        site = site_overrides(inspection, digest=digest)
        if agent.lifecycle_manager is not None:
            agent.lifecycle_manager.set_site(name, site)
        agent.slots[name].set_site(site)


# --- control socket ---------------------------------------------------------------------------------------------------


def handlers(agent: Agent) -> dict[str, Callable[[Mapping[str, Any]], Mapping[str, Any]]]:
    """Return the handler for `agent.control.ControlServer`: `config.apply` with `config`, a tree of absolute paths.

    It answers with `applied`, or with `restart` (keys) or `wrong` (text) when the change is refused.
    """

    def answer(request: Mapping[str, Any]) -> Mapping[str, Any]:
        if type(dry_run := request.get("dry_run", False)) is not bool:
            raise ControlError("dry_run must be true or false")
        try:
            config = configuration.parse(request.get("config"), source="the configuration", base=Path("/"))
        except ConfigError as error:
            if not dry_run:
                agent.note_configuration(refused=str(error))
            return {"wrong": str(error)}
        try:
            return {"applied": asdict(agent.apply(config, dry_run=dry_run))}
        except RestartNeededError as error:
            return {"restart": error.paths}
        except ConfigError as error:
            return {"wrong": str(error)}

    return {"config.apply": answer}
