"""Limits and quirks of both nuclei, seen by a component through the real SDK."""

from __future__ import annotations

import datetime as dt
import json
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from awsiot.eventstreamrpc import StreamClosedError
from awsiot.greengrasscoreipc import connect, model
from awsiot.greengrasscoreipc.clientv2 import GreengrassCoreIPCClientV2

from simulator.doubles.network.mqtt_broker import MosquittoBroker
from simulator.doubles.servers.shadow_service import ShadowService
from simulator.nucleus import Deployment, Nucleus
from tests.kits.greengrass.nucleus_components import NAME, PATIENCE_S, QUICK, STAYS, Device, Shop, wait_until
from tests.kits.mqtt import require_mosquitto

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from simulator.nucleus.limits import Mode

ONCE = model.QOS.AT_LEAST_ONCE
SHADOW = "$aws/things/line1-cam/shadow/name/kensa"


def policy(service: str, resources: list[str]) -> dict[str, Any]:
    return {service: {f"{NAME}:{service}:1": {"operations": ["*"], "resources": resources}}}


ACCESS = {
    **policy("aws.greengrass.ipc.pubsub", ["*"]),
    **policy("aws.greengrass.ipc.mqttproxy", ["line/#", "cmd/#"]),
    **policy("aws.greengrass.ShadowManager", [SHADOW]),
}


@pytest.fixture
def broker() -> Iterator[MosquittoBroker]:
    require_mosquitto()
    with MosquittoBroker() as running:
        yield running


@contextmanager
def nucleus_on(broker: MosquittoBroker, mode: Mode, root: Path, *, online: bool = True) -> Iterator[Nucleus]:
    with Nucleus(
        mode, root=root, broker=(broker.host, broker.port), reconnect_s=(0.05, 0.2), behaviour=QUICK
    ) as nucleus:
        if online:
            nucleus.wait_online()
        yield nucleus


@contextmanager
def client_of(nucleus: Nucleus, name: str = NAME, **configuration: Any) -> Iterator[Any]:
    environment = nucleus.add_client(name, {"accessControl": ACCESS, **configuration})
    raw = connect(
        ipc_socket=environment["AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT"],
        authtoken=environment["SVCUID"],
        timeout=PATIENCE_S,
    )
    client = GreengrassCoreIPCClientV2(raw, executor=None)
    try:
        yield client
    finally:
        client.close()


def publish(client: Any, payload: bytes = b"x", topic: str = "line/1", qos: str = ONCE) -> None:
    client.publish_to_iot_core(topic_name=topic, qos=qos, payload=payload)


def test_a_token_that_nobody_gave_out_closes_the_connection_without_a_word(
    broker: MosquittoBroker, tmp_path: Path
) -> None:
    with (
        nucleus_on(broker, "lite", tmp_path, online=False) as nucleus,
        pytest.raises(Exception, match=r"(?i)closed"),
    ):
        connect(ipc_socket=str(nucleus.socket_path), authtoken="AAAAAAAAAAAAAAAA")


def test_lite_takes_ten_publishes_without_an_answer_and_refuses_the_next_at_once(
    broker: MosquittoBroker, tmp_path: Path
) -> None:
    with nucleus_on(broker, "lite", tmp_path) as nucleus, client_of(nucleus) as client:
        broker.pause()
        for _ in range(10):
            publish(client)
        with pytest.raises(model.ServiceError) as refused:
            publish(client)
        assert refused.value.message is None
        broker.resume()
        wait_until(lambda: nucleus.published == 10, "the answers")
        wait_until(lambda: _works(client), "a free place")


def test_lite_keeps_fifteen_kilobytes_of_publishes_without_an_answer(broker: MosquittoBroker, tmp_path: Path) -> None:
    with nucleus_on(broker, "lite", tmp_path) as nucleus, client_of(nucleus) as client:
        broker.pause()
        for _ in range(3):
            publish(client, bytes(4_900))
        with pytest.raises(model.ServiceError):
            publish(client, bytes(4_900))
        publish(client, b"a small one fits")
        broker.resume()


def _works(client: Any) -> bool:
    try:
        publish(client)
    except model.ServiceError:
        return False
    return True


def test_lite_takes_about_eighty_publishes_a_second(broker: MosquittoBroker, tmp_path: Path) -> None:
    with nucleus_on(broker, "lite", tmp_path) as nucleus, client_of(nucleus) as client:
        taken = 0
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            taken += _works(client)
            time.sleep(0.002)
        assert taken <= 90  # ten at once and eighty in a second
        assert taken > 10


