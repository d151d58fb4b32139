"""Composes the component's surroundings: broker, subscriber, camera, releases and nucleus.

Start order: broker, subscriber, camera, repository, components, nucleus; the deployment last. The way out is the same
backwards. What is deployed is the project's own recipe; the first deployment's configuration is written beside the
report, as a person would give it to scripts/deploy.
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import yaml

from greengrass.packaging import contents
from greengrass.packaging.build import INSPECTOR, MODEL
from simulator.demos.common.run_files import prepare_folder
from simulator.demos.greengrass import component_status
from simulator.demos.greengrass.component_packager import ComponentPackager, check_python
from simulator.demos.greengrass.mjpeg_camera import MjpegLineCamera
from simulator.demos.greengrass.release_catalogue import LIMITS, SITE, OfferedRelease, ReleaseCatalogue, plan_offers
from simulator.demos.greengrass.update_schedule import TIMEOUT_S, UpdateSchedule
from simulator.doubles.network.mqtt_broker import BrokerName, LocalBroker, open_broker
from simulator.doubles.servers.shadow_service import ShadowService
from simulator.nucleus import Deployment, Nucleus, NucleusBehaviour
from simulator.paths import DEFAULT_RELEASE, FIRST_RELEASE
from simulator.probes.verdict_subscriber import VerdictSubscriber

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from simulator.demos.greengrass.component_status import ComponentStatus
    from simulator.nucleus.deployments.deployment import DeploymentResult
    from simulator.nucleus.limits import Mode

THING: Final = "demo-thing"
INSPECTION: Final = "main"  # the recipe's
CAMERA: Final = "cam1"  # the recipe's
VERSION: Final = "1.0.0"  # of com.kensa.Inspector
CONFIG_NAME: Final = "deployment.yaml"
NUCLEUS_NAME: Final = "nucleus"
_TIMEOUT_S: Final = f"{TIMEOUT_S - 10.0:g}"  # of com.kensa.Model: its deployment ends before the demo gives up
_CAMERA_PX: Final = (1920, 1080)


@dataclass(frozen=True, slots=True, kw_only=True)
class GreengrassOptions:
    """What a person may choose."""

    mode: Mode
    seconds: float = 90.0
    fps: float = 30.0
    seed: int = 1
    broker: BrokerName = "auto"
    out: Path = Path("out/demo-greengrass")


class GreengrassEnvironment:
    """A running site; use as a context manager, which starts everything but the component."""

    broker: LocalBroker
    subscriber: VerdictSubscriber
    camera: MjpegLineCamera
    nucleus: Nucleus
    updates: UpdateSchedule

    def __init__(self, options: GreengrassOptions, *, progress: Callable[[str], None]) -> None:
        """Prepare; `progress` is told what is being made ready, in a few words."""
        self.options = options
        self._progress = progress
        self._stack = ExitStack()
        self._shadows: ShadowService | None = None
        self._catalogue: ReleaseCatalogue | None = None
        self._root = options.out.resolve() / NUCLEUS_NAME
        self._store = options.out.resolve() / "components"

    def __enter__(self) -> Self:
        """Start all that is around the component. Raises a KensaError."""
        with ExitStack() as stack:
            check_python()
            prepare_folder(self.options.out, self.options.out / CONFIG_NAME, self._root, self._store)
            self._progress("starting the MQTT broker and the independent subscriber")
            self.broker = open_broker(self.options.broker)
            stack.enter_context(self.broker)
            self.subscriber = stack.enter_context(VerdictSubscriber(host=self.broker.host, port=self.broker.port))
            if self.broker.carries_shadows:
                self._shadows = stack.enter_context(ShadowService(host=self.broker.host, port=self.broker.port))
            self._progress("rendering the pictures of the line, for a camera that speaks MJPEG")
            self.camera = stack.enter_context(MjpegLineCamera(seed=self.options.seed, fps=self.options.fps))
            offers = plan_offers(self.options.seconds, has_shadows=self.broker.carries_shadows)
            self._progress("signing a repository of releases")
            catalogue = self._catalogue = stack.enter_context(
                ReleaseCatalogue(folder=self.options.out / "cloud", better=DEFAULT_RELEASE, offers=offers)
            )
            self._pack(catalogue, offers)
            self._progress(f"starting the simulated nucleus ({self.options.mode})")
            self.nucleus = stack.enter_context(self._open_nucleus())
            self.nucleus.wait_online()
            self.updates = UpdateSchedule(
                offers=offers, id_of=catalogue.id_of, begin=self._start_update, seconds=self.options.seconds
            )
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop everything that is still running."""
        self._stack.close()

    @property
    def state_dir(self) -> Path:
        """The component's state directory."""
        return self._root / "work" / INSPECTOR.name / "state"

    def deploy(self) -> DeploymentResult:
        """Deploy com.kensa.Inspector; returns when it inspects, or cannot."""
        return self.nucleus.deploy(self._deployment({INSPECTOR.name: VERSION}, self._configure()), self._store)

    def component_status(self) -> ComponentStatus | None:
        """Return how the component is, None while it does not answer."""
        return component_status.read_component_status(self.state_dir, INSPECTION)

    def remove_component(self) -> DeploymentResult:
        """Deploy nothing: the nucleus ends the component with SIGTERM, and it drains."""
        return self.nucleus.deploy(self._deployment({}, {}), self._store)

    # --- preparation --------------------------------------------------------------------------------------------------

    def _pack(self, catalogue: ReleaseCatalogue, offers: tuple[OfferedRelease, ...]) -> None:
        self._progress("building the components of this checkout")
        with ComponentPackager(self._store) as packer:
            packer.pack(INSPECTOR, VERSION, [*contents.factory_release(FIRST_RELEASE), catalogue.trust_anchor()])
            for offer in offers:
                if offer.method == "component":
                    configuration = {"release": catalogue.id_of(offer), "timeout_s": _TIMEOUT_S}
                    packer.pack(MODEL, offer.version, catalogue.component_files(offer), configuration)

    def _open_nucleus(self) -> Nucleus:
        return Nucleus(
            self.options.mode,
            root=self._root,
            broker=(self.broker.host, self.broker.port),
            thing=THING,
            behaviour=NucleusBehaviour(
                # python3 of the components is the one whose libraries they borrow
                environment={"PATH": _path_of_this_python()},
                synced_shadows=("kensa",) if self.broker.carries_shadows else (),
            ),
        )

    def _configure(self) -> dict[str, Any]:
        """Write what is merged into the recipe's DefaultConfiguration, and return it."""
        assert self._catalogue is not None  # noqa: S101 - for the type checker: __enter__ made it
        width, height = _CAMERA_PX
        camera = {"kind": "mjpeg", "url": self.camera.url, "width": str(width), "height": str(height)}
        tree: dict[str, Any] = {
            "line": "demo-line",
            "heartbeat_s": "5",
            "inspections": {INSPECTION: {"roi": [str(side) for side in self.camera.roi], "cameras": {CAMERA: camera}}},
            "updates": {
                "repository": self._catalogue.url,
                "root": "1.root.json",
                "site": SITE,
                "shadow": str(self.broker.carries_shadows).lower(),
                "limits": LIMITS,
            },
        }
        path = self.options.out / CONFIG_NAME
        path.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
        return tree

    # --- updates ------------------------------------------------------------------------------------------------------

    def _start_update(self, offer: OfferedRelease) -> Future[DeploymentResult] | None:
        assert self._catalogue is not None  # noqa: S101 - as above
        release = self._catalogue.id_of(offer)
        running = {INSPECTOR.name: VERSION}
        if offer.method == "shadow":
            assert self._shadows is not None  # noqa: S101 - `plan` knows
            self._shadows.desire(THING, INSPECTION, release)
            return None
        if offer.method == "component":
            return self.nucleus.start_deployment(
                self._deployment(running | {MODEL.name: offer.version}, {}), self._store
            )
        merge = {"inspections": {INSPECTION: {"desired": {"release": release}}}}
        return self.nucleus.start_deployment(self._deployment(running, merge), self._store)

    @staticmethod
    def _deployment(components: dict[str, str], merge: dict[str, Any]) -> Deployment:
        update = {INSPECTOR.name: {"merge": merge}} if merge else {}
        return Deployment(components=components, configuration_update=update)


def _path_of_this_python() -> str:
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
