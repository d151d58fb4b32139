"""A configuration is accepted whole, or refused with key path, given value and allowed values."""

from __future__ import annotations

import os
import re
import types
import typing
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
import yaml
from pydantic import BaseModel

from agent import config
from agent.errors import ConfigError
from tests.kits.requirements import ROOT

EXAMPLE = ROOT / "docs" / "config.example.yaml"

MINIMAL = """\
thing: thing-1
line: line-1
state_dir: ./state
inspections:
  top:
    release: ./release
    cameras:
      cam:
        kind: folder
        path: ./images
transport:
  kind: none
"""


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "kensa.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def refusal(folder: Path, text: str | bytes) -> str:
    with pytest.raises(ConfigError) as caught:
        config.load(write(folder, text))
    message = str(caught.value)
    assert str(folder / "kensa.yaml") in message
    return message


def tree() -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load(MINIMAL)
    return parsed


def changed(path: str, value: object) -> str:
    """The minimal configuration with one key set; `...` removes it."""
    whole = tree()
    *way, last = path.split("/")
    node: Any = whole
    for key in way:
        node = node.setdefault(key, {})
    if value is ...:
        del node[last]
    else:
        node[last] = value
    return yaml.safe_dump(whole)


# --- what is taken ----------------------------------------------------------------------------------------------------


def test_the_smallest_configuration_has_the_documented_defaults(tmp_path: Path) -> None:
    loaded = config.load(write(tmp_path, MINIMAL))

    assert loaded.heartbeat_s == 10.0
    assert loaded.max_batch == 8
    assert loaded.outbox.max_bytes == 512 * 1024 * 1024
    assert loaded.metrics is None
    assert loaded.inspections["top"].intake == config.IntakeConfig(policy="newest", capacity=8)
    assert loaded.worker_count() == len(os.sched_getaffinity(0))


def test_relative_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "etc").mkdir()
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "etc", MINIMAL.replace("./images", "/images"))

    loaded = config.load(Path("etc/kensa.yaml"))

    assert loaded.state_dir == tmp_path / "etc" / "state"
    assert loaded.inspections["top"].release == tmp_path / "etc" / "release"
    camera = loaded.inspections["top"].cameras["cam"]
    assert isinstance(camera, config.FolderCameraConfig)
    assert camera.path == Path("/images")


def test_the_digest_follows_every_value(tmp_path: Path) -> None:
    base = config.load(write(tmp_path, MINIMAL)).digest()

    assert config.load(write(tmp_path, MINIMAL)).digest() == base
    assert config.load(write(tmp_path, changed("inspections/top/unsure_band", 0.2))).digest() != base
    assert config.load(write(tmp_path, changed("max_batch", 4))).digest() != base


