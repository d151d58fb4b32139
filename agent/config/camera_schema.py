"""The configuration of cameras, by kind."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - pydantic reads the annotations
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from agent.config.config_section import ConfigSection, Name, PositiveFps


class _CameraConfig(ConfigSection):
    """The keys of every camera kind."""

    width: int | None = Field(
        default=None, ge=1, le=65_536
    )  # declared size; frames of another size are dropped (`size`)
    height: int | None = Field(default=None, ge=1, le=65_536)
    stall_ms: int = Field(default=2_000, ge=100, le=600_000)  # live cameras: silence for so long is a stall

    @model_validator(mode="after")
    def _size_is_whole(self) -> Self:
        if (self.width is None) != (self.height is None):
            msg = "give both width and height, or neither"
            raise ValueError(msg)
        return self


# For how long a live camera may repeat one image, equal in every byte, before its frames become `unknown`
# (`frozen`): 0 from the third equal frame on, None for ever.
FrozenAfter = Annotated[float, Field(ge=0.0, le=86_400.0, allow_inf_nan=False)] | None


class FolderCameraConfig(_CameraConfig):
    """A folder of images, or of a `manifest.csv`, as a camera."""

    kind: Literal["folder"]
    path: Path
    split: str | None = None  # only rows of this split, where there is a manifest.csv
    fps: PositiveFps | None = None  # None: as fast as the line accepts them
    loop: bool = False


class VideoCameraConfig(_CameraConfig):
    """A video file as a camera."""

    kind: Literal["video"]
    path: Path
    fps: PositiveFps | None = None  # None: the file's own rate
    loop: bool = False


class V4l2CameraConfig(_CameraConfig):
    """A V4L2 or USB camera."""

    kind: Literal["v4l2"]
    device: Annotated[str, StringConstraints(pattern=r"^(/dev/[A-Za-z0-9_/-]+|\d{1,3})$")] = "/dev/video0"
    fps: PositiveFps | None = None
    fourcc: Annotated[str, StringConstraints(pattern=r"^[A-Z0-9]{4}$")] | None = None
    frozen_after_s: FrozenAfter = 0.0


class _NetworkCameraConfig(_CameraConfig):
    """A camera with an address, and possibly a password.

    `${NAME}` in `url` and `username` stands for a variable of the environment; the password file is read at each
    opening.
    """

    username: str | None = Field(default=None, min_length=1, max_length=256, repr=False)
    password_file: Path | None = None

    @model_validator(mode="after")
    def _a_password_has_a_user(self) -> Self:
        if self.password_file is not None and self.username is None:
            msg = "password_file is given without username"
            raise ValueError(msg)
        return self


class RtspCameraConfig(_NetworkCameraConfig):
    """An RTSP camera."""

    kind: Literal["rtsp"]
    url: Annotated[str, StringConstraints(pattern=r"^rtsps?://|^\$\{\w+\}$", max_length=1024)] = Field(repr=False)
    transport: Literal["tcp", "udp"] = "tcp"
    frozen_after_s: FrozenAfter = 30.0  # a video codec may repeat a still scene until its next key frame


class MjpegCameraConfig(_NetworkCameraConfig):
    """Motion JPEG over HTTP."""

    kind: Literal["mjpeg"]
    url: Annotated[str, StringConstraints(pattern=r"^https?://|^\$\{\w+\}$", max_length=1024)] = Field(repr=False)
    ca: Path | None = None  # of https: certificates in PEM, of the authority or the camera; None: the system's
    frozen_after_s: FrozenAfter = 0.0


class PluginCameraConfig(_CameraConfig):
    """A camera kind of another package (entry-point group `kensa.sources`); `simulated` is one."""

    kind: Literal["plugin"]
    source: Name  # the entry point's name
    options: dict[str, Any] = Field(default_factory=dict, repr=False)  # checked by the plugin
    frozen_after_s: FrozenAfter = 0.0  # not for a source that declares that it may repeat images


CameraConfig = Annotated[
    FolderCameraConfig
    | VideoCameraConfig
    | V4l2CameraConfig
    | RtspCameraConfig
    | MjpegCameraConfig
    | PluginCameraConfig,
    Field(discriminator="kind"),
]
