"""Composes the agent's surroundings: broker, optional bad network, subscriber, cameras on a line.

Start order: broker, network, subscriber, line, and the agent last, so that the first verdict already has a reader. The
way out is the same backwards. The configuration is written beside the report: it is what a person would write by hand.
"""

from __future__ import annotations

import contextlib
import ctypes
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import yaml

from agent import app, config, control
from agent.adapters.mqtt import MqttTransport
from agent.errors import OperatorError
from agent.timing.clock import SystemClock
from simulator.demos.common.run_files import prepare_folder
from simulator.demos.demo_options import MIN_S
from simulator.demos.line import release_log
from simulator.demos.line.release_scenario import FADE, FADE_AT, FADE_SHARE, LIMITS, SITE, ReleaseScenario
from simulator.doubles.network.mqtt_broker import BrokerName, LocalBroker, open_broker
from simulator.doubles.network.tcp_proxy import TcpProxy
from simulator.doubles.servers.shadow_service import ShadowService
from simulator.line import CAMERAS, SimulatedLine
from simulator.line.source import SimulatedSource, from_config
from simulator.paths import DEFAULT_RELEASE, FIRST_RELEASE
from simulator.probes.verdict_subscriber import VerdictSubscriber

if TYPE_CHECKING:
    from collections.abc import Callable

    from simulator.demos.common.verdict_metrics import VerdictMetrics
    from simulator.demos.line.release_log import ReleaseLog
    from simulator.line.config import CameraName

CONFIG_NAME: Final = "demo.yaml"
STATE_NAME: Final = "state"
_THING: Final = "demo-thing"
_DRAIN_S: Final = 10.0
_DEFECT_RATE: Final = 0.06  # a bad day; rare defects would need an hour to compare two releases by


@dataclass(frozen=True, slots=True, kw_only=True)
class LineOptions:
    """What a person may choose."""

    seconds: float = 120.0
    fps: float = 120.0  # of the colour camera; the mono camera has a third of it
    cameras: int = 2  # 1: without the mono camera
    seed: int = 7
    broker: BrokerName = "auto"
    release: Path | None = None  # to inspect with at first; None: a bundled one
    updates: bool = True  # new releases arrive, where there is time for them
    out: Path = Path("out/demo")
    outage_s: float = 0.0  # how long the network is unplugged in the middle

    @property
    def has_updates(self) -> bool:
        """Whether new releases arrive while the line runs."""
        return self.updates and self.seconds >= MIN_S

    @property
    def factory(self) -> Path:
        """The release that the line starts with."""
        return self.release or (FIRST_RELEASE if self.has_updates else DEFAULT_RELEASE)


@dataclass(frozen=True, slots=True)
class _Camera:
    name: str
    inspection: str
    model: CameraName
    share: float  # of the chosen frame rate
    seed: int  # added to the chosen one: cameras that look at different parts
    blanks: int  # parts that are rendered before the start, 6 MB each; every exposure is made from one of them

    def options(self, chosen: LineOptions) -> dict[str, Any]:
        """Return what the configuration says of the simulated camera."""
        parts = chosen.seconds * chosen.fps * self.share
        fading: dict[str, Any] = {"drift_amplitude": 0.0}  # releases are compared in steady light
        if chosen.has_updates:
            fading = {
                "drift_shape": "ramp",
                "drift_amplitude": FADE,
                "drift_after_parts": round(parts * FADE_AT),
                "drift_period_parts": max(2, round(parts * FADE_SHARE)),
            }
        return {
            "camera": self.model,
            "seed": chosen.seed + self.seed,
            "defect_rate": _DEFECT_RATE,
            "vary": True,
            "pool": self.blanks,
            "flicker": 0.02,
            "exposure_step": 0.02,
            "fps": chosen.fps * self.share,
            **fading,
        }


_CAMERAS: Final = (
    _Camera("top", "surface", "colour1080", 1.0, 0, 32),
    _Camera("side", "profile", "mono5mp", 1.0 / 3.0, 1, 16),
)


