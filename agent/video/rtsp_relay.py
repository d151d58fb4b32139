"""A relay between an RTSP camera and FFmpeg that keeps the stream current.

It reads the camera continuously and passes on the images that FFmpeg can use. FFmpeg is given an address on loopback
and no password; this thread answers the camera's challenges for it. Over TCP all packets of the video pass here, so the
time of each image's arrival is exact, and a change of the stream's format is detected before the decoder gets it. When
the decoder falls behind, whole images are skipped up to the next one that can be decoded alone, and counted; otherwise
they would pile up in sockets and grow old. Over UDP the packets go from camera to FFmpeg directly, and none of this
applies.

The decoder has used up its input when nothing waits in its socket and its thread sleeps inside a grab.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import selectors
import socket
import ssl
import stat
import sys
import termios
import threading
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent.video.rtp import AccessUnit, AccessUnitAssembler, is_rtp
from agent.video.rtsp_messages import InterleavedPacket, NotRtspError, RtspMessage, RtspParser
from agent.video.rtsp_session import explain_refusal

if TYPE_CHECKING:
    from agent.video.rtsp_session import RtspSession

_READ_BYTES: Final = 256 * 1024
_POLL_S: Final = 0.02  # how soon the end, or a waiting decoder, is noticed
_YIELD_S: Final = 0.000_3  # for a thread that waits for the interpreter
_DECODER_AHEAD: Final = 2  # images that the decoder may have: the one in work and the next
_BURST_NS: Final = 60_000_000  # how long a burst may wait before a key frame replaces it
_STALE_NS: Final = 1_000_000_000  # held back for longer, an image is skipped even before the next key frame
_OPENING_NS: Final = 2_000_000_000  # after which FFmpeg has used up the images of its opening
_LONGEST_GAP_NS: Final = 10_000_000_000  # without a key frame (some cameras refresh by stripes): continue all the same
_MAX_AHEAD: Final = 2_000  # images while FFmpeg opens
_MAX_BYTES: Final = 64 * 1024 * 1024  # on their way to FFmpeg


class RtspRelay(threading.Thread):
    """Serves one FFmpeg on `url`. Other threads may call the public methods."""

    def __init__(self, conversation: RtspSession, *, transport: str, path: str) -> None:
        super().__init__(name="relay", daemon=True)
        self._camera = conversation.connection
        self._reader = conversation.reader
        self._base = conversation.base
        self._login = conversation.login
        self._cseq = conversation.cseq
        self._transport = transport
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._own = f"rtsp://127.0.0.1:{self._listener.getsockname()[1]}"
        self.url: Final = self._own + path
        # our CSeq -> FFmpeg's, the request, whether tried again
        self._asked: dict[str, tuple[str, RtspMessage, bool]] = {}
        self._access_units = AccessUnitAssembler(conversation.codec)
        self._lock = threading.Lock()  # of what follows
        self._decoder: int | None = None  # the decoding thread's system id, once it is past the opening
        self._decoder_socket: int | None = None  # FFmpeg's end
        self._grabbing = False
        self._ahead: deque[tuple[int, int]] = deque()  # images that the decoder got and did not return yet:
        # arrival (ns), and how many were skipped before it
        self._removed = 0  # packets that were skipped
        self._skipped = 0  # images skipped before the next one
        self._settled_ns: int | None = None  # since when the decoder uses up the images of FFmpeg's opening
        self._newest_ns = 0
        self._held: deque[AccessUnit] = deque()
        self._is_held = False  # the unit that arrives now is held back
        self._gap_since_ns: int | None = None  # only a key frame may follow
        self._out = bytearray()  # for FFmpeg
        self.error: str | None = None  # the camera's refusal, or why the relay ended
        self._closing = False
        self._wake, self._woken = socket.socketpair()
        self._wake.setblocking(False)  # noqa: FBT003 - takes no keyword

    # --- for the decoding thread --------------------------------------------------------------------------------------

    def note_opened(self) -> None:
        """Note that FFmpeg has opened the stream: from now on the calling thread grabs and may fall behind."""
        with self._lock:
            self._decoder = threading.get_native_id()
            self._settled_ns = time.monotonic_ns()
            self._access_units.note_opened()

    def note_grab_started(self) -> None:
        """Note that a grab begins."""
        self._grabbing = True

    def take_grab_result(self) -> tuple[int, int, bool]:
        """Return the grabbed image's arrival (monotonic ns), how many were skipped before it, and whether it is fresh.

        One of those that FFmpeg read for its opening is not, as long as newer ones are there.
        """
        self._grabbing = False
        with self._lock:
            arrived_ns, skipped = self._ahead.popleft() if self._ahead else (self._newest_ns, self._take_skipped())
            if not self._ahead or (self._settled_ns or 0) + _OPENING_NS < time.monotonic_ns():
                self._settled_ns = None
            if self._held:
                with contextlib.suppress(OSError):  # enough calls wait, or it has ended
                    self._wake.send(b"!")
            return arrived_ns or time.monotonic_ns(), skipped, self._settled_ns is None

    def _take_skipped(self) -> int:
        skipped, self._skipped = self._skipped, 0
        return skipped

    @property
    def has_seen_frame(self) -> bool:
        """Whether one has passed here."""
        return bool(self._newest_ns)

    def explain_silence(self) -> str:
        """Return why FFmpeg could not open the stream, and what to do."""
        if self.error is not None:
            return self.error
        for _, request, _ in tuple(self._asked.values()):
            return f"it does not answer {(request.request or ('',))[0]}: restart it, check its firmware"
        if self._transport == "tcp" and not self.has_seen_frame:
            return "it sends no picture although it plays: restart it, check its encoder"
        return f"it starts no stream that can be decoded, over {self._transport}: check codec and transport"

    def close(self) -> None:
        """End; the thread notices at once."""
        self._closing = True
        with contextlib.suppress(OSError):  # it has ended by itself
            self._wake.send(b"!")

    # --- the thread ---------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Carry bytes until one side ends."""
        try:
            self._serve()
        except NotRtspError as error:
            self.error = f"the stream is damaged ({error}): check the network"
        except OSError as error:
            self.error = f"the connection broke ({error.strerror or type(error).__name__})"
        finally:
            for end in (self._listener, self._camera, self._woken, self._wake):
                end.close()

    def _serve(self) -> None:
        decoder = self._accepted()
        if decoder is None:
            return
        with decoder, selectors.DefaultSelector() as selector:
            self._camera.setblocking(False)  # noqa: FBT003 - takes no keyword
            decoder.setblocking(False)  # noqa: FBT003
            decoder.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for end in (self._camera, decoder, self._woken):
                selector.register(end, selectors.EVENT_READ)
            requests = RtspParser()
            while not self._closing:
                selector.modify(decoder, selectors.EVENT_READ | (selectors.EVENT_WRITE if self._out else 0))
                ready = {key.fileobj for key, mask in selector.select(_POLL_S) if mask & selectors.EVENT_READ}
                if self._woken in ready:
                    self._woken.recv(_READ_BYTES)
                if self._camera in ready and not self._from_camera(_received(self._camera)):
                    return
                if decoder in ready and not self._from_decoder(requests, _received(decoder)):
                    return
                self._forward_held()
                self._send(decoder)

    def _accepted(self) -> socket.socket | None:
        """Wait for FFmpeg; None when the opening is over before it comes."""
        self._listener.settimeout(_POLL_S)
        while not self._closing:
            with contextlib.suppress(TimeoutError):
                decoder, (_, port) = self._listener.accept()
                self._decoder_socket = _socket_at(port)
                if self._decoder_socket is not None:
                    self._listener.close()
                    return decoder
                decoder.close()  # another process of this machine: the stream is not for it
        return None

    def _send(self, decoder: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._out:
                del self._out[: decoder.send(self._out)]
        if len(self._out) > _MAX_BYTES:
            raise NotRtspError(f"{_MAX_BYTES:,} bytes without a picture that can be decoded")

    # --- requests and answers -----------------------------------------------------------------------------------------

    def _from_decoder(self, requests: RtspParser, data: bytes | None) -> bool:
        """Take FFmpeg's requests and receiver reports; False at its end."""
        if data == b"":
            return False
        for item in requests.feed(data or b""):
            if isinstance(item, InterleavedPacket):
                self._send_to_camera(item.data)
            elif item.request is None:
                self._send_to_camera(item.encode())
            else:
                self._ask(item, again=False)
        return True

    def _ask(self, request: RtspMessage, *, again: bool) -> None:
        """Forward a request of FFmpeg, with our number, the camera's address and our login."""
        method, uri = request.request or ("", "")
        uri = uri.replace(self._own, self._base, 1)
        self._cseq += 1
        self._asked[str(self._cseq)] = (request.get("cseq") or "0", request, again)
        answer = None if self._login is None else self._login.authorization(method, uri)
        sent = request.replaced(start=f"{method} {uri} RTSP/1.0", cseq=str(self._cseq), authorization=answer)
        self._send_to_camera(sent.encode())

    def _send_to_camera(self, data: bytes) -> None:
        """Send within a second: requests and reports are short, so a camera that does not take them is gone."""
        self._camera.settimeout(1.0)
        try:
            self._camera.sendall(data)
        finally:
            self._camera.setblocking(False)  # noqa: FBT003 - takes no keyword

    def _answer(self, message: RtspMessage) -> None:
        number, request, again = self._asked.pop(message.get("cseq") or "", ("", None, True))
        if request is None or message.status is None:  # a request of the camera's own
            self._out += message.encode()
            return
        is_refused = message.status == 401 and not again and self._login is not None  # noqa: PLR2004
        if is_refused and self._login is not None and self._login.take(message.get_all("www-authenticate")):
            self._ask(request, again=True)  # the nonce expired
            return
        if message.status >= 300 and (request.request or ("",))[0] in {"DESCRIBE", "SETUP", "PLAY"}:  # noqa: PLR2004
            self.error = explain_refusal(message, transport=self._transport, has_login=self._login is not None)
        self._out += message.replaced(cseq=number).encode()

    # --- images -------------------------------------------------------------------------------------------------------

    def _from_camera(self, data: bytes | None) -> bool:
        """Read the camera's bytes; False at its end, and when the stream's format changed."""
        if data == b"":
            self.error = self.error or "it ended the connection: check its power, and how many clients it allows"
            return False
        now_ns = time.monotonic_ns()
        for item in self._reader.feed(data or b""):
            if isinstance(item, RtspMessage):
                self._answer(item)
            elif item.channel % 2 == 0 and is_rtp(item.payload):
                if not self._take(item, now_ns):
                    return False
            else:
                self._out += item.data
        return True

    def _take(self, packet: InterleavedPacket, now_ns: int) -> bool:
        payload = packet.payload
        with self._lock:
            if self._access_units.starts_new_unit(payload):
                self._finish()
            if not self._access_units.current.packets:
                self._begin()
            ended = self._access_units.add(payload, packet.data, now_ns)
            if self._access_units.current.changed:
                self.error = "the stream changed its size or format: it is opened again"
                return False
            if not self._is_held:
                self._forward(packet.data)
            if ended:
                self._finish()
        return True

    def _begin(self) -> None:
        """Decide whether the image that begins goes to the decoder at once."""
        if self._is_waiting():
            self._all_returned()
        is_free = self._decoder is None or len(self._ahead) < _DECODER_AHEAD
        self._is_held = bool(self._held) or self._gap_since_ns is not None or not is_free

    def _finish(self) -> None:
        unit = self._access_units.end_unit()
        if not unit.packets:
            return
        self._newest_ns = unit.arrived_ns
        if not self._is_held:
            self._delimit(unit)
            self._ahead.append((unit.arrived_ns, self._take_skipped()))
            if self._decoder is None and len(self._ahead) > _MAX_AHEAD:
                self._ahead.popleft()
            return
        if self._gap_since_ns is not None:
            if not unit.is_key and unit.arrived_ns - self._gap_since_ns < _LONGEST_GAP_NS:
                self._skip(unit)
                return
            self._gap_since_ns = None
        waited_ns = unit.arrived_ns - self._held[0].arrived_ns if self._held else 0
        if unit.is_key and waited_ns > _BURST_NS:  # all before it can be skipped
            self._skip_held()
        unit.skipped = self._take_skipped()
        self._held.append(unit)
        if waited_ns > _STALE_NS and not unit.is_key:
            self._skip_held()
            self._gap_since_ns = unit.arrived_ns

    def _forward(self, packet: bytes) -> None:
        """Forward a packet, numbered as if none were skipped: FFmpeg takes a large gap for a broken stream."""
        number = int.from_bytes(packet[6:8], "big") - self._removed
        self._out += packet[:6] + (number & 0xFFFF).to_bytes(2, "big") + packet[8:]

    def _delimit(self, unit: AccessUnit) -> None:
        """Have FFmpeg output the image at once."""
        delimiter = self._access_units.delimiter(unit)
        if delimiter is not None:
            self._removed -= 1
            self._forward(delimiter)

    def _skip(self, unit: AccessUnit) -> None:
        self._skipped += 1 + unit.skipped
        self._removed += len(unit.packets)

    def _skip_held(self) -> None:
        while self._held:
            self._skip(self._held.popleft())

    def _all_returned(self) -> None:
        """Note that the decoder used up its input; it could not decode the images that it did not return."""
        self._skipped += sum(skipped for _, skipped in self._ahead)
        self._ahead.clear()

    def _forward_held(self) -> None:
        """Pass the images that were held back to the decoder, as far as it can use them."""
        with self._lock:
            if self._held and self._is_waiting():
                self._all_returned()
            while self._held and len(self._ahead) < _DECODER_AHEAD:
                unit = self._held.popleft()
                for packet in unit.packets:
                    self._forward(packet)
                self._delimit(unit)
                self._ahead.append((unit.arrived_ns, unit.skipped))

    def _is_waiting(self) -> bool:
        """Whether the decoder sleeps inside a grab, has images, and nothing is on its way to it."""
        if not self._ahead or not self._sleeps():
            return False
        time.sleep(_YIELD_S)  # it may have waited for the interpreter, which this thread held
        return self._sleeps()

    def _sleeps(self) -> bool:
        if self._decoder is None or not self._grabbing or self._out or _unread(self._decoder_socket):
            return False
        try:
            state = Path(f"/proc/self/task/{self._decoder}/stat").read_text(encoding="ascii", errors="replace")
        except OSError:
            return False
        return re.match(r".*\) S", state) is not None


def _socket_at(port: int) -> int | None:
    """Return the descriptor of this process's socket at that TCP port: FFmpeg's, which OpenCV does not show."""
    for name in sorted(path.name for path in Path("/proc/self/fd").iterdir()):
        with contextlib.suppress(OSError):  # closed meanwhile
            if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                peek = socket.socket(fileno=int(name))
                try:
                    if peek.family == socket.AF_INET and peek.getsockname()[1] == port:
                        return int(name)
                finally:
                    peek.detach()
    return None


def _unread(descriptor: int | None) -> int:
    """Return how many bytes wait in a socket."""
    if descriptor is None:
        return 0
    try:
        return int.from_bytes(fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)), sys.byteorder)
    except OSError:
        return 0


def _received(connection: socket.socket) -> bytes | None:
    """Return the bytes that arrived, b"" at the end, None when none did."""
    try:
        data = connection.recv(_READ_BYTES)
        while isinstance(connection, ssl.SSLSocket) and connection.pending():  # which no selector sees
            data += connection.recv(_READ_BYTES)
    except (BlockingIOError, ssl.SSLWantReadError):
        return None
    return data
