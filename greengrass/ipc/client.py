"""Opens a client of the Greengrass SDK that authenticates by token or by the component's name.

A component presents the token that the nucleus gave it (`SVCUID`). Nucleus lite keeps tokens in the memory of its
IPC daemon, `ggipcd`, and recognises none of them after that daemon restarts; it then accepts the component's name
instead, provided that the process belongs to that component's systemd unit (`modules/ggipcd/src/ipc_server.c`).
Measured on 2.6.0. The SDK's own `connect` can send a token only.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from awscrt.io import ClientBootstrap, DefaultHostResolver, EventLoopGroup, SocketDomain, SocketOptions
from awsiot.eventstreamrpc import Connection, MessageAmendment
from awsiot.greengrasscoreipc.client import GreengrassCoreIPCClient

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Credentials:
    """Credentials of a component: its token, and its name for when the token is no longer recognised."""

    token: str
    component: str | None = None

    def connect_message(self, by: Literal["token", "name"]) -> Mapping[str, str]:
        """Return the payload of the connect message."""
        if by == "name" and self.component is not None:
            return {"componentName": self.component}
        return {"authToken": self.token}


def open_client(*, socket_path: str, message: Mapping[str, str], handler: Any, timeout_s: float) -> Any:
    """Connect and return the SDK's client. `handler` has the methods of the SDK's LifecycleHandler.

    Raises the SDK's own exceptions, `concurrent.futures.TimeoutError` among them after `timeout_s` seconds.
    """
    events = EventLoopGroup(num_threads=1)
    options = SocketOptions()
    options.domain = SocketDomain.Local
    amendment = MessageAmendment(payload=json.dumps(dict(message)).encode())
    connection = Connection(
        host_name=socket_path,
        port=0,  # a unix socket has none
        bootstrap=ClientBootstrap(events, DefaultHostResolver(events)),
        socket_options=options,
        connect_message_amender=lambda: amendment,
    )
    connection.connect(handler).result(timeout_s)
    return GreengrassCoreIPCClient(connection)
