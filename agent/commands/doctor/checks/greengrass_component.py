"""Checks the status that the Greengrass component wrote to `greengrass.json` in the state directory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agent.commands.doctor.check_result import CheckResult, ok, warn
from agent.wire.component_status import STATUS_FILE_NAME, ComponentStatus

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.commands.doctor.check_context import CheckContext

_MAX_BYTES: Final = 64 * 1024


def run_checks(context: CheckContext) -> Iterator[CheckResult]:
    """Yield nothing where no component has run on this state directory."""
    path = context.config.state_dir / STATUS_FILE_NAME
    try:
        with path.open("rb") as file:
            status = ComponentStatus.model_validate_json(file.read(_MAX_BYTES))
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        seen = f"{path} cannot be read ({type(error).__name__})"
        yield warn("greengrass", seen, "restart the component, which writes it again")
        return
    has = ", ".join(status.present) or "nothing beyond messages and configuration"
    yield ok("greengrass", f"nucleus {status.mode} {status.version}, with {has}")
    for name, text in status.fallbacks.items():
        if name in status.unauthorized:
            yield warn(f"greengrass {name}", f"not allowed; {text}", "allow it in the component's accessControl")
        else:
            yield ok(f"greengrass {name}", f"this nucleus does not have it: {text}")
    if not status.confirmed_by_echo:
        yield warn(
            "greengrass delivery",
            "verdicts count as delivered without their echo: a lost connection may lose some",
            "allow SubscribeToIoTCore in accessControl and iot:Subscribe, iot:Receive in the thing's policy",
        )
    yield from _configuration(status)


def _configuration(status: ComponentStatus) -> Iterator[CheckResult]:
    if status.refused is not None:
        seen = f"the last deployment's was refused, {status.configuration[:12]} goes on: {status.refused}"
        yield warn("greengrass configuration", seen, "deploy a corrected configuration")
    if status.needs_restart:
        seen = f"deployed and not in force: {', '.join(status.needs_restart)}"
        yield warn("greengrass configuration", seen, "restart the component, with a new version or on the device")
