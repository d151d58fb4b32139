"""The table of the lifecycle: whole, closed, and drawn as it is."""

from __future__ import annotations

import pytest

from agent.errors import IllegalTransitionError
from agent.lifecycle.state.transitions import (
    EVENT_MEANING,
    RESTING_STATES,
    RISKY_STATES,
    ROLLOUT_STATES,
    STATE_MEANING,
    TABLE,
    LifecycleEvent,
    LifecycleState,
    advance,
    render_document,
)
from tests.kits.requirements import ROOT


def test_every_row_leads_where_it_says() -> None:
    for (state, event), after in TABLE.items():
        assert advance(state, event) is after


@pytest.mark.parametrize("state", list(LifecycleState))
def test_an_event_without_a_row_raises_and_names_what_is_known(state: LifecycleState) -> None:
    for event in LifecycleEvent:
        if (state, event) in TABLE:
            continue
        with pytest.raises(IllegalTransitionError, match=f"{event} means nothing in the state {state}"):
            advance(state, event)


def test_every_state_can_be_reached_and_every_event_occurs() -> None:
    assert set(TABLE.values()) == set(LifecycleState)
    assert {event for _, event in TABLE} == set(LifecycleEvent)
    assert set(STATE_MEANING) == set(LifecycleState)
    assert set(EVENT_MEANING) == set(LifecycleEvent)


def test_every_state_with_a_candidate_can_be_refused_and_superseded() -> None:
    for state in ROLLOUT_STATES:
        assert advance(state, LifecycleEvent.REFUSED) is LifecycleState.ROLLING_BACK
        assert advance(state, LifecycleEvent.SUPERSEDED) is LifecycleState.IDLE


def test_every_risky_state_starts_again_from_verified_after_an_interruption() -> None:
    for state in RISKY_STATES:
        assert advance(state, LifecycleEvent.INTERRUPTED) is LifecycleState.VERIFIED


def test_rest_can_be_reached_from_everywhere() -> None:
    near = set(RESTING_STATES)
    while grown := {s for (s, _), after in TABLE.items() if after in near} - near:
        near |= grown
    assert near == set(LifecycleState)


def test_only_commit_leads_to_committed() -> None:
    assert {event for (_, event), after in TABLE.items() if after is LifecycleState.COMMITTED} == {
        LifecycleEvent.COMMIT
    }


def test_the_picture_in_the_docs_is_that_of_the_table() -> None:
    kept = (ROOT / "docs" / "lifecycle.md").read_text(encoding="utf-8")
    assert kept == render_document(), "run: python -m agent.lifecycle.state.transitions > docs/lifecycle.md"
