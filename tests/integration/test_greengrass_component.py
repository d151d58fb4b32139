"""Both components as real processes under a simulated nucleus, with signed releases."""

from __future__ import annotations

import json
import shutil
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import cv2
import yaml

from agent import cli
from agent.timing.clock import SystemClock
from greengrass.environment import MODEL_STARTUP_SUFFIX, Environment
from greengrass.inspector_component import InspectorComponent
from pipeline.repository.signing_keys import Expiry, KeyRing
from pipeline.repository.tuf_repository import Repository
from simulator.doubles.lifecycle import bad_models
from simulator.doubles.servers.shadow_service import ShadowService
from simulator.nucleus import NucleusBehaviour
from simulator.nucleus.deployments.deployment import Deployment
from simulator.probes.verdict_subscriber import VerdictSubscriber
from tests.kits.greengrass.nucleus_connection import ACCESS, COMPONENT, THING, Plant, plant
from tests.kits.releases import line_images, write_release

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import pytest

    from simulator.nucleus.deployments.deployment import DeploymentResult
    from simulator.nucleus.limits import Mode

MODEL: Final = "com.kensa.Model"
PATIENCE_S: Final = 90.0
KNOWN_BY_NAME: Final = "the connection to the nucleus is up again, by this component's name,"
POLICY: Final = {
    "trial": [{"share": 0.5, "parts": 40}, {"share": 1.0, "parts": 80}],
    "latency_ratio": 50.0,
}
LIMITS: Final = {  # as text, as nucleus lite delivers a recipe
    "min_shadow_parts": "60",
    "min_trial_parts": "100",
    "shadow_max_fps": "500",
    "deadline_ms": "30000",
    "max_latency_ratio": "50",
    "probation_s": "0",
}


@dataclass(frozen=True, slots=True)
class Site:
    """A factory: a publisher, and a folder with recipes to deploy."""

    folder: Path
    publisher: Repository
    plant: Plant
    fps: int

    def publish(self, version: str, *, bad: bool = False, shadow_parts: int = 60) -> None:
        """Publish the kit's release, or one that gives other scores here than at its publisher."""
        rollout = {**POLICY, "shadow_parts": shadow_parts}
        release = write_release(self.folder / f"good-{version}", version=version, rollout=rollout)
        if bad:
            release = bad_models.write_bad_release(
                "shifted_scores", release, self.folder / f"bad-{version}", version=version
            )
        self.publisher.add(release, "hall-1")
        self.publisher.publish()

    def configuration(self) -> dict[str, Any]:
        return {
            "accessControl": ACCESS,
            "line": "line1",
            "state_dir": str(self.folder / "state"),
            "heartbeat_s": "1",
            "inspections": {
                "spots": {
                    "release": str(self.folder / "factory"),
                    "intake": {"policy": "wait"},
                    "cameras": {
                        "cam": {
                            "kind": "folder",
                            "path": str(self.folder / "images"),
                            "fps": str(self.fps),
                            "loop": "true",
                        }
                    },
                }
            },
            "updates": {
                "repository": str(self.folder / "repository"),
                "root": str(self.publisher.keys.folder / "metadata" / "1.root.json"),
                "site": "hall-1",
                "limits": LIMITS,
            },
        }

    def write_recipe(self, name: str, script: str, configuration: dict[str, Any], *, version: str = "1.0.0") -> None:
        recipes = self.folder / "recipes"
        recipes.mkdir(exist_ok=True)
        recipe = {
            "RecipeFormatVersion": "2020-01-25",
            "ComponentName": name,
            "ComponentVersion": version,
            "ComponentType": "aws.greengrass.generic",
            "ComponentDescription": "test",
            "ComponentPublisher": "Kensa",
            "ComponentConfiguration": {"DefaultConfiguration": configuration},
            "Manifests": [
                {
                    "Platform": {"os": "linux", "runtime": "*"},
                    "Lifecycle": {
                        "startup": {"Script": script, "Timeout": 60},
                    },
                }
            ],
        }
        (recipes / f"{name}-{version}.yaml").write_text(yaml.safe_dump(recipe))

    def write_model_recipe(self, release: str) -> None:
        """A component with the release and its metadata, as an artifact brings them."""
        artifact = self.folder / "artifact"
        shutil.copytree(self.folder / "repository", artifact / "repository")
        script = f"KENSA_COMPONENT_DIR={artifact} {sys.executable} -m greengrass.model_component {MODEL_STARTUP_SUFFIX}"
        access = {"aws.greengrass.ipc.pubsub": ACCESS["aws.greengrass.ipc.pubsub"]}
        configuration = {"accessControl": access, "inspection": "spots", "release": release, "timeout_s": "60"}
        self.write_recipe(MODEL, script, configuration)

    def deploy(
        self, merge: dict[str, Any] | None = None, *, model: bool = False, version: str = "1.0.0"
    ) -> DeploymentResult:
        wanted = {COMPONENT: version, **({MODEL: "1.0.0"} if model else {})}
        update = {} if merge is None else {COMPONENT: {"merge": merge}}
        deployment = Deployment(components=wanted, configuration_update=update)
        return self.plant.nucleus.deploy(deployment, self.folder, 120.0)

    def desire(self, release: str) -> DeploymentResult:
        return self.deploy({"inspections": {"spots": {"desired": {"release": release}}}})

    def stop(self) -> bool:
        """Take the component off the device, which drains it."""
        deployment = Deployment(components={})
        return self.plant.nucleus.deploy(deployment, self.folder, 60.0).succeeded

    @property
    def pid(self) -> int | None:
        return self.plant.nucleus.component(COMPONENT).pid

    @property
    def log(self) -> str:
        return self.plant.nucleus.log(COMPONENT) + self.plant.nucleus.log(MODEL)

    def standing(self) -> dict[str, Any]:
        values: dict[str, Any] = json.loads((self.folder / "state" / "greengrass.json").read_text())
        return values


