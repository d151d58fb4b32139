"""Lambda: calls the project's handlers in this process and reports their errors as Lambda does.

Promise: an event and an answer pass through JSON as they do in the cloud, so that what cannot travel fails here too; a
handler's exception becomes the function error that Step Functions sees (`errorType` is the class's name). Handlers
share this process's environment: all functions of the stack have the same variables.
"""

from __future__ import annotations

import json
import logging
import threading
import traceback
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from simulator.aws.api_protocol import ACCOUNT, REGION, AwsRequest, AwsResponse

if TYPE_CHECKING:
    from collections.abc import Callable

_MAX_ANSWER_BYTES: Final = 6 * 1024**2  # Lambda's limit of a synchronous answer
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LambdaContext:
    """What Lambda gives a handler beside the event."""

    function_name: str
    aws_request_id: str
    invoked_function_arn: str


@dataclass(frozen=True, slots=True)
class LambdaInvocation:
    """What was called, and what became of it."""

    function: str
    event: Any
    answer: Any  # None where there was an error
    error: str | None


class LambdaFunctions:
    """The functions of an account, by name. Any thread."""

    def __init__(self) -> None:
        """There is none yet."""
        self._handlers: dict[str, Callable[[Any, Any], Any]] = {}
        self._lock = threading.Lock()
        self.invocations: list[LambdaInvocation] = []

    def add(self, name: str, handler: Callable[[Any, Any], Any]) -> str:
        """Register a handler, in place of one of the same name; returns the function's ARN."""
        self._handlers[name] = handler
        return function_arn(name)

    def clear(self) -> None:
        """Forget what was called."""
        with self._lock:
            self.invocations.clear()

    def answer(self, call: AwsRequest) -> AwsResponse | None:
        """Answer `Invoke` of a function that is registered."""
        if call.operation != "Invoke":
            return None
        name = call.path["FunctionName"].rpartition("function:")[2].partition(":")[0]
        if name not in self._handlers:
            return AwsResponse.error(
                "ResourceNotFoundException", f"Function not found: {function_arn(name)}", status=404
            )
        answer, failed = self.call(name, json.loads(call.body or b"{}"))
        if not failed and len(json.dumps(answer)) > _MAX_ANSWER_BYTES:
            answer = {"errorMessage": "Response payload size exceeded", "errorType": "Function.ResponseSizeTooLarge"}
            failed = True
        return AwsResponse.of(answer, headers=(("X-Amz-Function-Error", "Unhandled"),) if failed else ())

    def call(self, name: str, event: Any) -> tuple[Any, bool]:
        """Call a function; returns its answer, or Lambda's description of the error, and whether it is one."""
        context = LambdaContext(name, str(uuid.uuid4()), function_arn(name))
        event = json.loads(json.dumps(event))
        try:
            answer = json.loads(json.dumps(self._handlers[name](event, context)))
        except Exception as error:  # noqa: BLE001 - whatever a handler raises is what Lambda would tell
            _log.info("%s: %s: %s", name, type(error).__name__, error)
            self._record(LambdaInvocation(name, event, None, type(error).__name__))
            frames = traceback.format_tb(error.__traceback__)
            told = {"errorMessage": str(error), "errorType": type(error).__name__, "stackTrace": frames}
            return {**told, "requestId": context.aws_request_id}, True
        self._record(LambdaInvocation(name, event, answer, None))
        return answer, False

    def _record(self, invocation: LambdaInvocation) -> None:
        with self._lock:
            self.invocations.append(invocation)


def function_arn(name: str) -> str:
    """The ARN of a function."""
    return f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{name}"
