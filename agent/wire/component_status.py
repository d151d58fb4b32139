"""Status file of the Greengrass component: its nucleus and its configuration, read by `kensa doctor`."""

from __future__ import annotations

from typing import Final, Literal

from agent.wire.codec import WireModel

STATUS_FILE_NAME: Final = "greengrass.json"  # in the state directory


class ComponentStatus(WireModel):
    """Content of the file, as the component writes it."""

    mode: Literal["lite", "classic"]
    version: str  # of the nucleus
    present: tuple[str, ...]  # capabilities of this nucleus
    unauthorized: tuple[str, ...]  # capabilities that accessControl does not allow, so that nobody knows of them
    fallbacks: dict[str, str]  # absent capability -> its substitute
    confirmed_by_echo: bool  # whether verdicts are
    configuration: str  # digest of the configuration in force
    refused: str | None  # why the last deployment's configuration is not in force
    needs_restart: tuple[str, ...]  # keys that the running process has not applied
