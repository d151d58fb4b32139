"""Dead, hanging, malformed and changing RTSP cameras: each is named, and none blocks anything."""

from __future__ import annotations

import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agent.adapters.opencv_sources import RtspSource
from agent.errors import CameraError
from agent.timing.clock import SystemClock
from agent.video import rtsp_session
from agent.video.capture_protocol import OpenRtsp
from agent.video.opencv_cameras import open_camera
from agent.video.rtsp_relay import RtspRelay
from simulator.doubles.cameras.frame_stamp import stamped_jpegs
from simulator.doubles.cameras.rtsp_server import RtspFault, RtspServer
from simulator.doubles.cameras.simulated_cameras import BlackHole
from tests.kits.requirements import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.records import Grab, Pixels

CLOCK = SystemClock()
LONG_S = 60.0  # a safety bound, never an expectation
PICTURE = stamped_jpegs(width=256, height=64)


def opened(url: str) -> RtspSource:
    source = RtspSource(url=url, clock=CLOCK)
    source.open()
    return source


def first_grab(source: RtspSource) -> Grab:
    deadline = time.monotonic() + LONG_S
    while (grab := source.read(timeout_s=0.2, buffer=None)) is None:
        assert time.monotonic() < deadline
    return grab


def error_of(url: str) -> str:
    source = RtspSource(url=url, clock=CLOCK)

    def attempt() -> None:
        source.open()
        first_grab(source)

    with pytest.raises(CameraError) as caught:
        attempt()
    source.close()
    return str(caught.value)


def child_of(source: RtspSource) -> int:
    assert source._process is not None
    return source._process.pid


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists() or "State:\tZ" in Path(f"/proc/{pid}/status").read_text()


NAMED = {
    RtspFault.HANGS_UP: "hangs up without an answer",
    RtspFault.CUT_ANSWER: "hangs up in the middle of its answer",
    RtspFault.NOT_RTSP: "does not speak RTSP (it says 'HTTP/1.1 400 Bad Request')",
    RtspFault.ENDLESS: "headers of a message do not end",
    RtspFault.NOT_FOUND: "(404): check the path",
    RtspFault.FORBIDDEN: "forbids the stream (403)",
    RtspFault.FULL: "no bandwidth left for another client (453)",
    RtspFault.MOVED: "has moved (301)",
    RtspFault.NO_VIDEO: "offers no video",
}


def first_words(port: int, *, host: str = "127.0.0.1", scheme: str = "rtsp") -> str:
    """Speak to the camera as its capture process would; return why that fails."""
    order = OpenRtsp(scheme=scheme, host=host, port=port, path="/line", user=None, password=None, transport="tcp")
    with pytest.raises(CameraError) as caught:
        rtsp_session.open_session(order)
    return str(caught.value)


@pytest.mark.parametrize("fault", NAMED)
def test_every_way_to_be_dead_is_named_with_its_remedy(fault: RtspFault) -> None:
    with RtspServer(picture=PICTURE, fault=fault) as server:
        said = first_words(server.port)
    assert NAMED[fault] in said
    assert ": " in said, "a remedy"


def test_a_camera_that_cannot_be_opened_is_named_without_its_path_and_password() -> None:
    with RtspServer(picture=PICTURE, fault=RtspFault.NOT_FOUND) as server:
        said = error_of(server.url.replace("//", "//op:s3cret@") + "?token=s3cret")
    assert said.startswith(f"rtsp://127.0.0.1:{server.port} cannot be opened: it has no stream at this path (404)")
    assert "s3cret" not in said


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        (RtspFault.SILENT, "accepts the connection and does not answer"),
        (RtspFault.HALF_AN_ANSWER, "does not finish its answer"),
    ],
)
def test_a_camera_that_keeps_silent_is_named_once_its_time_is_over(
    fault: RtspFault, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rtsp_session, "_ANSWER_S", 0.5)
    with RtspServer(picture=PICTURE, fault=fault) as server:
        assert named in first_words(server.port)


