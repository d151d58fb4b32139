"""Makes the concrete adapters that a configuration names.

No other module names an adapter. Each adapter is imported only where a line uses it.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Final

from agent import config as configuration
from agent.cameras.camera_url import is_connectable, missing_variables
from agent.errors import ConfigError, MissingExtraError
from agent.inspection.latest_frames import LatestFrameSource, latest_frames_of
from agent.slot import Lease, SiteOverrides

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from agent.adapters.mqtt import MqttTransport
    from agent.ports import FrameSource, Model, Transport
    from agent.supervision import ThreadSupervisor
    from agent.timing.clock import Clock

SHADOW_DEPLOYMENT_FRAMES: Final = 3  # frames that a shadow deployment may hold: two that wait and one in work


def make_transport(
    config: configuration.Config, clock: Clock, supervisor: ThreadSupervisor | None = None
) -> Transport | None:
    """Return the configured transport; None for `kind: none`. Raises ConfigError for invalid certificates."""
    chosen = config.transport
    if isinstance(chosen, configuration.NoTransportConfig):
        return None
    return make_mqtt_transport(
        config,
        chosen,
        clock,
        client_id=chosen.client_id or config.thing,
        state_dir=config.state_dir,
        supervisor=supervisor,
    )


def make_mqtt_transport(
    config: configuration.Config,
    chosen: configuration.MqttConfig,
    clock: Clock,
    *,
    client_id: str,
    state_dir: Path | None,
    supervisor: ThreadSupervisor | None = None,
) -> MqttTransport:
    """Return a transport to the broker `chosen`. Raises ConfigError for invalid certificates."""
    from agent.adapters.mqtt import MqttTransport, TlsFiles  # noqa: PLC0415 - paho only where it is used

    tls = chosen.tls
    return MqttTransport(
        host=chosen.host,
        port=chosen.port,
        client_id=client_id,
        thing=config.thing,
        protocol=chosen.protocol,
        tls=None if tls is None else TlsFiles(ca=tls.ca, certificate=tls.certificate, key=tls.key, alpn=tls.alpn),
        username=chosen.username,
        password_file=chosen.password_file,
        state_dir=state_dir,
        keepalive_s=chosen.keepalive_s,
        max_in_flight=chosen.max_in_flight,
        clock=clock,
        supervisor=supervisor,
    )


def make_source(camera: configuration.CameraConfig, clock: Clock) -> FrameSource:
    """Return the adapter for a camera's kind. Raises MissingExtraError when a plugin is not installed."""
    match camera:
        case configuration.FolderCameraConfig():
            from agent.adapters.image_folder import ImageFolderSource  # noqa: PLC0415 - only what the line uses is loaded

            return ImageFolderSource(
                path=camera.path, split=camera.split, fps=camera.fps, loop=camera.loop, clock=clock
            )
        case configuration.MjpegCameraConfig():
            from agent.adapters.mjpeg import live_mjpeg_source  # noqa: PLC0415

            return live_mjpeg_source(
                url=camera.url,
                username=camera.username,
                password_file=camera.password_file,
                ca=camera.ca,
                clock=clock,
            )
        case configuration.PluginCameraConfig():
            return _make_plugin(camera, clock)
        case _:
            return _make_stream(camera, clock)


def address_problem(camera: configuration.CameraConfig) -> str | None:
    """Return the key of a camera's address that no retry would fix, and why; None where there is none."""
    if not isinstance(camera, configuration.MjpegCameraConfig | configuration.RtspCameraConfig):
        return None
    for key, text in (("url", camera.url), ("username", camera.username or "")):
        if missing := missing_variables(text):
            return f"{key}: the environment variable {', '.join(missing)} is not set: set it for the agent's service"
    if not is_connectable(camera.url):
        return "url: is no address; write it as rtsp://host:port/path or http://host:port/path"
    return None


def _make_stream(
    camera: configuration.VideoCameraConfig | configuration.V4l2CameraConfig | configuration.RtspCameraConfig,
    clock: Clock,
) -> FrameSource:
    from agent.adapters import opencv_sources  # noqa: PLC0415 - only what the line uses is loaded

    match camera:
        case configuration.VideoCameraConfig():
            return opencv_sources.VideoFileSource(path=camera.path, fps=camera.fps, loop=camera.loop, clock=clock)
        case configuration.V4l2CameraConfig():
            return opencv_sources.V4l2Source(
                device=camera.device,
                width=camera.width,
                height=camera.height,
                fps=camera.fps,
                fourcc=camera.fourcc,
                clock=clock,
            )
        case configuration.RtspCameraConfig():
            return opencv_sources.RtspSource(
                url=camera.url,
                transport=camera.transport,
                username=camera.username,
                password_file=camera.password_file,
                clock=clock,
            )


def _make_plugin(camera: configuration.PluginCameraConfig, clock: Clock) -> FrameSource:
    found = [point for point in entry_points(group="kensa.sources") if point.name == camera.source]
    if not found:
        known = sorted(point.name for point in entry_points(group="kensa.sources"))
        raise ConfigError(f"camera source {camera.source!r} is not installed; installed: {', '.join(known) or 'none'}")
    try:
        factory = found[0].load()
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"camera source {camera.source!r} needs {error.name}: the simulator runs from a checkout, "
            "set up with scripts/demo or pip install -e '.[sim]'"
        ) from error
    source: FrameSource = factory(camera.options, clock=clock)
    if not is_live(source) or isinstance(source, LatestFrameSource):
        return source
    return latest_frames_of(lambda: factory(camera.options, clock=clock), name=f"plugin {camera.source}")


def is_live(source: FrameSource) -> bool:
    """Return whether it is a live camera (see `FrameSource`): read all the time, and its silence is a stall."""
    return getattr(source, "live", False) is True


def site_overrides(inspection: configuration.InspectionConfig, *, digest: str = "") -> SiteOverrides:
    """Return what the configuration with this `digest` overrides in the models of an inspection."""
    return SiteOverrides(
        inspection.roi, inspection.thresholds, inspection.unsure_band, inspection.check_pictures, digest
    )


def check_classes(model: Model, thresholds: Mapping[str, float], *, name: str) -> None:
    """Raise ConfigError for a class that `model` of the inspection `name` does not have."""
    defects = model.rule.defects
    if unknown := sorted(set(thresholds) - defects):
        raise ConfigError(
            f"inspections.{name}.thresholds: {', '.join(unknown)} is no defect class of {model.identity.name} "
            f"{model.identity.version}; its defects are {', '.join(sorted(defects))}"
        )


def make_lease(model: Model, site: SiteOverrides, *, name: str) -> Lease:
    """Apply the site's overrides to the model. Raises ConfigError for a class that the model does not have."""
    check_classes(model, site.thresholds, name=name)
    return Lease(model, model.rule).with_site(site)


def make_site_lease(model: Model, inspection: configuration.InspectionConfig, *, name: str) -> Lease:
    """Apply the settings of `inspection` to the model: `make_lease` for commands."""
    return make_lease(model, site_overrides(inspection), name=name)
