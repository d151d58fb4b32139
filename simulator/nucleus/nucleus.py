"""A Greengrass nucleus on one machine, for the real SDK and real components; `lite` or `classic`.

    with open_broker() as broker, Nucleus("lite", root=folder, broker=(broker.host, broker.port)) as nucleus:
        environment = nucleus.add_client("com.example.Cam", {...})  # of a process that is started elsewhere

Promise: what was measured on nucleus lite 2.6.0 and what is documented of classic, limits and quirks included
(`limits.py`); a test compares the answers with the recorded ones. One thread, `nucleus`, runs an event loop that owns
all state; the methods here may be called from any other thread.
"""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from agent.errors import OperatorError
from simulator.nucleus.deployments.deployment import ComponentStore
from simulator.nucleus.limits import NucleusBehaviour
from simulator.nucleus.services import NucleusServices

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping
    from concurrent.futures import Future
    from pathlib import Path

    from simulator.nucleus.deployments.component_process import ComponentState
    from simulator.nucleus.deployments.deployer import ComponentEvent
    from simulator.nucleus.deployments.deployment import Deployment, DeploymentResult
    from simulator.nucleus.limits import Mode

LITE_RECONNECT_S: Final = (5.0, 300.0)  # the backoff of iotcored/src/mqtt.c
IPC_RESTART_S: Final = 2.0  # from the end of ggipcd until it answers again, as measured
MEASURED_BEHAVIOUR: Final = NucleusBehaviour()
_WAIT_S: Final = 600.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ComponentView:
    """How one component is."""

    version: str
    state: ComponentState
    pid: int | None  # of the script's shell, or of what it became by `exec`
    starts: int  # of startup or run, ever
    exit_codes: tuple[int, ...]


