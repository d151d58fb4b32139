"""The agent's one configuration file: a frozen tree, every key known, units in the names.

Unknown keys and wrong values are refused with the key's path, what was given and what is allowed; there is no silent
default for a key that was misspelt. `docs/config.example.yaml` documents every key and is parsed by the tests.
Relative paths are relative to the configuration file.
"""

from __future__ import annotations

from agent.config.base import Name, PositiveFps, Region, Unit
from agent.config.cameras import (
    Camera,
    FolderCamera,
    MjpegCamera,
    PluginCamera,
    RtspCamera,
    V4l2Camera,
    VideoCamera,
)
from agent.config.collect import Collect
from agent.config.reading import MAX_CONFIG_BYTES, MAX_VALUES, load, parse
from agent.config.tree import (
    Config,
    Inspection,
    Intake,
    Keep,
    Metrics,
    Mqtt,
    NoTransport,
    Outbox,
    RolloutLimits,
    Tls,
    Updates,
)

__all__ = [
    "MAX_CONFIG_BYTES", "MAX_VALUES", "Camera", "Collect", "Config", "FolderCamera", "Inspection", "Intake", "Keep",
    "Metrics", "MjpegCamera", "Mqtt", "Name", "NoTransport", "Outbox", "PluginCamera", "PositiveFps", "Region",
    "RolloutLimits", "RtspCamera", "Tls", "Unit", "Updates", "V4l2Camera", "VideoCamera", "load", "parse",
]  # fmt: skip
