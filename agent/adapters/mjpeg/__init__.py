"""MJPEG over HTTP and HTTPS: a network camera without vendor SDK or video codec.

`http_response` parses answers; `mjpeg_parser` and `jpeg_end` cut a stream into images (none of them does I/O);
`mjpeg_source` owns the connection; `live_stream`, which a line uses, reads it continuously.
"""

from __future__ import annotations

from agent.adapters.mjpeg.live_stream import live_mjpeg_source
from agent.adapters.mjpeg.mjpeg_source import MjpegSource

__all__ = ["MjpegSource", "live_mjpeg_source"]
