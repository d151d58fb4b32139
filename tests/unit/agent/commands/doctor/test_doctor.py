"""`kensa doctor` finds what keeps a line from running, names the remedy, and never shows a traceback."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
import yaml

from agent import app, cli, config, control
from agent.adapters.onnx import OnnxModel
from agent.commands.doctor import command
from agent.commands.doctor.check_context import CheckContext
from agent.commands.doctor.check_result import CheckResult, CheckStatus
from agent.commands.doctor.checks import releases
from agent.commands.doctor.checks.line import certificates, running_agent
from agent.commands.doctor.checks.machine import processor
from agent.commands.doctor.checks.storage import file_system
from agent.lifecycle.state.journal import Journal, LifecycleRecord
from agent.release import golden_set
from agent.release.manifest import GOLDEN_NAME
from simulator.doubles.network.mqtt_broker import open_broker
from tests.kits.cloud.tuf_repository import SITE, Device, Publisher
from tests.kits.releases import golden_arrays, spot_images, write_release
from tests.kits.requirements import require

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.records import Pixels


def good_picture() -> Pixels:
    """A picture [64, 64] like those of the release's golden set."""
    picture: Pixels = np.kron(spot_images()[0][0, :, :, 0], np.ones((2, 2), np.uint8))
    return picture


@pytest.fixture
def site(tmp_path: Path) -> dict[str, Any]:
    """A healthy configuration as a tree."""
    write_release(tmp_path / "release")
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "0.png"), good_picture())
    return {
        "thing": "thing-1",
        "line": "line-1",
        "state_dir": str(tmp_path / "state"),
        "inspections": {
            "top": {
                "release": str(tmp_path / "release"),
                "cameras": {"cam": {"kind": "folder", "path": str(tmp_path / "images")}},
            }
        },
        "transport": {"kind": "none"},
        "workers": 1,
    }


def written(folder: Path, tree: Mapping[str, Any]) -> Path:
    path = folder / "kensa.yaml"
    path.write_text(yaml.safe_dump(dict(tree)))
    return path


def findings(folder: Path, tree: Mapping[str, Any]) -> dict[str, CheckResult]:
    return {finding.check: finding for finding in command.run_checks(written(folder, tree))}