# --- the example ------------------------------------------------------------------------------------------------------


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """Every configuration class below an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in {typing.Literal, None} and not isinstance(annotation, types.UnionType):
        return []
    return [model for argument in get_args(annotation) for model in models_in(argument)]


def test_the_example_is_accepted() -> None:
    config.load(EXAMPLE)


def test_the_example_names_every_key() -> None:
    """Each key of each class, cameras of every kind included, is in the example; so it is documented."""
    example = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
    seen: dict[type[BaseModel], set[str]] = {}

    def walk(value: BaseModel, raw: Any) -> None:
        seen.setdefault(type(value), set()).update(raw)
        for name in raw:
            inner = getattr(value, name)
            if isinstance(inner, BaseModel):
                walk(inner, raw[name])
            elif isinstance(inner, dict):
                for key, item in inner.items():
                    if isinstance(item, BaseModel):
                        walk(item, raw[name][key])

    walk(config.load(EXAMPLE), example)
    todo: list[type[BaseModel]] = [config.Config]
    known: set[type[BaseModel]] = set()
    while todo:
        model = todo.pop()
        if model not in known:
            known.add(model)
            todo += [m for field in model.model_fields.values() for m in models_in(field.annotation)]

    optional_kinds = {config.NoTransportConfig}  # a file has one transport; the other is named in a comment
    missing = {
        f"{model.__name__}.{name}"
        for model in known - optional_kinds
        for name in model.model_fields
        if name not in seen.get(model, set())
    }
    # What every camera has is shown once, at the first camera.
    everywhere = {"width", "height", "stall_ms"}
    missing = {m for m in missing if not (m.split(".")[0].endswith("CameraConfig") and m.split(".")[1] in everywhere)}
    assert missing == set()


def test_every_key_of_the_example_is_explained() -> None:
    """By a comment on its line at least once, or because its own keys follow."""
    explained: dict[str, bool] = {}
    for line in EXAMPLE.read_text(encoding="utf-8").splitlines():
        if found := re.match(r"\s*([a-z_0-9]+):(.*)", line):
            key, rest = found.groups()
            explained[key] = explained.get(key, False) or "#" in rest or not rest.strip()

    assert [key for key, done in explained.items() if not done] == []


# --- what is refused --------------------------------------------------------------------------------------------------

CAM = "inspections/top/cameras/cam"
SHOWN = "inspections.top.cameras.cam"
MQTT = {"kind": "mqtt", "host": "broker"}


@pytest.mark.parametrize(
    ("path", "value", "complaints"),
    [
        ("thing", ..., ["thing: is required"]),
        ("thing", "a b", ["thing: given", '"a b"', "must match ^[A-Za-z0-9_-]{1,64}$"]),
        ("thing", "a/b", ["thing: given", '"a/b"']),
        ("thing", "$aws", ["thing: given"]),
        ("thing", "x" * 65, ["thing: given", "must match"]),
        ("thing", 7, ["thing: given 7", "valid string"]),
        ("line", "", ['line: given ""']),
        ("state_dir", ..., ["state_dir: is required"]),
        ("state_dir", 5, ["state_dir: given 5, expected a path"]),
        ("sate_dir", "x", ["sate_dir: unknown key. Did you mean 'state_dir'?", "Allowed here: collect, drain_s,"]),
        ("heartbeat_s", 0.1, ["heartbeat_s: given 0.1", "greater than or equal to 0.5"]),
        ("heartbeat_s", float("nan"), ["heartbeat_s: given NaN"]),
        ("heartbeat_s", float("inf"), ["heartbeat_s: given Infinity"]),
        ("heartbeat_s", "fast", ['heartbeat_s: given "fast"', "valid number"]),
        ("workers", 0, ["workers: given 0", "greater than or equal to 1"]),
        ("workers", 65, ["workers: given 65", "less than or equal to 64"]),
        ("workers", 1.5, ["workers: given 1.5", "integer"]),
        ("max_batch", 1000, ["max_batch: given 1000", "less than or equal to 256"]),
        ("drain_s", -1, ["drain_s: given -1"]),
        ("inspections", {}, ["inspections: given {}", "at least 1"]),
        ("inspections", ["top"], ["inspections: given", "dictionary"]),
        ("inspections/a b", {}, ["inspections.a b", "must match"]),
        ("inspections/top/release", ..., ["inspections.top.release: is required"]),
        ("inspections/top/cameras", {}, ["inspections.top.cameras: given {}", "at least 1"]),
        ("inspections/top/camera", {}, ["inspections.top.camera: unknown key. Did you mean 'cameras'?"]),
        ("inspections/top/roi", [0, 0, 5], ["inspections.top.roi"]),
        ("inspections/top/roi", [0, 0, 5, 0], ["inspections.top.roi.3: given 0", "greater than or equal to 1"]),
        ("inspections/top/roi", [-1, 0, 5, 5], ["inspections.top.roi.0: given -1"]),
        ("inspections/top/thresholds", {"scratch": 1.5}, ["inspections.top.thresholds.scratch: given 1.5"]),
        ("inspections/top/unsure_band", "wide", ['inspections.top.unsure_band: given "wide"']),
        ("inspections/top/intake", {"policy": "oldest"}, ["inspections.top.intake.policy", "'newest' or 'wait'"]),
        ("inspections/top/intake", {"capacity": 0}, ["inspections.top.intake.capacity: given 0"]),
        (f"{CAM}/kind", "gige", [f"{SHOWN}.kind: given", '"gige"', "'folder'", "'rtsp'", "'plugin'"]),
        (f"{CAM}/kind", ..., [f"{SHOWN}.kind: is required"]),
        (f"{CAM}/path", ..., [f"{SHOWN}.path: is required"]),
        (f"{CAM}/url", "rtsp://x", [f"{SHOWN}.url: unknown key", "Allowed here: fps, height, kind, loop, path"]),
        (f"{CAM}/fps", 0, [f"{SHOWN}.fps: given 0", "greater than 0"]),
        (f"{CAM}/fps", "30 fps", [f'{SHOWN}.fps: given "30 fps"']),
        (f"{CAM}/loop", "sometimes", [f"{SHOWN}.loop: given"]),
        (f"{CAM}/width", 640, [f"{SHOWN}: give both width and height, or neither"]),
        (f"{CAM}/stall_ms", 1, [f"{SHOWN}.stall_ms: given 1", "greater than or equal to 100"]),
        (CAM, {"kind": "v4l2", "device": "/etc/passwd"}, [f"{SHOWN}.device: given", "must match"]),
        (CAM, {"kind": "v4l2", "fourcc": "mjpg"}, [f"{SHOWN}.fourcc: given", "must match"]),
        (CAM, {"kind": "rtsp", "url": "http://x"}, [f"{SHOWN}.url: given", "must match ^rtsps?://"]),
        (CAM, {"kind": "mjpeg", "url": "file:///etc/passwd"}, [f"{SHOWN}.url: given", "must match ^https?://"]),
        (CAM, {"kind": "rtsp", "url": "rtsp://x", "transport": "sctp"}, [f"{SHOWN}.transport", "'tcp' or 'udp'"]),
        (CAM, {"kind": "plugin"}, [f"{SHOWN}.source: is required"]),
        (CAM, "folder", [f"{SHOWN}"]),
        ("transport", ..., ["transport: is required"]),
        ("transport", {"kind": "http"}, ["transport.kind: given", '"http"', "'mqtt'", "'none'"]),
        ("transport", {"kind": "mqtt"}, ["transport.host: is required"]),
        ("transport", {**MQTT, "port": 70000}, ["transport.port: given 70000", "less than or equal to 65535"]),
        ("transport", {**MQTT, "protocol": 5}, ["transport.protocol: given 5", "'3.1.1' or '5'"]),
        ("transport", {**MQTT, "client_id": "a b"}, ["transport.client_id: given", "must match"]),
        ("transport", {**MQTT, "max_in_flight": 500}, ["transport.max_in_flight: given 500"]),
        ("transport", {**MQTT, "password_file": "p"}, ["transport: password_file is given without username"]),
        ("transport", {**MQTT, "tls": {"certificate": "a"}}, ["transport.tls.ca: is required"]),
        ("transport", {**MQTT, "tls": {"ca": "a", "key": "b"}}, ["transport.tls: certificate and key belong together"]),
        ("transport", {**MQTT, "tls": {"insecure": True}}, ["transport.tls.insecure: unknown key"]),
        ("transport", {**MQTT, "pasword_file": "p"}, ["transport.pasword_file", "Did you mean 'password_file'?"]),
        ("outbox", {"max_bytes": 5}, ["outbox.max_bytes: given 5", "greater than or equal to 1048576"]),
        ("outbox", {"max_mb": 5}, ["outbox.max_mb: unknown key"]),
        ("outbox", {"history_days": 0}, ["outbox.history_days: given 0"]),
        ("keep", {"jpeg_quality": 101}, ["keep.jpeg_quality: given 101", "less than or equal to 100"]),
        ("keep", {"frames": -1}, ["keep.frames: given -1"]),
        ("metrics", {}, ["metrics.port: is required"]),
        ("metrics", {"port": "open"}, ['metrics.port: given "open"']),
        ("metrics", {"host": "0.0.0.0"}, ["metrics.host: unknown key"]),  # noqa: S104 - refused
    ],
)
def test_a_wrong_key_or_value_is_refused(tmp_path: Path, path: str, value: object, complaints: list[str]) -> None:
    message = refusal(tmp_path, changed(path, value))

    for complaint in complaints:
        assert complaint in message
    assert "pydantic" not in message


@pytest.mark.parametrize("place", ["releases", "./releases", "../stick", "ftp://host/releases", "~/releases"])
def test_a_repository_that_depends_on_the_working_folder_is_refused(tmp_path: Path, place: str) -> None:
    updates = f"updates: {{repository: {place}, root: ./1.root.json, site: hall-1}}\n"

    assert f'updates.repository: given "{place}"; write an absolute path such as' in refusal(
        tmp_path, MINIMAL + updates
    )


@pytest.mark.parametrize("place", ["/media/releases", "http://host/kensa", "https://host:1/k", "s3://bucket/prefix"])
def test_a_repository_is_an_absolute_folder_or_a_url(tmp_path: Path, place: str) -> None:
    updates = f"updates: {{repository: {place}, root: ./1.root.json, site: hall-1}}\n"

    read = config.load(write(tmp_path, MINIMAL + updates)).updates

    assert read is not None
    assert read.repository == place


def test_all_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    message = refusal(
        tmp_path, MINIMAL.replace("thing: thing-1", "thing: a b").replace("./images", "5\n        fps: -1")
    )

    assert len(message.splitlines()) == 4
    assert "thing: given" in message
    assert f"{SHOWN}.path: given 5, expected a path" in message
    assert f"{SHOWN}.fps" in message


def test_a_camera_in_two_inspections_is_refused_naming_both(tmp_path: Path) -> None:
    whole = tree()
    whole["inspections"]["side"] = whole["inspections"]["top"]

    assert "camera 'cam' is in inspections 'side' and 'top'" in refusal(tmp_path, yaml.safe_dump(whole))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "expected a mapping of keys at the top, got NoneType"),
        ("- a\n- b\n", "expected a mapping of keys at the top, got list"),
        ("just text", "expected a mapping of keys at the top, got str"),
        ("thing: [", "is not valid YAML"),
        ("thing: a\nthing: b\n", "key 'thing' is given twice"),
        ("{1: a}", "key 1 is not text"),
        ("? [a, b]\n: c\n", "is not text"),
        ("thing: !!python/object/apply:os.system ['true']\n", "is not valid YAML"),
        (b"thing: \xff\xfe\n", "is not valid YAML"),
        (b"\x00" * 10, "is not valid YAML"),
        ("[" * 2_000, "is not valid YAML"),
        (b"#" * (config.MAX_CONFIG_BYTES + 1), "this is no configuration file"),
    ],
)
def test_what_is_no_configuration_file_is_refused(tmp_path: Path, text: str | bytes, complaint: str) -> None:
    assert complaint in refusal(tmp_path, text)


def test_aliases_cannot_blow_up_memory(tmp_path: Path) -> None:
    bomb = "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
    for above, name in zip("abcdefghi", "bcdefghij", strict=True):
        bomb += f"{name}: &{name} [{', '.join([f'*{above}'] * 10)}]\n"

    assert "more than 100,000 values" in refusal(tmp_path, bomb)


def test_a_huge_wrong_value_is_shown_in_one_line(tmp_path: Path) -> None:
    message = refusal(tmp_path, changed("thing", [["x" * 40] * 50] * 50))

    assert max(map(len, message.splitlines())) < 400
    assert "..." in message


@pytest.mark.parametrize("name", ["absent.yaml", "folder"])
def test_a_file_that_cannot_be_read_is_named_with_the_example(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()

    with pytest.raises(ConfigError, match=f"{name}: .*Start from docs/config.example.yaml"):
        config.load(tmp_path / name)
