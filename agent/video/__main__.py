"""The capture process: opens and reads one live camera for the inspecting process.

`python -m agent.video DESCRIPTOR`, with the descriptor of the socket to that process, is started by
`agent.video.capture_process` alone. numpy and OpenCV are imported once the camera has answered.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading

from agent.errors import CameraError
from agent.video.capture_protocol import CameraFailed, OpenDevice, OpenRtsp, receive
from agent.video.mailbox import Mailbox, end_after
from agent.video.opencv_cameras import open_camera


def main(descriptor: int) -> int:
    """Serve one request."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it
    connection = socket.socket(fileno=descriptor)
    received = receive(connection)
    if received is None or not isinstance(received[0], OpenRtsp | OpenDevice):
        return 2
    mailbox = Mailbox(connection)
    mailbox.start()
    threading.Thread(target=end_after, args=(mailbox,), name="end", daemon=True).start()
    try:
        _capture(received[0], mailbox)
    except CameraError as error:
        mailbox.send(CameraFailed(str(error)))
    except Exception as bug:  # noqa: BLE001 - the process's top: the parent says it and opens again
        mailbox.send(CameraFailed(f"internal error: {type(bug).__name__}: {bug}"))
    return 0


def _capture(request: OpenRtsp | OpenDevice, mailbox: Mailbox) -> None:
    """Raises CameraError."""
    try:
        camera = open_camera(request)
    except CameraError as error:
        raise CameraError(f"cannot be opened: {error}") from error
    try:
        from agent.video.capture_loop import deliver_frames  # noqa: PLC0415 - numpy

        deliver_frames(camera, mailbox)
    finally:
        camera.release()


if __name__ == "__main__":
    code = main(int(sys.argv[1]))
    os._exit(code)  # threads of OpenCV and of this process may hang; nothing is left to write
