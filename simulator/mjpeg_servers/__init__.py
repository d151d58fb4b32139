"""How MJPEG servers behave: a table of what cameras are reported to send, and a server on loopback for each row.

Each row gives the bytes of one answer, or of several where the client must ask again. Where no camera is named, the
behaviour is the standard's, or one of the servers that people write themselves. `kensa bench mjpeg` compares the agent
with OpenCV's reader on every row.
"""

from __future__ import annotations

from simulator.mjpeg_servers.answers import PASSWORD, USER, ServerBehaviour
from simulator.mjpeg_servers.serve import serve_behaviour
from simulator.mjpeg_servers.table import SERVER_BEHAVIOURS

__all__ = ["PASSWORD", "SERVER_BEHAVIOURS", "USER", "ServerBehaviour", "serve_behaviour"]
