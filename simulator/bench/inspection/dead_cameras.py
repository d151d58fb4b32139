"""`kensa bench cameras`, section `dead`: eight dead RTSP cameras beside good cameras of every kind.

`kensa run` is a process of its own with eight RTSP addresses that fail in eight ways and one good camera of every kind.
From 5 s after its start the good cameras' verdicts are counted against their frame rate; then the process gets SIGTERM
and the time to its exit is measured, over and over. The USB camera's driver is simulated
(`simulator.doubles.cameras.v4l2_camera`); everything else is real.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np
import yaml

from agent.control import request
from agent.errors import ControlError, KensaError
from agent.timing.clock import SystemClock
from simulator.doubles.cameras import frame_stamp
from simulator.doubles.cameras.frame_stamp import stamped_jpegs
from simulator.doubles.cameras.rtsp_server import RtspFault, RtspServer
from simulator.doubles.cameras.simulated_cameras import BlackHole, MjpegServer
from simulator.line.source import from_config
from simulator.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

DRAIN_S: Final = 5.0  # the configuration's default
SETTLED_S: Final = 5.0
_GOOD_FPS: Final = 10.0
_DEAD: Final = (
    RtspFault.SILENT,
    RtspFault.HALF_AN_ANSWER,
    RtspFault.NOT_FOUND,
    RtspFault.PLAY_HANGS,
    RtspFault.SETUP_HANGS,
)  # and one that wants a password, one that refuses, one that swallows connections: eight
_USER: Final = "op:secret"
_STOP_TIMEOUT_S: Final = 60.0
_PROGRAM: Final = (
    "import sys; from agent.adapters.opencv_sources import V4l2Source; V4l2Source.capture_module = "
    "'simulator.doubles.cameras.v4l2_driver'; "
    "from agent.cli import main; sys.exit(main(['run', sys.argv[1]]))"
)


@dataclass(frozen=True, slots=True)
class DeadCameraRound:
    """One run of the agent."""

    shares: Mapping[str, float]  # of each good camera's frames that got a verdict
    stop_s: float  # from SIGTERM to the end of the process
    code: int
    errors: Mapping[str, str]  # of each dead camera, as the heartbeat has it


@dataclass(frozen=True, slots=True)
class DeadCameraResult:
    """All rounds."""

    rounds: tuple[DeadCameraRound, ...]

    @property
    def worst_share(self) -> float:
        """The least share of any good camera in any round."""
        return min(min(result.shares.values()) for result in self.rounds)

    @property
    def longest_stop_s(self) -> float:
        """Of all rounds."""
        return max(result.stop_s for result in self.rounds)

    @property
    def clean_stops(self) -> int:
        """Rounds that ended in time and with code 0."""
        return sum(result.stop_s <= DRAIN_S + 1.0 and result.code == 0 for result in self.rounds)


def run_dead_cameras(*, release: Path, rounds: int, seconds: float, report: Callable[[str], None]) -> DeadCameraResult:
    """Run the agent `rounds` times, counting for `seconds` each. Raises KensaError."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kensa-bench-")))
        cameras = {**_good_cameras(stack, folder), **_dead_cameras(stack)}
        results = []
        for number in range(rounds):
            results.append(_round(folder / f"round-{number}", cameras, release, seconds))
            worst = min(results[-1].shares.items(), key=lambda item: item[1])
            report(f"round {number + 1} of {rounds}: least {worst[0]} {worst[1]:.1%}, stop {results[-1].stop_s:.2f} s")
    return DeadCameraResult(tuple(results))


