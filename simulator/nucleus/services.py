"""The services of a nucleus on its event loop: settings, IPC server, bridge to the broker."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import shutil
import tempfile
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from simulator.nucleus.config_store import DEFAULT_MS, ConfigStore
from simulator.nucleus.deployments.deployer import Deployer, DeployerDependencies
from simulator.nucleus.deployments.deployment import ComponentStore, Deployment
from simulator.nucleus.deployments.deployment_gates import DeploymentGates
from simulator.nucleus.ipc import access_control, request_fields
from simulator.nucleus.ipc.ipc_errors import (
    InvalidArgumentsError,
    ResourceNotFoundError,
    ServiceError,
    UnauthorizedError,
)
from simulator.nucleus.ipc.ipc_server import IpcOperation, IpcServer
from simulator.nucleus.limits import LIMITS
from simulator.nucleus.operations.component_configuration import ACCESS, ConfigurationService
from simulator.nucleus.operations.iot_core_bridge import IotCoreBridge
from simulator.nucleus.operations.local_pubsub import LocalPubSub
from simulator.nucleus.operations.shadow_manager import ShadowManager
from simulator.nucleus.operations.token_exchange import TokenExchange

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

    from simulator.nucleus.ipc.ipc_server import IpcRequest, JsonObject
    from simulator.nucleus.limits import Mode, NucleusBehaviour

NUCLEUS_COMPONENT: Final[dict[Mode, str]] = {"lite": "aws.greengrass.NucleusLite", "classic": "aws.greengrass.Nucleus"}
VERSIONS: Final[dict[Mode, str]] = {"lite": "2.6.0", "classic": "2.17.0"}
_TOKEN_BYTES: Final = 12  # 16 characters of base64
_STATES: Final = ("RUNNING", "ERRORED")
_INTERPOLATES: Final = "interpolateComponentConfiguration"


class NucleusServices:
    """Everything but the thread; each method belongs to the event loop."""

    def __init__(
        self,
        mode: Mode,
        *,
        root: Path,
        broker: tuple[str, int],
        thing: str,
        region: str,
        reconnect_s: tuple[float, float],
        behaviour: NucleusBehaviour,
    ) -> None:
        """Compose the services.

        Args:
            mode: Nucleus lite or classic.
            root: The nucleus's own folder, resolved.
            broker: Host and port.
            thing: Name of the thing.
            region: AWS region that components are given.
            reconnect_s: First and longest wait before the broker is tried again.
            behaviour: Timing and quirks of the nucleus.

        """
        self.mode: Mode = mode
        self.root, self.thing, self.region = root, thing, region
        self.lite = mode == "lite"
        self._health = behaviour.health
        self._tasks: set[asyncio.Task[object]] = set()
        limits = LIMITS[mode]
        self._folder = Path(tempfile.mkdtemp(prefix="kensa-gg-"))  # the path of a socket has 107 bytes at most
        self.config_store = ConfigStore(limits=limits, replaces=not self.lite)
        self.config_store.merge(NUCLEUS_COMPONENT[mode], (), {"awsRegion": region}, at_ms=DEFAULT_MS)
        self.configuration = ConfigurationService(settings=self.config_store, lite=self.lite)
        self.bus = LocalPubSub(allow=self._allow, limits=limits)
        self.bridge = IotCoreBridge(
            broker=broker, thing=thing, allow=self._allow, limits=limits, lite=self.lite, reconnect_s=reconnect_s
        )
        if not self.lite:
            self.shadows = ShadowManager(
                thing=thing, allow=self._allow, bus=self.bus, bridge=self.bridge, synced=behaviour.synced_shadows
            )
        self.states: dict[str, str] = {}  # what components said of themselves, by name
        self.gates = DeploymentGates()
        self.credentials = TokenExchange(knows=lambda token: token in self.server.tokens)
        self.deployer = Deployer(
            DeployerDependencies(
                root=root,
                private=self._folder,
                thing=thing,
                config_store=self.config_store,
                configuration=self.configuration,
                gates=self.gates,
                environment=self.environment,
                credentials=lambda name: self.credentials.environment(self.register(name)),
                lite=self.lite,
                behaviour=behaviour,
            )
        )
        self.server = IpcServer(
            path=self._folder / "ipc.socket",
            operations=self._operations(),
            limits=limits,
            lite=self.lite,
        )
        self.server.token_by_process = self._token_by_process

    async def start(self) -> None:
        """Serve, and begin to connect to the broker."""
        self.root.mkdir(parents=True, exist_ok=True)
        await self.server.start()
        self.credentials.start()
        self.bridge.start()

    async def stop(self) -> None:
        """Stop all of it and remove what is not in `root`."""
        await self.deployer.stop()
        await self.server.stop()
        await self.bridge.stop()
        self.credentials.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def register(self, component: str) -> str:
        """Return the token of `component`, a new one where it has none."""
        for token, name in self.server.tokens.items():
            if name == component:
                return token
        token = base64.b64encode(secrets.token_bytes(_TOKEN_BYTES)).decode()
        self.server.tokens[token] = component
        return token

    def _token_by_process(self, component: str, pid: int) -> str | None:
        known = self.deployer.components.get(component)
        return self.register(component) if known is not None and known.process.owns(pid) else None

    def revoke_tokens(self) -> None:
        """Take no token that was given out so far; lite's are in the memory of a daemon (ipc_components.c)."""
        self.server.tokens.clear()

    def environment(self, component: str) -> dict[str, str]:
        """Return what the nucleus adds to the environment of a component's processes."""
        return {
            "SVCUID": self.register(component),
            "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT": str(self.server.path),
            "AWS_IOT_THING_NAME": self.thing,
            "AWS_REGION": self.region,
            "GG_ROOT_CA_PATH": str(self.root / "ca.pem"),
            "GGC_VERSION": VERSIONS[self.mode],
        }

    def configure(self, component: str, configuration: Mapping[str, Any]) -> None:
        """Merge `configuration` as a deployment does, with its events."""
        self.configuration.notify(
            self.config_store.merge(component, (), dict(configuration), at_ms=time.time_ns() // 10**6)
        )

    # --- what belongs to no service of its own ------------------------------------------------------------------------

    def _operations(self) -> dict[str, IpcOperation]:
        own = {
            "UpdateState": IpcOperation(self._update_state),
            "ValidateAuthorizationToken": IpcOperation(self._validate_token),
            "RestartComponent": IpcOperation(self._restart_component),
            "CreateLocalDeployment": IpcOperation(self._create_local_deployment),
        }
        both = own | self.configuration.operations() | self.bus.operations() | self.bridge.operations()
        return both if self.lite else both | self.gates.operations() | self.shadows.operations()

    def _allow(self, request: IpcRequest, service: str, resource: str) -> None:
        access = self.config_store.find(request.component, (ACCESS,))
        if not self.lite and self.config_store.find(NUCLEUS_COMPONENT["classic"], (_INTERPOLATES,)) in (True, "true"):
            access = json.loads(json.dumps(access).replace("{iot:thingName}", self.thing))
        if not access_control.is_allowed(access, service=service, operation=request.operation, resource=resource):
            raise UnauthorizedError(f"{request.component} may not {request.operation} on {resource}")

    def _update_state(self, request: IpcRequest) -> JsonObject:
        state = request_fields.read_text(request.content, "state")
        if state not in _STATES:
            raise InvalidArgumentsError(f"state must be one of {_STATES}, it is {state!r}")
        if not self._health:
            raise ServiceError("the health daemon is not running")
        self.states[request.component] = state
        component = self.deployer.components.get(request.component)
        if component is not None and state == "RUNNING":
            component.process.mark_running()
        return {}

    def _validate_token(self, request: IpcRequest) -> JsonObject:
        raise UnauthorizedError("only the nucleus's own components may ask for others' tokens")

    def _restart_component(self, request: IpcRequest) -> JsonObject:
        name = request_fields.read_text(request.content, "componentName")
        self._allow(request, access_control.LIFECYCLE, name)
        if name not in self.deployer.components:
            raise ResourceNotFoundError(f"{name} is no component of a deployment")
        self._start_task(self.deployer.restart(name))
        return {"restartStatus": "SUCCEEDED"}

    def _create_local_deployment(self, request: IpcRequest) -> JsonObject:
        content = request.content
        try:
            self._allow(request, access_control.CLI, "*")
        except UnauthorizedError as refusal:  # the same on lite, and told so on neither
            raise ServiceError(str(refusal)) from refusal
        deployment = Deployment(
            components=content.get("rootComponentVersionsToAdd") or {},
            remove=tuple(content.get("rootComponentsToRemove") or ()),
            configuration_update={
                name: {key.lower(): value for key, value in change.items()}
                for name, change in (content.get("componentToConfiguration") or {}).items()
            },
            local=True,
        )
        store = ComponentStore(
            Path(content.get("recipeDirectoryPath") or self.root / "packages" / "recipes"),
            Path(content.get("artifactsDirectoryPath") or self.root / "packages" / "artifacts"),
        )
        deployment_id = str(uuid.uuid4())
        self._start_task(self.deployer.deploy(deployment, store, deployment_id))
        return {"deploymentId": deployment_id}

    def _start_task(self, work: Coroutine[Any, Any, object]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
