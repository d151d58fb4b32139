"""Calls every operation of a nucleus with the real SDK, and prints one line for each answer.

Run as a component (`python -m tests.kits.greengrass.nucleus_probe PORT`, in its environment; PORT is the broker's).
What the real nucleus lite 2.6.0 answered to the same calls is in tests/recorded; times and addresses are left out here.
"""

from __future__ import annotations

import datetime as dt
import os
import re
import sys
import time
from typing import TYPE_CHECKING, Any

import paho.mqtt.client as paho
from awsiot.greengrasscoreipc import model
from awsiot.greengrasscoreipc.clientv2 import GreengrassCoreIPCClientV2
from paho.mqtt.enums import CallbackAPIVersion

if TYPE_CHECKING:
    from collections.abc import Callable

COMPONENT = "com.example.Cam"
THING = "line1-cam"
CONFIGURATION: dict[str, Any] = {
    "model": {"version": "v1", "threshold": "0.5"},
    "accessControl": {
        "aws.greengrass.ipc.pubsub": {
            f"{COMPONENT}:pubsub:1": {
                "policyDescription": "x",
                "operations": ["aws.greengrass#PublishToTopic", "aws.greengrass#SubscribeToTopic"],
                "resources": ["local/*"],
            }
        },
        "aws.greengrass.ipc.mqttproxy": {
            f"{COMPONENT}:mqtt:1": {
                "policyDescription": "x",
                "operations": ["aws.greengrass#PublishToIoTCore", "aws.greengrass#SubscribeToIoTCore"],
                "resources": ["line/+/verdicts", "cmd/#"],
            }
        },
    },
}


def say(line: str) -> None:
    sys.stdout.write(re.sub(r" at 0x[0-9a-f]+>", " at >", line) + "\n")


def show(label: str, call: Callable[[], Any]) -> Any:
    try:
        answer = call()
    except Exception as error:  # noqa: BLE001 - whatever the SDK raises is the answer
        say(f"FAIL {label}: {type(error).__name__}: {vars(error)}")
        return None
    say(f"OK   {label}: {answer!r}")
    return answer


def received_within(events: list[Any], count: int) -> list[Any]:
    deadline = time.monotonic() + 10.0
    while len(events) < count and time.monotonic() < deadline:
        time.sleep(0.01)
    return events


def local(client: Any) -> None:
    got: list[Any] = []
    show("SubscribeToTopic local/a", lambda: client.subscribe_to_topic(topic="local/a", on_stream_event=got.append))
    binary = model.PublishMessage(binary_message=model.BinaryMessage(message=b"\x00\x01hello"))
    show("PublishToTopic binary", lambda: client.publish_to_topic(topic="local/a", publish_message=binary))
    received_within(got, 1)
    tree = model.PublishMessage(json_message=model.JsonMessage(message={"a": 1, "b": [1, 2.5, None, True]}))
    show("PublishToTopic json", lambda: client.publish_to_topic(topic="local/a", publish_message=tree))
    say(f"received {received_within(got, 2)}")
    show(
        "SubscribeToTopic unauthorized",
        lambda: client.subscribe_to_topic(topic="other/a", on_stream_event=got.append),
    )
    other = model.PublishMessage(binary_message=model.BinaryMessage(message=b"x"))
    show("PublishToTopic unauthorized", lambda: client.publish_to_topic(topic="other/a", publish_message=other))


def cloud(client: Any, port: int) -> None:
    got: list[Any] = []
    once, never = model.QOS.AT_LEAST_ONCE, model.QOS.AT_MOST_ONCE

    def publish(label: str, topic: str, payload: bytes, qos: str) -> None:
        show(label, lambda: client.publish_to_iot_core(topic_name=topic, qos=qos, payload=payload))

    show(
        "SubscribeToIoTCore cmd/#",
        lambda: client.subscribe_to_iot_core(topic_name="cmd/#", qos=once, on_stream_event=got.append),
    )
    publish("PublishToIoTCore q1", "line/1/verdicts", b'{"v":1}', once)
    publish("PublishToIoTCore q0", "line/1/verdicts", b'{"v":0}', never)
    publish("PublishToIoTCore unauthorized", "line/1/2/verdicts", b"x", once)
    show(
        "SubscribeToIoTCore unauthorized",
        lambda: client.subscribe_to_iot_core(topic_name="x/#", qos=once, on_stream_event=got.append),
    )
    publish("PublishToIoTCore to own sub cmd (policy cmd/#)", "cmd/me", b"self", once)
    received_within(got, 1)
    elsewhere = paho.Client(CallbackAPIVersion.VERSION2)
    elsewhere.connect("127.0.0.1", port)
    elsewhere.loop_start()
    elsewhere.publish("cmd/swap", b'{"model":"v2"}', qos=1).wait_for_publish(10.0)
    say(f"iot received {received_within(got, 2)}")
    elsewhere.disconnect()
    elsewhere.loop_stop()


