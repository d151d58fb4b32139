"""Network cameras, video files and USB cameras through the adapters, on real loopback servers."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
import time
from base64 import b64encode
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from agent.adapters.mjpeg import MjpegSource
from agent.adapters.opencv_sources import RtspSource, V4l2Source, VideoFileSource
from agent.errors import CameraError, SourceEndedError
from agent.timing.clock import SystemClock
from simulator.doubles.cameras.mjpeg_servers import PASSWORD, SERVER_BEHAVIOURS, USER, ServerBehaviour, serve_behaviour
from simulator.doubles.cameras.rtsp_server import RtspServer
from simulator.doubles.cameras.simulated_cameras import MjpegServer
from tests.kits.requirements import ROOT, require

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.ports import FrameSource
    from agent.records import Grab, Pixels

CLOCK = SystemClock()
LONG_S = 20.0  # a safety bound, never an expectation
HEIGHT, WIDTH = 96, 128


class SteppingClock(SystemClock):
    """Stands still but for the waits, which take no time."""

    now_ns = 0

    def monotonic_ns(self) -> int:
        return self.now_ns

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        self.now_ns += round(timeout_s * 1e9)
        return event.is_set()


def jpeg(number: int) -> bytes:
    """Encode an even picture whose brightness tells its number."""
    done, data = cv2.imencode(".jpg", np.full((HEIGHT, WIDTH, 3), 10 * (number % 20) + 20, np.uint8))
    assert done
    return data.tobytes()


def level(pixels: Pixels) -> int:
    return round((float(pixels.mean()) - 20) / 10)


def read(source: FrameSource, count: int, *, buffer: Pixels | None = None) -> list[Grab]:
    """Read `count` exposures; CameraError passes."""
    grabs: list[Grab] = []
    deadline = time.monotonic() + LONG_S
    while len(grabs) < count:
        assert time.monotonic() < deadline
        if (grab := source.read(timeout_s=0.1, buffer=buffer)) is not None:
            grabs.append(grab)
    return grabs


def open_and_read(source: FrameSource) -> None:
    """Read until the source gives up."""
    source.open()
    read(source, 10**9)


def error_of(source: FrameSource) -> str:
    """Return what the source says when it gives up."""
    with pytest.raises(CameraError) as caught:
        open_and_read(source)
    source.close()
    return str(caught.value)


@pytest.fixture
def nobody() -> int:
    """Return a port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# --- MJPEG over HTTP --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("announce_length", [True, False])
def test_mjpeg_delivers_each_picture_in_order(*, announce_length: bool) -> None:
    with MjpegServer(picture=jpeg, fps=100, announce_length=announce_length) as server:
        source = MjpegSource(url=server.url, clock=CLOCK)
        source.open()
        assert [level(grab.pixels) for grab in read(source, 12)] == list(range(12))
        source.close()


def test_mjpeg_decodes_into_the_buffer_that_is_handed_in() -> None:
    buffer = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    with MjpegServer(picture=jpeg, fps=100) as server:
        source = MjpegSource(url=server.url, clock=CLOCK)
        source.open()
        assert read(source, 1, buffer=buffer)[0].pixels is buffer
        source.close()


def test_a_held_mjpeg_server_gives_empty_reads_in_time() -> None:
    with MjpegServer(picture=jpeg, fps=100) as server:
        source = MjpegSource(url=server.url, clock=CLOCK)
        source.open()
        read(source, 1)
        server.pause()
        deadline = time.monotonic() + LONG_S
        while source.read(timeout_s=0.3, buffer=None) is not None:
            assert time.monotonic() < deadline
        server.resume()
        read(source, 1)
        source.close()


def test_mjpeg_errors_name_the_camera_and_the_remedy(nobody: int) -> None:
    source = MjpegSource(url=f"http://op:s3cret@127.0.0.1:{nobody}/x?key=s3cret", clock=CLOCK)
    said = error_of(source)
    assert f"http://127.0.0.1:{nobody}: it cannot be reached" in said
    assert "malformed" in error_of(MjpegSource(url="http://op:s3cret@camera:port/", clock=CLOCK))
    with MjpegServer(picture=jpeg, status=401) as server:
        assert "put user and password" in error_of(MjpegSource(url=server.url, clock=CLOCK))
    with MjpegServer(picture=jpeg, status=404) as server:
        assert "HTTP 404: check the path" in error_of(MjpegSource(url=server.url, clock=CLOCK))


