"""Configuration -> concrete adapters: nothing else in Kensa names one. Each is imported only where a line uses it."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Final

from agent import config as configuration
from agent.errors import ConfigError, MissingExtraError
from agent.inspection.camera_url import is_address, missing_variables
from agent.inspection.latest import LatestFrames, keep_newest
from agent.slot import Lease, SiteSettings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from agent.adapters.mqtt import MqttTransport
    from agent.clock import Clock
    from agent.ports import FrameSource, Model, Transport
    from agent.supervision import Supervisor

SHADOW_FRAMES: Final = 3  # frames that a shadow may hold at once: two that wait and the one it judges


def open_transport(
    config: configuration.Config, clock: Clock, supervisor: Supervisor | None = None
) -> Transport | None:
    """The configured way to the broker; None for `kind: none`. Raises ConfigError for certificates that cannot work."""
    chosen = config.transport
    if isinstance(chosen, configuration.NoTransport):
        return None
    return open_mqtt(
        config,
        chosen,
        clock,
        client_id=chosen.client_id or config.thing,
        state_dir=config.state_dir,
        supervisor=supervisor,
    )


def open_mqtt(
    config: configuration.Config,
    chosen: configuration.Mqtt,
    clock: Clock,
    *,
    client_id: str,
    state_dir: Path | None,
    supervisor: Supervisor | None = None,
) -> MqttTransport:
    """A transport to the broker `chosen`. Raises ConfigError for certificates that cannot work."""
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


def open_source(camera: configuration.Camera, clock: Clock) -> FrameSource:
    """The adapter for a camera's kind. Raises MissingExtraError when a plugin is not installed."""
    match camera:
        case configuration.FolderCamera():
            from agent.adapters.folder import FolderSource  # noqa: PLC0415 - only what the line uses is loaded

            return FolderSource(path=camera.path, split=camera.split, fps=camera.fps, loop=camera.loop, clock=clock)
        case configuration.MjpegCamera():
            from agent.adapters.mjpeg import live_mjpeg  # noqa: PLC0415

            return live_mjpeg(
                url=camera.url,
                username=camera.username,
                password_file=camera.password_file,
                ca=camera.ca,
                clock=clock,
            )
        case configuration.PluginCamera():
            return _open_plugin(camera, clock)
        case _:
            return _open_stream(camera, clock)


def address_problem(camera: configuration.Camera) -> str | None:
    """Name the key of a camera's address that no trying again would mend, and why; None where there is none."""
    if not isinstance(camera, configuration.MjpegCamera | configuration.RtspCamera):
        return None
    for key, text in (("url", camera.url), ("username", camera.username or "")):
        if missing := missing_variables(text):
            return f"{key}: the environment variable {', '.join(missing)} is not set: set it for the agent's service"
    if not is_address(camera.url):
        return "url: is no address; write it as rtsp://host:port/path or http://host:port/path"
    return None


def _open_stream(
    camera: configuration.VideoCamera | configuration.V4l2Camera | configuration.RtspCamera, clock: Clock
) -> FrameSource:
    from agent.adapters import stream  # noqa: PLC0415 - only what the line uses is loaded

    match camera:
        case configuration.VideoCamera():
            return stream.VideoSource(path=camera.path, fps=camera.fps, loop=camera.loop, clock=clock)
        case configuration.V4l2Camera():
            return stream.V4l2Source(
                device=camera.device,
                width=camera.width,
                height=camera.height,
                fps=camera.fps,
                fourcc=camera.fourcc,
                clock=clock,
            )
        case configuration.RtspCamera():
            return stream.RtspSource(
                url=camera.url,
                transport=camera.transport,
                username=camera.username,
                password_file=camera.password_file,
                clock=clock,
            )


def _open_plugin(camera: configuration.PluginCamera, clock: Clock) -> FrameSource:
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
    if not is_live(source) or isinstance(source, LatestFrames):
        return source
    return keep_newest(lambda: factory(camera.options, clock=clock), name=f"plugin {camera.source}")


def is_live(source: FrameSource) -> bool:
    """Whether it is a live camera, see `FrameSource`: read all the time, and its silence is a stall."""
    return getattr(source, "live", False) is True


def site_of(inspection: configuration.Inspection, *, digest: str = "") -> SiteSettings:
    """What the configuration with this `digest` lays over the models of an inspection."""
    return SiteSettings(
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


def lease_under(model: Model, site: SiteSettings, *, name: str) -> Lease:
    """Lay the site's settings over the model's own. Raises ConfigError for a class that the model does not have."""
    check_classes(model, site.thresholds, name=name)
    return Lease(model, model.rule).under(site)


def site_lease(model: Model, inspection: configuration.Inspection, *, name: str) -> Lease:
    """Lay the settings of `inspection` over the model's own: `lease_under` for commands."""
    return lease_under(model, site_of(inspection), name=name)