def configuration(client: Any) -> None:
    below: list[Any] = []
    everything: list[Any] = []
    now = dt.datetime.now(dt.UTC)
    old = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)

    def update(label: str, path: list[str], value: Any, at: dt.datetime) -> None:
        show(label, lambda: client.update_configuration(key_path=path, value_to_merge=value, timestamp=at))

    def get(label: str, **what: Any) -> None:
        show(f"GetConfiguration {label}", lambda: client.get_configuration(**what))

    get("all")
    get("model", key_path=["model"])
    get("model/version", key_path=["model", "version"])
    get("missing", key_path=["nope"])
    get("other comp", component_name="aws.greengrass.NucleusLite", key_path=["awsRegion"])
    get("classic nucleus name", component_name="aws.greengrass.Nucleus", key_path=["awsRegion"])
    show(
        "SubscribeToConfigurationUpdate model",
        lambda: client.subscribe_to_configuration_update(key_path=["model"], on_stream_event=below.append),
    )
    show(
        "SubscribeToConfigurationUpdate all",
        lambda: client.subscribe_to_configuration_update(on_stream_event=everything.append),
    )
    update("UpdateConfiguration model.version", ["model"], {"version": "v2"}, now)
    update("UpdateConfiguration stale ts", ["model"], {"version": "v0"}, old)
    get("model after", key_path=["model"])
    update("UpdateConfiguration accessControl", ["accessControl"], {"x": "y"}, now)
    received_within(everything, 1)
    update("UpdateConfiguration leaf value", ["model", "threshold"], 0.7, now)
    received_within(everything, 2)
    update("UpdateConfiguration list", [], {"cams": ["a", "b"]}, now)
    get("after", key_path=["model"])
    get("cams", key_path=["cams"])
    say(f"cfg events {received_within(below, 2)}")
    say(f"cfg events all {received_within(everything, 3)}")


def rest(client: Any) -> None:
    report = model.ConfigurationValidityReport(status="ACCEPTED", deployment_id="x")
    certificates = model.CertificateOptions(certificate_type="SERVER")
    metric = model.Metric(name="n", unit="Count", value=1.0)
    calls: dict[str, Callable[[], Any]] = {
        "UpdateState RUNNING": lambda: client.update_state(state=model.ReportedLifecycleState.RUNNING),
        "SubscribeToComponentUpdates": lambda: client.subscribe_to_component_updates(on_stream_event=print),
        "DeferComponentUpdate": lambda: client.defer_component_update(deployment_id="x", recheck_after_ms=1000),
        "SubscribeToValidateConfigurationUpdates": lambda: client.subscribe_to_validate_configuration_updates(
            on_stream_event=print
        ),
        "SendConfigurationValidityReport": lambda: client.send_configuration_validity_report(
            configuration_validity_report=report
        ),
        "GetComponentDetails": lambda: client.get_component_details(component_name=COMPONENT),
        "ListComponents": client.list_components,
        "RestartComponent self": lambda: client.restart_component(component_name=COMPONENT),
        "PauseComponent": lambda: client.pause_component(component_name=COMPONENT),
        "GetThingShadow": lambda: client.get_thing_shadow(thing_name=THING, shadow_name=""),
        "UpdateThingShadow": lambda: client.update_thing_shadow(thing_name=THING, shadow_name="", payload=b"{}"),
        "ListNamedShadows": lambda: client.list_named_shadows_for_thing(thing_name=THING),
        "GetSecretValue": lambda: client.get_secret_value(secret_id=THING),
        "CreateLocalDeployment": client.create_local_deployment,
        "ListLocalDeployments": client.list_local_deployments,
        "PutComponentMetric": lambda: client.put_component_metric(metrics=[metric]),
        "ValidateAuthorizationToken": lambda: client.validate_authorization_token(token=os.environ["SVCUID"]),
        "GetClientDeviceAuthToken": client.get_client_device_auth_token,
        "SubscribeToCertificateUpdates": lambda: client.subscribe_to_certificate_updates(
            certificate_options=certificates, on_stream_event=print
        ),
    }
    for label, call in calls.items():
        show(label, call)


def main() -> None:
    client = show("connect", GreengrassCoreIPCClientV2)
    local(client)
    cloud(client, int(sys.argv[1]))
    configuration(client)
    rest(client)
    sys.stdout.flush()
    os._exit(0)  # the SDK's own way out logs what it cannot do any more


if __name__ == "__main__":
    main()