def test_a_payload_too_large_for_lite_closes_the_connection(broker: MosquittoBroker, tmp_path: Path) -> None:
    with nucleus_on(broker, "lite", tmp_path) as nucleus:
        with client_of(nucleus) as client:
            publish(client, bytes(6_900))
            with pytest.raises(StreamClosedError):
                publish(client, bytes(6_901))
        assert nucleus.connections_refused == 1
        with client_of(nucleus) as client:
            publish(client)


def test_what_is_too_large_for_lite_to_receive_vanishes(broker: MosquittoBroker, tmp_path: Path) -> None:
    got: list[int] = []
    with nucleus_on(broker, "lite", tmp_path) as nucleus, client_of(nucleus) as client:
        client.subscribe_to_iot_core(
            topic_name="cmd/a", qos=ONCE, on_stream_event=lambda event: got.append(len(event.message.payload))
        )
        for size in (4_980, 4_981, 1):
            publish(client, bytes(size), "cmd/a")
        wait_until(lambda: len(got) == 2, "what fits")
        assert got == [4_980, 1]


def test_while_the_broker_is_away_lite_refuses_and_its_subscriptions_come_back_by_themselves(
    broker: MosquittoBroker, tmp_path: Path
) -> None:
    got: list[bytes] = []
    with nucleus_on(broker, "lite", tmp_path) as nucleus, client_of(nucleus) as client:
        client.subscribe_to_iot_core(
            topic_name="cmd/a", qos=ONCE, on_stream_event=lambda event: got.append(event.message.payload)
        )
        broker.kill()
        wait_until(lambda: not nucleus.online, "the news")
        with pytest.raises(model.ServiceError):
            publish(client)
        with pytest.raises(model.ServiceError):
            client.subscribe_to_iot_core(topic_name="cmd/b", qos=ONCE, on_stream_event=print)
        broker.start()
        nucleus.wait_online()
        publish(client, b"again", "cmd/a")
        wait_until(lambda: got == [b"again"], "a message")


def test_what_lite_accepted_and_the_broker_did_not_answer_is_lost_with_the_connection(
    broker: MosquittoBroker, tmp_path: Path
) -> None:
    with nucleus_on(broker, "lite", tmp_path) as nucleus, client_of(nucleus) as client:
        broker.pause()
        for _ in range(4):
            publish(client)
        broker.kill()
        wait_until(lambda: not nucleus.online, "the news")
        assert nucleus.lost == 4


def test_publishing_to_a_filter_is_accepted_and_ends_the_connection_to_the_broker(
    broker: MosquittoBroker, tmp_path: Path
) -> None:
    with nucleus_on(broker, "lite", tmp_path) as nucleus, client_of(nucleus) as client:
        publish(client, topic="line/+")
        wait_until(lambda: not nucleus.online, "the end")
        nucleus.wait_online()


def test_classic_spools_while_the_broker_is_away_and_drops_the_oldest(broker: MosquittoBroker, tmp_path: Path) -> None:
    got: list[bytes] = []
    with nucleus_on(broker, "classic", tmp_path) as nucleus, client_of(nucleus) as client:
        client.subscribe_to_iot_core(
            topic_name="cmd/a", qos=ONCE, on_stream_event=lambda event: got.append(event.message.payload[:1])
        )
        broker.kill()
        wait_until(lambda: not nucleus.online, "the news")
        for number in range(22):  # of which 20 fit into 2.5 MB
            publish(client, bytes([number]) + bytes(131_071), "cmd/a")
        with pytest.raises(model.ServiceError) as refused:
            publish(client, qos=model.QOS.AT_MOST_ONCE)
        assert "offline" in str(refused.value.message)
        with pytest.raises(model.ServiceError):
            publish(client, bytes(131_073), "cmd/a")
        broker.start()
        nucleus.wait_online()
        wait_until(lambda: len(got) >= 20, "the spool")
        assert got == [bytes([number]) for number in range(2, 22)]
        assert nucleus.lost == 2