class LineEnvironment:
    """A running plant; use as a context manager, which starts everything but the agent."""

    broker: LocalBroker
    subscriber: VerdictSubscriber
    agent: app.Agent

    def __init__(self, options: LineOptions, *, progress: Callable[[str], None]) -> None:
        """Prepare; `progress` is told what is being made ready, in a few words."""
        self.options = options
        self._cameras = _CAMERAS[: options.cameras]
        self.lines: dict[str, SimulatedLine] = {}
        self.proxy: TcpProxy | None = None
        self.scenario: ReleaseScenario | None = None
        self._shadow: ShadowService | None = None
        self._progress = progress
        self._clock = SystemClock()
        self._stack = ExitStack()

    @property
    def state_dir(self) -> Path:
        """The agent's state directory."""
        return self.options.out / STATE_NAME

    def __enter__(self) -> Self:
        """Start broker, network and subscriber, make the line, compose the agent. Raises a KensaError."""
        with ExitStack() as stack:
            self._check_release()
            prepare_folder(self.options.out, self.options.out / CONFIG_NAME, self.state_dir)
            self._progress("starting the MQTT broker")
            self.broker = open_broker(self.options.broker)
            stack.enter_context(self.broker)
            port = self.broker.port
            if self.options.outage_s > 0.0:
                self.proxy = stack.enter_context(TcpProxy(port=port))
                port = self.proxy.port
            self._progress("starting the independent subscriber")
            self.subscriber = stack.enter_context(VerdictSubscriber(host=self.broker.host, port=self.broker.port))
            sources = {camera.name: self._open_camera(camera) for camera in self._cameras}
            if self.options.has_updates:
                self._start_scenario(stack)
            _return_freed_memory()
            self._progress("loading the model")
            transport = self._open_transport(port)
            self.agent = app.build(self._configure(port), transport=transport, sources=sources, clock=self._clock)
            self._stack = stack.pop_all()
        return self

    @property
    def has_candidate(self) -> bool:
        """Whether a release is on its way and not yet kept or refused."""
        if self.scenario is None or self.agent.lifecycle_manager is None:
            return False
        return self.agent.lifecycle_manager.lifecycles[self.scenario.inspection].status().candidate is not None

    def release_log(self, tally: VerdictMetrics | None = None) -> ReleaseLog | None:
        """What became of the releases so far; None where none arrive."""
        if self.scenario is None or self.agent.lifecycle_manager is None:
            return None
        return release_log.build_release_log(
            self.scenario, self.agent.lifecycle_manager.lifecycles[self.scenario.inspection], tally
        )

    def __exit__(self, *_: object) -> None:
        """Stop everything that is still running."""
        self._stack.close()

    def _check_release(self) -> None:
        """Before anything slow. Raises OperatorError."""
        if not self.options.factory.is_dir():
            release = self.options.factory.resolve()
            msg = f"there is no release at {release}. Train one (kensa train --help) or give one with --release"
            raise OperatorError(msg)

    def _open_camera(self, camera: _Camera) -> SimulatedSource:
        width, height = CAMERAS[camera.model].width, CAMERAS[camera.model].height
        self._progress(f"rendering {camera.blanks} blank parts for camera {camera.name} ({width}x{height})")
        source = from_config(camera.options(self.options), clock=self._clock)
        source.open()  # renders its images: the line must not wait for them once it runs
        self.lines[camera.name] = source.line
        return source

    def _start_scenario(self, stack: ExitStack) -> None:
        """Keep a repository of releases, and a shadow service where the broker carries its topics."""
        self._progress("signing a repository of releases")
        if self.broker.carries_shadows:
            self._shadow = stack.enter_context(ShadowService(host=self.broker.host, port=self.broker.port))
        camera = self._cameras[0]
        self.scenario = ReleaseScenario(
            folder=self.options.out / "cloud",
            better=DEFAULT_RELEASE,
            inspection=camera.inspection,
            desire=self._set_desired_release,
            seconds=self.options.seconds,
        )
        stack.enter_context(self.scenario)
        self.scenario.prepare(self.lines[camera.name], CAMERAS[camera.model].roi)

    def _set_desired_release(self, release_id: str) -> None:
        """As the cloud does it, or as a person at the machine."""
        inspection = self._cameras[0].inspection
        if self._shadow is not None:
            self._shadow.desire(_THING, inspection, release_id)
        else:
            control.request(self.state_dir, "model.desire", inspection=inspection, release=release_id)

    def _open_transport(self, port: int) -> MqttTransport:
        """What the configuration describes, but reconnecting within a second: a demo has no half minute to wait."""
        return MqttTransport(
            host=self.broker.host,
            port=port,
            client_id=_THING,
            thing=_THING,
            protocol=self.broker.protocol,
            backoff_s=(0.2, 1.0),
            clock=self._clock,
        )

    def _configure(self, port: int) -> config.Config:
        """Write the configuration file and read it back, so that what is shown is what runs."""
        tree: dict[str, Any] = {
            "thing": _THING,
            "line": "demo-line",
            "state_dir": STATE_NAME,
            "inspections": {
                camera.inspection: {
                    "release": str(self.options.factory.resolve()),
                    "roi": list(CAMERAS[camera.model].roi),
                    "cameras": {
                        camera.name: {
                            "kind": "plugin",
                            "source": "simulated",
                            "width": CAMERAS[camera.model].width,
                            "height": CAMERAS[camera.model].height,
                            "options": camera.options(self.options),
                        }
                    },
                }
                for camera in self._cameras
            },
            "transport": {
                "kind": "mqtt",
                "host": self.broker.host,
                "port": port,
                "protocol": self.broker.protocol,
            },
            "heartbeat_s": 5.0,
            "drain_s": _DRAIN_S,
        }
        if self.scenario is not None:
            tree["updates"] = {
                "repository": self.scenario.url,
                "root": str(self.scenario.root.resolve()),
                "site": SITE,
                "shadow": self.broker.carries_shadows,
                "limits": LIMITS,
            }
        path = self.options.out / CONFIG_NAME
        path.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
        return config.load(path)


def _return_freed_memory() -> None:
    """Rendering leaves some 300 MB that are free, but that glibc keeps; another C library keeps what it likes."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
