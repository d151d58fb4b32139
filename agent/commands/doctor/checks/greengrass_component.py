"""What the component says of its nucleus, where the agent runs as one: `greengrass.json` in the state directory."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from pydantic import ConfigDict, ValidationError

from agent.commands.doctor.check_result import CheckResult, ok, warn
from agent.strict import Strict

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILE_NAME: Final = "greengrass.json"
_MAX_BYTES: Final = 64 * 1024


class ComponentStatusFile(Strict):
    """The file, as the component writes it."""

    model_config = ConfigDict(strict=True)

    mode: str  # lite or classic
    version: str
    present: list[str]  # what this nucleus has
    unauthorized: list[str]  # what accessControl does not allow, and so cannot be told
    instead: dict[str, str]  # what is absent -> what takes its place
    confirms: bool  # verdicts by their echo
    configuration: str  # digest of the one in force
    refused: str | None
    needs_restart: list[str]


def run_checks(state_dir: Path) -> Iterator[CheckResult]:
    """Nothing where no component has run on `state_dir`."""
    path = state_dir / FILE_NAME
    try:
        with path.open("rb") as file:
            report = ComponentStatusFile.model_validate(json.loads(file.read(_MAX_BYTES)))
    except FileNotFoundError:
        return
    except (OSError, ValueError, ValidationError) as error:
        seen = f"{path} cannot be read ({type(error).__name__})"
        yield warn("greengrass", seen, "restart the component, which writes it anew")
        return
    has = ", ".join(report.present) or "nothing beyond messages and configuration"
    yield ok("greengrass", f"nucleus {report.mode} {report.version}, with {has}")
    for name, text in report.instead.items():
        if name in report.unauthorized:
            yield warn(f"greengrass {name}", f"not allowed; {text}", "allow it in the component's accessControl")
        else:
            yield ok(f"greengrass {name}", f"this nucleus does not have it: {text}")
    if not report.confirms:
        yield warn(
            "greengrass delivery",
            "verdicts count as delivered without their echo: a cut may lose some",
            "allow SubscribeToIoTCore in accessControl and iot:Subscribe, iot:Receive in the thing's policy",
        )
    yield from _configuration(report)


def _configuration(report: ComponentStatusFile) -> Iterator[CheckResult]:
    if report.refused is not None:
        seen = f"the last deployment's was refused, {report.configuration[:12]} goes on: {report.refused}"
        yield warn("greengrass configuration", seen, "deploy a corrected configuration")
    if report.needs_restart:
        seen = f"deployed and not in force: {', '.join(report.needs_restart)}"
        yield warn("greengrass configuration", seen, "restart the component, with a new version or on the device")