@contextmanager
def site(mode: Mode, folder: Path, *, fps: int = 200, **settings: Any) -> Iterator[Site]:
    keys = KeyRing.create(folder / "keys", repository=str(folder / "repository"), expiry=Expiry())
    publisher = Repository(keys)
    publisher.create(["hall-1"], {})
    write_release(folder / "factory")
    (folder / "images").mkdir()
    for index, image in enumerate(line_images()):
        cv2.imwrite(str(folder / "images" / f"{index:02d}.png"), image)
    with plant(mode, folder / "nucleus", **settings) as p:
        found = Site(folder, publisher, p, fps)
        found.write_recipe(COMPONENT, f"exec {sys.executable} -m greengrass", found.configuration())
        yield found


def until(condition: Callable[[], bool], seen: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, seen()
        time.sleep(0.05)


def shown(found: Site, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert cli.main(["model", "show", str(found.folder / "state" / "config.good.json"), "--json"]) == 0, found.log
    values: dict[str, Any] = json.loads(capsys.readouterr().out)["inspections"]["spots"]
    return values


def said(found: Site, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """What the heartbeat says of the configuration."""
    capsys.readouterr()
    assert cli.main(["status", str(found.folder / "state" / "config.good.json"), "--json"]) == 0, found.log
    values: dict[str, Any] = json.loads(capsys.readouterr().out)["configuration"]
    return values


def runs(found: Site, capsys: pytest.CaptureFixture[str], release: str) -> bool:
    active = shown(found, capsys)["active"]
    return active is not None and active["release"] == release


def test_a_configuration_deployment_changes_thresholds_and_model_without_a_restart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with site("lite", tmp_path) as found:
        outcome = found.deploy()
        assert outcome.succeeded, (outcome, found.log)
        pid = found.pid
        found.publish("1.1.0")
        assert found.desire("spots/1.1.0").succeeded
        until(lambda: runs(found, capsys, "spots/1.1.0"), lambda: found.log)
        assert found.deploy({"inspections": {"spots": {"thresholds": {"spot": "0.75"}}}}).succeeded
        until(lambda: "thresholds" in found.log, lambda: found.log)
        assert found.deploy({"inspections": {"spots": {"thresholds": {"spot": "high"}}}}).succeeded
        until(lambda: found.standing()["refused"] is not None, lambda: found.log)
        assert "inspections.spots.thresholds.spot" in found.standing()["refused"]
        until(lambda: "inspections.spots.thresholds.spot" in (said(found, capsys)["refused"] or ""), lambda: found.log)
        assert found.deploy({"inspections": {"spots": {"thresholds": {"spot": "0.75"}}}, "workers": "1"}).succeeded
        until(lambda: said(found, capsys)["needs_restart"] == ["workers"], lambda: found.log)
        assert said(found, capsys)["refused"] is None
        assert shown(found, capsys)["active"]["release"] == "spots/1.1.0"
        view = found.plant.nucleus.component(COMPONENT)
        assert (view.pid, view.starts) == (pid, 1)
        assert found.plant.nucleus.connections_refused == 0


def test_lite_without_its_health_daemon_learns_from_the_component_itself_that_it_serves(tmp_path: Path) -> None:
    with site("lite", tmp_path, behaviour=NucleusBehaviour(health=False)) as found:
        assert found.deploy().succeeded, found.log
        assert found.plant.nucleus.component(COMPONENT).state == "RUNNING"


def test_a_bad_model_leaves_the_last_good_one_and_names_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with site("lite", tmp_path) as found:
        assert found.deploy().succeeded, found.log
        found.publish("1.1.0", bad=True)
        assert found.desire("spots/1.1.0").succeeded  # lite asks nobody
        until(lambda: shown(found, capsys)["refusal"] is not None, lambda: found.log)
        assert shown(found, capsys)["active"] is None  # the factory's
        assert found.plant.nucleus.component(COMPONENT).starts == 1


def test_a_model_component_hands_its_release_over_and_its_deployment_ends_when_it_serves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with site("lite", tmp_path) as found:
        found.publish("1.1.0")
        found.write_model_recipe("spots/1.1.0")
        shutil.rmtree(found.folder / "repository" / "targets")  # nobody else has it
        assert found.deploy().succeeded, found.log
        pid = found.pid
        outcome = found.deploy(model=True)
        assert outcome.succeeded, (outcome, found.log)
        assert runs(found, capsys, "spots/1.1.0")
        assert found.pid == pid


def test_the_deployment_of_a_bad_model_component_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with site("lite", tmp_path) as found:
        found.publish("1.1.0", bad=True)
        found.write_model_recipe("spots/1.1.0")
        assert found.deploy().succeeded, found.log
        pid = found.pid
        outcome = found.deploy(model=True)
        assert outcome.status == "FAILED", (outcome, found.log)
        assert "spots/1.1.0 is refused" in found.log
        assert shown(found, capsys)["active"] is None
        assert found.pid == pid


def test_classic_refuses_a_bad_model_and_a_bad_configuration_before_anything_changes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with site("classic", tmp_path) as found:
        assert found.deploy().succeeded, found.log
        assert found.standing()["mode"] == "classic"
        pid, before = found.pid, found.plant.nucleus.configuration(COMPONENT)
        found.publish("1.1.0", bad=True)
        found.publish("1.2.0")
        for refused, reason in (
            (found.desire("spots/1.1.0"), "spots/1.1.0 is refused"),
            (found.deploy({"inspections": {"spots": {"unsure_band": "2"}}}), "inspections.spots.unsure_band"),
        ):
            assert refused.status == "FAILED_NO_STATE_CHANGE", (refused, found.log)
            assert reason in refused.reason + found.log
        assert found.plant.nucleus.configuration(COMPONENT) == before
        accepted = found.desire("spots/1.2.0")
        assert accepted.succeeded, (accepted, found.log)
        until(lambda: runs(found, capsys, "spots/1.2.0"), lambda: found.log)
        assert found.pid == pid


def test_the_shadow_is_followed_through_its_topics_on_lite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with site("lite", tmp_path) as found:
        broker = found.plant.broker
        with ShadowService(host=broker.host, port=broker.port) as service:
            found.publish("1.1.0")
            assert found.deploy().succeeded, found.log
            pid = found.pid
            service.desire(THING, "spots", "spots/1.1.0")
            until(lambda: runs(found, capsys, "spots/1.1.0"), lambda: found.log)
            until(lambda: service.reported(THING).get("spots", {}).get("release") == "spots/1.1.0", lambda: found.log)
            assert found.pid == pid


def test_no_verdict_is_lost_over_cuts_of_the_network_the_ipc_and_the_whole_nucleus(tmp_path: Path) -> None:
    with site("lite", tmp_path, fps=16) as found:  # every second part has a defect
        broker, nucleus = found.plant.broker, found.plant.nucleus
        found.plant.network.latency_s = 0.01
        with VerdictSubscriber(host=broker.host, port=broker.port) as subscriber:

            def hears_more() -> None:
                before = subscriber.counts.unique
                until(lambda: subscriber.counts.unique > before + 40, lambda: (subscriber.counts, found.log))

            assert found.deploy().succeeded, found.log
            for _ in range(3):
                hears_more()
                found.plant.network.reset()
            hears_more()
            found.plant.network.cut()
            time.sleep(1.0)
            found.plant.network.restore()
            hears_more()
            nucleus.stop_ipc()
            time.sleep(0.5)
            nucleus.start_ipc()
            hears_more()
            nucleus.restart()
            hears_more()
            found.plant.network.latency_s = 0.0
            assert found.stop()
            until(lambda: subscriber.counts.cameras["cam"].missing == 0, lambda: (subscriber.counts, found.log))
            counts = subscriber.counts
        assert (counts.cameras["cam"].missing, counts.gaps, counts.refused) == (0, 0, 0)
        assert nucleus.connections_refused == 0


def test_classic_holds_an_update_back_while_a_trial_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with site("classic", tmp_path) as found:
        assert found.deploy({"greengrass": {"defer_s": "2"}}).succeeded, found.log
        found.publish("1.1.0", shadow_parts=20_000)
        assert found.desire("spots/1.1.0").succeeded, found.log
        until(lambda: shown(found, capsys)["state"] == "shadow", lambda: found.log)
        found.write_recipe(COMPONENT, f"exec {sys.executable} -m greengrass", found.configuration(), version="1.0.1")
        assert found.deploy(version="1.0.1").succeeded, found.log
        assert "an update is deferred for" in found.log
        assert "spots is in shadow" in found.log


def test_the_shadow_is_followed_by_operations_on_classic(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with site("classic", tmp_path) as found:
        broker = found.plant.broker
        with ShadowService(host=broker.host, port=broker.port) as service:
            found.publish("1.1.0")
            assert found.deploy().succeeded, found.log
            assert "shadow" in found.standing()["present"], found.log
            service.desire(THING, "spots", "spots/1.1.0")
            until(lambda: runs(found, capsys, "spots/1.1.0"), lambda: found.log)
            until(lambda: service.reported(THING).get("spots", {}).get("release") == "spots/1.1.0", lambda: found.log)


def test_restarts_of_lite_s_ipc_daemon_cost_neither_a_start_nor_a_frame(tmp_path: Path) -> None:
    with site("lite", tmp_path, fps=16) as found:
        broker, nucleus = found.plant.broker, found.plant.nucleus
        with VerdictSubscriber(host=broker.host, port=broker.port) as subscriber:
            assert found.deploy().succeeded, found.log
            pid = found.pid
            for number in range(1, 3):
                nucleus.restart_ipc_daemon()

                def is_known(times: int = number) -> bool:
                    return found.log.count(KNOWN_BY_NAME) == times

                def hears_more(before: int = subscriber.counts.unique) -> bool:
                    return subscriber.counts.unique > before + 30

                until(is_known, lambda: found.log)
                until(hears_more, lambda: (subscriber.counts, found.log))
            component = nucleus.component(COMPONENT)
            assert (component.pid, component.starts, component.exit_codes) == (pid, 1, ())
            until(lambda: subscriber.counts.cameras["cam"].missing == 0, lambda: (subscriber.counts, found.log))


def test_a_process_that_the_nucleus_knows_by_nothing_ends_to_be_started_anew(tmp_path: Path) -> None:
    with site("lite", tmp_path) as found:
        nucleus = found.plant.nucleus
        given = nucleus.add_client(COMPONENT, found.configuration())  # no process of the nucleus: no name helps it
        environment = Environment.read({**given, "KENSA_WORK_DIR": str(tmp_path)}, work=tmp_path)
        component = InspectorComponent(environment=environment, clock=SystemClock(), max_unrecognised_s=1.0)
        codes: list[int] = []
        runs = threading.Thread(target=lambda: codes.append(component.run()))
        runs.start()
        until(lambda: nucleus.published > 0, lambda: codes)
        nucleus.stop_ipc()
        nucleus.start_ipc(new_tokens=True)
        runs.join(PATIENCE_S)
        assert codes == [1]


def test_a_restarted_mqtt_daemon_is_named_and_everything_is_listened_to_again(tmp_path: Path) -> None:
    with site("lite", tmp_path, fps=16) as found:
        broker = found.plant.broker
        with (
            ShadowService(host=broker.host, port=broker.port) as service,
            VerdictSubscriber(host=broker.host, port=broker.port) as subscriber,
        ):
            found.publish("1.1.0")
            assert found.deploy().succeeded, found.log
            until(lambda: subscriber.counts.unique > 0, lambda: found.log)
            found.plant.nucleus.restart_iot_core_daemon()
            until(lambda: "MQTT daemon has restarted" in found.log, lambda: found.log)
            assert "in its policy" not in found.log  # which is what a daemon that never sent anything back suggests
            before = subscriber.counts.unique
            until(lambda: subscriber.counts.unique > before + 30, lambda: (subscriber.counts, found.log))
            service.desire(THING, "spots", "spots/1.1.0")  # by a topic that was deaf too
            until(lambda: "spots/1.1.0" in found.log, lambda: found.log)
            until(lambda: subscriber.counts.cameras["cam"].missing == 0, lambda: (subscriber.counts, found.log))
