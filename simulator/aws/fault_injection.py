"""Faults to order: calls that are throttled or refused."""

from __future__ import annotations

import threading
from collections import deque
from typing import Final

from simulator.aws.api_protocol import AwsRequest, AwsResponse

# How each service says "too fast"; the others say ThrottlingException.
_THROTTLED: Final = {"lambda": "TooManyRequestsException", "s3": "SlowDown", "kinesis": "LimitExceededException"}


class FaultInjector:
    """Ordered beforehand, in order; each happens once. Any thread."""

    def __init__(self) -> None:
        """Nothing fails."""
        self._lock = threading.Lock()
        self._pending: dict[tuple[str, str], deque[AwsResponse]] = {}
        self.injected: list[tuple[str, str]] = []  # (service, operation) of those that happened

    def throttle(self, service: str, operation: str, times: int = 1) -> None:
        """Refuse the next calls of an operation (`sagemaker`, `CreateTrainingJob`) as too fast."""
        code = _THROTTLED.get(service, "ThrottlingException")
        self.fail(service, operation, code, "Rate exceeded", times=times, status=429 if service == "lambda" else 400)

    def fail(self, service: str, operation: str, code: str, message: str, *, times: int = 1, status: int = 400) -> None:
        """Refuse the next calls of an operation with this error."""
        with self._lock:
            waiting = self._pending.setdefault((service, operation), deque())
            waiting.extend([AwsResponse.error(code, message, status=status)] * times)

    def clear(self) -> None:
        """Let everything work."""
        with self._lock:
            self._pending.clear()
            self.injected.clear()

    def take_fault(self, call: AwsRequest) -> AwsResponse | None:
        """What fails with this call."""
        with self._lock:
            waiting = self._pending.get((call.service, call.operation))
            if not waiting:
                return None
            self.injected.append((call.service, call.operation))
            return waiting.popleft()
