"""A release that a deployment requests is delivered once for each change."""

from __future__ import annotations

from agent.release_records import DesiredRelease
from greengrass.release_sources.desired_state import DeploymentDesiredState


def test_a_desired_release_is_delivered_once_for_each_change() -> None:
    delivered: list[tuple[str, DesiredRelease]] = []
    first, second = DesiredRelease("parts/1.0.0"), DesiredRelease("parts/1.1.0")
    state = DeploymentDesiredState({"top": first})
    state.update({"top": first})
    state.start(on_desired=lambda name, desired: delivered.append((name, desired)))
    for desired in (first, second, second, first):
        state.update({"top": desired})
    state.update({})
    state.close()
    state.update({"top": second})
    assert delivered == [("top", first), ("top", second), ("top", first)]
