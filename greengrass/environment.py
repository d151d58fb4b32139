"""Environment of a component: the variables that the nucleus and the start script set."""

from __future__ import annotations

import logging
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent.errors import OperatorError

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping

INSPECTOR_NAME: Final = "com.kensa.Inspector"
MODEL_NAME: Final = "com.kensa.Model"
NUCLEUS_KEYS: Final = frozenset({"accessControl"})  # of a component's configuration; the nucleus reads them itself
# Follows the program in the startup script of com.kensa.Model. Nucleus lite appends `systemd-notify --ready` and
# `--stopping`; systemd before 253 does not know the second, and the component would be BROKEN after its success.
MODEL_STARTUP_SUFFIX: Final = '|| exit 1; test -z "$NOTIFY_SOCKET" || systemd-notify --ready; exit 0'
_SOCKET: Final = "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT"
_TOKEN: Final = "SVCUID"  # noqa: S105 - a variable's name


@dataclass(frozen=True, slots=True)
class Environment:
    """Environment of this component."""

    socket_path: str
    token: str
    thing: str | None
    version: str  # of the nucleus
    base: Path  # the unpacked artifact: relative paths of the configuration begin here
    work: Path  # survives updates
    notify_socket: str | None = None  # of systemd, on lite
    component_version: str | None = None  # set by the start script; None from a checkout

    @classmethod
    def read(cls, variables: Mapping[str, str], *, work: Path) -> Environment:
        """Read `variables`; `work` where KENSA_WORK_DIR is not set. Raises OperatorError outside of a component."""
        if missing := [name for name in (_SOCKET, _TOKEN) if not variables.get(name)]:
            raise OperatorError(
                f"This program is started by the Greengrass nucleus, which sets {' and '.join(missing)}. "
                "Without Greengrass: kensa run CONFIG"
            )
        folder = Path(variables.get("KENSA_WORK_DIR") or work).absolute()
        return cls(
            socket_path=variables[_SOCKET],
            token=variables[_TOKEN],
            thing=variables.get("AWS_IOT_THING_NAME"),
            version=variables.get("GGC_VERSION", "unknown"),
            base=Path(variables.get("KENSA_COMPONENT_DIR") or folder).absolute(),
            work=folder,
            notify_socket=variables.get("NOTIFY_SOCKET"),
            component_version=variables.get("KENSA_COMPONENT_VERSION") or None,
        )

    def notify_ready(self) -> None:
        """Send READY=1 where systemd waits for it: on lite `startup` is a unit of Type=notify.

        The health daemon sends it on a component's behalf after UpdateState. Sending it twice does no harm, and where
        that daemon does not run the unit would wait until the time-out of `startup`. See sd_notify(3).
        """
        if self.notify_socket is None:
            return
        address = "\0" + self.notify_socket[1:] if self.notify_socket.startswith("@") else self.notify_socket
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as to_systemd:
            to_systemd.sendto(b"READY=1", address)


def configure_logging() -> None:
    """Log to standard output, which the nucleus collects."""
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(levelname)s %(message)s")
    # The SDK logs what greengrass.ipc.connection logs.
    logging.getLogger("awsiot.eventstreamrpc").setLevel(logging.CRITICAL)


def set_default_region(variables: MutableMapping[str, str]) -> None:
    """Set the variable that boto3 reads the region from: the nucleus sets AWS_REGION only.

    The fetch child inherits all of AWS_*, including address and token of TokenExchangeService (AWS_CONTAINER_*).
    """
    if region := variables.get("AWS_REGION"):
        variables.setdefault("AWS_DEFAULT_REGION", region)
