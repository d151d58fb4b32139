"""A device fetches a release from a folder, over HTTP and from S3 through the real child."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from agent.children.fetch_protocol import FetchLimits, FetchReason, FetchRequest, FetchRequestLine
from agent.errors import FetchError
from simulator.doubles.servers.release_server import ReleaseServer
from simulator.doubles.servers.s3_server import S3Server
from tests.kits.cloud.tuf_repository import PATIENT, RELEASE, SITE, Device, Publisher
from tests.kits.requirements import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MANY_IMAGES = 1_000  # a golden set of 1 MB


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    publisher = Publisher.start(tmp_path)
    publisher.release(images=MANY_IMAGES)
    return publisher


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def is_the_release(device: Device, publisher: Publisher) -> bool:
    made = files(publisher.base / "made" / "1.0.0")
    here = files(device.into)
    return (here["model.onnx"], here["golden.npz"]) == (made["model.onnx"], made["golden.npz"]) and len(here) == 3


def test_from_a_folder_with_progress_and_a_counter(publisher: Publisher, tmp_path: Path) -> None:
    device = Device(tmp_path / "a line's device", publisher.root, str(publisher.repository))

    fetched = device.fetch()

    assert is_the_release(device, publisher)
    assert fetched.ref.release_id == RELEASE
    assert fetched.ref.counter == json.loads((device.into / "manifest.json").read_bytes())["counter"] == 1
    assert device.progress[-1][0] == device.progress[-1][1] > 1_000_000
    assert [done for done, _ in device.progress] == sorted(done for done, _ in device.progress)


def test_over_http_from_any_server_that_serves_the_folder(publisher: Publisher, tmp_path: Path) -> None:
    with ReleaseServer(publisher.repository) as server:
        server.ranges = False
        device = Device(tmp_path / "device", publisher.root, server.url + "/")

        device.fetch()

        assert is_the_release(device, publisher)
        device.fetch()
        sent = server.sent("/files/*")
    assert sent == device.progress[-1][1]  # the second time nothing was fetched


def test_published_to_s3_and_fetched_from_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "s3").mkdir()
    with S3Server(tmp_path / "s3") as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        publisher = Publisher.start(tmp_path, where="s3://releases/line/one")
        publisher.release(images=MANY_IMAGES)
        device = Device(tmp_path / "device", publisher.root, "s3://releases/line/one")
        server.truncated("*/files/*", after=300_000, times=1)

        device.fetch()

        assert is_the_release(device, publisher)
        assert server.sent("*/files/*") == device.progress[-1][1]  # resumed by range, nothing twice
        server.failing("*timestamp.json", status=503)
        with pytest.raises(FetchError) as refused:
            device.fetch()
    assert refused.value.reason == FetchReason.UNREACHABLE


def test_a_fetch_whose_child_is_killed_goes_on_where_it_was(publisher: Publisher, tmp_path: Path) -> None:
    with ReleaseServer(publisher.repository) as server:
        device = Device(tmp_path / "device", publisher.root, server.url, limits=PATIENT)
        server.slow("/files/*", bytes_per_s=400_000)
        stop = threading.Event()
        killed = threading.Thread(target=stop_after, args=(device, 400_000, stop), name="killer")
        killed.start()
        with pytest.raises(FetchError) as stopped:
            device.fetch(stop=stop)
        killed.join(120)
        assert stopped.value.reason == FetchReason.STOPPED
        kept = sum(path.stat().st_size for path in device.into.glob("*.part"))
        assert kept >= 300_000
        assert not (device.into / "manifest.json").exists()
        server.clear_faults()
        time.sleep(0.2)  # until the server has noticed and counted
        before = server.sent("/files/*")

        device.fetch()

        total = device.progress[-1][1]
        assert is_the_release(device, publisher)
        assert server.sent("/files/*") - before <= total - kept
        starts = [request.start for request in server.requests if request.path.startswith("/files/")]
        assert max(starts) >= 300_000


def stop_after(device: Device, done: int, stop: threading.Event) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not any(so_far >= done for so_far, _ in device.progress):
        time.sleep(0.01)
    stop.set()


def test_a_server_without_ranges_is_asked_for_the_whole_file_again(publisher: Publisher, tmp_path: Path) -> None:
    with ReleaseServer(publisher.repository) as server:
        device = Device(tmp_path / "device", publisher.root, server.url)
        server.ranges = False
        server.truncated("/files/*", after=100_000, times=1)

        device.fetch()

    assert is_the_release(device, publisher)


def test_a_part_that_was_damaged_on_this_disk_is_fetched_again(publisher: Publisher, tmp_path: Path) -> None:
    device = Device(tmp_path / "device", publisher.root, str(publisher.repository))
    manifest = json.loads(publisher.file(f"targets/{SITE}/{RELEASE}/*").read_bytes())
    device.into.mkdir(parents=True)
    (device.into / f"{manifest['files']['golden.npz']['sha256']}.part").write_bytes(b"\0" * 5_000)
    (device.into / f"{'0' * 64}.part").write_bytes(b"of another release")

    device.fetch()

    assert is_the_release(device, publisher)


def fail_twice(server: ReleaseServer) -> None:
    server.failing("*timestamp.json", status=500, times=2)


def cut_often(server: ReleaseServer) -> None:
    server.truncated("/files/*", after=150_000, times=5)


@pytest.mark.parametrize("fault", [fail_twice, cut_often])
def test_a_bad_network_is_outlasted(
    publisher: Publisher, tmp_path: Path, fault: Callable[[ReleaseServer], None]
) -> None:
    with ReleaseServer(publisher.repository) as server:
        fault(server)
        device = Device(tmp_path / "device", publisher.root, server.url)

        device.fetch()

    assert is_the_release(device, publisher)


# --- what this machine or the way to the repository lacks -------------------------------------------------------------


def no_server(device: Device) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        device.repository = f"http://127.0.0.1:{probe.getsockname()[1]}"


def no_stick(device: Device) -> None:
    device.repository = str(device.base / "media" / "usb")


def an_empty_folder(device: Device) -> None:
    device.repository = str(device.base)


def a_lost_file(device: Device) -> None:
    for path in (device.root.parents[2] / "repository" / "files").iterdir():
        path.unlink()


def a_small_disk(device: Device) -> None:
    device.limits = FetchLimits(reserve_bytes=1 << 60)


def no_root(device: Device) -> None:
    device.root = device.base / "1.root.json"


def a_torn_root(device: Device) -> None:
    torn = device.base / "1.root.json"
    torn.write_bytes(device.root.read_bytes()[:100])
    device.root = torn


def a_file_in_the_way(device: Device) -> None:
    device.trust.write_text("not a folder", encoding="utf-8")


def ftp(device: Device) -> None:
    device.repository = "ftp://127.0.0.1/releases"


LACKS: list[tuple[Callable[[Device], None], FetchReason, str]] = [
    (no_server, FetchReason.UNREACHABLE, "cannot be read"),
    (no_stick, FetchReason.UNREACHABLE, "is the medium inserted?"),
    (an_empty_folder, FetchReason.MISSING_FILE, "there is no repository at updates.repository"),
    (a_lost_file, FetchReason.MISSING_FILE, "Publish it again"),
    (a_small_disk, FetchReason.NO_SPACE, "Make room"),
    (no_root, FetchReason.ROOT_UNUSABLE, "1.root.json"),
    (a_torn_root, FetchReason.ROOT_UNUSABLE, "1.root.json"),
    (a_file_in_the_way, FetchReason.STORAGE, "the state directory"),
    (ftp, FetchReason.REQUEST, "http://"),
]


@pytest.mark.parametrize(("lack", "reason", "text"), LACKS, ids=lambda value: getattr(value, "__name__", None))
def test_what_is_lacking_has_a_reason_and_a_remedy_and_is_tried_again(
    publisher: Publisher, tmp_path: Path, lack: Callable[[Device], None], reason: FetchReason, text: str
) -> None:
    device = Device(tmp_path / "device", publisher.root, str(publisher.repository))
    device.base.mkdir()
    lack(device)

    with pytest.raises(FetchError) as refused:
        device.fetch()

    assert refused.value.reason == reason, str(refused.value)
    assert text in str(refused.value)


def test_a_release_that_is_not_there_yet_is_unknown_and_a_wrong_name_is_no_request(
    publisher: Publisher, tmp_path: Path
) -> None:
    device = Device(tmp_path / "device", publisher.root, str(publisher.repository))
    reasons = {}
    for name in ("spots/7.0.0", "../spots/1.0.0", "spots/1.0.0/../../x", "spots"):
        with pytest.raises(FetchError) as refused:
            device.fetch(name)
        reasons[name] = refused.value.reason

    assert reasons.pop("spots/7.0.0") == FetchReason.TARGET_UNKNOWN
    assert set(reasons.values()) == {FetchReason.REQUEST}


def test_the_wall_time_ends_a_fetch_that_is_too_slow_as_a_whole(publisher: Publisher, tmp_path: Path) -> None:
    with ReleaseServer(publisher.repository) as server:
        server.slow("/files/*", bytes_per_s=50_000)
        device = Device(tmp_path / "device", publisher.root, server.url, timeout_s=4.0)

        with pytest.raises(FetchError) as refused:
            device.fetch()

    assert refused.value.reason == FetchReason.TIMEOUT


def test_a_child_that_dies_is_a_reason_too(publisher: Publisher, tmp_path: Path) -> None:
    device = Device(tmp_path / "device", publisher.root, str(publisher.repository))
    device.limits = FetchLimits(memory_bytes=256 * 1024**2, cpu_s=1)  # imports alone take more address space

    with pytest.raises(FetchError) as refused:
        device.fetch()

    assert refused.value.reason in {FetchReason.CRASHED, FetchReason.MISSING_PACKAGE}


def test_a_look_brings_what_was_taken_back_and_fetches_nothing(publisher: Publisher, tmp_path: Path) -> None:
    with ReleaseServer(publisher.repository) as server:
        device = Device(tmp_path / "device", publisher.root, server.url)
        before = device.refresh()
        digests = publisher.open().revoke(RELEASE, SITE, "misses scratches")

        after = device.refresh()

        assert (before.revoked, after.revoked) == (frozenset(), frozenset(digests))
        assert after.signed_utc_s == pytest.approx(time.time(), abs=60)
        assert after.root_expires_utc_s == pytest.approx(time.time() + 365 * 86_400, rel=0.01)
        assert server.sent("/files/*") == 0
        assert not device.into.exists()


def test_a_look_for_a_site_that_there_is_not_says_so(publisher: Publisher, tmp_path: Path) -> None:
    device = Device(tmp_path / "device", publisher.root, str(publisher.repository), site="plant-z")

    with pytest.raises(FetchError, match="has no site plant-z") as refused:
        device.refresh()

    assert refused.value.reason == FetchReason.TARGET_UNKNOWN


def test_a_look_at_a_frozen_repository_fails_with_its_reason(publisher: Publisher, tmp_path: Path) -> None:
    device = Device(tmp_path / "device", publisher.root, str(publisher.repository))

    with pytest.raises(FetchError) as refused:
        device.refresh(trusted_utc_s=time.time() + 40 * 86_400)

    assert refused.value.reason == FetchReason.METADATA_EXPIRED


def test_the_child_ends_with_the_process_that_started_it(publisher: Publisher, tmp_path: Path) -> None:
    with ReleaseServer(publisher.repository) as server:
        server.silent("*timestamp.json")
        request = FetchRequest(
            repository=server.url,
            root=publisher.root,
            site=SITE,
            release_id=RELEASE,
            into=tmp_path / "into",
            trust_dir=tmp_path / "trust",
            reference_utc_s=time.time(),
            max_release_bytes=1024**2,
            limits=FetchLimits(stall_s=100),
        )
        child = subprocess.Popen(
            [sys.executable, "-m", "agent.fetch"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
        )
        assert child.stdin is not None
        child.stdin.write(FetchRequestLine(body=request).model_dump_json().encode() + b"\n")
        child.stdin.flush()
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(2)
        child.stdin.close()  # as the kernel does when the agent dies

        assert child.wait(120) == 3


def test_fetching_loads_no_tuf_and_no_cloud_sdk_into_the_inspecting_process(
    publisher: Publisher, tmp_path: Path
) -> None:
    program = f"""
import sys, threading
from pathlib import Path
import agent.cli, agent.app
from agent.timing.clock import SystemClock
from agent.children.fetch_client import FetchClient
from agent.ports import FetchJob
fetcher = FetchClient(repository={str(publisher.repository)!r}, root=Path({str(publisher.root)!r}), site={SITE!r},
    trust_dir=Path({str(tmp_path / "trust")!r}), max_release_bytes=10**8, timeout_s=60, clock=SystemClock())
fetched = fetcher.fetch(FetchJob(release_id={RELEASE!r}, into=Path({str(tmp_path / "into")!r}), trusted_utc_s=0,
    stop=threading.Event()))
assert fetched.ref.counter == 1
print(*sorted({{m.partition('.')[0] for m in sys.modules}}))
"""
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )

    assert not {"boto3", "botocore", "cryptography", "securesystemslib", "tuf", "urllib3"} & set(result.stdout.split())
