"""Messages that would cost the connection to the nucleus or to AWS IoT Core are refused."""

from __future__ import annotations

import pytest

from agent.errors import TransportError
from greengrass.ipc.transport import check_message


@pytest.mark.parametrize("topic", ["", "kensa/+/x", "kensa/#", "$aws/x", "a/b/c/d/e/f/g/h/i", "x" * 257, "a\0b"])
def test_a_topic_that_costs_the_connection_is_refused(topic: str) -> None:
    with pytest.raises(TransportError, match="topic"):
        check_message(topic, b"x")


def test_what_nucleus_lite_would_close_the_connection_over_is_refused() -> None:
    check_message("kensa/thing/verdicts/cam", b"x" * 6_500)
    with pytest.raises(TransportError, match="6501 bytes"):
        check_message("kensa/thing/verdicts/cam", b"x" * 6_501)
