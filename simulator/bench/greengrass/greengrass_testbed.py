"""The testbed of the Greengrass rows: nucleus, broker, network, release publisher and line.

The components are real processes with the project's own recipes: where no artifacts are built, the recipe's lifecycle
is replaced by this interpreter, and everything else of it stays. The line is folders of uncompressed images of the
model's own size, two in a hundred defective at random places, so that delivery is measured and not the reading of
images; image `n` of a camera is part `n` of its folder, which is how a frame that was counted twice would show.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import random
import shutil
import sys
import tempfile
import time
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import cv2
import yaml

from agent.release import manifest as manifests
from greengrass.environment import MODEL_STARTUP_SUFFIX
from greengrass.packaging import contents
from greengrass.packaging.build import INSPECTOR as INSPECTOR_KIND
from greengrass.packaging.build import MODEL as MODEL_KIND
from greengrass.packaging.recipe import RECIPES
from pipeline.repository.signing_keys import Expiry, KeyRing
from pipeline.repository.tuf_repository import Repository
from simulator.bench.greengrass.listener import VerdictListener
from simulator.bench.inspection.frame_sources import render_defect, render_pool
from simulator.doubles.lifecycle import bad_models
from simulator.doubles.network.mqtt_broker import MosquittoBroker
from simulator.doubles.network.tcp_proxy import TcpProxy
from simulator.doubles.servers.shadow_service import ShadowService
from simulator.nucleus import Deployment, Nucleus
from simulator.nucleus.nucleus import LITE_RECONNECT_S
from simulator.paths import DEFAULT_RELEASE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agent.records import Pixels
    from simulator.nucleus import DeploymentResult
    from simulator.nucleus.limits import Mode

INSPECTOR_NAME: Final = INSPECTOR_KIND.name
MODEL_NAME: Final = MODEL_KIND.name
INSPECTION: Final = "main"
THING: Final = "line1-cam"
SITE_NAME: Final = "hall-1"
PARTS_PER_CAMERA: Final = 500  # parts of a camera's folder
DEFECTS_PER_CAMERA: Final = 10  # among them
FIRST_VERSION: Final = "1.0.0"  # of the component
RELEASE_NAME: Final = manifests.read_manifest(DEFAULT_RELEASE).name
_GOOD: Final = 40  # distinct good parts
_ROI: Final = (512, 92, 896)  # left, top, side: where the simulated line's parts lie
_DEPLOY_TIMEOUT_S: Final = 300.0
_FILLING_S: Final = 4.0  # an envelope may be filled for 2 s
_FRESH_S: Final = 2.5  # a heartbeat comes every second
# A rollout that a benchmark can wait for; real ones watch thousands of parts.
_POLICY: Final[dict[str, Any]] = {
    "shadow_parts": 60,
    "shadow_rejects": 1,
    "trial": [{"share": 0.5, "parts": 40}, {"share": 1.0, "parts": 100}],
    "disagreement": {"good": 0.02, "bad": 0.08},
    "latency_ratio": 50.0,
}
_LIMITS: Final = {  # as text, which both nuclei take alike
    "min_shadow_parts": "60",
    "min_trial_parts": "100",
    "max_disagreement": "0.08",
    "shadow_max_fps": "500",
    "deadline_ms": "30000",
    "max_latency_ratio": "50",
    "probation_s": "0",
    "cool_down_s": "0",
    "max_rollbacks_per_day": "100",
}


@cache
def render_pictures() -> tuple[Pixels, ...]:
    """Render good parts and, last, a defective one, cut and reduced to the model's size."""
    geometry = manifests.read_manifest(DEFAULT_RELEASE).geometry
    left, top, side = _ROI
    frames = [*render_pool(frames=_GOOD), render_defect()]
    cut = [frame[top : top + side, left : left + side] for frame in frames]
    size = (geometry.width, geometry.height)
    return tuple(cv2.resize(part, size, interpolation=cv2.INTER_AREA).astype("uint8") for part in cut)


def part_name(part: int) -> str:
    """Name of a part's image; its place in the folder's order."""
    return f"{part:03d}.bmp"


