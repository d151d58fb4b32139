"""Errors of IPC with the nucleus, classified by the class of the SDK's error alone.

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
    """Kind of an IPC error."""

    SERVICE = "service"  # lite: also an unsupported operation, an unreachable broker, ten in flight
    UNAUTHORIZED = "unauthorized"  # accessControl of the recipe does not allow it
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    INVALID = "invalid"
    TIMEOUT = "timeout"
    CLOSED = "closed"  # no connection now


class IpcError(TransportError):
    """The nucleus refused the operation or could not do it."""

    def __init__(self, kind: IpcErrorKind, text: str) -> None:
        """Programs decide by `kind` alone."""
        super().__init__(text)
        self.kind = kind


_KINDS: Final = (
    (model.UnauthorizedError, IpcErrorKind.UNAUTHORIZED),
    (model.ResourceNotFoundError, IpcErrorKind.NOT_FOUND),
    (model.ConflictError, IpcErrorKind.CONFLICT),
    (model.InvalidArgumentsError, IpcErrorKind.INVALID),
)
# Raised by the SDK when it connects, writes or reads; all errors of its own are RuntimeErrors.
SDK_ERRORS: Final = (RuntimeError, OSError, AwsCrtError, ValueError)


def from_sdk_error(error: Exception, operation: str) -> IpcError:
    """Classify an error of the SDK."""
    if isinstance(error, FutureTimeoutError):
        return IpcError(IpcErrorKind.TIMEOUT, f"{operation}: the nucleus did not answer in time")
    for error_class, kind in _KINDS:
        if isinstance(error, error_class):
            return IpcError(kind, f"{operation}: the nucleus answers {kind.replace('_', ' ')}")
    if isinstance(error, EventStreamOperationError):
        return IpcError(IpcErrorKind.SERVICE, f"{operation}: the nucleus answers {type(error).__name__}")
    return IpcError(IpcErrorKind.CLOSED, f"{operation}: the connection to the nucleus ended ({type(error).__name__})")
