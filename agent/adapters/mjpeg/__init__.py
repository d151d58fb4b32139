"""MJPEG over HTTP and HTTPS: the network camera that needs no vendor and no codec.

`http` understands answers, `jpeg` and `pictures` cut a stream into its pictures (neither does I/O), `source` owns the
connection.
"""

from __future__ import annotations

from agent.adapters.mjpeg.source import MjpegSource

__all__ = ["MjpegSource"]
