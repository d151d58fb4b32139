"""The environment of a component: what the nucleus and the start script set."""

from __future__ import annotations

import random
import socket
from pathlib import Path

import pytest

from agent.errors import OperatorError
from greengrass.environment import Environment, set_default_region


def test_outside_of_greengrass_the_remedy_is_named(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="kensa run CONFIG"):
        Environment.read({"SVCUID": "x"}, work=tmp_path)


def test_the_folders_are_those_of_the_start_script(tmp_path: Path) -> None:
    variables = {"SVCUID": "x", "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT": "/s", "KENSA_WORK_DIR": "/w"}
    found = Environment.read({**variables, "KENSA_COMPONENT_DIR": "/c", "AWS_IOT_THING_NAME": "t"}, work=tmp_path)
    assert (found.base, found.work, found.thing) == (Path("/c"), Path("/w"), "t")
    assert Environment.read(variables, work=tmp_path).base == Path("/w")


@pytest.mark.parametrize("is_abstract", [False, True])
def test_systemd_is_notified_where_it_waits(tmp_path: Path, is_abstract: bool) -> None:  # noqa: FBT001
    name = f"@kensa-{tmp_path.name}-{random.getrandbits(64):x}" if is_abstract else str(tmp_path / "notify")
    variables = {"SVCUID": "x", "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT": "/s", "NOTIFY_SOCKET": name}
    environment = Environment.read(variables, work=tmp_path)
    environment.notify_ready()  # nobody listens: not an error
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(name.replace("@", "\0"))
        environment.notify_ready()
        assert systemd.recv(100) == b"READY=1"


def test_boto3_gets_the_region() -> None:
    variables = {"AWS_REGION": "eu-central-1"}
    set_default_region(variables)
    assert variables["AWS_DEFAULT_REGION"] == "eu-central-1"