def test_a_healthy_site_can_run(tmp_path: Path, site: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.main(["doctor", str(written(tmp_path, site))])
    out = capsys.readouterr().out

    assert code == 0, out
    assert "OK    camera cam: 64x64 px mono, first frame after" in out
    assert "8 of 8 golden images classified as where the release was made" in out
    assert "WARN  release top: spots 1.0.0" in out
    assert "untrusted" in out
    assert "the line can run" in out
    assert max(map(len, out.splitlines())) <= 120


def test_json_is_one_object_for_machines(
    tmp_path: Path, site: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    site["inspections"]["top"]["cameras"]["cam"]["path"] = str(tmp_path / "nowhere")

    code = cli.main(["doctor", "--json", str(written(tmp_path, site))])
    told = json.loads(capsys.readouterr().out)

    assert code == 2
    assert told["ok"] is False
    broken = [f for f in told["findings"] if f["status"] == "fail"]
    assert [f["check"] for f in broken] == ["camera cam"]
    assert "nowhere" in broken[0]["seen"]
    assert all(f["remedy"] for f in told["findings"] if f["status"] != "ok")


def test_without_a_configuration_the_machine_is_looked_at() -> None:
    checks = [finding.check for finding in command.run_checks(None)]

    assert checks == ["python", "libraries", "processor", "clock"]


@pytest.mark.parametrize(
    ("picture", "status", "words"),
    [
        (np.full((64, 64), 1, np.uint8), CheckStatus.FAIL, "dark: brightness 1 of 255"),
        (np.full((64, 64), 255, np.uint8), CheckStatus.FAIL, "bright: brightness 255 of 255"),
        (np.full((64, 64), 30, np.uint8), CheckStatus.FAIL, "flat: contrast 0.0"),
        (
            np.hstack([good_picture()] * 2),
            CheckStatus.WARN,
            "another aspect than trained: 128x64 px are 2.00 wide to high",
        ),
        (good_picture()[::4, ::4], CheckStatus.WARN, "smaller than the model's input: 16x16 px against 32x32"),
        (good_picture() + np.uint8(60), CheckStatus.WARN, "in the golden set"),
    ],
)
def test_a_picture_unlike_those_that_the_model_was_trained_on_is_said_so(
    tmp_path: Path, site: dict[str, Any], picture: Pixels, status: CheckStatus, words: str
) -> None:
    cv2.imwrite(str(tmp_path / "images" / "0.png"), picture)

    found = findings(tmp_path, site)["camera cam"]

    assert found.status is status
    assert words in found.seen
    assert found.remedy


def test_a_bad_configuration_ends_the_examination(tmp_path: Path, site: dict[str, Any]) -> None:
    found = findings(tmp_path, {**site, "thing": "a b"})

    assert found["configuration"].status is CheckStatus.FAIL
    assert "thing: given" in found["configuration"].seen
    assert list(found)[-1] == "configuration"


# --- updates ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def updating(tmp_path: Path, site: dict[str, Any]) -> dict[str, Any]:
    """A configuration that follows a real repository."""
    publisher = Publisher.start(tmp_path)
    site["updates"] = {"repository": str(publisher.repository), "root": str(publisher.root), "site": SITE}
    return site


def test_a_site_with_updates_is_looked_at_without_touching_it(tmp_path: Path, updating: dict[str, Any]) -> None:
    found = findings(tmp_path, updating)

    assert {check: finding.status for check, finding in found.items() if "updates" in check} == {
        "updates root": CheckStatus.OK,
        "updates trust": CheckStatus.OK,
        "updates repository": CheckStatus.OK,
    }
    assert "1.root.json: version 1, expires 20" in found["updates root"].seen
    assert f"the metadata of {SITE} verify, signed" in found["updates repository"].seen
    assert "0 releases are revoked" in found["updates repository"].seen
    assert found["release top"].status is CheckStatus.OK
    assert "the factory release, which no signature vouches for" in found["release top"].seen
    assert "idle, active the factory release, desired nothing" in found["model top"].seen
    assert not (tmp_path / "state").exists()


def test_what_an_agent_accepted_is_judged_by_and_left_alone(tmp_path: Path, updating: dict[str, Any]) -> None:
    trust = tmp_path / "state" / "trust"
    timestamp = tmp_path / "repository" / "metadata" / "timestamp.json"
    old = timestamp.read_bytes()
    Publisher(tmp_path).open().publish(refresh=True)
    Device(tmp_path / "state", Path(updating["updates"]["root"]), updating["updates"]["repository"]).refresh()
    before = {path: path.lstat().st_mtime_ns for path in trust.rglob("*")}
    timestamp.write_bytes(old)

    found = findings(tmp_path, updating)["updates repository"]

    assert found.status is CheckStatus.WARN
    assert "metadata_rollback" in str(found.remedy)
    assert {path: path.lstat().st_mtime_ns for path in trust.rglob("*")} == before


@pytest.mark.parametrize(
    ("key", "value", "check", "status", "says"),
    [
        ("root", "nowhere.json", "updates root", CheckStatus.FAIL, "No such file"),
        ("root", "kensa.yaml", "updates root", CheckStatus.FAIL, "is no root metadata"),
        ("root", "repository/metadata/timestamp.json", "updates root", CheckStatus.FAIL, "role timestamp, not root"),
        ("site", "plant-z", "updates repository", CheckStatus.FAIL, "has no site plant-z"),
        ("repository", "/nowhere/releases", "updates repository", CheckStatus.WARN, "/nowhere/releases: "),
    ],
)
def test_updates_that_cannot_work_are_named(
    tmp_path: Path, updating: dict[str, Any], key: str, value: str, check: str, status: CheckStatus, says: str
) -> None:
    updating["updates"][key] = str(tmp_path / value) if key == "root" else value

    found = findings(tmp_path, updating)[check]

    assert (found.status, says in found.seen) == (status, True), found
    assert found.remedy


def test_a_model_that_waits_for_a_person_is_a_warning(tmp_path: Path, updating: dict[str, Any]) -> None:
    journal = Journal(tmp_path / "state" / "models" / "top", checkpoint=lambda _: None)
    journal.save(LifecycleRecord(halted=True, rollbacks_utc_s=(1.0, 2.0, 3.0)))

    found = findings(tmp_path, updating)["model top"]

    assert found.status is CheckStatus.WARN
    assert "3 automatic rollbacks within a day" in found.seen


# --- machine ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cpuinfo", "status", "says"),
    [
        ("flags\t\t: fpu avx2 avx512_vnni\n" * 2, CheckStatus.OK, "AVX512-VNNI: int8 at full speed"),
        ("flags\t\t: fpu avx2 avx_vnni\n", CheckStatus.OK, "AVX-VNNI"),
        ("Features\t: fp asimd asimddp\n", CheckStatus.OK, "NEON dot product"),
        ("flags\t\t: fpu avx2\n", CheckStatus.OK, "train with --target-cpu any, the default, or avx2"),
        ("flags\t\t: fpu sse4_2\n", CheckStatus.WARN, "neither AVX2 nor int8 dot products"),
        ("Features\t: asimddp\n\nFeatures\t: asimd\n", CheckStatus.WARN, "neither"),  # big.LITTLE: one core lacks it
        ("", CheckStatus.WARN, "neither"),
    ],
)
def test_the_processor_is_told_in_terms_of_int8(cpuinfo: str, status: CheckStatus, says: str) -> None:
    finding = processor.check_processor(cpuinfo, "arch")

    assert finding.status is status
    assert says in finding.seen


# --- state ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/", "ext4"), ("/var/lib", "xfs"), ("/var/library", "ext4"), ("/mnt/with blank/x", "nfs4"), ("/run/x", "tmpfs")],
)
def test_the_file_system_is_the_innermost_mount(path: str, kind: str) -> None:
    mountinfo = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
