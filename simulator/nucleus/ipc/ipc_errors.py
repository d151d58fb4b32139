"""The IPC error classes that a component can distinguish."""

from __future__ import annotations

from typing import Any


class IpcError(Exception):
    """An operation is answered with an error; `kind` is the class that the component's client raises."""

    kind = "ServiceError"

    def to_payload(self, *, lite: bool) -> dict[str, Any]:
        """Return the error's payload: the lite nucleus names the text so that the SDK does not find it."""
        return {"_message": str(self), "_errorCode": self.kind} if lite else {"message": str(self)}


class ServiceError(IpcError):
    """The nucleus cannot, now or ever; also the answer to an operation that is not there."""


class UnauthorizedError(IpcError):
    """The component's accessControl does not allow it."""

    kind = "UnauthorizedError"


class InvalidArgumentsError(IpcError):
    """The request makes no sense."""

    kind = "InvalidArgumentsError"


class ResourceNotFoundError(IpcError):
    """What is asked for is not there."""

    kind = "ResourceNotFoundError"


class ConflictError(IpcError):
    """Somebody changed it before."""

    kind = "ConflictError"


class FailedUpdateConditionCheckError(IpcError):
    """The value is not what the request expects it to be, or somebody wrote a newer one (classic nucleus)."""

    kind = "FailedUpdateConditionCheckError"


class CloseConnectionError(Exception):
    """The request is not answered at all: the nucleus closes the whole connection."""
