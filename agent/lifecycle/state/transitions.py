"""The state machine of a release on one inspection: every state, every event, and which leads where.

`TABLE` is complete: failure and rollback are rows like any other, and `docs/lifecycle.md` is generated from it
(`python -m agent.lifecycle.state.transitions`). `advance` is pure: an event that its state does not know raises
IllegalTransitionError and changes nothing. `agent.lifecycle.rollout_steps` acts on these states.
"""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from agent.errors import IllegalTransitionError

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_TRANSITIONS: Final = 28  # between two resting states; a rollout that needs more is refused (too_many_transitions)


class LifecycleState(StrEnum):
    """The state of one inspection's lifecycle; the journal holds it."""

    IDLE = "idle"
    FETCHING = "fetching"
    STAGED = "staged"
    VERIFIED = "verified"
    SELFTEST = "selftest"
    SHADOW = "shadow"
    TRIAL = "trial"
    AB = "ab"
    COMMITTED = "committed"
    ROLLING_BACK = "rolling_back"
    NO_MODEL = "no_model"


class LifecycleEvent(StrEnum):
    """What changes the state."""

    DESIRED = "desired"
    FETCHED = "fetched"
    DAMAGED = "damaged"
    ADOPTED = "adopted"
    BEGUN = "begun"
    PASSED = "passed"
    COMPARED = "compared"
    COMMIT = "commit"
    SETTLED = "settled"
    INTERRUPTED = "interrupted"
    SUPERSEDED = "superseded"
    REFUSED = "refused"
    ROLLBACK = "rollback"
    ROLLED_BACK = "rolled_back"
    MODEL_LOST = "model_lost"
    RECOVERED = "recovered"


STATE_MEANING: Final[Mapping[LifecycleState, str]] = {
    LifecycleState.IDLE: "One model is active, nothing is under way",
    LifecycleState.FETCHING: "The desired release is being fetched; partial downloads are kept and resumed",
    LifecycleState.STAGED: "Fetched against signed metadata; on its way into the store of releases",
    LifecycleState.VERIFIED: "In the store, read-only, every byte as its manifest says, its counter above the floor",
    LifecycleState.SELFTEST: "Tested in a limited child process, apart from the line",
    LifecycleState.SHADOW: "Loaded; inspects live parts, its outcomes do not count",
    LifecycleState.TRIAL: "Inspects a growing share of the parts beside the champion; the stricter outcome counts",
    LifecycleState.AB: "Inspects a fixed share beside the champion until somebody promotes or stops it",
    LifecycleState.COMMITTED: "The journal names it active; the slot follows",
    LifecycleState.ROLLING_BACK: "The journal names the model to return to; the slot follows",
    LifecycleState.NO_MODEL: "No model can be loaded: every verdict is `unknown`, a person must act",
}

EVENT_MEANING: Final[Mapping[LifecycleEvent, str]] = {
    LifecycleEvent.DESIRED: "a release is desired that is neither active nor refused",
    LifecycleEvent.FETCHED: "all its bytes are on this disk",
    LifecycleEvent.DAMAGED: "bytes are missing or changed on this disk",
    LifecycleEvent.ADOPTED: "the store holds it, verified",
    LifecycleEvent.BEGUN: "the attempt is counted on disk before the risk is taken",
    LifecycleEvent.PASSED: "the gate of this state, or this share of the trial, is passed",
    LifecycleEvent.COMPARED: "a long comparison was requested, not a promotion",
    LifecycleEvent.COMMIT: "the last gate is passed, a person promoted it, or there is no model that it could be "
    "compared with",
    LifecycleEvent.SETTLED: "the slot holds it",
    LifecycleEvent.INTERRUPTED: "the process ended in the middle and was started again",
    LifecycleEvent.SUPERSEDED: "another release is desired, or the comparison was stopped; this one is not denied",
    LifecycleEvent.REFUSED: "a gate or a person refuses it: it goes on the deny list",
    LifecycleEvent.ROLLBACK: "the active model must be retired: a person requested it, its publisher revoked it, or "
    "it ends the process",
    LifecycleEvent.ROLLED_BACK: "the slot holds the model to return to",
    LifecycleEvent.MODEL_LOST: "neither active nor previous nor factory can be loaded",
    LifecycleEvent.RECOVERED: "a model could be loaded again",
}

