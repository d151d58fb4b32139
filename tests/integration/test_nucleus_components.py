"""Real components with the real SDK on the simulated nucleus."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

from simulator.nucleus import Deployment
from tests.kits.greengrass.nucleus_components import NAME, PATIENCE_S, STAYS, Device, device, wait_until
from tests.kits.requirements import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from simulator.nucleus.limits import Mode

BOTH = pytest.mark.parametrize("mode", ["lite", "classic"])
PYTHON = f"PYTHONPATH={ROOT} exec {sys.executable} -c"
ACCESS = {
    "aws.greengrass.ipc.pubsub": {f"{NAME}:pubsub:1": {"operations": ["*"], "resources": ["*"]}},
    "aws.greengrass.ipc.lifecycle": {f"{NAME}:lifecycle:1": {"operations": ["*"], "resources": [NAME]}},
}
CONFIGURATION: dict[str, Any] = {"accessControl": ACCESS, "model": "v1"}

# writes down each configuration it hears of, and goes away when it is asked to
LISTENER = """
import os, signal, sys, time
from awsiot.greengrasscoreipc.clientv2 import GreengrassCoreIPCClientV2
client = GreengrassCoreIPCClientV2()
def note(text):
    with open("book", "a") as book:
        book.write(text + "\\n")
def gone(*_):
    note("SIGTERM")
    os._exit(0)
signal.signal(signal.SIGTERM, gone)
def heard(event):
    path = event.configuration_update_event.key_path
    note("/".join(path) + "=" + client.get_configuration(key_path=path).value[path[-1]])
client.subscribe_to_configuration_update(key_path=["model"], on_stream_event=heard)
note("up " + client.get_configuration(key_path=["model"]).value["model"])
client.update_state(state="RUNNING")
while True:
    time.sleep(1)
"""


def script(source: str) -> str:
    """A shell line that runs `source`, without braces, which lite would take for variables."""
    encoded = source.encode().hex()
    return f"{PYTHON} \"exec(bytes.fromhex('{encoded}'))\""


def book(site: Device) -> list[str]:
    path = site.work("book")
    return path.read_text().splitlines() if path.is_file() else []


@BOTH
def test_a_startup_component_is_up_when_it_says_so_and_hears_of_a_merge_without_a_restart(
    mode: Mode, tmp_path: Path
) -> None:
    with device(mode, tmp_path) as site:
        components = site.shop.offer("1.0.0", {"startup": script(LISTENER)}, configuration=CONFIGURATION)
        assert site.deploy(components).succeeded
        before = site.nucleus.component(NAME)
        assert book(site) == ["up v1"]
        site.deploy(components, merge={"model": "v2"})
        wait_until(lambda: "model=v2" in book(site), "the news")
        assert site.nucleus.component(NAME) == before


def test_on_lite_the_old_version_hears_of_new_defaults_before_it_is_told_to_go(tmp_path: Path) -> None:
    with device("lite", tmp_path) as site:
        first = site.shop.offer("1.0.0", {"startup": script(LISTENER)}, configuration=CONFIGURATION)
        assert site.deploy(first).succeeded
        second = site.shop.offer(
            "2.0.0",
            {"install": "sleep 0.5", "startup": script(LISTENER)},
            configuration={**CONFIGURATION, "model": "v9"},
        )
        assert site.deploy(second).succeeded
        assert book(site) == ["up v1", "model=v9", "SIGTERM", "up v9"]


@BOTH
def test_after_a_restart_of_the_nucleus_components_are_new_processes_with_new_tokens(
    mode: Mode, tmp_path: Path
) -> None:
    with device(mode, tmp_path) as site:
        site.deploy(site.shop.offer("1.0.0", {"startup": script(LISTENER)}, configuration=CONFIGURATION))
        before = site.nucleus.component(NAME)
        site.nucleus.restart()
        wait_until(lambda: site.nucleus.component(NAME).state == "RUNNING", "the component")
        assert site.nucleus.component(NAME).pid != before.pid
        assert book(site) == ["up v1", "SIGTERM", "up v1"]


def test_a_process_of_the_component_may_come_without_a_token_on_lite_and_nobody_else(tmp_path: Path) -> None:
    source = """
import awsiot.greengrasscoreipc as ipc, os
from awsiot.eventstreamrpc import Connection, LifecycleHandler, MessageAmendment
from awscrt.io import ClientBootstrap, DefaultHostResolver, EventLoopGroup, SocketDomain, SocketOptions
import json, sys
group = EventLoopGroup(1)
options = SocketOptions()
options.domain = SocketDomain.Local
for name in ("com.example.Cam", "com.example.Other"):
    said = json.dumps(dict(componentName=name)).encode()
    connection = Connection(
        host_name=os.environ["AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT"], port=0,
        bootstrap=ClientBootstrap(group, DefaultHostResolver(group)), socket_options=options,
        connect_message_amender=lambda: MessageAmendment(payload=said))
    try:
        connection.connect(LifecycleHandler()).result(100)
        answer = "in"
    except Exception as error:
        answer = "out"
    with open("book", "a") as book:
        book.write(answer + "\\n")
