"""Checks that cameras' passwords exist, are private to this user, and are not in the configuration."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Final

from agent import config as configuration
from agent.app.factories import address_problem
from agent.cameras.camera_url import has_ambiguous_host, has_password, redact
from agent.commands.doctor.check_result import CheckResult, fail, ok, warn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from agent.commands.doctor.check_context import CheckContext

_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def run_checks(context: CheckContext) -> Iterator[CheckResult]:
    """Check each network camera's address and password file; only the file is opened."""
    for inspection in context.config.inspections.values():
        for name, camera in inspection.cameras.items():
            if isinstance(camera, configuration.RtspCameraConfig | configuration.MjpegCameraConfig):
                yield from _camera(f"password {name}", camera)


def _camera(
    check: str, camera: configuration.RtspCameraConfig | configuration.MjpegCameraConfig
) -> Iterator[CheckResult]:
    if problem := address_problem(camera):
        yield fail(check, problem, "correct the camera's address, or set the variable in the service's environment")
    elif has_ambiguous_host(camera.url) and not camera.url.startswith("${"):
        seen = f"the address {redact(camera.url)} has an @ after what reads as its host"
        yield warn(check, seen, "escape the password's special characters (%40 for @, %2F for /), or use password_file")
    elif camera.password_file is not None:
        yield check_private_file(check, camera.password_file)
    elif has_password(camera.url):
        seen = f"the configuration itself contains the password for {redact(camera.url)}"
        yield warn(check, seen, "give username and password_file, or write ${NAME} for a variable of the environment")


def check_private_file(check: str, path: Path) -> CheckResult:
    """Check that a file with a secret can be read, and by this user only."""
    try:
        with path.open("rb") as file:
            mode = file.read(1) and stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        return fail(check, f"{path}: {error.strerror}", "make it, readable by the agent's user only (mode 0600)")
    if not mode:
        return fail(check, f"{path} is empty", "write the password into it, in one line")
    if mode & _OTHERS:
        return warn(check, f"{path} has mode {mode:04o}: other users can read or change it", f"chmod 600 {path}")
    return ok(check, f"{path}, mode {mode:04o}")