def test_an_address_that_swallows_connections_and_a_name_without_address_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rtsp_session, "_CONNECT_S", 0.5)
    with BlackHole() as hole:
        assert "it cannot be reached (no answer" in first_words(hole.port)
    assert "its name has no address" in first_words(554, host="camera.invalid")


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        (RtspFault.SETUP_HANGS, "does not answer SETUP"),
        (RtspFault.PLAY_HANGS, "does not answer PLAY"),
        (RtspFault.NO_PICTURES, "sends no picture"),
    ],
)
def test_a_camera_that_hangs_after_its_description_is_named_too(
    fault: RtspFault, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.video.opencv_cameras._OPEN_MS", 500)
    with RtspServer(picture=PICTURE, fault=fault) as server, pytest.raises(CameraError, match=named):
        open_camera(OpenRtsp("rtsp", "127.0.0.1", server.port, "/line", None, None, "tcp"))


@pytest.mark.parametrize("fault", [*RtspFault, None])
def test_closing_never_waits_for_a_camera_and_leaves_no_process(fault: RtspFault | None) -> None:
    with RtspServer(picture=PICTURE, fault=fault) as server:
        source = RtspSource(url=server.url, clock=CLOCK)
        try:
            source.open()
            child = child_of(source)
            source.read(timeout_s=0.5, buffer=None)
        except CameraError:
            child = child_of(source)
        began = time.monotonic()
        source.close()
        assert time.monotonic() - began < LONG_S / 4
        assert is_gone(child)


def test_many_dead_cameras_do_not_keep_a_good_one_waiting() -> None:
    with ExitStack() as stack:
        dead = [stack.enter_context(RtspServer(picture=PICTURE, fault=RtspFault.PLAY_HANGS)) for _ in range(3)]
        good = stack.enter_context(RtspServer(picture=PICTURE, fps=50))
        sources = [opened(server.url) for server in dead]
        wait_for(lambda: all(any(line.startswith("PLAY") for line in server.requests) for server in dead))
        source = opened(good.url)
        first_grab(source)  # inside OpenCV the others hold the lock for seconds, each
        for each in (*sources, source):
            each.close()


# --- logins -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["basic", "digest", "digest-sha256"])
def test_each_login_works_and_a_wrong_one_is_named(scheme: Literal["basic", "digest", "digest-sha256"]) -> None:
    with RtspServer(picture=PICTURE, user="op:s3:cr/et", scheme=scheme) as server:
        bare = server.url.removeprefix("rtsp://")
        source = opened(f"rtsp://op:s3%3Acr%2Fet@{bare}")
        first_grab(source)
        source.close()
        wrong = error_of(f"rtsp://op:wr0ng@{bare}")
        assert "refuses user or password (401)" in wrong
        assert "wr0ng" not in wrong
        assert "asks for user and password (401)" in error_of(server.url)
        if scheme != "basic":
            assert not any("s3:cr/et" in line for line in server.requests)


def test_a_nonce_that_grows_old_in_the_middle_costs_no_frame() -> None:
    with RtspServer(picture=PICTURE, user="op:secret", scheme="digest", nonce_uses=2) as server:
        source = opened(server.url.replace("//", "//op:secret@"))
        first_grab(source)
        source.close()
        assert sum(line.startswith("SETUP") for line in server.requests) == 2


def test_the_password_is_nowhere_outside_the_two_processes() -> None:
    with RtspServer(picture=PICTURE, user="op:s3cret") as server:
        source = opened(server.url.replace("//", "//op:s3cret@"))
        first_grab(source)
        child = Path(f"/proc/{child_of(source)}")
        assert b"s3cret" not in (child / "cmdline").read_bytes() + (child / "environ").read_bytes()
        source.close()


def test_the_capture_process_gets_no_credentials_of_the_cloud(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "do-not-pass-on")
    with RtspServer(picture=PICTURE) as server:
        source = opened(server.url)
        assert b"do-not-pass-on" not in Path(f"/proc/{child_of(source)}/environ").read_bytes()
        source.close()


def server_context(folder: Path) -> ssl.SSLContext:
    """Make a camera's own certificate, as cameras do."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "camera")])
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(days=1), now + timedelta(days=1))
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    chain = folder / "camera.pem"
    chain.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
        + made.sign(key, hashes.SHA256()).public_bytes(pem)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    return context


def test_rtsps_is_spoken_with_the_camera_and_every_picture_arrives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    units = access_units()[:90]
    context = server_context(tmp_path)
    with RtspServer(
        picture=lambda number: units[number % 90], fps=50, codec="h264", user="op:secret", scheme="digest", tls=context
    ) as server:
        source = opened(server.url.replace("//", "//op:secret@"))
        number = number_in(first_grab(source).pixels)
        for _ in range(30):
            grab = first_grab(source)
            number = (number + 1 + grab.skipped) % 90
            assert number_in(grab.pixels) == number
        source.close()
        assert "cannot be opened" in error_of(f"rtsp://127.0.0.1:{server.port}/line")
    monkeypatch.setattr(rtsp_session, "_CONNECT_S", 0.5)
    with RtspServer(picture=PICTURE) as plain:
        assert "does not speak TLS" in first_words(plain.port, scheme="rtsps")


# --- the process ------------------------------------------------------------------------------------------------------


def test_a_capture_process_that_dies_is_a_lost_camera_and_the_next_opening_works() -> None:
    with RtspServer(picture=PICTURE, fps=50) as server:
        source = opened(server.url)
        first_grab(source)
        os.kill(child_of(source), signal.SIGKILL)
        with pytest.raises(CameraError, match="was killed by SIGKILL"):  # noqa: PT012 - pictures may be on their way
            for _ in range(1_000):
                source.read(timeout_s=0.2, buffer=None)
        source.open()
        first_grab(source)
        source.close()


def test_a_capture_process_that_hangs_is_killed() -> None:
    with RtspServer(picture=PICTURE, fps=50) as server:
        source = opened(server.url)
        first_grab(source)
        child = child_of(source)
        os.kill(child, signal.SIGSTOP)
        source.close()
        assert is_gone(child)


ORPHAN = """
import os, sys
from agent.adapters.opencv_sources import RtspSource
from agent.timing.clock import SystemClock
source = RtspSource(url=sys.argv[1], clock=SystemClock())
source.open()
print(source._process.pid, flush=True)
os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("fault", [None, RtspFault.SILENT, RtspFault.PLAY_HANGS])
def test_a_capture_process_does_not_outlive_its_parent(fault: RtspFault | None) -> None:
    with RtspServer(picture=PICTURE, fault=fault) as server:
        done = subprocess.run(
            [sys.executable, "-c", ORPHAN, server.url],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        wait_for(lambda: is_gone(int(done.stdout)))


# --- the stream -------------------------------------------------------------------------------------------------------


def test_a_stream_that_changes_its_size_is_opened_again_and_never_scaled() -> None:
    large, small = stamped_jpegs(width=512, height=128), stamped_jpegs(width=256, height=64)
    is_small = False

    def picture(number: int) -> bytes:
        return small(number) if is_small else large(number)

    with RtspServer(picture=picture, fps=50) as server:
        source = opened(server.url)
        assert first_grab(source).pixels.shape == (128, 512, 3)
        is_small = True
        with pytest.raises(CameraError, match="changed its size or format"):  # noqa: PT012 - some are on their way
            for _ in range(1_000):
                grab = source.read(timeout_s=0.2, buffer=None)
                assert grab is None or grab.pixels.shape == (128, 512, 3)
        source.open()
        assert first_grab(source).pixels.shape == (64, 256, 3)
        source.close()


def test_pictures_of_many_packets_keep_their_content_when_others_are_left_out() -> None:
    noise = np.random.default_rng(3).integers(0, 255, (480, 640, 3), np.uint8)
    done, data = cv2.imencode(".jpg", noise)
    assert done
    with RtspServer(picture=lambda _: data.tobytes(), fps=100) as server:
        source = opened(server.url)
        reference = first_grab(source).pixels.copy()
        for _ in range(20):
            time.sleep(0.03)
            assert np.array_equal(first_grab(source).pixels, reference)
        source.close()


# --- H.264 ------------------------------------------------------------------------------------------------------------
# tests/recorded/line.h264 (x264, a key picture every 15) has 90 pictures of 256x128 px, then 30 of 128x64.


def access_units() -> list[bytes]:
    """Return the recorded stream's pictures: each begins with its SPS, or is a slice alone."""
    data = (ROOT / "tests" / "recorded" / "line.h264").read_bytes()
    starts = [found.start() for found in re.finditer(rb"\x00\x00\x00\x01\x67|\x00\x00(?:\x00)?\x01\x41", data)]
    return [data[start:end] for start, end in pairwise([*starts, len(data)])]


def number_in(pixels: Pixels) -> int:
    """Read the number in the eight bars at the top."""
    height, width = pixels.shape[0] // 8, pixels.shape[1] // 8
    lit = pixels[height // 2, width // 2 :: width, 0] > 128
    return sum(1 << bit for bit in range(8) if lit[bit])


def test_h264_pictures_are_numbered_without_a_gap_and_a_new_size_is_opened_again() -> None:
    units = access_units()
    assert len(units) == 120

    with RtspServer(picture=lambda number: units[number % 120], fps=50, codec="h264") as server:
        source = opened(server.url)
        grab = first_grab(source)
        number = number_in(grab.pixels)
        with pytest.raises(CameraError, match="changed its size or format"):  # noqa: PT012 - after the ones before it
            while True:
                grab = first_grab(source)
                number += 1 + grab.skipped
                assert (grab.pixels.shape, number_in(grab.pixels)) == ((128, 256, 3), number)
        assert number == 89, "the last one of this size"
        source.open()
        assert first_grab(source).pixels.shape in {(64, 128, 3), (128, 256, 3)}
        source.close()


def test_a_decoder_that_falls_behind_goes_on_with_a_key_picture_and_the_others_are_counted() -> None:
    units = access_units()[:90]

    with RtspServer(picture=lambda number: units[number % 90], fps=50, codec="h264") as server:
        source = opened(server.url)
        number = number_in(first_grab(source).pixels)
        child = child_of(source)
        decoder = f"/proc/{child}/task/{child}"
        for _ in range(3):
            wait_for(lambda: Path(decoder).exists())
            os.kill(child, signal.SIGSTOP)
            time.sleep(1.2)  # pictures pile up in the sockets, as when the machine has no time for decoding
            os.kill(child, signal.SIGCONT)
            for _ in range(20):
                grab = first_grab(source)
                number = (number + 1 + grab.skipped) % 90
                assert number_in(grab.pixels) == number
        source.close()


def test_the_relay_serves_the_own_decoder_and_no_other_process() -> None:
    program = (
        "import socket, sys; c = socket.create_connection(('127.0.0.1', int(sys.argv[1])));"
        "c.settimeout(20); print(len(c.recv(1)))"
    )
    with RtspServer(picture=PICTURE) as server:
        order = OpenRtsp("rtsp", "127.0.0.1", server.port, "/line", None, None, "tcp")
        relay = RtspRelay(rtsp_session.open_session(order), transport="tcp", path="/line")
        relay.start()
        port = relay.url.split(":")[2].split("/")[0]
        other = subprocess.run([sys.executable, "-c", program, port], capture_output=True, timeout=60, check=False)
        assert other.stdout.strip() == b"0", "hung up"
        with socket.create_connection(("127.0.0.1", int(port))) as own:
            own.settimeout(LONG_S)
            own.sendall(f"OPTIONS {relay.url} RTSP/1.0\r\nCSeq: 77\r\n\r\n".encode())
            assert b"cseq: 77" in own.recv(4_096).lower()
        relay.close()
        relay.join(LONG_S)