def _good_cameras(stack: ExitStack, folder: Path) -> dict[str, dict[str, Any]]:
    picture = stamped_jpegs()
    rtsp = stack.enter_context(RtspServer(picture=picture, fps=_GOOD_FPS))
    mjpeg = stack.enter_context(MjpegServer(picture=picture, fps=_GOOD_FPS))
    (folder / "images").mkdir()
    video = cv2.VideoWriter(str(folder / "line.avi"), cv2.VideoWriter.fourcc(*"MJPG"), _GOOD_FPS, (512, 256))
    for number in range(50):
        pixels = np.full((256, 512, 3), 90, np.uint8)
        frame_stamp.draw_stamp(pixels, number=number)
        cv2.imwrite(str(folder / "images" / f"{number:03d}.jpg"), pixels)
        video.write(pixels)
    video.release()
    options = {"pool": 8, "fps": _GOOD_FPS, "cache_dir": str(folder / "pool")}
    from_config(options, clock=SystemClock()).open()  # renders the images: that is not what is measured
    return {
        "rtsp": {"kind": "rtsp", "url": rtsp.url},
        "mjpeg": {"kind": "mjpeg", "url": mjpeg.url},
        "v4l2": {"kind": "v4l2", "device": "/dev/null", "width": 512, "height": 256, "fps": _GOOD_FPS},
        "folder": {"kind": "folder", "path": str(folder / "images"), "fps": _GOOD_FPS, "loop": True},
        "video": {"kind": "video", "path": str(folder / "line.avi"), "loop": True},
        "plugin": {"kind": "plugin", "source": "simulated", "options": options},
    }


def _dead_cameras(stack: ExitStack) -> dict[str, dict[str, Any]]:
    picture = stamped_jpegs()
    urls = [stack.enter_context(RtspServer(picture=picture, fault=fault)).url for fault in _DEAD]
    urls.append(stack.enter_context(RtspServer(picture=picture, user=_USER, scheme="digest")).url)
    urls.append(f"rtsp://127.0.0.1:{stack.enter_context(BlackHole()).port}/line")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        urls.append(f"rtsp://127.0.0.1:{nobody.getsockname()[1]}/line")
    return {f"dead-{number}": {"kind": "rtsp", "url": url} for number, url in enumerate(urls)}


def _round(folder: Path, cameras: Mapping[str, Any], release: Path, seconds: float) -> DeadCameraRound:
    folder.mkdir()
    tree = {
        "thing": "bench",
        "line": "bench",
        "state_dir": str(folder / "state"),
        "transport": {"kind": "none"},
        "inspections": {"part": {"release": str(release.resolve()), "cameras": dict(cameras)}},
    }
    (folder / "kensa.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    with (folder / "log").open("wb") as log:
        command = [sys.executable, "-c", _PROGRAM, str(folder / "kensa.yaml")]
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT)
        try:
            time.sleep(SETTLED_S)
            first, began = _heartbeat(folder), time.monotonic()
            time.sleep(seconds)
            last, ended = _heartbeat(folder), time.monotonic()
            process.send_signal(signal.SIGTERM)
            stopping = time.monotonic()
            code = process.wait(_STOP_TIMEOUT_S)
            stop_s = time.monotonic() - stopping
        except (ControlError, subprocess.TimeoutExpired) as error:
            tail = (folder / "log").read_text(errors="replace")[-2_000:]
            raise KensaError(
                f"kensa run did not do in the benchmark what it should ({error}); its log:\n{tail}"
            ) from error
        finally:
            process.kill()
            process.wait()
    offered = _GOOD_FPS * (ended - began)
    shares = {
        name: min(1.0, (camera["inspected"] - first[name]["inspected"]) / offered)
        for name, camera in last.items()
        if not name.startswith("dead-")
    }
    errors = {name: str(camera["error"]) for name, camera in last.items() if name.startswith("dead-")}
    return DeadCameraRound(shares, stop_s, code, errors)


def _heartbeat(folder: Path) -> dict[str, Any]:
    """Return the cameras of the agent's heartbeat by name, waiting for its control socket. Raises ControlError."""
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    while True:
        with contextlib.suppress(ControlError):
            beat = request(folder / "state", "status")["heartbeat"]
            return {camera["camera"]: camera for camera in beat["cameras"]}
        if time.monotonic() > deadline:
            raise ControlError("no agent answers at the control socket")
        time.sleep(0.2)
