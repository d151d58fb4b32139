"""Collecting frames for the next model: which, how many, and how they get to the disk without holding up the line.

`Collector` is the inspecting process's side: it chooses and copies. The child process (`agent.upload`) encodes, keeps
`Spool` and brings it to the target; nothing of that happens here.
"""

from __future__ import annotations

from agent.collection.collector import Collector

__all__ = ["Collector"]