23 22 8:2 / /var/lib rw shared:2 - xfs /dev/sda2 rw
24 22 0:5 / /run rw - tmpfs tmpfs rw
25 22 0:6 / /mnt/with\\040blank rw - nfs4 server:/x rw
nonsense
"""

    assert file_system.file_system_type(mountinfo, Path(path)) == kind


def test_a_directory_that_cannot_be_made_is_a_failure(tmp_path: Path, site: dict[str, Any]) -> None:
    (tmp_path / "file").write_text("")
    found = findings(tmp_path, {**site, "state_dir": str(tmp_path / "file" / "state")})

    if os.geteuid() != 0:  # root may write everywhere, but not below a file
        assert found["state_dir"].status is CheckStatus.FAIL
    assert found["state_dir"].check == "state_dir"


def test_a_state_dir_that_is_a_file_is_a_failure_with_a_remedy(tmp_path: Path, site: dict[str, Any]) -> None:
    (tmp_path / "file").write_text("")

    found = findings(tmp_path, {**site, "state_dir": str(tmp_path / "file")})

    assert found["state_dir"].status is CheckStatus.FAIL
    assert "write access" in str(found["state_dir"].remedy)


def test_caps_that_the_disk_cannot_hold_are_told(tmp_path: Path, site: dict[str, Any]) -> None:
    free = shutil.disk_usage(tmp_path).free
    enough = findings(tmp_path, {**site, "keep": {"frames": 0}, "outbox": {"max_bytes": 2**20, "history_bytes": 2**20}})
    warned = findings(tmp_path, {**site, "outbox": {"max_bytes": min(2**40, 2 * free)}})
    failed = findings(tmp_path, {**site, "outbox": {"max_bytes": min(2**40, 20 * free)}})

    assert enough["disk"].status is CheckStatus.OK
    assert warned["disk"].status is CheckStatus.WARN
    assert failed["disk"].status is CheckStatus.FAIL or free > 2**40 / 10


def test_a_metrics_port_in_use_is_a_failure(tmp_path: Path, site: dict[str, Any]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()

        found = findings(tmp_path, {**site, "metrics": {"port": taken.getsockname()[1]}})

    assert found["metrics"].status is CheckStatus.FAIL
    assert findings(tmp_path, {**site, "metrics": {"port": 0}})["metrics"].status is CheckStatus.OK


def test_nothing_is_left_behind_and_nothing_is_made(tmp_path: Path, site: dict[str, Any]) -> None:
    findings(tmp_path, site)
    assert not (tmp_path / "state").exists()
    (tmp_path / "state").mkdir()

    findings(tmp_path, site)

    assert list((tmp_path / "state").iterdir()) == []


# --- releases ---------------------------------------------------------------------------------------------------------


def release_findings(folder: Path, tree: Mapping[str, Any]) -> dict[str, CheckResult]:
    loaded = config.load(written(folder, tree))
    return {finding.check: finding for finding in releases.run_checks(CheckContext(loaded))}


def test_a_release_that_is_refused_is_named_with_the_reason(tmp_path: Path, site: dict[str, Any]) -> None:
    (tmp_path / "release" / "model.onnx").write_bytes(b"changed")

    found = release_findings(tmp_path, site)

    assert found["release top"].status is CheckStatus.FAIL
    assert "is not the file that the manifest names" in found["release top"].seen


def golden_bytes(folder: Path, arrays: Mapping[str, Any]) -> bytes:
    np.savez_compressed(folder / "changed.npz", **arrays)
    return (folder / "changed.npz").read_bytes()


@pytest.mark.parametrize(
    ("change", "status", "says"),
    [
        (lambda a: a, CheckStatus.OK, "scores within 0.0000"),
        (lambda a: {k: a[k] for k in ("images", "scores", "evidence")}, CheckStatus.OK, "8 of 8"),
        (lambda a: {**a, "scores": 1 - a["scores"]}, CheckStatus.FAIL, "0 of 8 golden images"),
        (lambda a: {**a, "scores": a["scores"] - np.float32(0.06)}, CheckStatus.WARN, "8 of 8"),
        (lambda a: {**a, "images": a["images"][:, :16]}, CheckStatus.FAIL, "images is uint8 [8, 16, 32, 1], expected"),
        (lambda a: {**a, "scores": a["scores"][:4]}, CheckStatus.FAIL, "scores is float32 [4, 2], expected float32"),
        (lambda a: {**a, "evidence": a["evidence"][:, :2]}, CheckStatus.FAIL, "evidence has another shape"),
        (lambda a: {**a, "evidence": a["evidence"][0]}, CheckStatus.FAIL, "evidence is float32 [4, 4]"),
        (lambda a: {"images": a["images"][:0], "scores": a["scores"][:0]}, CheckStatus.FAIL, "images is uint8 [0, 32"),
        (lambda a: {"scores": a["scores"]}, CheckStatus.FAIL, "images is missing"),
        (lambda _: {"images": np.array([{}], object)}, CheckStatus.FAIL, "is no golden set"),
    ],
)
def test_the_golden_set_must_come_out_again(
    tmp_path: Path, site: dict[str, Any], change: Any, status: CheckStatus, says: str
) -> None:
    arrays = change(golden_arrays(*spot_images()))
    write_release(tmp_path / "release", golden=golden_bytes(tmp_path, arrays))

    finding = release_findings(tmp_path, site)["release top golden"]

    assert finding.status is status, finding
    assert says in finding.seen


@pytest.mark.parametrize("data", [b"x", b"PK\x03\x04", b"\x93NUMPY\x01\x00"])
def test_a_golden_file_that_is_none_is_a_failure(tmp_path: Path, site: dict[str, Any], data: bytes) -> None:
    write_release(tmp_path / "release", golden=data)

    finding = release_findings(tmp_path, site)["release top golden"]

    assert finding.status is CheckStatus.FAIL
    assert GOLDEN_NAME in finding.seen


def test_a_golden_bomb_is_not_unpacked(tmp_path: Path, site: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(golden_set, "MAX_UNPACKED_BYTES", 1_000_000)  # the real limit would take seconds to make
    write_release(tmp_path / "release", golden=golden_bytes(tmp_path, {"images": np.zeros(2_000_000, np.uint8)}))

    finding = release_findings(tmp_path, site)["release top golden"]

    assert finding.status is CheckStatus.FAIL
    assert "at most 1,000,000 are read" in finding.seen


def test_thresholds_for_a_class_that_the_model_lacks_are_a_failure(tmp_path: Path, site: dict[str, Any]) -> None:
    site["inspections"]["top"]["thresholds"] = {"dent": 0.5}

    finding = release_findings(tmp_path, site)["release top thresholds"]

    assert finding.status is CheckStatus.FAIL
    assert "dent is no defect class of spots 1.0.0; its defects are spot" in finding.seen


def test_a_vnni_release_on_another_processor_is_warned_of(
    tmp_path: Path, site: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    release = write_release(tmp_path / "release")
    tree = json.loads((release / "manifest.json").read_text())
    tree["lineage"]["parameters"]["target_cpu"] = "vnni"
    (release / "manifest.json").write_text(json.dumps(tree))
    for has, expected in ((False, True), (True, False)):
        monkeypatch.setattr(releases, "own_processor_has_dot_product", lambda has=has: has)
        assert ("release top cpu" in release_findings(tmp_path, site)) is expected


def test_a_release_of_two_inspections_is_loaded_once(
    tmp_path: Path, site: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    site["inspections"]["side"] = {**site["inspections"]["top"], "cameras": {"b": {"kind": "v4l2"}}}
    loads: list[Path] = []
    load = OnnxModel.load

    def counted(path: Path) -> OnnxModel:
        loads.append(path)
        return load(path)

    monkeypatch.setattr(OnnxModel, "load", counted)

    found = release_findings(tmp_path, site)

    assert len(loads) == 1
    assert {"release top", "release side"} <= set(found)


# --- line -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("camera", "says"),
    [
        ({"width": 640, "height": 480}, "64x64 px mono, first frame after"),
        ({"path": "/nowhere"}, "/nowhere"),
        ({"split": "val"}, "val"),
    ],
)
def test_a_camera_that_would_deliver_nothing_usable_is_a_failure(
    tmp_path: Path, site: dict[str, Any], camera: dict[str, Any], says: str
) -> None:
    site["inspections"]["top"]["cameras"]["cam"].update(camera)

    finding = findings(tmp_path, site)["camera cam"]

    assert finding.status is CheckStatus.FAIL
    assert says in finding.seen
    assert finding.remedy


def test_a_roi_outside_the_cameras_picture_is_a_failure(tmp_path: Path, site: dict[str, Any]) -> None:
    site["inspections"]["top"]["roi"] = [0, 0, 500, 500]

    finding = findings(tmp_path, site)["camera cam"]

    assert finding.status is CheckStatus.FAIL
    assert "does not lie in a frame of 64x64 px" in finding.seen


def test_pictures_of_kinds_that_are_not_read_are_a_warning(tmp_path: Path, site: dict[str, Any]) -> None:
    (tmp_path / "images" / "1.tif").write_bytes(b"II*")
    found = findings(tmp_path, site)["camera cam"]
    assert found.status is CheckStatus.WARN
    assert "1 picture of other kinds passed over: 1 .tif (1.tif)" in found.seen
    assert "save these pictures as PNG" in str(found.remedy)


def test_a_damaged_picture_is_told_as_such(tmp_path: Path, site: dict[str, Any]) -> None:
    (tmp_path / "images" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\n cut")

    finding = findings(tmp_path, site)["camera cam"]

    assert finding.status is CheckStatus.FAIL
    assert "its first frame cannot be used" in finding.seen


def test_a_broker_that_answers_is_found(tmp_path: Path, site: dict[str, Any]) -> None:
    with open_broker() as broker:
        site["transport"] = {"kind": "mqtt", "host": broker.host, "port": broker.port, "protocol": "3.1.1"}

        finding = findings(tmp_path, site)["broker"]

    assert finding.status is CheckStatus.OK, finding
    assert "MQTT 3.1.1, connected as thing-1" in finding.seen


def test_brokers_that_cannot_be_reached_are_told_apart(tmp_path: Path, site: dict[str, Any]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    site["transport"] = {"kind": "mqtt", "host": "127.0.0.1", "port": free}
    refused = findings(tmp_path, site)["broker"]
    site["transport"] = {"kind": "mqtt", "host": "no-such-host.invalid", "port": free}
    unknown = findings(tmp_path, site)["broker"]

    assert (refused.status, unknown.status) == (CheckStatus.FAIL, CheckStatus.FAIL)
    assert "refused" in refused.seen
    assert "has no address" in unknown.seen


def test_a_running_agent_is_asked_instead_of_its_cameras(tmp_path: Path, site: dict[str, Any]) -> None:
    path = written(tmp_path, site)
    with app.build(config.load(path)):
        found = {finding.check: finding for finding in command.run_checks(path)}

    assert found["agent"].seen == f"runs on this state directory as process {os.getpid()}"
    assert "says the running agent" in found["camera cam"].seen
    assert found["broker"].status is CheckStatus.WARN
    assert control.running_agent(tmp_path / "state") is None


def test_what_the_agent_says_of_cameras_and_broker_is_passed_on() -> None:
    beat = {
        "cameras": [{"camera": "c", "state": "reconnecting", "fps": 0.0, "error": "no route"}],
        "transport": "down",
        "transport_reason": "not authorised",
    }

    camera, broker = running_agent.results_from_agent({"heartbeat": beat})

    assert (camera.status, broker.status) == (CheckStatus.FAIL, CheckStatus.FAIL)
    assert "no route" in camera.seen
    assert "not authorised" in broker.seen


def test_a_topic_that_the_broker_refuses_is_a_failure_with_its_reason() -> None:
    held = {"topic": "kensa/t/verdicts/c", "reason": "Not authorized", "for_s": 90.0}
    beat = {"cameras": [], "transport": "up", "outbox": {"held_back": [held]}}

    topic, broker = running_agent.results_from_agent({"heartbeat": beat})

    assert (topic.status, broker.status) == (CheckStatus.FAIL, CheckStatus.OK)
    assert topic.check == "topic kensa/t/verdicts/c"
    assert "refused for 90 s, its messages wait: Not authorized" in topic.seen


# --- certificates -----------------------------------------------------------------------------------------------------


def certificate(folder: Path, days: int) -> Path:
    require(shutil.which("openssl"), "openssl", "apt install openssl")
    path = folder / f"{days}.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-keyout", str(folder / "key"), "-out", str(path), "-subj", "/CN=x", "-days", str(days)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return path


@pytest.mark.parametrize(("days", "status"), [(365, CheckStatus.OK), (10, CheckStatus.WARN), (20_000, CheckStatus.OK)])
def test_a_certificate_tells_until_when_it_is_good(tmp_path: Path, days: int, status: CheckStatus) -> None:
    path = certificate(tmp_path, days)

    finding = certificates.check_certificate("certificate", path)
    begins, ends = certificates.validity(path.read_text())

    assert finding.status is status
    assert ends - begins == timedelta(days=days)
    assert abs(begins - datetime.now(UTC)) < timedelta(minutes=5)


def test_an_expired_certificate_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime.now(UTC)
    path = certificate(tmp_path, 1)
    for begins, ends, says in (
        (now - timedelta(days=9), now - timedelta(days=1), "expired on"),
        (now + timedelta(days=1), now + timedelta(days=9), "is valid from"),
    ):
        monkeypatch.setattr(certificates, "validity", lambda _, span=(begins, ends): span)
        finding = certificates.check_certificate("certificate", path)
        assert finding.status is CheckStatus.FAIL
        assert says in finding.seen


@pytest.mark.parametrize("text", ["", "x", "-----BEGIN CERTIFICATE-----\nMAAA\n-----END CERTIFICATE-----\n"])
def test_what_is_no_certificate_is_a_failure(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.pem"
    path.write_text(text)

    assert certificates.check_certificate("certificate", path).status is CheckStatus.FAIL
    assert certificates.check_certificate("certificate", tmp_path / "absent").status is CheckStatus.FAIL
