"""The limits of AWS IoT Core, applied to every broker: what runs on mosquitto then runs on IoT Core.

Source of the limits: https://docs.aws.amazon.com/general/latest/gr/iot-core.html
"""

from __future__ import annotations

from typing import Final

from agent.errors import TransportError
from agent.wire import shadow_topic

MAX_TOPIC_BYTES: Final = 256
MAX_TOPIC_SLASHES: Final = 7
MAX_PAYLOAD_BYTES: Final = 128 * 1024
MAX_SHADOW_BYTES: Final = 8 * 1024  # of a shadow's state
# A shadow's document comes back with a timestamp beside every value, which the 8 KB do not count.
MAX_SHADOW_ANSWER_BYTES: Final = 4 * MAX_SHADOW_BYTES
_SHADOW_REQUESTS: Final = ("get", "update")


def check_message(topic: str, payload: bytes, *, thing: str | None = None) -> None:
    """Raise TransportError naming the limit when AWS IoT Core would not take this message.

    Of the topics that start with `$` only the requests to the shadow `kensa` of `thing` are allowed.
    """
    size = len(topic.encode("utf-8", "replace"))
    is_shadow = (
        thing is not None and topic.startswith("$") and topic in [shadow_topic(thing, r) for r in _SHADOW_REQUESTS]
    )
    limit = MAX_SHADOW_BYTES if is_shadow else MAX_PAYLOAD_BYTES
    if not topic or size > MAX_TOPIC_BYTES:
        msg = (
            f"topic {topic[:80]!r} has {size} bytes, allowed are 1 to {MAX_TOPIC_BYTES}. Shorten thing and camera names"
        )
    elif (topic.startswith("$") and not is_shadow) or any(c in topic for c in "\0+#"):
        msg = f"topic {topic!r} starts with '$' or holds '+', '#' or NUL, which publishers may not use"
    elif topic.count("/") > MAX_TOPIC_SLASHES:
        msg = f"topic {topic!r} has {topic.count('/')} slashes, allowed are {MAX_TOPIC_SLASHES}"
    elif len(payload) > limit:
        msg = f"message on {topic} has {len(payload)} bytes, allowed are {limit}"
    else:
        return
    raise TransportError(msg)


def max_inbound_bytes(topic: str) -> int:
    """Return the bound of a message that arrives on `topic`, in bytes."""
    return MAX_SHADOW_ANSWER_BYTES if topic.startswith("$aws/") else MAX_PAYLOAD_BYTES
