"""An MJPEG camera on a line: read continuously, decoded only when an image is used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.adapters.mjpeg.mjpeg_source import MjpegSource
from agent.images.decode import ImageDecoder
from agent.inspection.latest_frames import Exposure, LatestFrameSource

if TYPE_CHECKING:
    from pathlib import Path

    from agent.timing.clock import Clock


def live_mjpeg_source(
    *,
    url: str,
    clock: Clock,
    username: str | None = None,
    password_file: Path | None = None,
    ca: Path | None = None,
) -> LatestFrameSource:
    """Return the source of the stream at `url`; see `MjpegSource`. It gives the newest image."""
    decoder = ImageDecoder()  # for the capture thread; the reading threads only copy encoded images

    def connect() -> _MjpegLiveStream:
        source = MjpegSource(url=url, clock=clock, username=username, password_file=password_file, ca=ca)
        return _MjpegLiveStream(source, decoder)

    name = MjpegSource(url=url, clock=clock).name
    return LatestFrameSource(name=name, connect=connect, on_close=decoder.close)


class _MjpegLiveStream:
    """See `agent.inspection.latest_frames.LiveStream`."""

    def __init__(self, source: MjpegSource, decoder: ImageDecoder) -> None:
        self._source = source
        self._decoder = decoder

    def open(self) -> None:
        self._source.open()

    def receive(self, *, timeout_s: float) -> Exposure | None:
        picture = self._source.next_image(timeout_s=timeout_s)
        if picture is None:
            return None
        data, decoder = bytes(picture.data), self._decoder  # the reader reuses its memory
        return Exposure(picture.arrived_ns, lambda buffer: decoder.decode(data, buffer))

    def close(self) -> None:
        self._source.close()