BOUNDARY = b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace;boundary=--b\r\n\r\n"
ANSWERS = {
    "not HTTP": (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "does not answer in HTTP"),
    "a page": (b"HTTP/1.0 200 OK\r\nContent-Type: text/html\r\n\r\n<html>", "not a stream"),
    "one picture": (b"HTTP/1.0 200 OK\r\nContent-Type: image/jpeg\r\n\r\n", "give the address of its MJPEG stream"),
    "moved": (
        b"HTTP/1.0 302 Found\r\nLocation: http://op:s3cret@other/x?k=s3cret\r\n\r\n",
        "moved to http://other: give that address",
    ),
    "damaged chunks": (
        BOUNDARY[:-2] + b"Transfer-Encoding: chunked\r\n\r\nno size\r\n",
        "announces chunks, but does not send them",
    ),
    "headers without end": (b"HTTP/1.0 200 OK\r\nX: " + b"x" * 20_000, "do not end within"),
    "an enormous part": (BOUNDARY + b"--b\r\nContent-Length: 99999999999\r\n\r\n", "a part of 99999999999 bytes comes"),
    "a wrong length": (BOUNDARY + b"--b\r\nContent-Length: -5\r\n\r\n", "a part of -5 bytes comes"),
    "no boundary": (BOUNDARY + b"x" * 120_000, "no boundary within"),
    "the end": (BOUNDARY + b"--b--\r\n", "ended the stream"),
    "a closed connection": (BOUNDARY, "closed the connection"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_a_server_that_is_no_mjpeg_camera_is_told_so_within_bounds(name: str) -> None:
    answer, said = ANSWERS[name]

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(4_096)
            connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=serve, name="wrong server")
        server.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        source = MjpegSource(url=url, clock=CLOCK, max_part_bytes=50_000)
        error = error_of(source)
        server.join(LONG_S)
    assert re.search(said, error)
    assert "s3cret" not in error


def test_user_and_password_are_sent_when_the_camera_asks_for_them_and_not_before() -> None:
    requests: list[bytes] = []

    def answer(request: bytes, pictures: Sequence[bytes]) -> bytes:
        requests.append(request)
        return SERVER_BEHAVIOURS["Basic"].answer(request, pictures)

    with serve_behaviour(ServerBehaviour("", answer, user=USER), [jpeg(3)]) as url:
        source = MjpegSource(url=url.replace("stream?q=1", "v?q=1"), clock=CLOCK)
        source.open()
        assert level(read(source, 1)[0].pixels) == 3
        source.close()
    assert requests[0].startswith(b"GET /v?q=1 HTTP/1.0\r\nHost: 127.0.0.1:")
    assert b"Authorization" not in requests[0]
    secret = b64encode(f"{USER}:{PASSWORD}".encode())
    assert b"Authorization: Basic " + secret + b"\r\n" in requests[1]
    assert len(requests) == 2


# --- RTSP -------------------------------------------------------------------------------------------------------------


def test_rtsp_delivers_each_picture_in_memory_that_is_used_again_and_closes_cleanly() -> None:
    with RtspServer(picture=jpeg, fps=50) as server:
        source = RtspSource(url=server.url, clock=CLOCK)
        source.open()
        number = level(read(source, 1)[0].pixels)
        addresses = set()
        for _ in range(20):
            grab = read(source, 1)[0]
            number += 1 + grab.skipped
            assert level(grab.pixels) == number % 20
            addresses.add(grab.pixels.ctypes.data)
        assert len(addresses) <= 3
        source.close()


def test_a_picture_of_an_rtsp_camera_stays_what_it_is_as_long_as_somebody_holds_it() -> None:
    with RtspServer(picture=jpeg, fps=100) as server:
        source = RtspSource(url=server.url, clock=CLOCK)
        source.open()
        held = [grab.pixels[10:20, ::2] for grab in read(source, 12)]
        levels = [level(pixels) for pixels in held]
        read(source, 12)
        source.close()
        assert [level(pixels) for pixels in held] == levels
        assert len(set(levels)) > 6


def test_rtsp_logs_in_and_a_wrong_password_is_not_shown() -> None:
    with RtspServer(picture=jpeg, user="op:s3cret") as server:
        source = RtspSource(url=server.url.replace("//", "//op:s3cret@"), clock=CLOCK)
        source.open()
        read(source, 2)
        source.close()
        said = error_of(RtspSource(url=server.url.replace("//", "//op:wrong1@"), clock=CLOCK))
    assert "rtsp://127.0.0.1" in said
    assert "wrong1" not in said


def test_rtsp_asks_for_the_configured_transport_and_cameras_do_not_disturb_each_other() -> None:
    with RtspServer(picture=jpeg) as server:  # which refuses UDP
        over_udp = RtspSource(url=server.url, clock=CLOCK, transport="udp")
        over_tcp = RtspSource(url=server.url, clock=CLOCK)
        assert "over udp" in error_of(over_udp)
        over_tcp.open()
        read(over_tcp, 2)
        over_tcp.close()


def test_a_killed_rtsp_server_is_a_lost_camera_and_a_held_one_gives_empty_reads(nobody: int) -> None:
    with RtspServer(picture=jpeg, fps=50) as server:
        source = RtspSource(url=server.url, clock=CLOCK)
        source.open()
        read(source, 1)
        server.pause()
        deadline = time.monotonic() + LONG_S
        while source.read(timeout_s=0.3, buffer=None) is not None:
            assert time.monotonic() < deadline
        server.kill()
        with pytest.raises(CameraError, match="delivers no more frames"):
            read(source, 10**9)
        source.close()
    assert "cannot be opened" in error_of(RtspSource(url=f"rtsp://127.0.0.1:{nobody}/x", clock=CLOCK))


def test_an_rtsp_camera_that_never_answers_can_be_closed_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        source = RtspSource(url=f"rtsp://127.0.0.1:{silent.getsockname()[1]}/x", clock=CLOCK)
        source.open()
        assert source.read(timeout_s=0.05, buffer=None) is None
        source.close()


LEAVING = """
import sys
from agent.adapters.opencv_sources import RtspSource
from agent.timing.clock import SystemClock
source = RtspSource(url=sys.argv[1], clock=SystemClock())
source.open()
source.close()
"""


def test_a_program_ends_cleanly_although_an_rtsp_camera_hangs() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"rtsp://127.0.0.1:{silent.getsockname()[1]}/x"
        done = subprocess.run(
            [sys.executable, "-c", LEAVING, url], cwd=ROOT, capture_output=True, timeout=60, check=False
        )
    assert (done.returncode, done.stderr) == (0, b"")


# --- video files ------------------------------------------------------------------------------------------------------


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "line.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 50, (WIDTH, HEIGHT))
    for number in range(8):
        writer.write(np.full((HEIGHT, WIDTH, 3), 10 * number + 20, np.uint8))
    writer.release()
    return path


@pytest.mark.parametrize(("fps", "period_ns"), [(None, 20_000_000), (100.0, 10_000_000)])
def test_a_video_is_paced_at_its_own_rate_or_the_configured_one(video: Path, fps: float | None, period_ns: int) -> None:
    source = VideoFileSource(path=video, clock=SteppingClock(), fps=fps)
    source.open()
    grabs = read(source, 8)
    assert [level(grab.pixels) for grab in grabs] == list(range(8))
    assert [grab.due_ns for grab in grabs] == [number * period_ns for number in range(8)]
    with pytest.raises(SourceEndedError, match="all 8 frames"):
        read(source, 1)
    source.close()


def test_a_looped_video_starts_over_and_fills_the_buffer(video: Path) -> None:
    buffer = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    source = VideoFileSource(path=video, clock=CLOCK, fps=500, loop=True)
    source.open()
    levels = []
    for _ in range(18):
        grab = read(source, 1, buffer=buffer)[0]
        assert grab.pixels is buffer
        levels.append(level(grab.pixels))
    assert levels == [number % 8 for number in range(18)]
    source.close()


def test_a_file_that_is_no_video_says_so(tmp_path: Path) -> None:
    assert "does not exist" in error_of(VideoFileSource(path=tmp_path / "gone.mp4", clock=CLOCK))
    (tmp_path / "text.mp4").write_text("no video")
    assert "cannot be opened as a video" in error_of(VideoFileSource(path=tmp_path / "text.mp4", clock=CLOCK))


# --- V4L2 -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", [987, "987", "/dev/video987", "/dev/null-of-kensa"])
def test_a_missing_usb_camera_says_which_ones_are_there(device: int | str) -> None:
    said = error_of(V4l2Source(device=device, clock=CLOCK))
    assert "is not a camera device (there:" in said
    assert "987" in said or "null-of-kensa" in said


def test_a_device_that_is_no_camera_cannot_be_opened() -> None:
    assert "/dev/null cannot be opened" in error_of(V4l2Source(device="/dev/null", clock=CLOCK))


def test_a_usb_camera_delivers_frames_of_the_size_that_was_asked_for() -> None:
    device = os.environ.get("KENSA_TEST_V4L2", "")
    require(
        Path(device).is_char_device() if device else False,
        "v4l2loopback, or a camera, named by KENSA_TEST_V4L2,",
        "modprobe v4l2loopback, feed it with ffmpeg at 640x480, and set KENSA_TEST_V4L2=/dev/video0",
    )
    source = V4l2Source(device=device, clock=CLOCK, width=640, height=480)
    source.open()
    assert read(source, 3)[-1].pixels.shape == (480, 640, 3)
    source.close()
