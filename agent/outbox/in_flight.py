"""The sender's unacknowledged messages, and those to publish again.

Used from the sender's thread only; `count` is read by any.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent.outbox.outbox_records import Row


@dataclass(slots=True, eq=False)
class InFlightMessage:
    """A message with the transport. `row` is None for one that is not stored."""

    row: Row | None
    topic: str
    payload: bytes
    sent_ns: int
    tokens: list[int]  # one for each time it was published; any of them acknowledges it
    is_waiting: bool = False  # to be published again
    is_resent: bool = False  # requested by a person, from the history


class InFlightMessages:
    """The messages by token, and the retries among them."""

    def __init__(self) -> None:
        self._by_token: dict[int, InFlightMessage] = {}
        self._retries: deque[InFlightMessage] = deque()  # not acknowledged in time
        self.count = 0  # without the retries

    @property
    def has_retries(self) -> bool:
        """Whether a message is to be published again."""
        return bool(self._retries)

    def add(self, message: InFlightMessage, token: int, now_ns: int) -> None:
        """Note that `message` was published with `token`."""
        message.tokens.append(token)
        message.sent_ns = now_ns
        message.is_waiting = False
        self._by_token[token] = message
        self.count += 1

    def pop(self, token: int) -> InFlightMessage | None:
        """Remove and return the message with this token, if it is still there."""
        message = self._by_token.get(token)
        if message is None:
            return None
        self.forget(message)
        if message.is_waiting:
            self._retries.remove(message)
        else:
            self.count -= 1
        return message

    def forget(self, message: InFlightMessage) -> None:
        """Ignore later acknowledgements of `message`."""
        for token in message.tokens:
            self._by_token.pop(token, None)

    def next_retry(self) -> InFlightMessage:
        """Remove and return the first retry; there must be one."""
        return self._retries.popleft()

    def retry_first(self, message: InFlightMessage) -> None:
        """Publish `message` again before all others."""
        message.is_waiting = True
        self._retries.appendleft(message)

    def expire(self, sent_before_ns: int) -> int:
        """Turn messages that were sent before into retries; return how many were lost, because they are not stored."""
        lost = 0
        for message in dict.fromkeys(self._by_token.values()):
            if message.sent_ns > sent_before_ns or message.is_waiting:
                continue
            self.count -= 1
            if message.row is None and not message.is_resent:
                lost += 1
                self.forget(message)
            else:
                message.is_waiting = True
                self._retries.append(message)
        return lost

    def topics(self) -> list[str]:
        """Return the topic of each message, in the order of their first publishing."""
        messages = dict.fromkeys(self._by_token.values())
        return [message.topic for message in sorted(messages, key=lambda message: message.tokens[0])]

    def clear(self) -> list[InFlightMessage]:
        """Remove and return all messages, retries first."""
        messages = list(dict.fromkeys([*self._retries, *self._by_token.values()]))
        self._by_token.clear()
        self._retries.clear()
        self.count = 0
        return messages
