"""Checks that the MQTT broker can be reached and accepts this device."""

from __future__ import annotations

import queue
import socket
from typing import TYPE_CHECKING, Final

from agent import config as configuration
from agent.app.factories import make_transport
from agent.commands.doctor.check_result import CheckResult, fail, ok, warn
from agent.errors import KensaError
from agent.timing.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.commands.doctor.check_context import CheckContext
    from agent.config import Config

_BROKER_S: Final = 10.0


def run_checks(context: CheckContext) -> Iterator[CheckResult]:
    """Connect to the broker, where no agent runs."""
    if context.agent_pid is None:
        yield check_broker(context.config)


def check_broker(config: Config) -> CheckResult:
    """Try name, TCP, TLS and MQTT, each with its own remedy."""
    chosen = config.transport
    if isinstance(chosen, configuration.NoTransportConfig):
        return warn(
            "broker", "transport is none: verdicts stay on this machine", "set transport.kind: mqtt for a plant"
        )
    where = f"{chosen.host}:{chosen.port}"
    try:
        socket.create_connection((chosen.host, chosen.port), timeout=_BROKER_S).close()
    except socket.gaierror as error:
        return fail("broker", f"{chosen.host} has no address: {error.strerror}", "check transport.host and DNS")
    except OSError as error:
        reason = error.strerror or str(error)
        return fail("broker", f"{where}: {reason}", "is the broker running, and does the firewall let this port out?")
    up, reason = _connect(config)
    if not up:
        return fail("broker", f"{where}: {reason}", "check certificates, user, client id and the broker's own log")
    tls = ""
    if chosen.tls is not None:
        tls = "TLS, " if chosen.tls.certificate is None else "mutual TLS, "
    return ok("broker", f"{where}: {tls}MQTT {chosen.protocol}, connected as {chosen.client_id or config.thing}")


def _connect(config: Config) -> tuple[bool, str]:
    """Connect as the agent would; return whether it worked, and why not."""
    try:
        transport = make_transport(config, SystemClock())
    except KensaError as error:
        return False, str(error)
    assert transport is not None  # noqa: S101 - the caller has answered `none`
    answers: queue.SimpleQueue[tuple[bool, str]] = queue.SimpleQueue()
    transport.start(
        on_ack=lambda _: None,
        on_reject=lambda _token, _reason: None,
        on_connection=lambda up, reason: answers.put((up, reason)),
    )
    try:
        return answers.get(timeout=_BROKER_S)
    except queue.Empty:
        return False, f"no answer to the MQTT connection within {_BROKER_S:.0f} s"
    finally:
        transport.close(timeout_s=2.0)
