"""Composes the demo: broker, account, devices on their lines, independent subscriber, scenario.

Start order: broker, subscriber, account, first model, devices; the way out is the same backwards.
"""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from agent import control
from agent.errors import OperatorError
from agent.release.acceptance_set import AcceptanceSet, acceptance_dir
from agent.timing.clock import SystemClock
from simulator.demos.cloud.accuracy import Accuracy
from simulator.demos.cloud.cloud_account import CloudAccount
from simulator.demos.cloud.cloud_line import INSPECTION, train_first_model, write_base_dataset
from simulator.demos.cloud.cloud_scenario import FADE_S, STEADY_S, CloudScenario
from simulator.demos.cloud.device import PLACEMENTS, Device
from simulator.demos.cloud.time_compression import CompressedLake
from simulator.demos.common.run_files import prepare_folder
from simulator.doubles.network.mqtt_broker import BrokerName, LocalBroker, open_broker
from simulator.doubles.servers.shadow_service import ShadowService
from simulator.probes.verdict_subscriber import VerdictSubscriber

if TYPE_CHECKING:
    from collections.abc import Callable

WORK_NAME: Final = "work"
_MARK: Final = ".kensa-cycle-demo"  # in a folder that this demo made
_ACCEPTANCE: Final = 10  # parts of each class in a site's own set
_CONNECT_S: Final = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudOptions:
    """What a person may choose."""

    fps: float = 10.0  # parts a second of each line
    broker: BrokerName = "auto"
    out: Path = Path("out/demo-cloud")


class CloudEnvironment:
    """Use as a context manager; `start` lets the lines run."""

    broker: LocalBroker
    subscriber: VerdictSubscriber
    account: CloudAccount
    accuracy: Accuracy
    lake: CompressedLake
    scenario: CloudScenario

    def __init__(self, options: CloudOptions, *, progress: Callable[[str], None]) -> None:
        """Nothing is made yet."""
        self.options = options
        self.devices: list[Device] = []
        self.prepared_s = 0.0
        self._progress = progress
        self._work = options.out / WORK_NAME
        self._stack = ExitStack()
        self._shadow: ShadowService | None = None
        self._clock = SystemClock()
        self._stopped = threading.Event()

    def __enter__(self) -> Self:
        """Make everything ready. Raises a KensaError."""
        began = time.monotonic()
        with ExitStack() as stack:
            marker = self.options.out / _MARK
            prepare_folder(self.options.out, marker, self._work)
            marker.touch()
            self._work.mkdir()
            self._progress("starting broker and subscriber")
            self.broker = open_broker(self.options.broker)
            stack.enter_context(self.broker)
            self.subscriber = stack.enter_context(VerdictSubscriber(host=self.broker.host, port=self.broker.port))
            if self.broker.carries_shadows:
                self._shadow = stack.enter_context(ShadowService(host=self.broker.host, port=self.broker.port))
            self._progress("starting the simulated account")
            things = [place.thing for place in PLACEMENTS]
            self.account = stack.enter_context(
                CloudAccount(self._work / "cloud", things=things, wish=self._set_desired_release)
            )
            base, first = self._work / "base", self._work / "first"
            self._progress("drawing parts for the first model, about 10 s")
            parts = write_base_dataset(base)
            self._progress(f"training the first model on {parts} parts in good light, about 35 s on two free cores")
            train_first_model(base, first, stopped=self._stopped.is_set)
            self._progress("signing and publishing it")
            self.account.bootstrap(base, first)
            self._open_devices(base, first)
            self._stack = stack.pop_all()
        self.prepared_s = time.monotonic() - began
        return self

    def __exit__(self, *_: object) -> None:
        """End everything."""
        self._stack.close()

    def start(self) -> None:
        """Let the lines run, and the story begin."""
        began_s, began_utc_s = time.monotonic(), time.time()
        lines = {device.placement.camera: device.line for device in self.devices}
        self.accuracy = Accuracy(lines, began_utc_s=began_utc_s)
        self.lake = CompressedLake(self._work / "lake", self.account.aws, began_utc_s=began_utc_s)
        self._bridge()
        for device in self.devices:
            device.agent.start()
            self._stack.callback(device.agent.stop)
        self.scenario = CloudScenario(
            account=self.account,
            lake=self.lake,
            devices=self.devices,
            accuracy=self.accuracy,
            light=self._light,
            began_s=began_s,
        )
        self.scenario.start()
        self._stack.callback(self.scenario.stop)

    @property
    def _light(self) -> tuple[int, int]:
        """Part at which a lamp begins to fade, and parts that it takes."""
        return round(STEADY_S * self.options.fps), round(FADE_S * self.options.fps)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _open_devices(self, base: Path, first: Path) -> None:
        fps = self.options.fps
        for place in PLACEMENTS:
            device = Device(
                place,
                self._work / place.thing,
                factory=first,
                root=self.account.root,
                broker=self.broker,
                light=self._light,
                fps=fps,
                clock=self._clock,
            )
            self.devices.append(device)
            accepted = AcceptanceSet(acceptance_dir(device.state_dir, INSPECTION))
            for name in ("ok", "stain"):
                for path in sorted((base / "val" / name).iterdir())[:_ACCEPTANCE]:
                    accepted.add(
                        path.read_bytes(), label=name, by="quality", origin=path.name, now_utc_ns=self._clock.utc_ns()
                    )

    def _set_desired_release(self, thing: str, release_id: str) -> None:
        """What the nucleus of a device does with a wish in its configuration."""
        if self._shadow is not None:
            self._shadow.desire(thing, INSPECTION, release_id)
            return
        device = next(one for one in self.devices if one.placement.thing == thing)
        control.request(device.state_dir, "model.desire", inspection=INSPECTION, release=release_id)

    def _forward(self, _client: paho.Client, _userdata: object, message: paho.MQTTMessage) -> None:
        self.account.aws.publish(message.topic, bytes(message.payload))

    def _bridge(self) -> None:
        """Let IoT Core's rules see what the devices publish. Raises OperatorError."""
        ready = threading.Event()
        client = paho.Client(CallbackAPIVersion.VERSION2, client_id="simulated-iot-core", protocol=paho.MQTTv311)
        client.on_connect = lambda sender, *_: sender.subscribe("kensa/#", qos=1)
        client.on_subscribe = lambda *_: ready.set()
        client.on_message = self._forward
        client.connect(self.broker.host, self.broker.port)
        client.loop_start()

        def leave() -> None:
            client.disconnect()
            client.loop_stop()

        self._stack.callback(leave)
        if not ready.wait(_CONNECT_S):
            raise OperatorError("the simulated IoT Core does not reach the broker")
