"""Checks that the port of the metrics is free; a running agent uses it."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from agent.commands.doctor.check_result import CheckResult, fail, ok

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.commands.doctor.check_context import CheckContext


def run_checks(context: CheckContext) -> Iterator[CheckResult]:
    """Try to bind the port where no agent runs."""
    metrics = context.config.metrics
    if metrics is not None and context.agent_pid is None:
        yield _check(metrics.port)


def _check(port: int) -> CheckResult:
    if port == 0:
        return ok("metrics", "any free port of 127.0.0.1")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server will
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return fail("metrics", f"127.0.0.1:{port}: {error.strerror}", "choose another metrics.port, or 0 for any")
    return ok("metrics", f"127.0.0.1:{port} is free")
