"""Behaviours of MJPEG servers: a table of reported ones, and a loopback server for each row.

Each row gives the bytes of one answer, or of several where the client must ask again. Where no camera is named, the
behaviour is the standard's, or one of the servers that people write themselves. `kensa bench mjpeg` compares the agent
with OpenCV's reader on every row.
"""

from __future__ import annotations

from simulator.doubles.cameras.mjpeg_servers.behaviour_server import serve_behaviour
from simulator.doubles.cameras.mjpeg_servers.behaviour_table import SERVER_BEHAVIOURS
from simulator.doubles.cameras.mjpeg_servers.mjpeg_responses import PASSWORD, USER, ServerBehaviour

__all__ = ["PASSWORD", "SERVER_BEHAVIOURS", "USER", "ServerBehaviour", "serve_behaviour"]
