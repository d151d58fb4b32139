"""Opens an RTSP session and checks reachability, protocol, login and stream before FFmpeg does.

Promise: every failure is a CameraError that names it (unreachable, refused, silent, not RTSP, 401, 404, no video ...)
and the remedy, without a password. Each answer is awaited for at most `_ANSWER_S`. FFmpeg would need its own time-out
for each of these, under a lock of OpenCV, and would report "cannot be opened" for all of them.
"""

from __future__ import annotations

import re
import socket
import ssl
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from agent.cameras.camera_auth import CameraCredentials
from agent.errors import CameraError
from agent.video.rtsp_auth import RtspAuth
from agent.video.rtsp_messages import NotRtspError, RtspMessage, RtspParser

if TYPE_CHECKING:
    from agent.video.capture_protocol import OpenRtsp

_CONNECT_S: Final = 5.0
_ANSWER_S: Final = 5.0
_READ_BYTES: Final = 64 * 1024
_PORTS: Final = {"rtsp": 554, "rtsps": 322}
_STATIC_CODECS: Final = {26: "JPEG", 32: "MPV"}  # payload types of RFC 3551 that need no rtpmap
_REMEDIES: Final = {
    400: "it does not understand the request: check the path in its address",
    403: "it forbids the stream (403): give this user the right to view it",
    404: "it has no stream at this path (404): check the path in its address",
    453: "it has no bandwidth left for another client (453): end one of its other clients",
    454: "it forgot the session (454): restart it",
    461: "it does not offer RTSP over {transport} (461): set `transport` to the other one",
    503: "it cannot serve the stream now (503): too many clients, or it is starting",
}


@dataclass(slots=True)
class RtspSession:
    """A connection on which the camera has described its stream."""

    connection: socket.socket
    reader: RtspParser
    base: str  # scheme, host and port as requests have them
    login: RtspAuth | None
    cseq: int
    codec: str  # of the video, as the SDP has it, in upper case


def open_session(request: OpenRtsp) -> RtspSession:
    """Connect, ask for the methods and for the description. Raises CameraError without the camera's name."""
    connection = _connect(request)
    try:
        return _SessionSetup(request, connection).describe()
    except BaseException:
        connection.close()
        raise


def explain_refusal(message: RtspMessage, *, transport: str, has_login: bool) -> str:
    """Return what a refusal means and what to do."""
    status = message.status or 0
    if status == 401:  # noqa: PLR2004
        return (
            "it refuses user or password (401): check both, and that this user may view the stream"
            if has_login
            else "it asks for user and password (401): put them into the camera's configuration"
        )
    if 300 <= status < 400:  # noqa: PLR2004
        return f"it has moved ({status}): give the address that it has now"
    remedy = _REMEDIES.get(status, f"it answers {status} {message.reason}: check address and settings of the camera")
    return remedy.format(transport=transport)


def _connect(request: OpenRtsp) -> socket.socket:
    port = request.port or _PORTS[request.scheme]
    try:
        plain = socket.create_connection((request.host, port), _CONNECT_S)
    except socket.gaierror as error:
        raise CameraError(f"its name has no address ({error.strerror}): check the address, and DNS") from error
    except ConnectionRefusedError as error:
        raise CameraError(f"it refuses connections at port {port}: check the port, and that RTSP is on") from error
    except TimeoutError as error:
        raise CameraError(
            f"it cannot be reached (no answer in {_CONNECT_S:.0f} s): check address, cable, power, firewall"
        ) from error
    except OSError as error:
        raise CameraError(f"it cannot be reached ({error.strerror}): check address, cable, power") from error
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if request.scheme == "rtsp":
        return plain
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # as FFmpeg does: a camera's certificate is self-made
    context.verify_mode = ssl.CERT_NONE
    try:
        return context.wrap_socket(plain, server_hostname=request.host)
    except OSError as error:
        plain.close()
        raise CameraError(f"it does not speak TLS at port {port}: check rtsp or rtsps, and the port") from error