_S, _E = LifecycleState, LifecycleEvent
TABLE: Final[Mapping[tuple[LifecycleState, LifecycleEvent], LifecycleState]] = {
    (_S.IDLE, _E.DESIRED): _S.FETCHING,
    (_S.IDLE, _E.ROLLBACK): _S.ROLLING_BACK,
    (_S.IDLE, _E.MODEL_LOST): _S.NO_MODEL,
    (_S.FETCHING, _E.FETCHED): _S.STAGED,
    (_S.FETCHING, _E.SETTLED): _S.IDLE,  # it turned out to be the active one, under another name
    (_S.FETCHING, _E.SUPERSEDED): _S.IDLE,
    (_S.FETCHING, _E.REFUSED): _S.ROLLING_BACK,
    (_S.FETCHING, _E.ROLLBACK): _S.ROLLING_BACK,
    (_S.STAGED, _E.ADOPTED): _S.VERIFIED,
    (_S.STAGED, _E.DAMAGED): _S.FETCHING,
    (_S.STAGED, _E.SUPERSEDED): _S.IDLE,
    (_S.STAGED, _E.REFUSED): _S.ROLLING_BACK,
    (_S.VERIFIED, _E.BEGUN): _S.SELFTEST,
    (_S.VERIFIED, _E.DAMAGED): _S.FETCHING,
    (_S.VERIFIED, _E.SUPERSEDED): _S.IDLE,
    (_S.VERIFIED, _E.REFUSED): _S.ROLLING_BACK,
    (_S.SELFTEST, _E.PASSED): _S.SHADOW,
    (_S.SELFTEST, _E.COMMIT): _S.COMMITTED,
    (_S.SELFTEST, _E.INTERRUPTED): _S.VERIFIED,
    (_S.SELFTEST, _E.SUPERSEDED): _S.IDLE,
    (_S.SELFTEST, _E.REFUSED): _S.ROLLING_BACK,
    (_S.SHADOW, _E.PASSED): _S.TRIAL,
    (_S.SHADOW, _E.COMPARED): _S.AB,
    (_S.SHADOW, _E.INTERRUPTED): _S.VERIFIED,
    (_S.SHADOW, _E.SUPERSEDED): _S.IDLE,
    (_S.SHADOW, _E.REFUSED): _S.ROLLING_BACK,
    (_S.TRIAL, _E.PASSED): _S.TRIAL,
    (_S.TRIAL, _E.COMMIT): _S.COMMITTED,
    (_S.TRIAL, _E.INTERRUPTED): _S.VERIFIED,
    (_S.TRIAL, _E.SUPERSEDED): _S.IDLE,
    (_S.TRIAL, _E.REFUSED): _S.ROLLING_BACK,
    (_S.AB, _E.COMMIT): _S.COMMITTED,
    (_S.AB, _E.INTERRUPTED): _S.VERIFIED,
    (_S.AB, _E.SUPERSEDED): _S.IDLE,
    (_S.AB, _E.REFUSED): _S.ROLLING_BACK,
    (_S.COMMITTED, _E.SETTLED): _S.IDLE,
    (_S.ROLLING_BACK, _E.ROLLED_BACK): _S.IDLE,
    (_S.ROLLING_BACK, _E.MODEL_LOST): _S.NO_MODEL,
    (_S.NO_MODEL, _E.DESIRED): _S.FETCHING,
    (_S.NO_MODEL, _E.RECOVERED): _S.IDLE,
}

RESTING_STATES: Final = frozenset({LifecycleState.IDLE, LifecycleState.NO_MODEL})  # nothing is under way
# restarted after an interruption
RISKY_STATES: Final = frozenset(
    {LifecycleState.SELFTEST, LifecycleState.SHADOW, LifecycleState.TRIAL, LifecycleState.AB}
)
# where a candidate may be held
LIVE_STATES: Final = frozenset({LifecycleState.SHADOW, LifecycleState.TRIAL, LifecycleState.AB})
# a candidate is under way
ROLLOUT_STATES: Final = frozenset(state for state, event in TABLE if event is LifecycleEvent.SUPERSEDED)


def advance(state: LifecycleState, event: LifecycleEvent) -> LifecycleState:
    """Return the state that `event` leads to. Raises IllegalTransitionError, which changes nothing."""
    try:
        return TABLE[state, event]
    except KeyError:
        known = ", ".join(sorted(e for s, e in TABLE if s is state))
        raise IllegalTransitionError(
            f"The event {event} means nothing in the state {state}; it knows {known}."
        ) from None


def render_mermaid() -> str:
    """Return the table as a Mermaid state diagram; events between the same two states share an arrow."""
    arrows: dict[tuple[LifecycleState, LifecycleState], list[LifecycleEvent]] = {}
    for (state, event), after in TABLE.items():
        arrows.setdefault((state, after), []).append(event)
    lines = ["stateDiagram-v2", "    [*] --> idle"]
    lines += [f"    {state} --> {after}: {', '.join(events)}" for (state, after), events in arrows.items()]
    return "\n".join(lines)


def render_document() -> str:
    """Return `docs/lifecycle.md`."""
    states = "\n".join(f"| `{state}` | {STATE_MEANING[state]} |" for state in LifecycleState)
    events = "\n".join(f"| `{event}` | {EVENT_MEANING[event]} |" for event in LifecycleEvent)
    rows = "\n".join(f"| `{state}` | `{event}` | `{after}` |" for (state, event), after in TABLE.items())
    return f"""# The lifecycle of a release

Generated from `agent/lifecycle/state/transitions.py`; a test compares them. To generate it again:

    python -m agent.lifecycle.state.transitions > docs/lifecycle.md

An event that has no row here raises and changes nothing. A rollout that needs more than {MAX_TRANSITIONS} changes of
state between two resting states is refused (`too_many_transitions`).

```mermaid
{render_mermaid()}
```

| state | what it means |
|---|---|
{states}

| event | when |
|---|---|
{events}

| in | on | goes to |
|---|---|---|
{rows}
"""


if __name__ == "__main__":
    sys.stdout.write(render_document())