def test_lite_bounds_what_a_component_writes_into_its_configuration(broker: MosquittoBroker, tmp_path: Path) -> None:
    now = dt.datetime.now(dt.UTC)
    deep: Any = 1
    for _ in range(11):
        deep = {"a": deep}
    good = [{"s": "x" * 1_022}, {"m": {str(n): 1 for n in range(99)}}, deep]
    bad = [{"s": "x" * 1_023}, {"m": {str(n): 1 for n in range(100)}}, {"a": deep}]
    with nucleus_on(broker, "lite", tmp_path, online=False) as nucleus, client_of(nucleus) as client:
        for value in good:
            client.update_configuration(key_path=[], value_to_merge=value, timestamp=now)
        for value in bad:
            with pytest.raises(model.ServiceError):
                client.update_configuration(key_path=[], value_to_merge=value, timestamp=now)


def test_classic_tells_when_a_write_is_older_than_what_is_there(broker: MosquittoBroker, tmp_path: Path) -> None:
    old = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    with nucleus_on(broker, "classic", tmp_path, online=False) as nucleus, client_of(nucleus, a="1") as client:
        with pytest.raises(model.FailedUpdateConditionCheckError) as refused:
            client.update_configuration(key_path=[], value_to_merge={"a": "2"}, timestamp=old)
        assert "older" in refused.value.message


def test_a_reset_is_told_on_classic_only(broker: MosquittoBroker, tmp_path: Path) -> None:
    for mode, told in (("lite", 1), ("classic", 2)):
        events: list[Any] = []
        shop = Shop(tmp_path / mode / "shop")
        components = shop.offer("1.0.0", {"run": STAYS}, configuration={"a": "1", "accessControl": ACCESS})
        root = tmp_path / mode / "root"
        with nucleus_on(broker, mode, root, online=False) as nucleus:  # type: ignore[arg-type]
            device = Device(nucleus, shop, root)
            device.deploy(components)
            with client_of(nucleus) as client:
                client.subscribe_to_configuration_update(key_path=["a"], on_stream_event=events.append)
                device.deploy(components, merge={"a": "2"})
                wait_until(lambda: len(events) == 1, "the merge")  # noqa: B023 - used at once
                device.deploy(components, reset=["/a"])
                assert client.get_configuration(key_path=["a"]).value == {"a": "1"}
                assert len(events) == told


def test_update_state_is_known_and_a_startup_waits_for_it(broker: MosquittoBroker, tmp_path: Path) -> None:
    shop = Shop(tmp_path / "shop")
    with nucleus_on(broker, "classic", tmp_path / "root", online=False) as nucleus:
        coming = nucleus.start_deployment(Deployment(components=shop.offer("1.0.0", {"startup": STAYS})), shop.folder)
        wait_until(lambda: _pid(nucleus), "the process")
        assert not coming.done()
        with client_of(nucleus) as client:
            client.update_state(state="RUNNING")
        assert coming.result(PATIENCE_S).succeeded
        assert nucleus.reported_state(NAME) == "RUNNING"


def _pid(nucleus: Nucleus) -> int | None:
    try:
        return nucleus.component(NAME).pid
    except Exception:  # noqa: BLE001 - it is not deployed yet
        return None


def test_after_a_crash_of_lite_s_ipc_daemon_old_tokens_are_worth_nothing(
    broker: MosquittoBroker, tmp_path: Path
) -> None:
    with nucleus_on(broker, "lite", tmp_path, online=False) as nucleus:
        token = nucleus.add_client(NAME)["SVCUID"]
        nucleus.stop_ipc()
        nucleus.start_ipc(new_tokens=True)
        with pytest.raises(Exception, match=r"(?i)closed"):
            connect(ipc_socket=str(nucleus.socket_path), authtoken=token)
        connect(ipc_socket=str(nucleus.socket_path), authtoken=nucleus.add_client(NAME)["SVCUID"]).close()


