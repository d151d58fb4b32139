"""The listening side of the broker: one thread that accepts, one for each connection."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Final, Self

from agent.errors import OperatorError
from simulator.faulty_broker.broker_behaviours import BROKER_BEHAVIOURS
from simulator.faulty_broker.broker_record import BrokerRecord
from simulator.faulty_broker.broker_session import BrokerState

if TYPE_CHECKING:
    from collections.abc import Sequence

HOST: Final = "127.0.0.1"
_END_S: Final = 10.0


class FaultyBroker:
    """Listens on the loopback; see the package."""

    host: Final = HOST

    def __init__(
        self,
        behaviour: str = "honest",
        *,
        port: int = 0,
        forbidden: Sequence[str] = (),
        receive_maximum: int | None = None,
    ) -> None:
        """`port` 0 takes a free one. `forbidden` are topic filters that nobody may publish to.

        `receive_maximum` is told to clients of MQTT 5. Raises OperatorError for a behaviour that does not exist.
        """
        if behaviour not in BROKER_BEHAVIOURS:
            raise OperatorError(f"there is no behaviour {behaviour!r}; known are {', '.join(BROKER_BEHAVIOURS)}")
        self.behaviour = behaviour
        self.record = BrokerRecord()
        self._state = BrokerState(tuple(forbidden), receive_maximum, self.record)
        self.port = port
        self._session = BROKER_BEHAVIOURS[behaviour]
        self._socket: socket.socket | None = None
        self._accepting: threading.Thread | None = None
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        """Listen. Raises OperatorError when the port is taken."""
        try:
            self._socket = socket.create_server((HOST, self.port))
        except OSError as error:
            raise OperatorError(f"port {self.port} cannot be used: {error.strerror}") from error
        self._socket.settimeout(0.05)
        self.port = self._socket.getsockname()[1]
        self._accepting = threading.Thread(target=self._accept, name="faulty-broker", daemon=True)
        self._accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End every connection."""
        self._state.is_closing = True
        for thread in [self._accepting, *self._threads]:
            if thread is not None:
                thread.join(_END_S)
        if self._socket is not None:
            self._socket.close()

    def _accept(self) -> None:
        assert self._socket is not None  # noqa: S101 - `__enter__` opened it
        number = 0
        while not self._state.is_closing:
            with contextlib.suppress(TimeoutError):
                connection, _ = self._socket.accept()
                number += 1
                session = self._session(connection, number=number, broker=self._state)
                thread = threading.Thread(target=session.run, name=f"faulty-broker-{number}", daemon=True)
                self._threads.append(thread)
                thread.start()
