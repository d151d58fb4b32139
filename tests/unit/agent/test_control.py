"""The state directory's lock and the control socket."""

from __future__ import annotations

import json
import os
import socket
import stat
from typing import TYPE_CHECKING, Any

import pytest

from agent import control
from agent.control import SOCKET_NAME, ControlServer, StateDir
from agent.errors import ControlError, StateDirError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


def _refuse(_: Mapping[str, Any]) -> Mapping[str, Any]:
    raise ControlError("not today")


def _fail(_: Mapping[str, Any]) -> Mapping[str, Any]:
    raise ZeroDivisionError


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Path]:
    handlers = {"echo": lambda r: {"said": r.get("text")}, "refuse": _refuse, "fail": _fail}
    running = ControlServer(state_dir=tmp_path, handlers=handlers)
    running.start()
    yield tmp_path
    running.close()


def _send(state_dir: Path, data: bytes) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(10)
        client.connect(str(state_dir / SOCKET_NAME))
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        answer: dict[str, Any] = json.loads(client.makefile("rb").readline())
    return answer


def test_only_one_agent_at_a_time_uses_a_state_directory(tmp_path: Path) -> None:
    with StateDir(tmp_path), pytest.raises(StateDirError, match=f"process {os.getpid()}"), StateDir(tmp_path):
        pass
    with StateDir(tmp_path):
        pass


def test_a_state_directory_that_cannot_be_made_is_named_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateDirError, match="write access"), StateDir(tmp_path / "file" / "state"):
        pass


def test_the_socket_is_for_the_owner_only(server: Path) -> None:
    assert stat.S_IMODE((server / SOCKET_NAME).stat().st_mode) == 0o600


def test_a_request_is_answered(server: Path) -> None:
    assert control.request(server, "echo", text="grüezi")["said"] == "grüezi"


def test_a_refusal_reaches_the_asker(server: Path) -> None:
    with pytest.raises(ControlError, match="not today"):
        control.request(server, "refuse")


def test_an_unknown_command_is_answered_with_the_known_ones(server: Path) -> None:
    with pytest.raises(ControlError, match="echo, fail, refuse"):
        control.request(server, "reboot")


def test_a_bug_in_a_handler_does_not_end_the_service(server: Path) -> None:
    with pytest.raises(ControlError, match="ZeroDivisionError"):
        control.request(server, "fail")
    assert control.request(server, "echo", text="still here")["said"] == "still here"


@pytest.mark.parametrize(
    "data",
    [b"", b"\n", b"not json\n", b"[]\n", b"{}\n", b'{"cmd": 3}\n', b"[" * 60_000 + b"\n", b"x" * 70_000, b"\xff\xfe\n"],
    ids=["nothing", "empty", "text", "list", "no-cmd", "cmd-type", "deep", "too-long", "bytes"],
)
def test_hostile_requests_are_refused_and_the_next_one_is_served(server: Path, data: bytes) -> None:
    assert _send(server, data)["ok"] is False
    assert control.request(server, "echo", text="ok")["said"] == "ok"


def test_nobody_listening_is_said_with_the_path(tmp_path: Path) -> None:
    with pytest.raises(ControlError, match="no agent answers"):
        control.request(tmp_path, "status")


def test_a_socket_left_by_a_killed_agent_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(tmp_path / SOCKET_NAME))
    running = ControlServer(state_dir=tmp_path, handlers={"echo": lambda _: {}})
    running.start()
    try:
        assert control.request(tmp_path, "echo")["ok"]
    finally:
        running.close()


def test_a_state_directory_deeper_than_a_socket_path_may_be_works(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    running = ControlServer(state_dir=deep, handlers={"echo": lambda _: {}})
    running.start()
    try:
        assert control.request(deep, "echo")["ok"]
    finally:
        running.close()
