"""Collects frames for training the next model, without holding up the line.

`Collector` runs in the inspecting process: it selects and copies. The child process (`agent.upload`) encodes, keeps the
`Spool` and uploads it.
"""

from __future__ import annotations

from agent.collection.collector import Collector

__all__ = ["Collector"]