class GreengrassTestbed:
    """See the module. Use as a context manager."""

    broker: MosquittoBroker
    network: TcpProxy
    nucleus: Nucleus
    listener: VerdictListener

    def __init__(
        self,
        mode: Mode,
        *,
        cameras: int = 1,
        fps: float = 30.0,
        updates: bool = False,
        shadow: bool = False,
        reconnect_s: tuple[float, float] = LITE_RECONNECT_S,
    ) -> None:
        """Nothing is started yet.

        Args:
            mode: Nucleus lite or classic.
            cameras: Number of cameras.
            fps: Frame rate of each camera.
            updates: Whether releases can be published.
            shadow: Whether the cloud has a shadow service.
            reconnect_s: First and longest wait of the nucleus before it tries the broker again.

        """
        self.mode: Mode = mode
        self._cameras = [f"cam{number}" for number in range(1, cameras + 1)]
        self._fps = fps
        self._updates = updates
        self._shadow = shadow
        self._reconnect_s = reconnect_s
        self._temporary = tempfile.TemporaryDirectory(prefix="kensa-greengrass-")
        self.folder = Path(self._temporary.name)
        self._stack = ExitStack()
        self._publisher: Repository | None = None
        self.shadows: ShadowService | None = None

    def __enter__(self) -> Self:
        """Start everything but the component. Raises a KensaError."""
        with ExitStack() as stack:
            stack.callback(self._temporary.cleanup)
            self._write_pictures()
            if self._updates:
                self._open_repository()
            self.broker = stack.enter_context(MosquittoBroker())
            self.network = stack.enter_context(TcpProxy(port=self.broker.port))
            self.listener = stack.enter_context(
                VerdictListener(
                    host=self.broker.host,
                    port=self.broker.port,
                    parts=[part_name(part) for part in range(PARTS_PER_CAMERA)],
                )
            )
            if self._shadow:
                self.shadows = stack.enter_context(ShadowService(host=self.broker.host, port=self.broker.port))
            self.nucleus = stack.enter_context(
                Nucleus(
                    self.mode,
                    root=self.folder / "nucleus",
                    broker=(self.network.host, self.network.port),
                    thing=THING,
                    reconnect_s=self._reconnect_s,
                )
            )
            self.nucleus.wait_online()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop everything."""
        self._stack.close()

    # --- what is deployed ---------------------------------------------------------------------------------------------

    def configuration(self, *, factory: str = str(DEFAULT_RELEASE), root: str | None = None) -> dict[str, Any]:
        """Return the keys of the inspector's configuration that are the site's, every number as text."""
        cameras = {
            name: {"kind": "folder", "path": str(self.folder / "parts" / name), "fps": str(self._fps), "loop": "true"}
            for name in self._cameras
        }
        tree: dict[str, Any] = {
            "line": "line1",
            "heartbeat_s": "1",
            "inspections": {INSPECTION: {"release": factory, "intake": {"capacity": "64"}, "cameras": cameras}},
        }
        if self._updates:
            tree["updates"] = {
                "repository": str(self.folder / "repository"),
                "root": str(self.trust_anchor) if root is None else root,
                "site": SITE_NAME,
                "shadow": str(self._shadow).lower(),
                "limits": _LIMITS,
            }
        return tree

    @property
    def trust_anchor(self) -> Path:
        """1.root.json of the repository."""
        return self.folder / "keys" / "metadata" / "1.root.json"

    def write_inspector(self, *, version: str = FIRST_VERSION) -> None:
        """Write a version of the inspector that runs from this checkout."""
        script = f"exec {sys.executable} -m greengrass"
        self._write_recipe(INSPECTOR_NAME, script, self.configuration(), version=version)

    def write_model(self, release: str, *, version: str) -> None:
        """Write a version of the model component with one release of the repository, as scripts/build-component."""
        folder = self.folder / "model" / version
        now = dt.datetime.now(dt.UTC)
        for entry in contents.signed_release(self.folder / "repository", site=SITE_NAME, release_id=release, now=now):
            path = folder / entry.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(entry.content)
        script = f"KENSA_COMPONENT_DIR={folder} {sys.executable} -m greengrass.model_component {MODEL_STARTUP_SUFFIX}"
        keys = {"inspection": INSPECTION, "release": release, "timeout_s": "240"}
        self._write_recipe(MODEL_NAME, script, keys, version=version)

    def deploy(
        self,
        merge: Mapping[str, Any] | None = None,
        *,
        version: str = FIRST_VERSION,
        model: str | None = None,
        reset: Sequence[str] = (),
    ) -> DeploymentResult:
        """Deploy the inspector, with a version of the model component where one is given, from the site's folder."""
        wanted = {INSPECTOR_NAME: version, **({} if model is None else {MODEL_NAME: model})}
        update = {INSPECTOR_NAME: {"merge": dict(merge or {}), "reset": list(reset)}} if merge or reset else {}
        deployment = Deployment(components=wanted, configuration_update=update, validate_s=120.0)
        return self.nucleus.deploy(deployment, self.folder, _DEPLOY_TIMEOUT_S)

    def set_desired_release(self, release: str, *, model: str | None = None) -> DeploymentResult:
        """Want a release by configuration alone."""
        return self.deploy({"inspections": {INSPECTION: {"desired": {"release": release}}}}, model=model)

    def remove_components(self) -> None:
        """Take every component off the device, which drains them."""
        self.nucleus.deploy(Deployment(components={}), self.folder, _DEPLOY_TIMEOUT_S)

    # --- releases -----------------------------------------------------------------------------------------------------

    def publish(self, version: str, *, bad: bool = False) -> str:
        """Publish the site's model under another version, or one that gives other scores here; return its id."""
        assert self._publisher is not None  # noqa: S101 - for the type checker: only with `updates`
        release = self.folder / "releases" / version
        if bad:
            bad_models.write_bad_release("shifted_scores", DEFAULT_RELEASE, release, version=version)
        else:
            release.mkdir(parents=True)
            for name in (manifests.MODEL_NAME, manifests.GOLDEN_NAME):
                shutil.copyfile(DEFAULT_RELEASE / name, release / name)
        tree = json.loads((release if bad else DEFAULT_RELEASE).joinpath(manifests.MANIFEST_NAME).read_bytes())
        tree |= {"version": version, "rollout": _POLICY}
        (release / manifests.MANIFEST_NAME).write_bytes(manifests.parse_manifest(json.dumps(tree).encode()).to_json())
        self._publisher.add(release, SITE_NAME)
        self._publisher.publish()
        return f"{RELEASE_NAME}/{version}"

    # --- what is seen of the component on the device ------------------------------------------------------------------

    @property
    def pid(self) -> int | None:
        """Of the inspector."""
        return self.nucleus.component(INSPECTOR_NAME).pid

    @property
    def log(self) -> str:
        """What the components printed."""
        return self.nucleus.log(INSPECTOR_NAME) + self.nucleus.log(MODEL_NAME)

    def is_drained(self) -> bool:
        """Whether nothing waits on the device but the envelopes that are being filled; else `stop` would delete it."""
        heartbeat = self.listener.heartbeat
        if heartbeat is None or not self.nucleus.online or heartbeat.transport != "up":
            return False
        is_fresh = time.time() - heartbeat.utc_us / 1e6 < _FRESH_S  # and not the last word before a cut
        return is_fresh and heartbeat.outbox.oldest_age_s < _FILLING_S

    def component_status(self) -> dict[str, Any]:
        """What the component says of itself to `kensa doctor`; empty before it has."""
        path = self.folder / "nucleus" / "work" / INSPECTOR_NAME / "state" / "greengrass.json"
        return json.loads(path.read_bytes()) if path.is_file() else {}

    # --- pieces -------------------------------------------------------------------------------------------------------

    def _write_pictures(self) -> None:
        """A folder for each camera; the parts are links to a few images."""
        drawn = self.folder / "drawn"
        drawn.mkdir()
        for index, picture in enumerate(render_pictures()):
            cv2.imwrite(str(drawn / f"{index}.bmp"), picture)
        for number, camera in enumerate(self._cameras):
            chance = random.Random(number)
            defective = set(chance.sample(range(PARTS_PER_CAMERA), DEFECTS_PER_CAMERA))
            folder = self.folder / "parts" / camera
            folder.mkdir(parents=True)
            for part in range(PARTS_PER_CAMERA):
                index = _GOOD if part in defective else chance.randrange(_GOOD)
                os.link(drawn / f"{index}.bmp", folder / part_name(part))

    def _open_repository(self) -> None:
        keys = KeyRing.create(self.folder / "keys", repository=str(self.folder / "repository"), expiry=Expiry())
        self._publisher = Repository(keys)
        self._publisher.create([SITE_NAME], {})

    def _write_recipe(self, name: str, script: str, configuration: Mapping[str, Any], *, version: str) -> None:
        tree = yaml.safe_load((RECIPES / f"{name}.yaml").read_text(encoding="utf-8"))
        startup = tree["Manifests"][0]["Lifecycle"]["startup"]
        tree["ComponentVersion"] = version
        tree["ComponentConfiguration"]["DefaultConfiguration"] |= configuration
        tree["Manifests"] = [
            {"Platform": {"os": "linux", "runtime": "*"}, "Lifecycle": {"startup": startup | {"Script": script}}}
        ]
        recipes = self.folder / "recipes"
        recipes.mkdir(exist_ok=True)
        (recipes / f"{name}-{version}.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
