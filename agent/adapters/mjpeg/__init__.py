"""MJPEG over HTTP and HTTPS: the network camera that needs no vendor and no codec.

`http` understands answers, `jpeg` and `pictures` cut a stream into its pictures (neither does I/O), `source` owns the
connection, `live` reads it all the time: what a line uses.
"""

from __future__ import annotations

from agent.adapters.mjpeg.live_stream import live_mjpeg_source
from agent.adapters.mjpeg.mjpeg_source import MjpegSource

__all__ = ["MjpegSource", "live_mjpeg_source"]
