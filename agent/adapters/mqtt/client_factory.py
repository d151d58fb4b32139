"""Makes a paho client for each connection, and reads certificates and password file anew each time."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from agent.adapters.mqtt.broker_tls import TlsFiles, read_password, tls_context
from agent.adapters.mqtt.paho_client import StrictAckClient, message_ids
from agent.errors import ConfigError

if TYPE_CHECKING:
    import random
    from collections import Counter
    from pathlib import Path

_CLIENT_ID: Final = re.compile(r"[A-Za-z0-9_:-]{1,128}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSettings:
    """How a client presents itself to the broker. `password_file` goes before `password`."""

    client_id: str
    protocol: Literal["3.1.1", "5"]
    port: int
    tls: TlsFiles | None
    username: str | None
    password: str | None
    password_file: Path | None
    max_in_flight: int
    timeout_s: float  # for connecting


class ClientFactory:
    """Clients of one identity, whose message ids go on counting from one to the next."""

    def __init__(self, settings: ClientSettings, *, rng: random.Random, stray: Counter[str]) -> None:
        """`rng` draws the first message id; `stray` counts answers that mean nothing at QoS 1.

        Raises ConfigError for a client id, a certificate or a password file that cannot work.
        """
        if not _CLIENT_ID.fullmatch(settings.client_id):
            msg = (
                f"transport.client_id: given {settings.client_id!r}, "
                "allowed are 1 to 128 letters, digits, '_', ':' and '-'"
            )
            raise ConfigError(msg)
        self._settings = settings
        self._ids = message_ids(rng)
        self._stray = stray
        self.make(will=None)  # so that what cannot work is refused at start

    def make(self, *, will: tuple[str, bytes] | None) -> StrictAckClient:
        """Return a client for one connection; `will` is topic and payload of its retained last will.

        Raises ConfigError naming the file that cannot be used.
        """
        settings = self._settings
        is_5 = settings.protocol == "5"
        client = StrictAckClient(
            CallbackAPIVersion.VERSION2,
            client_id=settings.client_id,
            clean_session=None if is_5 else True,  # in MQTT 5 paho starts clean on a client's first connection
            protocol=MQTTProtocolVersion.MQTTv5 if is_5 else MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,
            ids=self._ids,
            stray=self._stray,
        )
        client.max_inflight_messages_set(settings.max_in_flight)  # on the wire; the link bounds what waits for it
        client.connect_timeout = settings.timeout_s
        if settings.tls is not None:
            client.tls_set_context(tls_context(settings.tls, port=settings.port))
        if settings.username is not None:
            file = settings.password_file
            client.username_pw_set(settings.username, settings.password if file is None else read_password(file))
        if will is not None:
            client.will_set(*will, qos=1, retain=True)
        return client