class Nucleus:
    """See the module. Use as a context manager."""

    def __init__(
        self,
        mode: Mode,
        *,
        root: Path,
        broker: tuple[str, int],
        thing: str = "line1-cam",
        region: str = "us-west-2",
        reconnect_s: tuple[float, float] = LITE_RECONNECT_S,
        behaviour: NucleusBehaviour = MEASURED_BEHAVIOUR,
    ) -> None:
        """Prepare; nothing runs yet.

        Args:
            mode: Nucleus lite or classic.
            root: The nucleus's own folder, which is kept.
            broker: Host and port of the broker that plays IoT Core.
            thing: Name of the thing.
            region: AWS region that components are given.
            reconnect_s: First and longest wait before the broker is tried again.
            behaviour: Measured timing and quirks of the nucleus.

        """
        self.mode: Mode = mode
        self._services = NucleusServices(
            mode,
            root=root.resolve(),
            broker=broker,
            thing=thing,
            region=region,
            reconnect_s=reconnect_s,
            behaviour=behaviour,
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="nucleus", daemon=True)

    def __enter__(self) -> Self:
        """Start the event loop, the IPC and the bridge."""
        self._thread.start()
        self._run(self._services.start())
        return self

    def __exit__(self, *_: object) -> None:
        """Stop everything."""
        self._run(self._services.stop())
        self._run(self._loop.shutdown_default_executor())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_WAIT_S)
        self._loop.close()

    @property
    def socket_path(self) -> Path:
        """Where the IPC is served."""
        return self._services.server.path

    def wait_online(self, timeout_s: float = 60.0) -> None:
        """Wait for the connection to the broker. Raises OperatorError when there is none within `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while not self._services.bridge.online:
            if time.monotonic() > deadline:
                raise OperatorError(f"the nucleus does not reach its broker within {timeout_s:g} s")
            time.sleep(0.01)

    @property
    def online(self) -> bool:
        """Whether the connection to the broker stands."""
        return self._services.bridge.online

    @property
    def published(self) -> int:
        """How many publishes of QoS 1 the broker acknowledged."""
        return self._services.bridge.published

    @property
    def lost(self) -> int:
        """How many publishes were answered with success and did not reach the broker, as far as is known."""
        return self._services.bridge.lost

    @property
    def credentials_issued(self) -> int:
        """How often TokenExchangeService gave credentials."""
        return self._services.credentials.issued

    @property
    def connections_refused(self) -> int:
        """How many connections were closed because of what their component sent; oversize, for example."""
        return self._services.server.refused_connections

    def add_client(self, component: str, configuration: Mapping[str, Any] | None = None) -> dict[str, str]:
        """Know a component that is no process of the nucleus; return what its environment needs."""
        return self._call(lambda: self._add_client(component, configuration or {}))

    def configure(self, component: str, configuration: Mapping[str, Any]) -> None:
        """Merge into the configuration of `component`, with events, as a deployment that changes nothing else does."""
        self._call(lambda: self._services.configure(component, configuration))

    def configuration(self, component: str) -> Any:
        """Return the whole configuration of `component`, None where there is none."""
        return self._call(lambda: self._services.config_store.find(component))

    def reported_state(self, component: str) -> str | None:
        """Return what `component` last said with UpdateState."""
        return self._services.states.get(component)

    # --- deployments --------------------------------------------------------------------------------------------------

    def deploy(self, deployment: Deployment, folder: Path, timeout_s: float = _WAIT_S) -> DeploymentResult:
        """Carry out a deployment with recipes and artifacts of `folder` (see `ComponentStore`); return its result."""
        return self.start_deployment(deployment, folder).result(timeout_s)

    def start_deployment(self, deployment: Deployment, folder: Path) -> Future[DeploymentResult]:
        """As `deploy`, without waiting."""
        work = self._services.deployer.deploy(deployment, ComponentStore.of(folder))
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def component(self, name: str) -> ComponentView:
        """Return how a deployed component is. Raises OperatorError for one that is not deployed."""
        known = self._services.deployer.components.get(name)
        if known is None:
            raise OperatorError(f"{name} is not deployed: {sorted(self._services.deployer.components) or 'nothing is'}")
        process = known.process
        return ComponentView(
            known.recipe.version, process.state, process.pid, process.starts, tuple(process.exit_codes)
        )

    def log(self, name: str) -> str:
        """Return what the processes of a component printed so far."""
        path = self._services.root / "logs" / f"{name}.log"
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""

    def events(self) -> tuple[ComponentEvent, ...]:
        """Return what happened to components so far: installs, starts with process ids, states, signals, exits."""
        return tuple(self._services.deployer.events)

    def restart(self) -> None:
        """Restart the nucleus with everything: components get SIGTERM and are started again, with new tokens."""
        self._run(self._restart_all())

    async def _restart_all(self) -> None:
        await self._services.deployer.stop()
        await self._services.server.stop()
        await self._services.bridge.stop()
        self._services.revoke_tokens()
        await self._services.server.start()
        self._services.bridge.start()
        await self._services.deployer.start_all()

    # --- the IPC ------------------------------------------------------------------------------------------------------

    def stop_ipc(self) -> None:
        """End the IPC daemon alone, as when it crashes: connections close and new ones find nobody."""
        self._run(self._services.server.stop())

    def start_ipc(self, *, new_tokens: bool = False) -> None:
        """Serve again; with `new_tokens` those that were given out are worth nothing any more, as on lite."""
        if new_tokens:
            self._call(self._services.revoke_tokens)
        self._run(self._services.server.start())

    def restart_ipc_daemon(self) -> None:
        """Restart lite's ggipcd: connections close, no token is known any more; components may come by their name."""
        self.stop_ipc()
        time.sleep(IPC_RESTART_S)
        self.start_ipc(new_tokens=True)

    def restart_iot_core_daemon(self) -> None:
        """Restart lite's iotcored: publishing works again soon, subscriptions stay open and are deaf from then on."""
        self._run(self._restart_iot_core())

    async def _restart_iot_core(self) -> None:
        bridge = self._services.bridge
        await bridge.stop()
        bridge.forget_subscriptions()
        bridge.start()

    def _add_client(self, component: str, configuration: Mapping[str, Any]) -> dict[str, str]:
        self._services.configure(component, configuration)
        return self._services.environment(component)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_WAIT_S)

    def _call(self, work: Callable[[], T]) -> T:
        async def on_loop() -> T:
            return work()

        return self._run(on_loop())
