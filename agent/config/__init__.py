"""The agent's one configuration file: a frozen tree, every key known, units in the names.

Unknown keys and wrong values are refused with the key's path, the given value and the allowed ones; there is no silent
default for a misspelt key. `docs/config.example.yaml` documents every key and is parsed by the tests. Relative paths
are relative to the configuration file.
"""

from __future__ import annotations

from agent.config.camera_schema import (
    CameraConfig,
    FolderCameraConfig,
    MjpegCameraConfig,
    PluginCameraConfig,
    RtspCameraConfig,
    V4l2CameraConfig,
    VideoCameraConfig,
)
from agent.config.collection_schema import CollectionConfig
from agent.config.config_schema import (
    Config,
    FrameRecorderConfig,
    InspectionConfig,
    IntakeConfig,
    MetricsConfig,
    MqttConfig,
    NoTransportConfig,
    OutboxConfig,
    RolloutLimits,
    TlsConfig,
    UpdatesConfig,
)
from agent.config.config_section import Fraction, Name, PositiveFps, Region
from agent.config.loader import MAX_CONFIG_BYTES, MAX_VALUES, load, parse

__all__ = [
    "MAX_CONFIG_BYTES",
    "MAX_VALUES",
    "CameraConfig",
    "CollectionConfig",
    "Config",
    "FolderCameraConfig",
    "Fraction",
    "FrameRecorderConfig",
    "InspectionConfig",
    "IntakeConfig",
    "MetricsConfig",
    "MjpegCameraConfig",
    "MqttConfig",
    "Name",
    "NoTransportConfig",
    "OutboxConfig",
    "PluginCameraConfig",
    "PositiveFps",
    "Region",
    "RolloutLimits",
    "RtspCameraConfig",
    "TlsConfig",
    "UpdatesConfig",
    "V4l2CameraConfig",
    "VideoCameraConfig",
    "load",
    "parse",
]  # fmt: skip