class TestGates:
    """What only classic asks."""

    @pytest.fixture
    def site(self, broker: MosquittoBroker, tmp_path: Path) -> Iterator[Device]:
        shop = Shop(tmp_path / "shop")
        with nucleus_on(broker, "classic", tmp_path / "root", online=False) as nucleus:
            yield Device(nucleus, shop, tmp_path / "root")

    @pytest.mark.parametrize("verdict", ["ACCEPTED", "REJECTED", "silence"])
    def test_a_merge_counts_only_when_the_component_accepts_it(self, site: Device, verdict: str) -> None:
        asked: list[Any] = []
        components = site.shop.offer("1.0.0", {"run": STAYS}, configuration={"a": "1"})
        site.deploy(components)
        with client_of(site.nucleus) as client:
            client.subscribe_to_validate_configuration_updates(on_stream_event=asked.append)

            def answer() -> None:
                wait_until(lambda: asked, "the question")
                if verdict == "silence":
                    return
                event = asked[0].validate_configuration_update_event
                report = model.ConfigurationValidityReport(
                    status=verdict, deployment_id=event.deployment_id, message=f"a is {event.configuration['a']}"
                )
                client.send_configuration_validity_report(configuration_validity_report=report)

            thread = threading.Thread(target=answer)
            thread.start()
            update = {NAME: {"merge": {"a": "2"}}}
            outcome = site.nucleus.deploy(
                Deployment(components=components, configuration_update=update, validate_s=1.0), site.shop.folder
            )
            thread.join()
        if verdict == "ACCEPTED":
            assert outcome.succeeded
        else:
            assert outcome.status == "FAILED_NO_STATE_CHANGE"
            assert ("a is 2" if verdict == "REJECTED" else "within 1 s") in outcome.reason
        assert site.nucleus.configuration(NAME)["a"] == ("2" if verdict == "ACCEPTED" else "1")

    def test_neither_a_new_version_nor_a_local_deployment_is_validated(self, site: Device) -> None:
        asked: list[Any] = []
        first = site.shop.offer("1.0.0", {"run": STAYS}, configuration={"a": "1"})
        site.deploy(first)
        with client_of(site.nucleus) as client:
            client.subscribe_to_validate_configuration_updates(on_stream_event=asked.append)
            assert site.deploy(first, local=True, merge={"a": "2"}).succeeded
            second = site.shop.offer("2.0.0", {"run": STAYS}, configuration={"a": "1"})
            assert site.deploy(second, merge={"a": "3"}).succeeded
        assert not asked

    def test_an_update_waits_as_long_as_a_component_puts_it_off(self, site: Device) -> None:
        waits = [200, 200, 0]
        heard: list[str] = []
        site.deploy(site.shop.offer("1.0.0", {"run": STAYS}))
        with client_of(site.nucleus) as client:

            def hear(event: Any) -> None:
                if event.pre_update_event is None:
                    heard.append("post")
                    return
                heard.append("pre")
                client.defer_component_update_async(
                    deployment_id=event.pre_update_event.deployment_id, recheck_after_ms=waits[len(heard) - 1]
                )

            client.subscribe_to_component_updates(on_stream_event=hear)
            start = time.monotonic()
            assert site.deploy(site.shop.offer("2.0.0", {"run": STAYS})).succeeded
            assert time.monotonic() - start > 0.4
            wait_until(lambda: heard[-1] == "post", "the news")
        assert heard == ["pre", "pre", "pre", "post"]

    def test_putting_off_what_nobody_asked_about_is_refused(self, site: Device) -> None:
        with client_of(site.nucleus) as client, pytest.raises(model.InvalidArgumentsError):
            client.defer_component_update(deployment_id="x", recheck_after_ms=1)


def test_classic_keeps_a_named_shadow_in_step_with_the_cloud(broker: MosquittoBroker, tmp_path: Path) -> None:
    told: list[Any] = []
    with (
        ShadowService(host=broker.host, port=broker.port) as cloud,
        nucleus_on(broker, "classic", tmp_path) as nucleus,
        client_of(nucleus) as client,
    ):
        with pytest.raises(model.ResourceNotFoundError):
            client.get_thing_shadow(thing_name="line1-cam", shadow_name="kensa")
        with pytest.raises(model.UnauthorizedError):
            client.get_thing_shadow(thing_name="line1-cam", shadow_name="other")
        client.subscribe_to_topic(
            topic=f"{SHADOW}/update/delta",
            on_stream_event=lambda event: told.append(json.loads(event.binary_message.message)),
        )
        cloud.desire("line1-cam", "surface", "parts/1.1.0")
        wait_until(lambda: told, "the delta")
        assert told[0]["state"]["inspections"]["surface"]["release"] == "parts/1.1.0"
        payload = json.dumps({"state": {"reported": {"inspections": {"surface": {"release": "parts/1.1.0"}}}}})
        client.update_thing_shadow(thing_name="line1-cam", shadow_name="kensa", payload=payload.encode())
        wait_until(lambda: cloud.reported("line1-cam"), "the report")
        assert cloud.reported("line1-cam") == {"surface": {"release": "parts/1.1.0"}}
        whole = json.loads(client.get_thing_shadow(thing_name="line1-cam", shadow_name="kensa").payload)
        assert whole["state"]["desired"]["inspections"]["surface"]["release"] == "parts/1.1.0"
