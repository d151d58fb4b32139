"""MQTT topic filters (OASIS MQTT 5.0, 4.7)."""

from __future__ import annotations


def topic_matches(pattern: str, topic: str) -> bool:
    """Whether the filter `pattern` covers `topic`: `+` is one level, a last `#` the rest.

    `topic` may itself be a filter: `+` then needs `+` or `#`, and `#` needs `#`.
    """
    expected, levels = pattern.split("/"), topic.split("/")
    for index, level in enumerate(expected):
        if level == "#":
            return True
        if index >= len(levels) or levels[index] == "#" or level not in {"+", levels[index]}:
            return False
    return len(expected) == len(levels)
