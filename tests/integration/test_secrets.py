"""Camera passwords never appear in logs, messages or state files."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
import socket
import stat
import traceback
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from agent import app, cli, config, control
from agent.app import last_good_config
from agent.commands.doctor import command
from agent.errors import ConfigError, FetchError
from agent.fetch.source_factory import open_repository
from greengrass.deployment.component_config import read
from simulator.doubles.cameras.mjpeg_servers import PASSWORD, SERVER_BEHAVIOURS, USER, serve_behaviour
from simulator.doubles.network.memory_transport import MemoryTransport
from tests.kits.reconfiguration import changed, parsed, until, write_line

if TYPE_CHECKING:
    from tests.kits.reconfiguration import Tree

SECRET = "Zq7s3cretvX9"  # noqa: S105 - not one
URLS = {
    "user and password": f"http://op:{SECRET}@127.0.0.1:{{port}}/video",
    "as it is typed": f"http://op:a/b#{SECRET}?@x@127.0.0.1:{{port}}/video",
    "in the path": f"http://127.0.0.1:{{port}}/user=admin_password={SECRET}_channel=1_stream=0.sdp",
    "in the query": f"http://127.0.0.1:{{port}}/cgi-bin/CGIStream.cgi?cmd=GetMJStream&usr=x&pwd={SECRET}",
    "RTSP": f"rtsp://op:{SECRET}@127.0.0.1:{{port}}/ch1?token={SECRET}",
}
CAM = "inspections.spots.cameras.cam"


def network_camera(url: str, **more: Any) -> dict[str, Any]:
    return {"kind": "rtsp" if url.startswith("rtsp") else "mjpeg", "url": url, **more}


def contents(folder: Path) -> str:
    """Names and contents of all files below `folder`, but for those that only their owner can read."""
    texts = []
    for path in sorted(folder.rglob("*")):
        texts.append(path.name)
        if path.is_file() and stat.S_IMODE(path.stat().st_mode) & 0o077:
            texts.append(path.read_bytes().decode("latin-1"))
    return "\n".join(texts)


@pytest.mark.parametrize("name", URLS)
def test_a_running_agent_shows_its_cameras_password_nowhere(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    tree = write_line(tmp_path)
    transport = MemoryTransport()
    caplog.set_level(logging.DEBUG)
    shown = io.StringIO()
    with serve_behaviour(SERVER_BEHAVIOURS["no such path"], []) as address:
        url = URLS[name].format(port=address.rpartition(":")[2].partition("/")[0])
        tree = changed(changed(tree, CAM, network_camera(url)), "metrics", {"port": 0})
        path = tmp_path / "kensa.yaml"
        path.write_text(yaml.safe_dump(tree))
        built = config.load(path)
        agent = app.build(built, transport=transport)
        agent.start()
        try:
            until(agent, lambda: agent.cameras["cam"].capture.status.last_error is not None)
            said = str(agent.cameras["cam"].capture.status.last_error)
            shown.write(json.dumps(control.request(built.state_dir, "status")))
            cli.main(["doctor", str(path)])
            cli.main(["status", str(path)])
            cli.main(["explain", str(path), "no-such-key"])
            cli.main(["apply", str(path)])
            (metrics,) = re.findall(r"http://127\.0\.0\.1:\d+/metrics", caplog.text)
            with urllib.request.urlopen(metrics, timeout=20) as answer:  # noqa: S310 - from the agent's log
                shown.write(answer.read().decode())
        finally:
            agent.stop()
        cli.main(["doctor", str(path), "--json"])
    shown.write("".join(message.payload.decode("latin-1") for message in transport.delivered))
    shown.write(repr(built) + caplog.text + "".join(capfd.readouterr()) + contents(tmp_path / "state"))
    assert "127.0.0.1" in said
    assert SECRET not in said
    assert SECRET not in shown.getvalue()
    assert config.load(path) == last_good_config.load_last_good(built.state_dir)


def keep(tree: Tree, folder: Path) -> config.Config:
    (folder / "state").mkdir(exist_ok=True)
    kept = parsed(tree, folder)
    last_good_config.save_last_good(kept)
    assert last_good_config.load_last_good(folder / "state") == kept
    assert SECRET not in contents(folder / "state")
    return kept


def secret_files(folder: Path) -> list[Path]:
    return sorted((folder / "state").glob("config.good.secrets-*"))


def test_the_last_good_configuration_comes_back_with_its_password_from_a_private_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tree = write_line(tmp_path)
    keep(tree, tmp_path)
    assert secret_files(tmp_path) == []
    for name, url in URLS.items():
        with_secret = changed(tree, CAM, network_camera(url.format(port=80)))
        kept = keep(with_secret, tmp_path)
        file = secret_files(tmp_path)[0]
        assert len(secret_files(tmp_path)) == 1
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, name
        assert SECRET in file.read_text()
        assert last_good_config.load_last_good(tmp_path / "state") == kept
        assert (last_good_config.load_last_good(tmp_path / "state") or kept).digest() == kept.digest()
    with_secret = changed(tree, CAM, network_camera(URLS["RTSP"].format(port=80)))
    (tmp_path / "state" / "config.good.secrets-0123456789abcdef.json.new").write_text(SECRET)  # of a power cut
    keep(with_secret, tmp_path)
    assert len(secret_files(tmp_path)) == 1
    secret_files(tmp_path)[0].unlink()
    assert last_good_config.load_last_good(tmp_path / "state") is None
    assert "cannot be used" in caplog.text
    for damage in ("", "[]", "{}", "null", "\x00"):
        keep(with_secret, tmp_path)
        secret_files(tmp_path)[0].write_text(damage)
        assert last_good_config.load_last_good(tmp_path / "state") is None
    references = {"username": "op", "password_file": str(tmp_path / "password")}
    keep(changed(tree, CAM, network_camera("http://${CAM_HOST}/v?key=${KEY}", **references)), tmp_path)
    assert secret_files(tmp_path) == [], "a reference is no secret"


@given(st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=20), st.sampled_from(sorted(URLS)))
def test_whatever_the_password_is_the_configuration_comes_back(
    tmp_path_factory: pytest.TempPathFactory, more: str, name: str
) -> None:
    folder = tmp_path_factory.mktemp("good")
    url = URLS[name].format(port=80).replace(SECRET, SECRET + more)
    camera = network_camera(url)
    options = {"url": f"gige://u:{SECRET}@h", "password": SECRET, "list": [{"token": SECRET + more}]}
    plugin = {"kind": "plugin", "source": "x", "options": options}
    tree = {
        "thing": "thing",
        "line": "line",
        "state_dir": str(folder / "state"),
        "inspections": {"spots": {"release": "/r", "cameras": {"cam": camera, "plug": plugin}}},
        "transport": {"kind": "none"},
    }
    keep(tree, folder)


def told_by_children() -> str:
    """Return the command lines and environments of all descendants."""
    told = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended meanwhile
            told += [*child.cmdline(), *child.environ().values()]
    return " ".join(told)


def test_no_child_process_has_the_password_in_its_command_line_or_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KENSA_TEST_CAMERA", SECRET)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        tree = changed(write_line(tmp_path), CAM, network_camera(f"rtsp://op:{SECRET}@{address}/ch1?x={SECRET}"))
        twin = network_camera(f"rtsp://op:${{KENSA_TEST_CAMERA}}@{address}/ch2")
        agent = app.build(parsed(changed(tree, "inspections.spots.cameras.twin", twin), tmp_path))
        agent.start()
        try:
            until(agent, lambda: "agent.video" in told_by_children())
            told = told_by_children()
        finally:
            agent.stop()
    assert SECRET not in told


# --- errors of the configuration --------------------------------------------------------------------------------------


WRONG = [
    {CAM: network_camera(f"op:{SECRET}@camera/video")},
    {CAM: {"kind": "mjpeg", "url": f"ftp://op:{SECRET}@camera/video"}},
    {CAM: {"kind": "mjpeg", "url": {"http": f"op:{SECRET}@camera"}}},
    {CAM: {"kind": f"http://op:{SECRET}@camera"}},
    {CAM: {"kind": "mjpeg", "url": "http://camera", "password": SECRET}},
    {CAM: {"kind": "mjpeg", "url": "http://camera", "username": ["op", SECRET]}},
    {CAM: {"kind": "mjpeg", "url": "http://camera", "stall_ms": f"op:{SECRET}@camera"}},
    {CAM: {"kind": "mjpeg", "url": "http://camera", f"http://op:{SECRET}@camera": 1}},
    {"inspections.spots.cameras": [network_camera(f"http://op:{SECRET}@camera")]},
    {"inspections.spots.cameras": f"http://op:{SECRET}@camera"},
    {"inspections.spots.cameras.bad name": network_camera(f"http://op:{SECRET}@camera")},
    {"inspections": [{"cameras": {"password": SECRET}}]},
    {"updates": {"repository": f"ftp://op:{SECRET}@host", "root": "r", "site": "s"}},
    {"collect": {"site": "s", "target": f"s3://op:{SECRET}@host"}},
    {"state_dir": {"password": SECRET}},
]


@pytest.mark.parametrize("wrong", WRONG)
def test_a_refused_configuration_does_not_quote_what_may_be_a_password(wrong: Tree, tmp_path: Path) -> None:
    tree = write_line(tmp_path)
    for path, value in wrong.items():
        tree = changed(tree, path, value)
    with pytest.raises(ConfigError) as caught:
        parsed(tree, tmp_path)
    told = "".join(traceback.format_exception(caught.value))
    assert "inspections" in told or "updates" in told or "collect" in told or "state_dir" in told
    assert SECRET not in told


@pytest.mark.parametrize(
    "text",
    [
        f"url: http://op:{SECRET}@camera: x\n",
        f"url: [http://op:{SECRET}@camera\n",
        f"password: *{SECRET}\n",
        f"password: !{SECRET} x\n",
        f"password: %{SECRET}\n",
        f"password: '{SECRET}\n",
        f"a: 1\n{SECRET}@x: 1\n{SECRET}@x: 2\n",
        f"? [{SECRET}=]\n: 1\n",
        f"url: \t{SECRET}\n  x: y\n",
    ],
)
def test_text_that_is_no_yaml_is_not_quoted(text: str, tmp_path: Path) -> None:
    path = tmp_path / "kensa.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        config.load(path)
    told = "".join(traceback.format_exception(caught.value))
    assert SECRET not in told
    assert "line" in told


# --- references -------------------------------------------------------------------------------------------------------


def test_a_missing_variable_is_a_configuration_error_with_its_path(tmp_path: Path) -> None:
    tree = changed(write_line(tmp_path), CAM, network_camera("http://op:${KENSA_NO_SUCH_VARIABLE}@camera/v"))
    with pytest.raises(ConfigError, match=rf"{CAM}\.url: the environment variable KENSA_NO_SUCH_VARIABLE is not set"):
        app.build(parsed(tree, tmp_path))
    path = tmp_path / "kensa.yaml"
    path.write_text(yaml.safe_dump(tree))
    seen = {finding.check: finding for finding in command.run_checks(path)}["password cam"]
    assert seen.status == "fail"
    assert "KENSA_NO_SUCH_VARIABLE is not set" in seen.seen


def test_doctor_looks_at_the_password_files(tmp_path: Path) -> None:
    tree = write_line(tmp_path)
    file = tmp_path / "password"

    def found(camera: dict[str, Any]) -> tuple[str, str]:
        path = tmp_path / "kensa.yaml"
        path.write_text(yaml.safe_dump(changed(tree, CAM, camera)))
        finding = {finding.check: finding for finding in command.run_checks(path)}["password cam"]
        return finding.status, finding.seen

    with serve_behaviour(SERVER_BEHAVIOURS["Digest with MD5"], [b""]) as address:
        plain = address.replace(f"{USER}:s3cret%2Fwith%40signs@", "")
        camera = network_camera(plain, username=USER, password_file=str(file))
        assert found(camera)[0] == "fail"
        file.write_text("")
        assert "is empty" in found(camera)[1]
        file.write_text(f"{PASSWORD}\n")
        file.chmod(0o644)
        assert found(camera) == ("warn", f"{file} has mode 0644: other users can read or change it")
        file.chmod(0o600)
        assert found(camera)[0] == "ok"
        assert found(network_camera(address))[0] == "warn"
        assert "has an @ after what reads as its host" in found(network_camera("http://127.0.0.1:1/x?u=a@b"))[1]


# --- what else an address can be --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "repository",
    [f"http://op:{SECRET}@127.0.0.1:1/r", f"https://op:{SECRET}/x@h/r", f"http://127.0.0.1:1/r?token={SECRET}"],
)
def test_doctor_does_not_show_the_repositorys_password(
    repository: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "root.json").write_text("{}")
    updates = {"repository": repository, "root": str(tmp_path / "root.json"), "site": "s"}
    path = tmp_path / "kensa.yaml"
    path.write_text(yaml.safe_dump(changed(write_line(tmp_path), "updates", updates)))
    cli.main(["doctor", str(path)])
    with pytest.raises(FetchError) as caught:
        open_repository(repository, timeout_s=1.0)
    assert SECRET not in "".join(capsys.readouterr()) + "".join(traceback.format_exception(caught.value))


def test_the_components_settings_are_not_quoted() -> None:
    wrong = {"shifts": [f"http://op:{SECRET}@camera"], "password": SECRET, f"op:{SECRET}@h": 1}
    with pytest.raises(ConfigError) as caught:
        read({"greengrass": wrong}, thing="t", work=Path("/w"), base=Path("/"))
    assert "greengrass.shifts" in str(caught.value)
    assert SECRET not in "".join(traceback.format_exception(caught.value))
