from __future__ import annotations

from agent.commands.status import _refused_topics


def test_status_names_refused_topics_with_reason_and_duration_and_counts_the_rest() -> None:
    held = [{"topic": "kensa/t/verdicts/c", "reason": "Not authorized", "for_s": 7_300.0}]
    assert _refused_topics({"held_back": held, "held_back_topics": 3}) == [
        "topic kensa/t/verdicts/c refused for 2.0 h, its messages wait: Not authorized",
        "2 more topics are refused; the log names them",
    ]
    assert _refused_topics({"held_back": [], "held_back_topics": 0}) == []