class _SessionSetup:
    """The requests of `begin`."""

    def __init__(self, request: OpenRtsp, connection: socket.socket) -> None:
        self._request = request
        self._connection = connection
        self._reader = RtspParser()
        self._login = (
            None if request.user is None else RtspAuth(CameraCredentials(request.user, request.password or ""))
        )
        self._cseq = 0
        self._has_answered = False
        host = f"[{request.host}]" if ":" in request.host else request.host
        self._base = f"rtsp://{host}" + ("" if request.port is None else f":{request.port}")

    def describe(self) -> RtspSession:
        uri = self._base + self._request.path
        self._ask("OPTIONS", uri)  # any answer will do: some cameras require a password even here
        answer = self._ask("DESCRIBE", uri, ("Accept", "application/sdp"))
        if answer.status != 200:  # noqa: PLR2004
            raise CameraError(
                explain_refusal(answer, transport=self._request.transport, has_login=self._request.user is not None)
            )
        codec = video_codec(answer.body.decode("latin-1"))
        if codec is None:
            raise CameraError("it offers no video at this path: check the path in its address")
        return RtspSession(self._connection, self._reader, self._base, self._login, self._cseq, codec)

    def _ask(self, method: str, uri: str, *fields: tuple[str, str]) -> RtspMessage:
        """Send a request, with an answer to the camera's challenge where there is one."""
        answer = self._exchange(method, uri, fields)
        if answer.status == 401 and self._login is not None:  # noqa: PLR2004
            offered = answer.get_all("www-authenticate")
            if self._login.take(offered):
                answer = self._exchange(method, uri, fields)
            elif offered:
                raise CameraError(
                    "it asks for a login that is not known here (neither Basic nor Digest with MD5 or SHA-256)"
                )
        return answer

    def _exchange(self, method: str, uri: str, fields: tuple[tuple[str, str], ...]) -> RtspMessage:
        self._cseq += 1
        own = [("CSeq", str(self._cseq)), ("User-Agent", "Kensa"), *fields]
        if self._login is not None and (answer := self._login.authorization(method, uri)) is not None:
            own.append(("Authorization", answer))
        deadline = time.monotonic() + _ANSWER_S
        try:
            self._connection.sendall(RtspMessage(f"{method} {uri} RTSP/1.0", tuple(own)).encode())
            while True:
                for item in self._reader.feed(self._receive(deadline)):
                    if (
                        isinstance(item, RtspMessage)
                        and item.get("cseq") == str(self._cseq)
                        and item.status is not None
                    ):
                        return item
        except NotRtspError as error:
            raise CameraError(f"it does not speak RTSP ({error}): check the port (554 is usual)") from error
        except TimeoutError as error:
            heard = "does not finish its answer" if self._has_answered else "accepts the connection and does not answer"
            raise CameraError(f"it {heard} ({method}, {_ANSWER_S:.0f} s): restart it, check the port") from error
        except OSError as error:
            raise CameraError(f"the connection broke ({error.strerror}): check cable, power and network") from error

    def _receive(self, deadline: float) -> bytes:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        self._connection.settimeout(left_s)
        data = self._connection.recv(_READ_BYTES)
        if not data:
            what = "in the middle of its answer" if self._has_answered else "without an answer"
            raise CameraError(f"it hangs up {what}: check the port, and how many clients it allows")
        self._has_answered = True
        return data


def video_codec(sdp: str) -> str | None:
    """Return the encoding's name of the first video in the description, "?" where it has none; None without video."""
    video = re.search(r"^m=video \S+ \S+ (\d+)(.*?)(?=^m=|\Z)", sdp, re.MULTILINE | re.DOTALL)
    if video is None:
        return None
    number = int(video[1])
    named = re.search(rf"^a=rtpmap:{number} ([^/\s]+)", video[2], re.MULTILINE)
    return named[1].upper() if named else _STATIC_CODECS.get(number, "?")