os._exit(0)
"""
    with device("lite", tmp_path) as site:
        site.deploy(site.shop.offer("1.0.0", {"run": script(source)}))
        wait_until(lambda: site.nucleus.component(NAME).state in ("FINISHED", "BROKEN"), "the end")
        assert book(site) == ["in", "out"], site.nucleus.log(NAME)


@BOTH
def test_a_component_may_have_itself_restarted_where_its_policy_says_so(mode: Mode, tmp_path: Path) -> None:
    source = """
import os, time
from awsiot.greengrasscoreipc.clientv2 import GreengrassCoreIPCClientV2
first = not os.path.exists("once")
open("once", "w").close()
if first:
    GreengrassCoreIPCClientV2().restart_component(component_name="com.example.Cam")
time.sleep(1000)
"""
    with device(mode, tmp_path) as site:
        site.deploy(site.shop.offer("1.0.0", {"run": script(source)}, configuration=CONFIGURATION))
        wait_until(lambda: site.nucleus.component(NAME).starts == 2, "the second start")
        wait_until(lambda: site.nucleus.component(NAME).state == "RUNNING", "the component")


@BOTH
def test_an_install_that_fails_three_times_fails_the_deployment_and_lite_keeps_the_old_version_running(
    mode: Mode, tmp_path: Path
) -> None:
    with device(mode, tmp_path) as site:
        site.deploy(site.shop.offer("1.0.0", {"run": STAYS}))
        before = site.nucleus.component(NAME)
        outcome = site.deploy(site.shop.offer("2.0.0", {"install": "echo x >> tries; exit 1", "run": STAYS}))
        assert "cannot be installed" in outcome.reason
        assert site.work("tries").read_text() == "x\n" * 3
        after = site.nucleus.component(NAME)
        assert after.version == "1.0.0"
        assert after.state == "RUNNING"
        assert (after.pid == before.pid) is (mode == "lite")


def test_deployments_wait_for_one_another(tmp_path: Path) -> None:
    with device("lite", tmp_path) as site:
        versions = [f"1.{number}.0" for number in range(3)]
        offers = [site.shop.offer(version, {"install": "sleep 0.1", "run": STAYS}) for version in versions]
        coming = [site.nucleus.start_deployment(Deployment(components=offer), site.shop.folder) for offer in offers]
        assert all(each.result(PATIENCE_S).succeeded for each in coming)
        assert site.nucleus.component(NAME).version == "1.2.0"


@BOTH
def test_a_component_may_deploy_and_remove_others_where_its_policy_says_so(mode: Mode, tmp_path: Path) -> None:
    source = f"""
from awsiot.greengrasscoreipc.clientv2 import GreengrassCoreIPCClientV2
import os, time
client = GreengrassCoreIPCClientV2()
shop = {str(tmp_path / "shop")!r}
client.create_local_deployment(
    recipe_directory_path=shop + "/recipes", artifacts_directory_path=shop + "/artifacts",
    root_component_versions_to_add=dict([("com.example.Other", "1.0.0")]),
    component_to_configuration=dict([("com.example.Other", dict(MERGE=dict(a="2")))]))
while not os.path.exists("enough"):
    time.sleep(0.05)
client.create_local_deployment(root_components_to_remove=["com.example.Other"])
time.sleep(1000)
"""
    other = "com.example.Other"
    access = {**ACCESS, "aws.greengrass.Cli": {"cli": {"operations": ["*"], "resources": ["*"]}}}
    with device(mode, tmp_path) as site:
        site.shop.offer("1.0.0", {"run": STAYS}, name=other, configuration={"a": "1"})
        site.deploy(site.shop.offer("1.0.0", {"run": script(source)}, configuration={"accessControl": access}))
        wait_until(lambda: site.nucleus.configuration(other) == {"a": "2"}, "the other component")
        site.work("enough").touch()
        wait_until(lambda: site.nucleus.configuration(other) is None, "its end")


@BOTH
def test_who_depends_on_the_token_exchange_gets_credentials_and_only_for_its_token(mode: Mode, tmp_path: Path) -> None:
    source = """
import os, urllib.request, urllib.error
for token in (os.environ["AWS_CONTAINER_AUTHORIZATION_TOKEN"], "wrong"):
    request = urllib.request.Request(
        os.environ["AWS_CONTAINER_CREDENTIALS_FULL_URI"], headers=dict(Authorization=token))
    try:
        answer = urllib.request.urlopen(request).read().decode()
    except urllib.error.HTTPError as error:
        answer = str(error.code)
    with open("book", "a") as book:
        book.write(answer + "\\n")
"""
    service = {"aws.greengrass.TokenExchangeService": {"VersionRequirement": ">=2.0.0", "DependencyType": "SOFT"}}
    with device(mode, tmp_path) as site:
        site.deploy(site.shop.offer("1.0.0", {"run": script(source)}, ComponentDependencies=service))
        wait_until(lambda: site.nucleus.component(NAME).state in ("FINISHED", "BROKEN"), "the end")
        answers = book(site)
        assert "AccessKeyId" in answers[0], site.nucleus.log(NAME)
        assert answers[1] == "403"
        assert site.nucleus.credentials_issued == 1
