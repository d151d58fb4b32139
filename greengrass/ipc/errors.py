"""What can go wrong between a component and its nucleus, classified by the class of the SDK's error alone.

The text of an error does not arrive on lite: its key on the wire is not the one that the SDK reads.
"""

from __future__ import annotations

from concurrent.futures import TimeoutError as FutureTimeoutError
from enum import StrEnum
from typing import Final

from awscrt.exceptions import AwsCrtError
from awsiot.eventstreamrpc import EventStreamOperationError
from awsiot.greengrasscoreipc import model

from agent.errors import TransportError


class IpcErrorKind(StrEnum):
    """What an IPC call met."""

    SERVICE = "service"  # lite: also an operation that it does not have, a broker that is away, ten in flight
    UNAUTHORIZED = "unauthorized"  # accessControl of the recipe lacks it
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    INVALID = "invalid"
    TIMEOUT = "timeout"
    CLOSED = "closed"  # no connection now


class IpcError(TransportError):
    """The nucleus could not or would not do it now."""

    def __init__(self, fault: IpcErrorKind, text: str) -> None:
        """`fault` is all that a program may go by."""
        super().__init__(text)
        self.kind = fault


_KINDS: Final = (
    (model.UnauthorizedError, IpcErrorKind.UNAUTHORIZED),
    (model.ResourceNotFoundError, IpcErrorKind.NOT_FOUND),
    (model.ConflictError, IpcErrorKind.CONFLICT),
    (model.InvalidArgumentsError, IpcErrorKind.INVALID),
)
# What the SDK raises of its own accord, when connecting, writing or reading; all its own errors are RuntimeErrors.
SDK_ERRORS: Final = (RuntimeError, OSError, AwsCrtError, ValueError)


def from_sdk_error(error: Exception, operation: str) -> IpcError:
    """Return what an error of the SDK means."""
    if isinstance(error, FutureTimeoutError):
        return IpcError(IpcErrorKind.TIMEOUT, f"{operation}: the nucleus did not answer in time")
    for kind, fault in _KINDS:
        if isinstance(error, kind):
            return IpcError(fault, f"{operation}: the nucleus says {fault.replace('_', ' ')}")
    if isinstance(error, EventStreamOperationError):
        return IpcError(IpcErrorKind.SERVICE, f"{operation}: the nucleus says {type(error).__name__}")
    return IpcError(IpcErrorKind.CLOSED, f"{operation}: the connection to the nucleus ended ({type(error).__name__})")
